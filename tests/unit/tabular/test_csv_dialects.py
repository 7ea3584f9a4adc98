"""CSV files as other programs write them, compared with pandas: delimiter, decimal mark, thousands, quotes, line ends,
BOM, gaps and marks of missing values, compression.

Should happen: the values that pandas reads of the same file with the same options.
Should not happen: a value that is rounded, moved to another record, or lost.
"""

from __future__ import annotations

import csv
import gzip
import io
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pygrid.errors import InvalidDataset
from pygrid.messages.datasets import CsvOptions
from support.tables import store

WORDS = st.sampled_from(["ann", "O'Brien", 'a "b"', "x;y", "1,5 m", "two\nlines", "ä€", "tab\there", "NA x", "-", "7a"])
NUMBERS = st.one_of(
    st.integers(-9999, 9_999_999), st.floats(-1e9, 1e9, allow_nan=False).map(lambda value: round(value, 3))
)


@st.composite
def dialects(draw: st.DrawFn) -> dict[str, Any]:
    decimal = draw(st.sampled_from([".", ","]))
    delimiter = draw(st.sampled_from([";", "\t", "|"] if decimal == "," else [",", ";", "\t", "|"]))
    free = [mark for mark in (" ", "'", ".", ",", "_") if mark not in (decimal, delimiter)]
    return {
        "decimal": decimal,
        "delimiter": delimiter,
        "thousands": draw(st.sampled_from([None, *free])),
        "missing": draw(st.sampled_from(["", "NA", "?", "-999"])),
        "end": draw(st.sampled_from(["\n", "\r\n"])),
        "quoting": draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])),
        "bom": draw(st.booleans()),
        "is_packed": draw(st.booleans()),
    }


def written(value: object, dialect: dict[str, Any]) -> str:
    """A value as a program of this dialect writes it."""
    if value is None:
        text: str = dialect["missing"]
    elif isinstance(value, str):
        text = value
    else:
        text = (
            f"{value:,}".replace(",", "\0").replace(".", dialect["decimal"]).replace("\0", dialect["thousands"] or "")
        )
    return text


def file_of(rows: list[list[object]], dialect: dict[str, Any]) -> bytes:
    out = io.StringIO(newline="")
    lines = csv.writer(out, delimiter=dialect["delimiter"], lineterminator=dialect["end"], quoting=dialect["quoting"])
    lines.writerow(["word", "number", "gaps"])
    lines.writerows([[written(value, dialect) for value in row] for row in rows])
    text = out.getvalue().encode("utf-8-sig" if dialect["bom"] else "utf-8")
    return gzip.compress(text, 1) if dialect["is_packed"] else text


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(WORDS, NUMBERS, st.none() | NUMBERS).map(list), min_size=1, max_size=8),
    dialects(),
)
@example(
    [["a", 1234567, None], ["b", -0.5, 1e6]],
    {"decimal": ",", "delimiter": ";", "thousands": ".", "missing": "?", "end": "\r\n", "quoting": csv.QUOTE_ALL,
     "bom": True, "is_packed": True},
)  # fmt: skip
def test_pandas_reads_the_same(rows: list[list[object]], dialect: dict[str, Any]) -> None:
    content = file_of(rows, dialect)
    marks = () if dialect["missing"] in ("", "NA") else (dialect["missing"],)
    if dialect["missing"] == "-999":  # a number that stands for a gap is one in every column
        rows = [[row[0], None if row[1] == -999 else row[1], None if row[2] == -999 else row[2]] for row in rows]
    options = CsvOptions(
        header=True,
        delimiter=dialect["delimiter"],
        decimal=dialect["decimal"],
        thousands=dialect["thousands"],
        missing=marks,
    )
    schema, records = store(content, {"gaps": "float64"}, csv=options)
    frame = pd.read_csv(
        io.BytesIO(content),
        compression="gzip" if dialect["is_packed"] else None,
        sep=dialect["delimiter"],
        decimal=dialect["decimal"],
        thousands=dialect["thousands"],
        keep_default_na=False,
        na_values={"number": ["", *marks], "gaps": ["", "NA", *marks], "word": []},
        encoding="utf-8-sig",
        dtype={"word": str},
    )
    assert schema.num_records == len(frame) == len(rows)
    assert records["word"] == frame["word"].tolist() == [row[0] for row in rows]
    for place, name in ((1, "number"), (2, "gaps")):
        found = np.array([math.nan if value is None else value for value in records[name]], float)
        np.testing.assert_array_equal(found, frame[name].astype(float))
        np.testing.assert_array_equal(found, [math.nan if row[place] is None else row[place] for row in rows])


