"""Tables of Python as a Domain stores them: arrays, masked arrays, lists, frames of pandas and polars, Arrow tables.

Should happen: the same table from pandas, polars, pyarrow and plain lists is stored with the same values, gaps and
categories; with pyarrow on the user's machine or without.
Should not happen: a masked or missing value is taken for one; a long number is rounded; a column is dropped, or an
index is stored, without a word.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import decimal
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pygrid.client import table_files
from pygrid.client.table_files import arrays_of, body_of, check_packed_name
from pygrid.errors import InvalidDataset, InvalidInput, PygridError
from pygrid.messages.datasets import Column, Schema
from pygrid.transport.encoding import json_body, to_message
from support.tables import store

pd = pytest.importorskip("pandas")
pa = pytest.importorskip("pyarrow")

DAYS = [dt.date(2020, 2, 29), None, dt.date(1899, 12, 31)]
MOMENTS = [dt.datetime(2020, 2, 29, 12, 30, 0, 5), None, dt.datetime(1999, 1, 1)]
COLUMNS: dict[str, list[Any]] = {
    "age": [34.5, None, 51.0],
    "num": [1, None, 2**53],
    "whole": [1, 2, 3],
    "smoker": ["yes", None, "no"],
    "is": [True, None, False],
    "born": DAYS,
    "seen": MOMENTS,
}
STORED = {
    "age": ("float64", [34.5, None, 51.0]),
    "num": ("float64", [1.0, None, 2.0**53]),
    "whole": ("int64", [1, 2, 3]),
    "smoker": ("text", ["yes", "", "no"]),
    "is": ("float64", [1.0, None, 0.0]),
    "born": ("date", ["2020-02-29", None, "1899-12-31"]),
    "seen": ("datetime", ["2020-02-29T12:30:00.000005", None, "1999-01-01T00:00:00"]),
}


def upload(source: Any) -> dict[str, tuple[str, list[Any]]]:
    """What is stored of a table: the type and the values of each column."""
    with contextlib.ExitStack() as stack:
        content = b"".join(bytes(piece) for piece in body_of(source, stack))
    schema, records = store(content)
    return {column.name: (column.dtype, [shown(value) for value in records[column.name]]) for column in schema.columns}


def shown(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def polars() -> Any:
    """Imported late, because it starts threads, which forks of this process would lack."""
    return pytest.importorskip("polars")


def pandas_objects() -> Any:
    return pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in COLUMNS.items()})


def pandas_nullable() -> Any:
    return pandas_objects().astype({"num": "Int64", "is": "boolean", "smoker": "string"})


FRAMES: dict[str, Callable[[], Any]] = {
    "dict": lambda: COLUMNS,
    "arrow": lambda: pa.table(COLUMNS),
    "polars": lambda: polars().DataFrame(COLUMNS),
    "pandas": pandas_objects,
    "pandas, nullable": pandas_nullable,
    "pandas, arrow": lambda: pa.table(COLUMNS).to_pandas(types_mapper=pd.ArrowDtype),
    "dict of polars": lambda: {name: polars().Series(values) for name, values in COLUMNS.items()},
    "dict of pandas": lambda: {name: pandas_nullable()[name] for name in COLUMNS},
    "dict of arrow": lambda: {name: pa.array(values) for name, values in COLUMNS.items()},
}


@pytest.mark.parametrize("kind", FRAMES)
def test_the_same_table_is_stored_the_same(kind: str) -> None:
    assert upload(FRAMES[kind]()) == STORED


@pytest.mark.parametrize("kind", FRAMES)
def test_the_same_table_is_stored_the_same_without_the_interface_of_arrow(kind: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(table_files, "save_arrow", lambda *_: False)
    if kind != "arrow":
        assert upload(FRAMES[kind]()) == STORED


def test_categories_and_an_index_of_pandas() -> None:
    frame = pd.DataFrame(
        {"sex": pd.Categorical(["f", None, "m"], categories=["m", "f", "x"]), "code": pd.Categorical([3, 3, 9])},
        index=pd.Index(["ann", "bob", "eve"], name="who"),
    )
    assert upload(frame) == {"sex": ("category", ["f", None, "m"]), "code": ("int64", [3, 3, 9])}
    enum = polars().DataFrame({"sex": polars().Series(["f", None, "m"], dtype=polars().Enum(["m", "f"]))})
    assert upload(enum)["sex"] == ("category", ["f", None, "m"])


def test_arrays_in_a_frame() -> None:
    values = [[1.0, 2.0], [3.0, 4.0]]
    for source in (
        polars().DataFrame({"v": values}),
        pd.DataFrame({"v": values}),
        {"v": values},
        {"v": pd.Series(values)},
    ):
        assert upload(source)["v"] == ("float64", values)


def test_times_with_a_zone_are_in_utc() -> None:
    moment = pd.Timestamp("2020-07-01T12:00", tz="Europe/Berlin")
    for source in (pd.DataFrame({"t": [moment]}), {"t": pd.Series([moment])}, {"t": [moment.to_pydatetime()]}):
        assert upload(source)["t"] == ("datetime", ["2020-07-01T10:00:00"])


def test_a_category_of_a_frame_can_be_called_na() -> None:
    """A frame has gaps of its own; NA is Namibia."""
    countries = ["NA", None, "nan", "US"]
    for frame in (
        pd.DataFrame({"c": pd.Categorical(countries)}),
        polars().DataFrame({"c": polars().Series(countries, dtype=polars().Categorical)}),
        pa.table({"c": pa.array(countries).dictionary_encode()}),
    ):
        assert upload(frame)["c"] == ("category", countries)


def test_a_tensor_that_numpy_cannot_hold_is_refused() -> None:
    torch = pytest.importorskip("torch")
    for tensor in (torch.zeros(2, dtype=torch.bfloat16), torch.eye(2).to_sparse()):
        with pytest.raises(InvalidInput, match=r"column 'x' cannot be sent.*pass column.float\(\)"):
            upload({"x": tensor})
    assert upload({"x": torch.ones(2, dtype=torch.bfloat16).float()})["x"] == ("float32", [1.0, 1.0])
    with pytest.raises(InvalidDataset, match="array 'x' has bytes that are not UTF-8"):
        upload({"x": np.array(["é".encode("latin-1")])})


def test_a_printed_schema_has_a_line_for_each_column() -> None:
    columns = (
        Column("age", "float32", unit="years", min=0.0, max=120.0, has_missing=True),
        Column("scan", "uint8", (28, 28)),
        Column("sex", "category", num_categories=2),
    )
    assert str(Schema(columns, 1234)) == (
        "1,234 records\n  age: float32, years, 0..120, some missing\n  scan: uint8x28x28\n  sex: category, 2 categories"
    )


def test_dates_of_numpy_in_a_list_can_be_missing() -> None:
    assert upload({"a": [np.datetime64("2020-01-01"), None]})["a"] == ("date", ["2020-01-01", None])


def test_an_array_of_records_is_a_table() -> None:
    records = np.array([(1, 2.5, "x"), (2, 3.5, "y")], [("a", "i4"), ("b", "f4"), ("c", "U1")])
    assert upload(records) == {"a": ("int32", [1, 2]), "b": ("float32", [2.5, 3.5]), "c": ("text", ["x", "y"])}


# -- Masked arrays -----------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 100), st.booleans()), min_size=1, max_size=8),
    st.sampled_from(["f4", "f8", "i4", "i8", "u1", "M8[us]", "M8[D]", "U3", "O"]),
)
def test_a_masked_value_is_missing(values: list[tuple[int, bool]], dtype: str) -> None:
    numbers, mask = [value for value, _ in values], [is_masked for _, is_masked in values]
    array = np.ma.array(np.array(numbers, "M8[D]" if dtype[0] == "M" else dtype).astype(dtype), mask=mask)
    _, found = upload({"x": array})["x"]
    gap = "" if dtype == "U3" else None
    assert [value == gap for value in found] == mask
    if dtype[0] in "fiuO":
        assert [value for value in found if value is not None] == [n for n, is_masked in values if not is_masked]


def test_a_long_number_beside_a_masked_one_is_refused() -> None:
    for values in (np.ma.array([2**53 + 1, 1], mask=[0, 1]), [2**53 + 1, None], pd.array([2**53 + 1, None], "Int64")):
        with pytest.raises(InvalidInput, match="9007199254740993"):
            arrays_of({"x": values})


# -- Refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "two columns 'a'"),
        (pd.DataFrame([[1, 2]], columns=[1, "1"]), "two columns '1'"),
        ({1: [1], "1": [2]}, "two columns '1'"),
        (pd.DataFrame({"a": ["x", 1]}), "'?a'?"),
        ({"a": ["x", 1, 2]}, "'a'"),
        ({"a": np.array(["x", 1], object)}, "record 1"),
        ({"a": [[1], [1, 2]]}, "different lengths"),
        ({"a": np.array([{}])}, "'a'"),
        ({"a": np.array([1j])}, "complex128"),
        ({"a": np.array([dt.date(2020, 1, 1), dt.datetime(2020, 1, 1)], object)}, "'a'"),
        ({"a": [2**80, 1]}, "64 bits"),
        ({"a": [2**63 + 1, 1, -1]}, "64 bits"),
        ({"a": [pd.Timestamp(1_577_836_800_123_456_789), None]}, "not a whole number of microseconds"),
        ({"a": [decimal.Decimal("0.1234567890123456789"), None]}, "more digits than float64 holds"),
        (pd.DataFrame({"a": pd.arrays.SparseArray([0, 0, 1])}), "Sparse.*; convert it"),
        (3, "not a table"),
        (np.zeros((2, 2)), "arrays by name"),
        (pd.Series([1, 2]), r"one column, not a table: pass column.to_frame\(\)"),
        (lambda: polars().Series([1, 2]), r"pass column.to_frame\(\)"),
        (lambda: polars().LazyFrame({"a": [1]}), r"lazy: pass frame.collect\(\)"),
        (
            lambda: polars().DataFrame({"a": [1], "b": polars().Series([1], dtype=polars().Int128)}),
            "column 'b' cannot be sent",
        ),
        (pd.DataFrame({"a": [1], "m": pd.period_range("2020-01", periods=1, freq="M")}), "'m' holds .*pandas.period"),
        (pa.table({"a": pa.array([1], pa.bool8())}), "'a' holds values of the type 'arrow.bool8'"),
    ],
)
def test_what_is_no_table_is_refused_by_name(source: Any, words: str) -> None:
    table = source() if callable(source) else source
    with pytest.raises(PygridError, match=words):
        upload(table)


# -- Numbers of numpy and pandas in requests ---------------------------------------------------------------------------


def test_numbers_of_numpy_and_pandas_are_numbers() -> None:
    from pygrid.client import histogram, mean
    from pygrid.messages.jobs import JobRequest

    asked = [
        mean("x", lower=np.float32(0.5), upper=np.int64(3), by="y", keys=np.unique([2, 1])),
        histogram("x", edges=[decimal.Decimal(0), decimal.Decimal("0.5"), 1]),
        histogram("x", edges=pd.Series([0, 1])),
        mean("d", lower=pd.Timestamp("2020-01-01"), upper=np.datetime64("2021-01-01")),
    ]
    request = to_message(
        {"dataset": np.int64(1), "kind": "statistics", "reason": "x", "statistics": asked, "seed": np.uint8(3)},
        JobRequest,
    )
    first, second, third, dates = request.statistics
    assert (first.lower, first.upper, first.keys, request.seed) == (0.5, 3, (1, 2), 3)
    assert (second.edges, third.edges) == ((0.0, 0.5, 1.0), (0.0, 1.0))
    assert (dates.lower, dates.upper) == ("2020-01-01T00:00:00", "2021-01-01")


def test_keys_of_groups_are_whole_numbers_and_texts() -> None:
    from pygrid.client import count

    keys = [True, np.bool_(False), 2.0, np.float32(3), np.int8(4), "x", dt.date(2020, 1, 1), 1.5]
    assert count(by="g", keys=keys).keys == (1, 0, 2, 3, 4, "x", "2020-01-01", 1.5)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": np.bool_(True)}, b'{"a":true}'),
        ([np.float16(0.5), np.str_("x")], b'[0.5,"x"]'),
        (np.arange(4).reshape(2, 2), b"[[0,1],[2,3]]"),
        (pd.Timestamp("2020-01-01"), b'"2020-01-01T00:00:00"'),
        (decimal.Decimal("1.5"), b'"1.5"'),
    ],
)
def test_values_are_encoded(value: Any, text: bytes) -> None:
    assert b"".join(bytes(piece) for piece in json_body(value)) == text


def test_a_value_without_a_form_is_refused() -> None:
    with pytest.raises(InvalidInput, match="cannot be sent"):
        json_body({"a": object()})


@pytest.mark.parametrize("name", ["t.gz", "t.GZ", "t.zst", "t.nii.gz", "csv.gz"])
def test_a_compressed_file_of_an_unknown_kind_is_refused(name: str) -> None:
    with pytest.raises(InvalidDataset, match=re.escape(f"{name} is a file compressed with ")) as refused:
        check_packed_name(f"folder.csv/{name}")
    assert refused.value.code == "dataset_format_not_read"
    assert ".csv" + name[name.rindex(".") :].lower() in refused.value.detail


@pytest.mark.parametrize("name", ["t.csv.gz", "t.CSV.GZ", "a.b.tsv.gz", "t.txt.zst", "t.csv", "t", "gz", ".gz"])
def test_a_name_that_says_csv_is_accepted(name: str) -> None:
    check_packed_name(name)
