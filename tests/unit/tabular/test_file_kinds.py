"""Files of other kinds, and compressed CSV files.

Should happen: a refusal names what the file is and what to do; CSV in gzip and zstd is read like the text itself.
Should not happen: a CSV file is taken for another; a bomb fills memory or disk; a cut file is stored.
"""

from __future__ import annotations

import gzip
import io
import pickle
import sqlite3
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pygrid.core.datasets import DatasetLimits
from pygrid.errors import InvalidInput, PayloadTooLarge, PygridError
from pygrid.messages.datasets import CsvOptions
from pygrid.tabular.csv_text import ConvertedText, open_text
from support.tables import store


def npy() -> bytes:
    file = io.BytesIO()
    np.save(file, np.zeros((3, 2)))
    return file.getvalue()


def zipped(*names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, b"a,b\n1,2\n")
    return file.getvalue()


def tarred() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        entry = tarfile.TarInfo("a.csv")
        entry.size = 8
        archive.addfile(entry, io.BytesIO(b"a,b\n1,2\n"))
    return file.getvalue()


def parquet() -> bytes:
    import pyarrow.parquet as pq

    file = io.BytesIO()
    pq.write_table(pa.table({"a": [1, 2]}), file)
    return file.getvalue()


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return bytes(sink.getvalue())


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (npy(), ("NPY", "npz")),
        (gzip.compress(npy()), ("NPY", "gzip", "npz")),
        (b"\x89HDF\r\n\x1a\n" + bytes(64), ("HDF5", "npz")),
        (zipped("[Content_Types].xml", "xl/workbook.xml"), ("Excel", "CSV")),
        (zipped("docProps/app.xml"), ("Excel", "CSV")),
        (zipped("mimetype"), ("ods",)),
        (zipped("table.csv"), ("zip archive", "unpack")),
        (zipped("model/data.pkl"), ("torch.save", "safetensors")),
        (tarred(), ("tar archive", "unpack")),
        (gzip.compress(tarred()), ("tar archive", "gzip")),
        (gzip.compress(parquet()), ("parquet", "without gzip")),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n", ("PDF",)),
        (b"\x89PNG\r\n\x1a\n" + bytes(32), ("PNG",)),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF\x00", ("JPEG",)),
        (b'{"a": 1}\n{"a": 2}\n', ("JSON",)),
        (b'[\n  {"a": 1}]', ("JSON",)),
        (b"<?xml version='1.0'?><a/>", ("XML",)),
        (b"<!DOCTYPE html><html>", ("HTML",)),
        (pickle.dumps({"a": [1]}), ("pickle", "never")),
        (bytes(12) + bytes.fromhex("c2ea8160b31411cfbd92080009c7318c181f1011") + bytes(64), ("SAS", "read_sas")),
        (b"HEADER RECORD*******LIBRARY HEADER RECORD!!!!!!!", ("SAS transport",)),
        (b"BZh91AY&SY" + bytes(16), ("bzip2", "unpack")),
        (b"\xfd7zXZ\0" + bytes(16), ("xz", "unpack")),
        (bytes(128) + b"DICM" + bytes(64), ("DICOM",)),
        (gzip.compress(gzip.compress(b"a,b\n1,2\n")), ("compressed with gzip, in gzip", "unpack it once")),
        (b"\x72\x02\x01\0" + bytes(64), ("Stata", "read_stata")),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "file",
)
def test_a_file_of_another_kind_is_named(data: bytes, words: tuple[str, ...]) -> None:
    with pytest.raises(InvalidInput) as refused:
        store(data)
    assert refused.value.code == "dataset_format_not_read"
    for word in words:
        assert word.lower() in str(refused.value).lower()


def test_a_database_is_named(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "a.db") as database:
        database.execute("create table t (a)")
    database.close()
    with pytest.raises(InvalidInput, match="SQLite"):
        store((tmp_path / "a.db").read_bytes())


@pytest.mark.parametrize(
    "name", ["PARENT", "BM", "BMI", "ORC", "RDA", "RIFF", "GIF8", "ID3", "Rar!", "%PDF", "II*", "7z"]
)
def test_names_of_columns_are_not_taken_for_other_kinds(name: str) -> None:
    schema, _ = store(f"{name},age\n1,30\n2,41\n".encode())
    assert schema.columns[0].name == name


@pytest.mark.parametrize("pack", [gzip.compress, zstd])
def test_compressed_csv_is_read_like_the_text(pack: Any) -> None:
    rows = "".join(f"{number},{number / 7},word {number % 5}\n" for number in range(120_000))
    text = f"id,x,w\n{rows}".encode()
    assert store(pack(text)) == store(text)
    half = len(text) // 2
    assert store(pack(text[:half]) + pack(text[half:])) == store(text), "several members"
    late = text + b'x,"quo"te,\n'
    plain, packed = (refused(content) for content in (late, pack(late)))
    assert (packed.code, packed.detail) == (plain.code, plain.detail)
    with pytest.raises(InvalidInput):
        store(pack(text)[:-1000])
    latin = pack("Größe,x\n1,2\n".encode("latin-1"))
    assert store(latin, csv=CsvOptions(encoding="latin-1"))[0].columns[0].name == "Größe"


def skim(text: ConvertedText) -> None:
    while text.read(2**20):
        pass


def refused(content: bytes) -> PygridError:
    with pytest.raises(PygridError) as error:
        store(content)
    return error.value


@pytest.mark.parametrize("pack", [gzip.compress, zstd])
def test_a_bomb_is_refused_after_its_limit(pack: Any, tmp_path: Path) -> None:
    bomb = tmp_path / "bomb"
    bomb.write_bytes(pack(b"a,b\n" + b"1,2\n" * 5_000_000))
    limits = DatasetLimits(free_text_bytes=2**20)
    with bomb.open("rb") as file:
        text = open_text(file, CsvOptions(), limits)
        assert isinstance(text, ConvertedText)
        with pytest.raises(PayloadTooLarge):
            skim(text)
        assert text.tell() <= 100 * bomb.stat().st_size + 2**20
    with pytest.raises(PayloadTooLarge):
        store(bomb.read_bytes(), limits=DatasetLimits(free_bytes=2**20))


def test_options_are_for_csv_only() -> None:
    with pytest.raises(InvalidInput, match="the file is parquet"):
        store(parquet(), csv=CsvOptions(header=True))
