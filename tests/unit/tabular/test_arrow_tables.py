"""Parquet and Arrow files, and Arrow data of pandas and polars.

Should happen: a table of any supported types comes back equal: values, gaps, categories, shapes. Another type is
refused with its column and type, another value with its column and value.
Should not happen: a value is rounded, cut or shifted, or a gap is filled, without a word.
"""

from __future__ import annotations

import datetime as dt
import decimal
import io
import math
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pygrid.errors import InvalidDataset
from support.tables import store
from support.thorough import examples


def parquet(table: Any, **options: Any) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out, **options)
    return out.getvalue()


def ipc(table: Any, max_chunksize: int | None = None) -> bytes:
    out = io.BytesIO()
    with pa.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table, max_chunksize)
    return out.getvalue()


def read(values: Any, columns: dict[str, Any] | None = None) -> tuple[str, tuple[int, ...], list[Any]]:
    """Type, shape and values of a column that is stored from Parquet and from Arrow, the same from both."""
    array = values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values)
    found = []
    for content in (parquet(pa.table({"x": array})), ipc(pa.table({"x": array}))):
        schema, records = store(content, columns)
        found.append((schema.columns[0].dtype, schema.columns[0].shape, [shown(value) for value in records["x"]]))
    assert found[0] == found[1]
    return found[0]


