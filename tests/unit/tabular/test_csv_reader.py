"""The reader of CSV files, compared with a naive reader that looks at each value alone.

Should happen: both store the same bytes under the same schema; a refusal has its code and line.
Should not happen: what is stored depends on where blocks end; a value changes its meaning; memory grows with the file.
"""

from __future__ import annotations

import csv
import io
import math
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pygrid.core.datasets import ColumnDeclaration, DatasetLimits, Schema
from pygrid.errors import PygridError
from pygrid.messages.datasets import CsvOptions
from pygrid.storage.columns import ColumnDraft
from pygrid.tabular.csv_blocks import MAX_VALUE_BYTES
from pygrid.tabular.csv_faults import RowReader
from pygrid.tabular.csv_header import read_header
from pygrid.tabular.csv_reader import BLOCK_BYTES, PREFIX_BYTES, BlockSizes, read
from pygrid.tabular.table_writer import TableDeclaration, TableWriter
from support.thorough import examples

Outcome = tuple[Schema, list[bytes]] | str
MISSING = ("", "NA", "N/A", "nan", "NaN", "null")
SPACES = " \t\u00a0"
WITH_HEADER = CsvOptions(header=True)
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def stored(
    text: bytes,
    *,
    block_bytes: int = BLOCK_BYTES,
    csv_options: CsvOptions = WITH_HEADER,
    limits: DatasetLimits | None = None,
    **declared: Any,
) -> Outcome:
    """What is stored of a file, or the code of its refusal and the line that it names."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "file").write_bytes(text)
        (folder / "columns").mkdir()
        draft, declaration = ColumnDraft(folder / "columns"), TableDeclaration(**declared)
        writer = TableWriter(draft, declaration, limits=limits, uploaded_bytes=len(text))
        try:
            with (folder / "file").open("rb") as file:
                read(file, writer, csv_options, BlockSizes(min(block_bytes, PREFIX_BYTES), block_bytes))
            schema = writer.finish()
        except PygridError as error:
            return f"{error.code} {error.fields.get('line', '')}".strip()
        finally:
            writer.close()
        return schema, [(folder / "columns" / f"{index}.bin").read_bytes() for index in range(len(schema.columns))]


def naive(rows: list[list[str]]) -> list[tuple[str, Any]]:
    """Kind and values of each column, by looking at every value alone."""
    return [_naive_column(list(values)) for values in zip(*rows, strict=True)]


def _naive_column(values: list[str]) -> tuple[str, Any]:
    classes = {_class(value) for value in values}
    if classes <= {"bool"}:
        return "bool", [value.strip(SPACES).lower() == "true" for value in values]
    if classes <= {"int"}:
        return "int64", [int(value) for value in values]
    if classes <= {"int", "float", "missing"}:
        numbers = [math.nan if value.strip(SPACES) in MISSING else float(value) for value in values]
        is_whole = all(number.is_integer() for number in numbers if math.isfinite(number))
        return ("text", values) if is_whole and any(map(_is_rounded, values)) else ("float64", numbers)
    return "text", values


def _is_rounded(value: str) -> bool:
    """Whether a value is a whole number that float64 does not hold."""
    value = value.strip(SPACES)
    return re.fullmatch(r"[+-]?\d+", value) is not None and int(float(value)) != int(value)


def _class(value: str) -> str:
    value = value.strip(SPACES)
    if value in MISSING:
        return "missing"
    if value in ("true", "True", "TRUE", "false", "False", "FALSE"):
        return "bool"
    if re.fullmatch("[+-]?(inf|Inf|INF|infinity|Infinity|INFINITY)", value):
        return "float"
    if not NUMBER.fullmatch(value) or re.match(r"[+-]?0\d", value):
        return "other"
    if re.fullmatch(r"[+-]?\d+", value) and -(2**63) <= int(value) < 2**63:
        return "int"
    return "float" if math.isfinite(float(value)) else "other"


def agree(names: list[str], rows: list[list[str]], outcome: Outcome) -> None:
    assert not isinstance(outcome, str), outcome
    schema, columns = outcome
    assert [column.name for column in schema.columns] == names
    assert schema.num_records == len(rows)
    for column, data, (kind, values) in zip(schema.columns, columns, naive(rows), strict=True):
        assert column.dtype == kind, (column.name, values)
        if kind == "text":
            assert column.categories is not None
            assert [column.categories[code] for code in np.frombuffer(data, np.int32)] == values
            assert list(column.categories) == list(dict.fromkeys(values))
        else:
            wanted = np.array(values, kind)
            assert data == wanted.tobytes() or (
                # NaN has many forms, and one meaning.
                kind == "float64" and np.array_equal(np.frombuffer(data), wanted, equal_nan=True)
            )
            if kind == "float64":
                np.testing.assert_array_equal(np.signbit(np.frombuffer(data)), np.signbit(wanted))


LIKE_NUMBERS = """
    0 1 -0 +5 +1.5 007 -01 00 +00 00.5 0.5 .5 5. 1e5 1E+05 1e400 1e-400 - . e5 1e 1-2 --1
    inf -inf Infinity NAN -nan nan(1)
    0x1F -0X1f 1_000 # ٣ =1+1
    9223372036854775807 9223372036854775808 -9223372036854775808 9007199254740993 123456789012345678901234567890
    2.4703282292062328e-324 1.7976931348623159e308 NA nan NaN null N/A true False TRUE
