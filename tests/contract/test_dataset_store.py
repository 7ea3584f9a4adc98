"""Files of every format become columns that can be mapped, or are refused; rows of datasets on both databases.

Should happen: what is mapped equals what was in the file, bit for bit, whatever the format.
Should not happen: a file that lies, unpacks without end, or holds Python objects gets past its reader; anything but a
refusal with a code comes of it; a reader runs code or writes elsewhere.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import io
import pickle
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pygrid.core.access import OWNER, USER, Principal
from pygrid.core.datasets import ColumnDeclaration, DatasetLimits
from pygrid.errors import InvalidConfig, InvalidInput, NotFound, PayloadTooLarge
from pygrid.features.datasets.conversion import Conversion, Converter, check_alike, convert, convert_in_child
from pygrid.messages.datasets import Column, CsvOptions, Schema, UploadRequest
from pygrid.storage import datasets as rows
from pygrid.storage.columns import ColumnFiles, map_columns
from pygrid.storage.sql.database import Database
from pygrid.storage.sql.migrations import migrate
from pygrid.tabular import detect_format
from pygrid.tabular.column_writers import Subjects
from pygrid.tabular.csv_reader import PREFIX_BYTES
from pygrid.tensors import encode
from support.eventually import eventually
from support.thorough import examples

Arrays = dict[str, npt.NDArray[Any]]
STORED = ("float32", "float64", "int32", "int64", "uint8", "bool")
TABLE_FORMATS = ("csv", "parquet", "arrow", "arrow-stream")
FORMATS = (*TABLE_FORMATS, "npz", "npz-compressed", "safetensors")


def npz(arrays: Arrays, compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
    return file.getvalue()


def table(arrays: Arrays) -> pa.Table:
    def column(values: npt.NDArray[Any]) -> pa.Array:
        flat = pa.array(values.reshape(-1).tolist() if values.dtype.kind == "U" else values.reshape(-1))
        for length in reversed(values.shape[1:]):
            flat = pa.FixedSizeListArray.from_arrays(flat, length)
        return flat

    return pa.table({name: column(values) for name, values in arrays.items()})


def as_csv(arrays: Arrays) -> bytes:
    import csv

    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(arrays)
    for row in zip(*(values.tolist() for values in arrays.values()), strict=True):
        writer.writerow([str(cell).lower() if isinstance(cell, bool) else cell for cell in row])
    return file.getvalue().encode()


def write(form: str, arrays: Arrays) -> bytes:
    """The bytes of a file of that format with these columns."""
    if form == "csv":
        return as_csv(arrays)
    if form == "safetensors":
        return encode(arrays)
    if form.startswith("npz"):
        return npz(arrays, zipfile.ZIP_DEFLATED if form == "npz-compressed" else zipfile.ZIP_STORED)
    file = io.BytesIO()
    if form == "parquet":
        pq.write_table(table(arrays), file)
        return file.getvalue()
    made = table(arrays)
    with (pa.ipc.new_stream if form == "arrow-stream" else pa.ipc.new_file)(file, made.schema) as writer:
        writer.write_table(made, max_chunksize=7)
    return file.getvalue()


@pytest.fixture
def store(tmp_path: Path) -> Callable[..., tuple[Schema, Arrays]]:
    """Converts bytes in this process, and gives what can be mapped afterwards."""
    files = ColumnFiles(tmp_path / "datasets")

    def stored(data: bytes, *, limits: DatasetLimits | None = None, **more: Any) -> tuple[Schema, Arrays]:
        source = tmp_path / "source"
        source.write_bytes(data)
        with files.draft() as draft:
            convert(conversion(source, draft.path, limits=limits or DatasetLimits(), **more))
            name = files.commit(draft)
        return map_columns(files.path(name))

    return stored


def conversion(source: Path, folder: Path, **more: Any) -> Conversion:
    usual: dict[str, Any] = {
        "format": None,
        "columns": (),
        "skip": (),
        "subject": None,
        "max_records_per_subject": None,
        "limits": DatasetLimits(),
    }
    return Conversion(str(source), str(folder), **{**usual, **more})


def texts_of(schema: Schema, arrays: Arrays, name: str) -> list[str]:
    column = schema.find(name)
    assert column is not None
    assert column.categories is not None
    return [column.categories[code] for code in arrays[name].tolist()]


NAMES = st.lists(
    st.text("abcdefghij_ 0é", min_size=1, max_size=8).map(lambda n: f"c{n}d"), min_size=1, max_size=4, unique=True
)
TEXTS = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), max_size=6)


@st.composite
def tables(draw: st.DrawFn, max_dims: int) -> Arrays:
    """Columns of every stored dtype with one number of records."""
    num_records = draw(st.integers(1, 20))
    arrays = {}
    for name in draw(NAMES):
        dtype = np.dtype(draw(st.sampled_from(STORED))).newbyteorder("<")
        shape = (num_records, *draw(hnp.array_shapes(min_dims=0, max_dims=max_dims, max_side=3)))
        arrays[name] = draw(hnp.arrays(dtype, shape, elements=hnp.from_dtype(dtype, allow_nan=max_dims > 0)))
    return arrays


COMMON = settings(
    max_examples=examples(40),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.mark.parametrize("form", ["npz", "npz-compressed", "safetensors", "parquet", "arrow", "arrow-stream"])
@COMMON
@given(arrays=tables(max_dims=2))
def test_arrays_come_back_bit_for_bit(form: str, arrays: Arrays, store: Callable[..., Any]) -> None:
    schema, mapped = store(write(form, arrays))
    assert schema.num_records == len(next(iter(arrays.values())))
    assert mapped.keys() == arrays.keys()
    for name, values in arrays.items():
        assert isinstance(mapped[name], np.memmap)
        assert (mapped[name].dtype, mapped[name].shape) == (values.dtype, values.shape)
        assert mapped[name].tobytes() == values.tobytes()


@COMMON
@given(arrays=tables(max_dims=0))
def test_numbers_in_csv_come_back_exactly(arrays: Arrays, store: Callable[..., Any]) -> None:
    """Python writes the shortest text that reads back as the same float64, so nothing is lost on the way."""
    arrays = {n: v for n, v in arrays.items() if v.dtype.kind != "f" or np.isfinite(v).all()}
    if not arrays:
        return
    declared = tuple(ColumnDeclaration(name.strip(), dtype=values.dtype.name) for name, values in arrays.items())
    _, mapped = store(write("csv", arrays), columns=declared)
    for name, values in arrays.items():
        np.testing.assert_array_equal(mapped[name], values)


@pytest.mark.parametrize("form", [*TABLE_FORMATS, "npz"])
@COMMON
@given(texts=st.lists(TEXTS, min_size=1, max_size=20))
def test_texts_come_back(form: str, texts: list[str], store: Callable[..., Any]) -> None:
    texts = [text.rstrip("\0") for text in texts]
    arrays = {"text": np.array(texts, dtype=np.str_), "n": np.arange(len(texts))}
    schema, mapped = store(write(form, arrays), columns=(ColumnDeclaration("text", dtype="text"),))
    assert texts_of(schema, mapped, "text") == texts
    assert mapped["text"].dtype == np.int32


def test_kinds_of_csv_columns_are_told_from_all_values(store: Callable[..., Any]) -> None:
    data = b"i,f,b,t,zip,miss,none\n1,1,true,1,007,1,\n-2,2.5e3,false,x,123,,\n3,4,True,,5,3,NA\n"
    schema, mapped = store(data)
    assert [column.dtype for column in schema.columns] == [
        "int64",
        "float64",
        "bool",
        "text",
        "text",
        "float64",
        "float64",
    ]
    assert mapped["i"].tolist() == [1, -2, 3]
    assert mapped["f"].tolist() == [1, 2500, 4]
    assert mapped["b"].tolist() == [True, False, True]
    assert texts_of(schema, mapped, "t") == ["1", "x", ""]
    assert texts_of(schema, mapped, "zip") == ["007", "123", "5"]
    np.testing.assert_array_equal(mapped["miss"], [1, np.nan, 3])
    assert np.isnan(mapped["none"]).all()


def test_a_late_value_changes_the_kind_of_the_whole_column(store: Callable[..., Any]) -> None:
    many = PREFIX_BYTES
    lines = ["n"] + ["1"] * many
    assert store("\n".join(lines).encode())[1]["n"].dtype == np.int64
    _, mapped = store("\n".join([*lines, "2.5"]).encode())
    assert (mapped["n"].dtype, mapped["n"][-1], len(mapped["n"])) == (np.float64, 2.5, many + 1)


def test_many_numbers_are_read_as_they_are_written(store: Callable[..., Any]) -> None:
    generator = np.random.default_rng(0)
    values = generator.random(2000) * 10.0 ** generator.integers(-300, 300, 2000)
    lines = [*map(repr, values.tolist()), "", "NA", "+1.5", ".5", "5.", "-0.0"]
    expected = [float(line) if line not in ("", "NA") else np.nan for line in lines]
    for text in (lines, lines[:2000]):
        _, mapped = store("\n".join(["n,m", *(f"{line},1" for line in text)]).encode())
        np.testing.assert_array_equal(mapped["n"], np.array(expected[: len(text)]))


def test_quotes_line_ends_delimiters_and_a_byte_order_mark(store: Callable[..., Any]) -> None:
    data = '\ufeffa;b\r\n"x; ""y""\nz";1\r\n\r\nw;2\r\n'.encode()
    schema, mapped = store(data)
    assert texts_of(schema, mapped, "a") == ['x; "y"\nz', "w"]
    assert mapped["b"].tolist() == [1, 2]


def test_a_formula_is_a_text(store: Callable[..., Any]) -> None:
    schema, mapped = store(b"a\n=1+1\n+cmd|' /C calc'!A0\n@SUM(A1)\n", csv=CsvOptions(header=True))
    assert texts_of(schema, mapped, "a") == ["=1+1", "+cmd|' /C calc'!A0", "@SUM(A1)"]


@pytest.mark.parametrize("form", TABLE_FORMATS)
def test_single_columns_can_be_put_together(form: str, store: Callable[..., Any]) -> None:
    pixels = np.arange(20, dtype=np.float32).reshape(5, 4)
    arrays = {"id": np.arange(5), **{f"p{index}": pixels[:, index] for index in range(4)}, "y": np.arange(5) % 2}
    image = ColumnDeclaration("image", dtype="float32", meaning="image 1x2x2", source=("p*",))
    schema, mapped = store(write(form, arrays), columns=(image,), skip=("id",))
    assert [column.name for column in schema.columns] == ["image", "y"]
    np.testing.assert_array_equal(mapped["image"], pixels.reshape(5, 1, 2, 2))


def test_other_dtypes_are_stored_in_wider_ones(store: Callable[..., Any]) -> None:
    given = {
        "float16": "float32",
        "int8": "int32",
        "int16": "int32",
        "uint16": "int32",
        "uint32": "int64",
        "uint64": "int64",
    }
    arrays = {name: np.array([0, 1, 100], dtype=name) for name in given}
    _, mapped = store(npz(arrays))
    assert {name: mapped[name].dtype.name for name in given} == given
    assert all(mapped[name].tolist() == [0, 1, 100] for name in given)
    _, mapped = store(
        npz({"big": np.array([1, 2], dtype=">i4"), "f": np.asfortranarray(np.arange(6.0).reshape(3, 2))[:2]})
    )
    assert mapped["big"].tolist() == [1, 2]
    assert mapped["f"].tolist() == [[0, 1], [2, 3]]


def test_the_texts_of_subjects_are_not_kept(store: Callable[..., Any]) -> None:
    data = b"who,x\nann@example.org,1\nbob@example.org,2\nann@example.org,3\n"
    schema, mapped = store(data, subject="who", max_records_per_subject=2)
    assert (schema.subject, schema.max_records_per_subject) == ("who", 2)
    assert mapped["who"].tolist() == [0, 1, 0]
    assert b"example.org" not in msgspec.json.encode(schema)
    assert schema.num_subjects == 2


def test_missing_values_among_whole_numbers_become_nan(store: Callable[..., Any]) -> None:
    file = io.BytesIO()
    pq.write_table(pa.table({"n": pa.array([1, None, 3], pa.int32())}), file)
    schema, mapped = store(file.getvalue())
    assert (schema.columns[0].dtype, schema.columns[0].has_missing) == ("float64", True)
    np.testing.assert_array_equal(mapped["n"], [1, np.nan, 3])
    with pytest.raises(InvalidInput) as refused:
        store(file.getvalue(), columns=(ColumnDeclaration("n", dtype="int32"),))
    assert refused.value.code == "dataset_missing_values"
    _, mapped = store(file.getvalue(), columns=(ColumnDeclaration("n", dtype="float32"),))
    np.testing.assert_array_equal(mapped["n"], np.array([1, np.nan, 3], np.float32))


def test_the_schema_says_which_columns_have_missing_values(store: Callable[..., Any]) -> None:
    gaps = np.array([[1, 2], [np.nan, 4], [5, 6]])
    arrays = {"gaps": gaps, "full": gaps[:, 0] * 0 + 1, "whole": np.arange(3), "is": np.arange(3) > 1}
    arrays["full"][1] = np.inf
    schema, _ = store(npz(arrays))
    assert [column.has_missing for column in schema.columns] == [True, False, None, None]
    schema, _ = store(b"a,b,c,t\n1,,2,\nNA,3,4,x\n")
    assert [column.has_missing for column in schema.columns] == [True, True, None, None]


def test_a_late_missing_value_is_noticed(store: Callable[..., Any]) -> None:
    lines = ["n"] + ["1.5"] * PREFIX_BYTES
    assert store("\n".join(lines).encode())[0].columns[0].has_missing is False
    assert store("\n".join([*lines, "NA"]).encode())[0].columns[0].has_missing is True


def test_missing_values_can_be_declared(store: Callable[..., Any]) -> None:
    full, gaps = b"n\n1.5\n2\n", b"n\n1.5\nNA\n"
    assert store(full, columns=(ColumnDeclaration("n", has_missing=True),))[0].columns[0].has_missing is True
    assert store(full, columns=(ColumnDeclaration("n", has_missing=False),))[0].columns[0].has_missing is False
    for data, dtype, code in (
        (gaps, None, "dataset_missing_values"),
        (b"n\n1\n2\n", "int64", "dataset_columns_differ"),
    ):
        with pytest.raises(InvalidInput) as refused:
            store(data, columns=(ColumnDeclaration("n", dtype=dtype, has_missing=False),))
        assert refused.value.code == code


@given(st.lists(st.integers(-5, 5) | st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=50), st.integers(1, 7))
def test_subjects_are_counted_piece_by_piece(numbers: list[int], piece: int) -> None:
    subjects = Subjects("who", 1000)
    for begin in range(0, len(numbers), piece):
        subjects.add(np.array(numbers[begin : begin + piece], np.int64))
        assert subjects.count() == len(set(numbers[: begin + piece]))


def test_a_table_has_a_bounded_number_of_subjects(store: Callable[..., Any]) -> None:
    who = np.arange(20) // 2
    limits = DatasetLimits(max_subjects=10)
    schema, _ = store(npz({"who": who}), subject="who", max_records_per_subject=2, limits=limits)
    assert schema.num_subjects == 10
    with pytest.raises(InvalidInput) as refused:
        store(npz({"who": np.arange(20)}), subject="who", max_records_per_subject=2, limits=limits)
    assert refused.value.code == "dataset_too_many_subjects"


def bomb(num_bytes: int) -> bytes:
    return npz({"zeros": np.zeros(num_bytes, np.uint8)}, zipfile.ZIP_DEFLATED)


def lying(name: str = "x.npy", *, shape: str = "(9999,)", data: bytes = b"\0" * 64) -> bytes:
    """An NPZ archive whose one member has this head and this data."""
    head = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".encode()
    head += b" " * (-(len(head) + 11) % 64) + b"\n"
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + data)
    return file.getvalue()


def with_objects() -> bytes:
    file = io.BytesIO()
    np.savez(file, x=np.array([{"a": 1}, None], dtype=object))
    return file.getvalue()


def lying_safetensors() -> bytes:
    data = bytearray(encode({"x": np.arange(8, dtype=np.float32)}))
    return bytes(data[:-4])


def ragged_npz() -> bytes:
    return npz({"a": np.zeros(3), "b": np.zeros(4)})


def huge_safetensors() -> bytes:
    head = b'{"x":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}'
    return len(head).to_bytes(8, "little") + head + b"\0" * 64


def damaged(form: str) -> bytes:
    whole = bytearray(write(form, {"a": np.arange(100.0), "b": np.arange(100)}))
    middle = len(whole) // 2
    whole[middle:] = b"\xff" * (len(whole) - middle)
    return bytes(whole)


BAD: dict[str, tuple[bytes, str]] = {
    "empty csv": (b"\n", "dataset_empty"),
    "no records": (b"a,b\n", "dataset_empty"),
    "ragged csv": (b"a,b\n1,2\n3\n", "dataset_ragged"),
    "too long line": (b"a,b\n1,2,3\n", "dataset_ragged"),
    "two of a name": (b"a,a\n1,2\n", "dataset_duplicate_column"),
    "no name": (b"a,\n1,2\n", "dataset_header_unclear"),
    "too long name": (b"a," + b"n" * 101 + b"\n1,2\n", "dataset_header_unclear"),
    "a record for names": (b"ann,30\nbob,41\n", "dataset_header_unclear"),
    "million columns": (b",".join(b"c%d" % i for i in range(1_000_000)) + b"\n", "dataset_too_many_columns"),
    "open quote": (b'a\n"x\n', "dataset_malformed"),
    "long field": (b"a\n" + b"x" * 200_000 + b"\n", "dataset_malformed"),
    "long text": (b"a,b\n" + b"x" * 5000 + b",1\n", "dataset_text_too_long"),
    "latin-1": ("a\nMüller\n".encode("latin-1"), "dataset_encoding"),
    "utf-16": ("a\nx\n".encode("utf-16"), "dataset_encoding"),
    "mixed encodings": ("a\nMüller\n".encode() + "Müller\n".encode("latin-1"), "dataset_encoding"),
    "nul": (b"a\nx\0y\n", "dataset_encoding"),
    "too many texts": (b"a\n" + b"\n".join(b"x%d" % i for i in range(10_001)), "dataset_too_many_categories"),
    "bomb": (bomb(100_000_000), "dataset_too_large"),
    "lying size": (lying(), "dataset_malformed"),
    "negative size": (lying(shape="(-1,)"), "dataset_ragged"),
    "zip slip": (lying("../../x.npy", shape="(8,)"), "dataset_member_refused"),
    "absolute": (lying("/etc/x.npy", shape="(8,)"), "dataset_member_refused"),
    "no npy": (lying("x.txt"), "dataset_member_refused"),
    "objects": (with_objects(), "dataset_pickle"),
    "scalar": (npz({"x": np.array(3.0)}), "dataset_ragged"),
    "ragged npz": (ragged_npz(), "dataset_ragged"),
    "complex": (npz({"x": np.zeros(3, np.complex64)}), "dataset_dtype"),
    "times": (npz({"x": np.zeros(3, "datetime64[M]")}), "dataset_dtype"),
    "pickle": (pickle.dumps({"x": 1}), "dataset_format_not_read"),
    "short safetensors": (lying_safetensors(), "dataset_malformed"),
    "huge safetensors": (huge_safetensors(), "dataset_malformed"),
    "damaged parquet": (damaged("parquet"), "dataset_malformed"),
    "damaged arrow": (damaged("arrow"), "dataset_malformed"),
    "damaged npz": (damaged("npz"), "dataset_malformed"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_with_its_code(name: str, store: Callable[..., Any], tmp_path: Path) -> None:
    data, code = BAD[name]
    with pytest.raises((InvalidInput, PayloadTooLarge)) as refused:
        store(data)
    assert refused.value.code == code, refused.value
    assert refused.value.status in (400, 413)
    assert list((tmp_path / "datasets").iterdir()) == []


def test_a_bool_of_another_byte_is_refused(store: Callable[..., Any]) -> None:
    data = bytearray(encode({"x": np.array([True, False])}))
    data[-1] = 7
    with pytest.raises(InvalidInput) as refused:
        store(bytes(data))
    assert refused.value.code == "dataset_malformed"


def test_a_dense_parquet_file_is_a_bomb_too(store: Callable[..., Any]) -> None:
    file = io.BytesIO()
    pq.write_table(pa.table({"x": np.zeros(5_000_000)}), file)
    assert len(file.getvalue()) < 100_000
    with pytest.raises(PayloadTooLarge) as refused:
        store(file.getvalue())
    assert refused.value.code == "dataset_too_large"


@settings(
    max_examples=examples(150),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    form=st.sampled_from(("npz", "npz-compressed", "safetensors", "csv")),
    position=st.integers(0, 10_000),
    junk=st.binary(min_size=1, max_size=8),
)
def test_whatever_is_broken_in_a_file_is_refused_or_read(form: str, position: int, junk: bytes, store: Any) -> None:
    """A changed byte may make another good file; it never makes anything but a refusal or a table."""
    data = bytearray(write(form, {"a": np.arange(30.0), "b": np.arange(30)}))
    position %= len(data)
    data[position : position + len(junk)] = junk
    try:
        schema, mapped = store(bytes(data))
    except (InvalidInput, PayloadTooLarge):
        return
    assert all(len(values) == schema.num_records for values in mapped.values())


DECLARED: list[tuple[bytes, ColumnDeclaration, str]] = [
    (b"a\n1\n300\n", ColumnDeclaration("a", dtype="uint8"), "dataset_out_of_range"),
    (b"a\n1.5\n", ColumnDeclaration("a", dtype="int32"), "dataset_out_of_range"),
    (b"a\n1e300\n", ColumnDeclaration("a", dtype="float32"), "dataset_out_of_range"),
    (b"a\n1\n", ColumnDeclaration("b"), "dataset_columns_differ"),
    (b"a\nx\n", ColumnDeclaration("a", dtype="int32"), "dataset_dtype"),
    (b"a\n121\n", ColumnDeclaration("a", min=0, max=120), "dataset_out_of_range"),
    (b"a\n-1\n", ColumnDeclaration("a", meaning="label 0..9"), "dataset_out_of_range"),
    (b"a\nx\n", ColumnDeclaration("a", categories=("y", "z")), "dataset_out_of_range"),
    (b"a\n1\n", ColumnDeclaration("a", meaning="image 2x2"), "dataset_columns_differ"),
    (b"a\n1\n", ColumnDeclaration("v", source=("p*",)), "dataset_columns_differ"),
]


@pytest.mark.parametrize(("data", "declared", "code"), DECLARED)
def test_data_that_is_not_as_declared_is_refused(
    data: bytes, declared: ColumnDeclaration, code: str, store: Any
) -> None:
    with pytest.raises(InvalidInput) as refused:
        store(data, columns=(declared,))
    assert refused.value.code == code, refused.value


def test_a_wrong_format_is_named(store: Callable[..., Any]) -> None:
    with pytest.raises(InvalidInput) as refused:
        store(b"a\n1\n", format="npz")
    assert refused.value.code == "dataset_format_mismatch"
    for form in FORMATS:
        assert detect_format(write(form, {"a": np.arange(3)})[:16]) == form.split("-")[0]


def test_a_reserved_name_is_refused(store: Callable[..., Any]) -> None:
    with pytest.raises(InvalidConfig):
        store(npz({"__metadata__": np.zeros(3)}))


def test_the_child_answers_as_this_process_does(tmp_path: Path) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.write_bytes(write("safetensors", {"a": np.arange(5)}))
    bad.write_bytes(b"a,b\n1\n")
    folders = [tmp_path / name for name in ("one", "two", "three")]
    for folder in folders:
        folder.mkdir()
    assert convert_in_child(conversion(good, folders[0])) == convert(conversion(good, folders[1]))
    with pytest.raises(InvalidInput) as refused:
        convert_in_child(conversion(bad, folders[2]))
    assert (refused.value.code, refused.value.fields) == ("dataset_ragged", {"line": 2, "lines": [2]})


def test_a_mock_must_be_a_table_like_the_real_one() -> None:
    real = Schema((Column("a", "float32", (2,)), Column("b", "text")), 5)
    check_alike(Schema((Column("b", "text"), Column("a", "float32", (2,))), 3), real)
    for columns in [
        (Column("a", "float32", (2,)),),
        (Column("a", "float32", (3,)), Column("b", "text")),
        (Column("a", "float64", (2,)), Column("b", "text")),
        (Column("a", "float32", (2,)), Column("b", "text"), Column("c", "bool")),
    ]:
        with pytest.raises(InvalidInput) as refused:
            check_alike(Schema(columns, 3), real)
        assert refused.value.code == "mock_differs"


def test_what_a_crash_left_is_swept(tmp_path: Path) -> None:
    files = ColumnFiles(tmp_path)
    schema = Schema((Column("a", "int32"),), 2)
    with files.draft() as draft:
        draft.put(schema, {"a": np.array([1, 2])})
        kept = files.commit(draft)
    with files.draft() as draft:
        draft.put(schema, {"a": np.array([3, 4])})
        orphan = files.commit(draft)
    (tmp_path / ".0123.part").mkdir()
    (tmp_path / ".0123.part" / "data").write_bytes(b"half")
    again = ColumnFiles(tmp_path)
    again.sweep({kept})
    assert [path.name for path in tmp_path.iterdir()] == [kept]
    assert map_columns(again.path(kept))[1]["a"].tolist() == [1, 2]
    for name in (orphan, "0" * 64):
        with pytest.raises(NotFound):
            again.path(name)


def test_a_column_of_another_length_than_its_schema_says_is_not_mapped(tmp_path: Path) -> None:
    files = ColumnFiles(tmp_path)
    with files.draft() as draft:
        draft.put(Schema((Column("a", "int32"),), 2), {"a": np.array([1, 2])})
        name = files.commit(draft)
    with (files.path(name) / "0.bin").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(NotFound) as refused:
        map_columns(files.path(name))
    assert refused.value.code == "records_not_found"


NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
SCHEMA = Schema((Column("age", "float32"),), 3)
ME, OTHER, CHIEF = Principal(1, USER), Principal(2, USER), Principal(3, OWNER)


@pytest.fixture
def migrated(database: Database) -> Database:
    migrate(database)
    return database


def add(
    connection: sa.Connection, name: str, visibility: Any = "private", tags: tuple[str, ...] = (), by: int = 1
) -> int:
    dataset_id = rows.put_dataset(
        connection,
        UploadRequest(name=name, visibility=visibility, tags=tags),
        search_text=f"{name} 100%_sure".casefold(),
        created_by=by,
        now=NOW,
    )
    rows.put_version(
        connection, dataset_id, rows.NewVersion(f"folder-{name}", None, "none", SCHEMA, "", "hash"), by, NOW
    )
    return dataset_id


def names(connection: sa.Connection, principal: Principal | None, **more: Any) -> list[str]:
    return [dataset.name for dataset, _ in rows.list_datasets(connection, principal, **more)]


def test_lists_show_what_each_may_know(migrated: Database) -> None:
    def check(connection: sa.Connection) -> None:
        for visibility in ("private", "listed", "public"):
            add(connection, visibility, visibility, (visibility.title(),))
        assert names(connection, None) == ["public"]
        assert names(connection, OTHER) == ["public", "listed"]
        assert names(connection, ME) == names(connection, CHIEF) == ["public", "listed", "private"]
        assert names(connection, ME, words=["PRIV", "100%_"]) == ["private"]
        assert names(connection, ME, words=["1000"]) == []
        assert names(connection, ME, tags=["LISTED"]) == ["listed"]
        assert names(connection, ME, limit=1) == ["public"]
        assert names(connection, ME, before=2) == ["private"]
        assert rows.list_all_tags(connection, OTHER) == ["Listed", "Public"]
        assert rows.find_dataset_by_name(connection, OTHER, "private") is None
        assert rows.find_dataset_by_name(connection, ME, "PRIVATE") is not None

    migrated.write_now(check)


def test_a_name_belongs_to_each_person_apart(migrated: Database) -> None:
    def check(connection: sa.Connection) -> None:
        mine, _ = add(connection, "same"), add(connection, "same", "public", by=2)
        found = rows.find_dataset_by_name(connection, ME, "SAME")
        assert found is not None
        assert found.id == mine

    migrated.write_now(check)
    with pytest.raises(sa.exc.IntegrityError):
        migrated.write_now(lambda connection: add(connection, "Same"))


def test_a_deleted_dataset_frees_its_name_and_keeps_its_number(migrated: Database) -> None:
    def check(connection: sa.Connection) -> None:
        first = add(connection, "x", tags=("t",))
        rows.put_version(connection, first, rows.NewVersion("f2", "m2", "drawn", SCHEMA, "n", "hash"), 1, NOW)
        assert [version.number for version in rows.list_versions(connection, first)] == [2, 1]
        assert rows.get_schema(connection, rows.get_version(connection, first).id) == SCHEMA
        assert rows.stored_bytes(connection) == 2 * SCHEMA.num_bytes
        assert sorted(rows.delete_dataset(connection, first, NOW)) == ["f2", "folder-x", "m2"]
        with pytest.raises(NotFound):
            rows.get_dataset(connection, first)
        assert names(connection, CHIEF) == rows.list_all_tags(connection, CHIEF) == rows.list_folders(connection) == []
        assert rows.stored_bytes(connection) == 0
        assert add(connection, "x") > first

    migrated.write_now(check)


def test_texts_of_arrow_are_coded_as_they_first_occur(store: Callable[..., Any]) -> None:
    """Whatever the file calls them: its dictionary may have texts that no record has. A missing text is
    empty, and a missing category has the code -1.
    """
    coded = pa.DictionaryArray.from_arrays(pa.array([2, None, 0, 2], pa.int8()), pa.array(["c", "unused", "a"]))
    plain = pa.array(["c", "a", None, "c"])
    table = pa.table(
        {"coded": coded, "plain": plain, "large": plain.cast(pa.large_string()), "view": plain.cast(pa.string_view())}
    )
    out = io.BytesIO()
    with pa.ipc.new_file(out, table.schema) as writer:
        writer.write_table(table)
    schema, mapped = store(out.getvalue())
    assert [column.categories for column in schema.columns] == [
        ("a", "c"),
        ("c", "a", ""),
        ("c", "a", ""),
        ("c", "a", ""),
    ]
    assert mapped["coded"].tolist() == [0, -1, 1, 0]
    assert mapped["plain"].tolist() == mapped["large"].tolist() == mapped["view"].tolist() == [0, 1, 2, 0]


async def test_a_caller_that_is_cancelled_ends_its_child(tmp_path: Path) -> None:
    """Long before it would have ended by itself, and no process stays; the turn goes to the next."""
    source = tmp_path / "long.csv"
    with source.open("wb") as file:
        file.write(b"a,b\n")
        for _ in range(300):
            file.write(b'1,x "y"\n' * 20_000)  # what takes the careful reader: half a minute
    converter = Converter()
    tasks = []
    for number in range(2):
        (tmp_path / f"draft{number}").mkdir()
        asked = conversion(source, tmp_path / f"draft{number}", skip=("b",))
        tasks.append(asyncio.create_task(converter.convert(asked)))
    before = psutil.Process().children()
    await eventually(lambda: len(psutil.Process().children()) >= len(before) + 2)
    for task in tasks:
        task.cancel()
    assert [type(outcome) for outcome in await asyncio.gather(*tasks, return_exceptions=True)] == [
        asyncio.CancelledError
    ] * 2
    assert psutil.Process().children() == before
    (tmp_path / "short.csv").write_bytes(b"a\n1\n")
    (tmp_path / "draft2").mkdir()
    converted = await converter.convert(conversion(tmp_path / "short.csv", tmp_path / "draft2"))
    assert converted.schema.num_records == 1


def test_without_pyarrow_only_array_files_are_read(store: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for name in ("csv_reader", "csv_kinds", "arrow_files"):
        monkeypatch.delitem(sys.modules, f"pygrid.tabular.{name}", raising=False)
        monkeypatch.delattr(f"pygrid.tabular.{name}", raising=False)
    arrays = {"a": np.arange(3.0)}
    for form in ("npz", "safetensors"):
        np.testing.assert_array_equal(store(write(form, arrays))[1]["a"], arrays["a"])
    for data in (b"a\n1\n", b"PAR1" + b"\0" * 100, b"ARROW1" + b"\0" * 100):
        with pytest.raises(InvalidInput) as refused:
            store(data)
        assert refused.value.code == "tables_not_installed"
        assert "pip install 'pygrid[domain]'" in refused.value.detail