def shown(value: Any) -> Any:
    if isinstance(value, list):
        return [shown(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value


# -- Properties --------------------------------------------------------------------------------------------------------

SAFE = st.integers(-(2**53), 2**53)
MOMENTS = st.datetimes(dt.datetime(1700, 1, 1), dt.datetime(2250, 1, 1))
# type: (values that fit, what is stored without gaps, with gaps)
KINDS: dict[Any, tuple[Any, str, str]] = {
    pa.int8(): (st.integers(-128, 127), "int32", "float64"),
    pa.uint8(): (st.integers(0, 255), "uint8", "float64"),
    pa.uint32(): (st.integers(0, 2**32 - 1), "int64", "float64"),
    pa.int32(): (st.integers(-(2**31), 2**31 - 1), "int32", "float64"),
    pa.int64(): (SAFE, "int64", "float64"),
    pa.bool_(): (st.booleans(), "bool", "float64"),
    pa.float32(): (st.floats(width=32, allow_nan=False), "float32", "float32"),
    pa.float64(): (st.floats(allow_nan=False), "float64", "float64"),
    pa.string(): (st.text(max_size=5), "text", "text"),
    pa.large_string(): (st.text(max_size=5), "text", "text"),
    pa.dictionary(pa.int16(), pa.string()): (st.sampled_from(["f", "m", "x"]), "category", "category"),
    pa.dictionary(pa.int8(), pa.int64()): (SAFE, "int64", "float64"),
    pa.date32(): (st.dates(), "date", "date"),
    pa.date64(): (st.dates(), "date", "date"),
    pa.timestamp("s"): (MOMENTS.map(lambda at: at.replace(microsecond=0)), "datetime", "datetime"),
    pa.timestamp("us"): (MOMENTS, "datetime", "datetime"),
    pa.timestamp("ns", "Europe/Berlin"): (MOMENTS.map(lambda at: at.replace(tzinfo=dt.UTC)), "datetime", "datetime"),
    pa.decimal128(9, 0): (st.integers(-(10**9) + 1, 10**9 - 1).map(decimal.Decimal), "int64", "float64"),
    pa.decimal128(12, 4): (st.decimals(-(10**6), 10**6, places=4), "float64", "float64"),
    pa.decimal128(38, 18): (st.decimals(-(10**6), 10**6, places=4), "float64", "float64"),
}


def expected(value: Any, dtype: str) -> Any:
    if value is None:
        return "" if dtype == "text" else None
    if isinstance(value, dt.datetime):
        return value.replace(tzinfo=None).isoformat()
    if isinstance(value, dt.date):
        return value.isoformat()
    if isinstance(value, str):
        return value
    number = {"bool": bool, "int32": int, "uint8": int, "int64": int}.get(dtype, float)(value)
    return str(number) if math.isinf(number) else number  # JSON has no infinity


@st.composite
def columns(draw: Any) -> tuple[Any, list[Any], str]:
    kind = draw(st.sampled_from(list(KINDS)))
    values, whole, with_gaps = KINDS[kind]
    drawn = draw(st.lists(st.none() | values if draw(st.booleans()) else values, min_size=1, max_size=12))
    return kind, drawn, with_gaps if None in drawn else whole


@settings(max_examples=examples(300), deadline=None)
@given(st.lists(columns(), min_size=1, max_size=4), st.integers(1, 5), st.booleans())
def test_any_table_of_supported_types_reads_back_equal(drawn: Any, chunk: int, is_parquet: bool) -> None:
    length = min(len(values) for _, values, _ in drawn)
    table = pa.table({f"c{i}": pa.array(values[:length], kind) for i, (kind, values, _) in enumerate(drawn)})
    content = parquet(table, row_group_size=chunk) if is_parquet else ipc(table, chunk)
    schema, records = store(content)
    for i, (kind, values, _) in enumerate(drawn):
        dtype = KINDS[kind][2 if None in values[:length] else 1]
        assert schema.columns[i].dtype == dtype
        assert [shown(value) for value in records[f"c{i}"]] == [expected(value, dtype) for value in values[:length]]
        has_missing = None in values[:length]
        assert schema.columns[i].has_missing == (
            has_missing if dtype in ("float32", "float64", "category", "date", "datetime") else None
        )


@settings(max_examples=examples(100), deadline=None)
@given(
    st.sampled_from([pa.int32(), pa.float64(), pa.uint8()]),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 5),
    st.booleans(),
)
def test_lists_of_one_length_become_arrays(kind: Any, outer: int, inner: int, length: int, gap: bool) -> None:
    values: list[Any] = [[[(i * j + k) % 2 for k in range(inner)] for j in range(outer)] for i in range(length)]
    if gap:
        values[-1][-1][-1] = None
    dtype, shape, found = read(pa.array(values, pa.list_(pa.large_list(kind))))
    assert (shape, found) == ((outer, inner), values)
    assert dtype == ("float64" if gap else str(kind).replace("double", "float64"))
    assert read(pa.array(values, pa.list_(pa.list_(kind, inner), outer))) == (dtype, shape, found)


# -- Refusals ----------------------------------------------------------------------------------------------------------

LATE = dt.datetime(2300, 1, 1, microsecond=1)


@pytest.mark.parametrize(
    ("values", "columns", "code", "words"),
    [
        ([[1], [1, 2]], {}, "dataset_dtype", "FixedSizeList"),
        ([[1], None], {}, "dataset_missing_values", "without a list"),
        ([[], []], {}, "dataset_dtype", "'x'"),
        ([["a"], ["b"]], {}, "dataset_dtype", "'x'"),
        ([{"a": 1}], {}, "dataset_dtype", "struct"),
        ([b"a"], {}, "dataset_dtype", "binary"),
        ([dt.time(1)], {}, "dataset_dtype", "time64"),
        ([dt.timedelta(1)], {}, "dataset_dtype", "duration"),
        ([1, None, 2**53 + 1], {}, "dataset_out_of_range", "9007199254740993.*text or category"),
        ([1, None, 2**53 + 1], {"x": "float64"}, "dataset_out_of_range", "9007199254740993"),
        ([1, 2**53 + 1], {"x": "float64"}, "dataset_out_of_range", "9007199254740993"),
        ([1, None], {"x": "int32"}, "dataset_missing_values", "float64 or category"),
        ([True, None], {"x": "bool"}, "dataset_missing_values", "float64 or category"),
        (pa.array([1], pa.timestamp("ns")), {}, "dataset_dtype", "microseconds"),
        ([LATE], {}, "dataset_dtype", "1684 to 2255"),
        ([dt.datetime(2020, 1, 1, 5)], {"x": "date"}, "dataset_out_of_range", "2020-01-01T05:00:00"),
        ([dt.date(2020, 1, 1)], {"x": "category"}, "dataset_columns_differ", "date"),
        ([1.5], {"x": "date"}, "dataset_columns_differ", "float64"),
        ([decimal.Decimal("1.2345678901234567890")], {}, "dataset_out_of_range", "more digits"),
    ],
)
def test_what_is_not_stored_is_refused_by_name(values: Any, columns: Any, code: str, words: str) -> None:
    table = pa.table({"x": values if isinstance(values, pa.Array) else pa.array(values)})
    for content in (parquet, ipc):
        try:
            file = content(table)
        except pa.ArrowInvalid:  # Parquet has no duration
            continue
        with pytest.raises(InvalidDataset, match=words) as refusal:
            store(file, columns)
        assert refusal.value.code == code
        assert "'x'" in refusal.value.detail


def test_two_columns_of_one_name_are_refused() -> None:
    table = pa.table([pa.array([1]), pa.array([2])], names=["x", "x"])
    for content in (ipc(table), parquet(table)):
        with pytest.raises(InvalidDataset, match="two columns 'x'"):
            store(content)


# -- Declared types ----------------------------------------------------------------------------------------------------


def test_long_numbers_with_gaps_are_exact_as_texts_and_categories() -> None:
    assert read([1, None, 2**53 + 1], {"x": "text"}) == ("text", (), ["1", "", "9007199254740993"])
    assert read([1, None, 2**53 + 1], {"x": "category"}) == ("category", (), ["1", None, "9007199254740993"])


def test_values_become_the_declared_type() -> None:
    assert read([1, 2, None], {"x": "category,categories=2|1"})[2] == ["1", "2", None]
    assert read([True, None], {"x": "category"})[2] == ["true", None]
    assert read([20200131], {"x": "date"}) == ("date", (), ["2020-01-31"])
    assert read(["2020-01-31", None], {"x": "date"})[2] == ["2020-01-31", None]
    assert read([dt.date(2020, 1, 31), None], {"x": "datetime"})[2] == ["2020-01-31T00:00:00", None]
    assert read([dt.datetime(2020, 1, 31), None], {"x": "date"})[2] == ["2020-01-31", None]
    assert read([LATE.replace(microsecond=0)], {"x": "date"})[2] == ["2300-01-01"]
    assert read([dt.date(1970, 1, 3)], {"x": "int32"}) == ("int32", (), [2])
    assert read([0, 1], {"x": "bool"}) == ("bool", (), [False, True])
    assert read(["yes", "0"], {"x": "bool"}) == ("bool", (), [True, False])
    assert read([None, None]) == ("float64", (), [None, None])


def test_many_columns_with_late_gaps_are_read_three_times_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not once more for each column, which a file of 4,096 columns would make expensive."""
    opened = []
    real = pa.ipc.open_stream
    monkeypatch.setattr(pa.ipc, "open_stream", lambda source: opened.append(1) or real(source))
    table = pa.table({f"c{i}": [None if i == j else 1 for j in range(40)] for i in range(40)})
    schema, _ = store(ipc(table, 1))
    assert {column.dtype for column in schema.columns} == {"float64"}
    assert len(opened) <= 5  # the schema, the first records, twice to store them, and once to find the gaps