"""
UNLIKE = [
    "",
    " ",
    " 5",
    "5 ",
    "\t5",
    " true",
    "5\n",
    "\n5",
    "two\nlines",
    "two\r\nlines",
    'quo"te',
    '"',
    '=cmd|"/c calc"!A0',
    "a,b",
    "a;b",
    "t\tb",
]
WORDS = st.sampled_from(
    [*LIKE_NUMBERS.split(), *UNLIKE, "ünïcode", "数", "\u2028", "x" * 300, "0" * 40, "0.1" + "0" * 400 + "1"]
)
INTS = st.integers(-(2**65), 2**65).map(str)
FLOATS = st.floats(allow_nan=False, allow_infinity=False).map(repr)
KINDS = [
    st.integers(-1000, 1000).map(str),
    INTS,
    FLOATS,
    st.one_of(FLOATS, INTS, st.sampled_from(["", " ", " NA", " 7", "7\t", " 1.5 ", "\u00a03"])),
    st.sampled_from(["true", "false"]),
    WORDS,
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=5),
]


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[str], list[list[str]]]:
    num_columns = draw(st.integers(1, 5))
    values = [draw(st.sampled_from(KINDS)) for _ in range(num_columns)]
    rows = draw(st.lists(st.tuples(*values).map(list), min_size=1, max_size=12))
    # Columns that change late: what was told from the beginning does not hold.
    if draw(st.booleans()):
        rows += draw(st.lists(st.lists(WORDS, min_size=num_columns, max_size=num_columns), max_size=2))
    return [f"c{index}" for index in range(num_columns)], rows


def text_of(names: list[str], rows: list[list[str]], *, delimiter: str, end: str, quoting: int, bom: bool) -> bytes:
    if any("\r" in value for row in rows for value in row):
        quoting = csv.QUOTE_ALL  # the writer quotes none that are not part of its own line ends
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=delimiter, lineterminator=end, quoting=quoting).writerows([names, *rows])  # type: ignore[arg-type]
    return (b"\xef\xbb\xbf" if bom else b"") + out.getvalue().encode()


def rows_by_csv(text: bytes) -> list[list[str]] | str:
    """The records of a file as Python's csv reads them, or the code and line of its first fault."""
    file = io.BytesIO(text)
    header = read_header(file, WITH_HEADER)
    file.seek(header.position)
    try:
        return list(RowReader(file, header.delimiter, len(header.names), header.num_lines).rows())
    except PygridError as error:
        return f"{error.code} {error.fields.get('line', '')}".strip()


def every_outcome(text: bytes, **options: Any) -> list[Outcome]:
    """The outcomes with blocks of several sizes."""
    return [stored(text, block_bytes=size, **options) for size in (7, 64, 1000, BLOCK_BYTES)]


@settings(max_examples=examples(300), deadline=None)
@given(
    tables(),
    st.sampled_from([",", ";", "\t", "|"]),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    st.booleans(),
)
@example((["c0"], [[""], ["true"]]), ",", "\n", csv.QUOTE_ALL, False)
@example((["c0", "c1"], [["", "1"], ["5", "1"]]), ",", "\n", csv.QUOTE_MINIMAL, False)
@example((["c0", "c1"], [["-0", "1"], ["5", "1"], ["1.5", "x"]]), ",", "\n", csv.QUOTE_MINIMAL, True)
def test_a_naive_reader_agrees(
    table: tuple[list[str], list[list[str]]], delimiter: str, end: str, quoting: int, bom: bool
) -> None:
    names, rows = table
    if len(names) == 1:
        delimiter = ","  # a header of one name says nothing of the delimiter
    text = text_of(names, rows, delimiter=delimiter, end=end, quoting=quoting, bom=bom)
    for outcome in every_outcome(text):
        agree(names, rows, outcome)