@pytest.mark.parametrize("gap", ["", "NA", "-4.0"])
@pytest.mark.parametrize("long", [str(2**53 + 1), str(-(2**53) - 1), str(2**63 + 1), "12345678901234567890123"])
@pytest.mark.parametrize("place", [0, 3])
def test_a_long_whole_number_is_not_rounded(gap: str, long: str, place: int) -> None:
    values = ["1", "2", "3"]
    values.insert(place, long)
    values.append(gap)
    text = "id,x\n" + "".join(f"{value},0.5\n" for value in values)
    schema, records = store(text.encode())
    assert (schema.columns[0].dtype, records["id"]) == ("text", values)
    schema, records = store(text.encode().replace(b",0.5\n", b",0.5\n2.5,1\n", 1))
    assert schema.columns[0].dtype == "float64", "numbers that are not whole are measured"
    schema, records = store(text.encode(), {"id": "float64"})
    assert records["id"][place] == float(long), "an owner who declares float64 has it rounded"


def test_long_whole_numbers_that_are_exact_stay_numbers() -> None:
    schema, records = store(b"a,b,c\n9007199254740993,1e30,9007199254740992\n1,2.5,\n")
    assert [column.dtype for column in schema.columns] == ["int64", "float64", "float64"]
    assert records["a"] == [9007199254740993, 1]
    assert records["b"] == [1e30, 2.5]


@pytest.mark.parametrize(
    ("form", "text", "date"),
    [
        ("%d.%m.%Y", "31.12.2020", "2020-12-31"),
        ("%m/%d/%Y", "12/31/2020", "2020-12-31"),
        ("%Y%m%d", "20201231", "2020-12-31"),
        ("%d-%b-%y", "31-Dec-20", "2020-12-31"),
        ("%Y-%j", "2020-366", "2020-12-31"),
    ],
)
def test_dates_in_a_declared_format(form: str, text: str, date: str) -> None:
    schema, records = store(f"born,x\n{text},1.5\nNA,2\n".encode(), {"born": f"date,format={form}"})
    assert (records["born"], schema.columns[0].format) == ([date, None], form)
    with pytest.raises(InvalidDataset, match="format=") as refused:
        store(f"born,x\n{text},1.5\n2020/31/12,2\n".encode(), {"born": f"date,format={form}"})
    assert refused.value.fields["line"] == 3


def test_datetimes_in_a_declared_format() -> None:
    text = b"seen,x\n31.12.2020 23:59,1.5\n"
    _, records = store(text, {"seen": "datetime,format=%d.%m.%Y %H:%M"})
    assert records["seen"] == ["2020-12-31T23:59:00"]
    text = b"seen,x\n31.12.2020 23:59 +0100,1.5\n"
    _, records = store(text, {"seen": "datetime,format=%d.%m.%Y %H:%M %z"})
    assert records["seen"] == ["2020-12-31T22:59:00"]


@pytest.mark.parametrize(("text", "hint"), [("31.12.2020", "format=%d.%m.%Y"), ("12/31/2020", "format=%m/%d/%Y")])
def test_another_date_is_refused_with_a_format_that_fits(text: str, hint: str) -> None:
    with pytest.raises(InvalidDataset, match=hint) as refused:
        store(f"born,x\n2020-01-01,1\n{text},2\n".encode(), {"born": "date"})
    assert (refused.value.fields["line"], refused.value.fields["value"]) == (3, text)


def test_a_date_that_can_be_read_in_two_ways_names_both() -> None:
    with pytest.raises(InvalidDataset, match=r"%d/%m/%Y or format=%m/%d/%Y"):
        store(b"born,x\n01/02/2020,1\n", {"born": "date"})
