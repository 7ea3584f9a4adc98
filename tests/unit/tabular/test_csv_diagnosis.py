"""Refusals of CSV files name lines and values, several at once.

Should happen: the first faults of a file with line and value, also deep in it; what to do.
Should not happen: a refusal without a line, more than ten faults, a long value as a whole.
"""

from __future__ import annotations

from typing import Any

import pytest

from pygrid.errors import InvalidDataset
from support.tables import store


def refusal(text: str | bytes, columns: dict[str, Any] | None = None, **options: Any) -> InvalidDataset:
    with pytest.raises(InvalidDataset) as refused:
        store(text.encode() if isinstance(text, str) else text, columns, **options)
    return refused.value


def test_values_that_are_not_numbers() -> None:
    rows = ["34,1"] * 1500
    rows[7], rows[1400] = "?,2", "-,3"
    error = refusal("age,b\n" + "\n".join(rows), {"age": "float32"})
    assert error.code == "dataset_dtype"
    assert error.detail == (
        "line 9: column 'age' is declared as float32, and '?' is not a number; pass missing=['?'] if it stands for a "
        "missing value; also line 1402: '-'"
    )
    assert (error.fields["line"], error.fields["value"], error.fields["lines"]) == (9, "?", [9, 1402])


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        ("1,72", "decimal=','"),
        ("1.024,5", "decimal=','"),
        ("1'000", 'thousands="\'"'),
        ("007", "declare the column as text"),
        ("$7", "write the numbers without $"),
        ("7 %", "write the numbers without %"),
        ("true", "declare the column as bool"),
    ],
)
def test_the_advice_fits_the_value(value: str, advice: str) -> None:
    error = refusal(f"a;b\n1;2\n{value};3\n", {"a": "float32"})
    assert "line 3" in error.detail
    assert advice in error.detail


def test_at_most_ten_faults_are_named() -> None:
    error = refusal("age,b\n" + "x,1\n" * 1000, {"age": "float32"})
    assert error.fields["lines"] == list(range(2, 12))
    assert error.detail.endswith("(the first 10 faults)")
    long = refusal("age,b\n" + "x" * 5000 + ",1\n", {"age": "float32"})
    assert len(long.detail) < 400


@pytest.mark.parametrize(
    ("columns", "bad", "words"),
    [
        ({"a": "float32,max=120"}, "130", "line 3: column 'a' has 130"),
        ({"a": "uint8"}, "300", "line 3: column 'a' has 300, which uint8 cannot hold"),
        ({"a": "int32"}, "1.5", "line 3: column 'a' has 1.5, which int32 cannot hold"),
        ({"a": "category,categories=1|2"}, "9", "line 3: column 'a' has '9'"),
        ({"a": "int64"}, "", "line 3: column 'a' is declared as int64 and has missing values"),
        ({"a": "date"}, "soon", "line 3: column 'a' is declared as date, and 'soon' is not one"),
        ({"a": "float32,has_missing=no"}, "", "line 3: column 'a' has missing values"),
    ],
)
def test_values_that_their_column_cannot_hold(columns: dict[str, Any], bad: str, words: str) -> None:
    good = "2020-01-01" if columns["a"] == "date" else "1"
    error = refusal(f"a,b\n{good},1\n{bad},1\n{good},1\n{bad},1\n", columns)
    assert error.detail.startswith(words)
    assert "; also line 5" in error.detail
    deep = refusal("a,b\n" + f"{good},1\n" * 300_000 + f"{bad},1\n", columns)
    assert deep.fields["line"] == 300_002


def test_lines_that_cannot_be_read() -> None:
    error = refusal(b"a,b\n1,2\n3\n4,5,6\n7,\xff\n8,9\n")
    first = "line 3 has 1 field, the first has 2; pass skip_lines=[3] if it is not a record"
    assert error.detail.startswith(f"{first}; also line 4 has 3 fields")
    assert "line 5 is not UTF-8" in error.detail
    quote = refusal('a,b\n1,2\n3\n"4,5\n')
    assert (quote.fields["lines"], quote.code) == ([3, 4], "dataset_ragged")


def test_a_gap_among_long_numbers_has_its_line() -> None:
    error = refusal("id,x\n9007199254740993,1\n,2\n", {"id": "int64"})
    assert error.detail == (
        "line 2: column 'id' has 9007199254740992, or a number that float64 rounds to it, among missing values or "
        "numbers with a point; declare the column as text; also line 3: ''"
    )


def test_long_numbers_among_others_are_not_rounded() -> None:
    error = refusal("id,x\n9007199254740993,1\n1.0,2\n", {"id": "int64"})
    assert error.code == "dataset_out_of_range"
    assert store(b"id,x\n0.0,1\n0.0,2\n,3\n9007199254740993,4\n")[1]["id"] == ["0.0", "0.0", "", "9007199254740993"]


def test_a_fraction_decides_about_long_numbers_wherever_it_is() -> None:
    rows = b"9007199254740995,1\n,2\n" + b"1,1\n" * 150_000
    assert store(b"id,x\n" + rows)[0].columns[0].dtype == "text"
    for text in (b"0.5,1\n" + rows, rows + b"0.5,1\n"):
        assert store(b"id,x\n" + text)[0].columns[0].dtype == "float64"


def test_a_quote_that_does_not_end_has_the_line_where_it_begins() -> None:
    error = refusal('a,b\n1,x\n2,"y\n3,z\n4,z\n')
    assert error.code == "dataset_malformed"
    assert error.detail.startswith("line 3 begins a text in quotes that does not end")


def test_a_line_in_a_quoted_text_counts() -> None:
    error = refusal('age,note\n1,"two\nlines"\nx,y\n', {"age": "float32"})
    assert error.fields["line"] == 4