@settings(max_examples=examples(300), deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                b"a",
                b"1",
                b",",
                b'"',
                b'""',
                b"\n",
                b"\r\n",
                b"\r",
                b" ",
                b"\xff",
                b"\0",
                b"0",
                b".",
                b"\xc3\xa4",
                b",1\n",
                b"2,-0",
            ]
        ),
        max_size=40,
    )
)
@example([b"\n", b'"', b'"', b"a"])
@example([b"\n", b"1", b",", b"1", b"\r", b"1", b",", b"1"])
def test_the_outcome_of_a_damaged_file_does_not_depend_on_blocks(pieces: list[bytes]) -> None:
    """It is what Python's csv makes of the whole file: the same values, or the code and line of the first fault."""
    text = b"a,b\n1,2\n" + b"".join(pieces)
    expected = rows_by_csv(text)
    for outcome in every_outcome(text):
        if isinstance(expected, str):
            assert outcome == expected
        else:
            agree(["a", "b"], expected, outcome)


def test_what_is_wrong_deep_in_a_file_has_its_line() -> None:
    lines = [b"a,b,c"] + [b"%d,%d.5,word %d" % (number, number, number % 7) for number in range(400_000)]
    assert len(b"\n".join(lines)) > 2 * BLOCK_BYTES
    for bad, code in (
        (b"1,2", "dataset_ragged"),
        (b'1,"2"x,3', "dataset_malformed"),
        (b"1,2,\xff", "dataset_encoding"),
    ):
        damaged = [*lines]
        damaged[350_000] = bad
        assert stored(b"\n".join(damaged)) == f"{code} 350001"


@pytest.mark.parametrize(
    ("late", "kind"),
    [(b"1.5", "float64"), (b"", "float64"), (b"x", "text"), (b"9223372036854775808", "float64"), (b"true", "text")],
)
def test_a_column_that_turns_out_wider_is_stored_as_that_from_its_beginning(late: bytes, kind: str) -> None:
    head = [b"%d,1" % (number % 100) for number in range(200_000)]
    outcome = stored(b"a,b\n" + b"\n".join([*head, late + b",2"]))
    assert not isinstance(outcome, str)
    schema, columns = outcome
    assert [column.dtype for column in schema.columns] == [kind, "int64"]
    assert schema.num_records == 200_001
    if kind == "text":
        assert schema.columns[0].categories == (*(str(number) for number in range(100)), late.decode())
    else:
        values = np.frombuffer(columns[0])
        np.testing.assert_array_equal(values[:-1], np.arange(200_000) % 100)
        np.testing.assert_equal(values[-1], float(late or b"nan"))


@pytest.mark.parametrize("late", [b"1e400", b"-1e309", b"NAN", b"-nan", b"nan(1)", b"007", b"-00", b"0x1F"])
@pytest.mark.parametrize("head", [b"1", b"2.5", b""])
def test_a_late_value_that_only_pyarrow_takes_for_a_number_is_a_text(head: bytes, late: bytes) -> None:
    text = b"a,b\n" + (head + b",1\n") * 200_000 + late + b",1\n" + head + b",1\n"
    outcome = stored(text)
    assert not isinstance(outcome, str)
    assert (outcome[0].columns[0].dtype, outcome[0].columns[0].categories) == ("text", (head.decode(), late.decode()))


def test_a_refusal_that_comes_of_a_wrong_guess_is_taken_back() -> None:
    """A column of subjects cannot hold float64, and one of which nothing but empty fields is known looks like it."""
    text = b"who,v\n" + b",1\n" * 200_000 + b"ann,1\n"
    outcome = stored(text, subject="who", max_records_per_subject=1)
    assert not isinstance(outcome, str)
    assert outcome[0].columns[0].dtype == "text"
    only_empty = stored(text[: -len(b"ann,1\n")], subject="who", max_records_per_subject=1)
    assert only_empty == "dataset_columns_differ"


def test_what_is_declared_holds() -> None:
    text = b"id,p0,p1,word,rest\n" + b"".join(
        b"%d,%d,%d,%s,x y\n"
        % (
            n,
            n % 256,
            n % 3,
            b"ab"[n % 2 :][:1],
        )
        for n in range(300)
    )
    columns = (
        ColumnDeclaration("image", "uint8", source=("p*",)),
        ColumnDeclaration("id", "float32"),
        ColumnDeclaration("word", categories=("b", "a")),
    )
    outcomes = every_outcome(text, columns=columns, skip=("rest",))
    assert all(outcome == outcomes[0] for outcome in outcomes)
    assert not isinstance(outcomes[0], str)
    schema, data = outcomes[0]
    assert [(column.name, column.dtype, column.shape) for column in schema.columns] == [
        ("id", "float32", ()),
        ("image", "uint8", (2,)),
        ("word", "category", ()),
    ]
    np.testing.assert_array_equal(np.frombuffer(data[1], np.uint8).reshape(-1, 2)[:, 0], np.arange(300) % 256)
    np.testing.assert_array_equal(np.frombuffer(data[2], np.int32), np.arange(300) % 2 == 0)
    both = every_outcome(text, columns=(ColumnDeclaration("p1", "float32"), *columns), skip=("rest",))
    assert all(outcome == both[0] for outcome in both)
    assert not isinstance(both[0], str)
    assert [column.name for column in both[0][0].columns] == ["id", "image", "p1", "word"]
    image, single = np.frombuffer(both[0][1][1], np.uint8).reshape(-1, 2), np.frombuffer(both[0][1][2], np.float32)
    np.testing.assert_array_equal(image[:, 1], single)
    for bad, code in (
        ((ColumnDeclaration("word", "float32"),), "dataset_dtype 2"),
        ((ColumnDeclaration("p0", "uint8", max=100),), "dataset_out_of_range 103"),
        ((ColumnDeclaration("id", "uint8"),), "dataset_out_of_range 258"),
        ((ColumnDeclaration("word", categories=("a",)),), "dataset_out_of_range 3"),
        ((ColumnDeclaration("none"),), "dataset_columns_differ"),
    ):
        assert set(every_outcome(text, columns=bad)) == {code}  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [b"1e400", b"-1e309", b"9" * 400], ids=["exponent", "negative", "digits"])
@pytest.mark.parametrize("beside", [b"1", b"2.5", b"NA"])
def test_a_number_beyond_float64_stays_as_it_stands(size: bytes, beside: bytes) -> None:
    """It would become infinity, which nobody has written."""
    for outcome in every_outcome(b"a,b\n%b,1\n%b,2\n" % (size, beside)):
        assert not isinstance(outcome, str), outcome
        schema, _ = outcome
        assert (schema.columns[0].dtype, schema.columns[0].categories) == ("text", (size.decode(), beside.decode()))


class Sizes(TableWriter):
    """Notes the bytes of the parts that it is given, and stores nothing."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.sizes: list[int] = []

    def add_rows(self, pieces: Mapping[str, Any]) -> None:
        self.sizes.append(sum(piece.nbytes for piece in pieces.values()))


@pytest.mark.parametrize("row", [b"1" + b"," * 63, b"0.5" + b",1" * 63, b"1" + b",1" * 63, b'"1"' + b',"1"' * 63])
def test_a_part_takes_little_memory(row: bytes, tmp_path: Path) -> None:
    """An empty field is one byte of the file, and eight bytes as a number."""
    text = b",".join(b"c%d" % index for index in range(64)) + b"\n" + (row + b"\n") * (8 * 10**6 // len(row))
    writer = Sizes(ColumnDraft(tmp_path), uploaded_bytes=len(text))
    read(io.BytesIO(text), writer, WITH_HEADER)
    writer.close()
    assert len(writer.sizes) > 3
    assert max(writer.sizes) < 1.1 * MAX_VALUE_BYTES


def test_limits_hold() -> None:
    million = b",".join(b"c%d" % index for index in range(10**6)) + b"\n" + b"1," * (10**6 - 1) + b"1\n"
    assert stored(million) == "dataset_too_many_columns"
    limits = DatasetLimits(max_categories=3, max_text_chars=10, max_records=5)
    for text, code in (
        (b"a\nw\nx\ny\nz\n", "dataset_too_many_categories"),
        (b"a\nxxxxxxxxxxx\n", "dataset_text_too_long 2"),
        (b"a\n1\n1\n1\n1\n1\n1\n", "dataset_too_many_records"),
        (b"", "dataset_empty"),
        (b"a,b\n", "dataset_empty"),
        (b"a,a\n1,1\n", "dataset_duplicate_column"),
    ):
        assert set(every_outcome(text, limits=limits)) == {code}  # type: ignore[arg-type]
    long_field = b"x" * 200_000
    for text in (
        b"a,b\n1,2\n" + long_field + b",1\n",
        b'a,b\n1,2\n"' + long_field + b'",1\n',
        b'a,b\n1,2\n"' + b'x""\n' * 100_000 + b'",1\n',
    ):
        outcomes = every_outcome(text)
        assert all(outcome == outcomes[0] for outcome in outcomes)
        assert str(outcomes[0]).startswith("dataset_malformed"), "Python's csv takes no field of that length"


def test_lines_of_the_header_count() -> None:
    text = b'\n  \n"a\na",b\n1,2\n3\n'
    assert set(every_outcome(text)) == {"invalid_column_name"}  # type: ignore[arg-type]
    text = b"\n  \na , b\n\n1,2\n3\n"
    assert set(every_outcome(text)) == {"dataset_ragged 6"}  # type: ignore[arg-type]
    outcome = stored(text[:-2])
    assert not isinstance(outcome, str)
    assert [column.name for column in outcome[0].columns] == ["a", "b"]
