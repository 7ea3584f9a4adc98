"""The records of datasets on the local disk, as columns that another process can map.

    <folder>/<64 hex digits>/0.bin 1.bin ... schema.json checksums.json   one version of a dataset, or its mock dataset
    <folder>/.<32 hex digits>.part/                                       an upload in progress

A column is one raw file: little-endian values, row-major; the record is the first axis. No path comes from a user. A
folder gets its name when it is complete and durable.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import uuid
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from pygrid import codes
from pygrid.core.datasets import CODED, SCHEMA_FILE, Column, Schema, column_file, stored_dtype
from pygrid.durable import WRITEBACK_BYTES, CheckedFiles, sync_directory, write_atomically
from pygrid.errors import NotFound
from pygrid.storage.blobs.checked import crc_of, damaged

CHECKSUMS_FILE = "checksums.json"
"""CRC-32 of each other file of the folder, by name."""
_SYNCED_AT_ONCE = 16
_HASHED_AT_ONCE = 1 << 20


def map_columns(folder: Path) -> tuple[Schema, dict[str, npt.NDArray[Any]]]:
    """The schema of a folder of columns, and each column ``[num_records, *shape]``, mapped read-only, unread.

    Raises:
        NotFound: ``records_not_found``: a file is missing, or its length does not match the schema.
    """
    try:
        schema = msgspec.json.decode((folder / SCHEMA_FILE).read_bytes(), type=Schema)
        arrays: dict[str, npt.NDArray[Any]] = {}
        for index, column in enumerate(schema.columns):
            path, shape = folder / column_file(index), (schema.num_records, *column.shape)
            if path.stat().st_size != schema.num_records * column.record_bytes:
                raise records_missing()
            arrays[column.name] = np.memmap(path, dtype=stored_dtype(column), mode="r", shape=shape)
    except FileNotFoundError:
        raise records_missing() from None
    return schema, arrays


def hash_content(folder: Path) -> str:
    """SHA-256 over the values of a folder of columns; the order and the names of columns make no difference, and
    prepared columns none either.

    Texts are hashed as texts, not as codes. Reads every file once; call it in a thread.
    """
    schema = msgspec.json.decode((folder / SCHEMA_FILE).read_bytes(), type=Schema)
    found = []
    for index, column in enumerate(schema.columns):
        if column.prepared is not None:
            continue
        # A category has the hash of the same texts: declaring one as the other makes no other content.
        dtype = "text" if column.dtype in CODED else column.dtype
        digest = hashlib.sha256(f"{dtype} {list(column.shape)}".encode())
        with (folder / column_file(index)).open("rb") as file:
            words = _word_hashes(column)
            while chunk := file.read(_HASHED_AT_ONCE):
                digest.update(chunk if words is None else words[np.frombuffer(chunk, "<i4")].tobytes())
        found.append(digest.hexdigest())
    return hashlib.sha256("".join(sorted(found)).encode()).hexdigest()


def _word_hashes(column: Column) -> npt.NDArray[Any] | None:
    """The first 64 bits of each category's hash, and at last that of a missing one, which is that of an empty text;
    None: values are hashed as stored.
    """
    if column.dtype not in CODED or column.categories is None:
        return None
    hashes = [hashlib.sha256(text.encode()).digest()[:8] for text in (*column.categories, "")]
    return np.frombuffer(b"".join(hashes), "<u8")


class ColumnWriter:
    """One column that is being written.

    Writing to the disk starts on the way, so that the final sync is short.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        self._size = 0
        self._started = 0

    def write(self, values: npt.NDArray[Any]) -> None:
        """Append values with their bytes in memory."""
        view = memoryview(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
        while view:
            written = os.write(self._descriptor, view)
            view, self._size = view[written:], self._size + written
        if self._size - self._started >= WRITEBACK_BYTES:
            # Starts to write dirty pages and drops written ones: the server needs its page cache for other data.
            os.posix_fadvise(self._descriptor, self._started, self._size - self._started, os.POSIX_FADV_DONTNEED)
            self._started = self._size

    def close(self) -> None:
        """Close the file. A second call does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class ColumnDraft:
    """A folder of columns that is being written; has the methods of `pygrid.tabular.table_writer.TableFiles`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def create_column(self, index: int) -> ColumnWriter:
        """The file of column number ``index``, which must not exist."""
        return ColumnWriter(self.path / column_file(index))

    def remove_column(self, index: int) -> None:
        """Delete the file of column number ``index``."""
        (self.path / column_file(index)).unlink()

    def write_schema(self, schema: Schema) -> None:
        (self.path / SCHEMA_FILE).write_bytes(msgspec.json.encode(schema))

    def take(self, folder: Path, schema: Schema) -> None:
        """Take the columns of another folder, whose files do not change: on one disk they have the same bytes."""
        for index in range(len(schema.columns)):
            try:
                os.link(folder / column_file(index), self.path / column_file(index))
            except OSError:
                shutil.copyfile(folder / column_file(index), self.path / column_file(index))
        self.write_schema(schema)

    def put(self, schema: Schema, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Write a whole small table: the columns of ``schema`` as stored."""
        for index, column in enumerate(schema.columns):
            values = np.ascontiguousarray(arrays[column.name], dtype=stored_dtype(column))
            (self.path / column_file(index)).write_bytes(values.reshape(-1).view(np.uint8).data)
        self.write_schema(schema)


class ColumnFiles:
    """All folders of columns of a Domain."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._checked = CheckedFiles()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for leftover in folder.glob(".*.part"):
            shutil.rmtree(leftover)

    @contextlib.contextmanager
    def draft(self) -> Iterator[ColumnDraft]:
        """A new folder; what is not committed in the block is removed."""
        path = self.folder / f".{uuid.uuid4().hex}.part"
        path.mkdir(mode=0o700)
        try:
            yield ColumnDraft(path)
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def commit(self, draft: ColumnDraft) -> str:
        """Make a draft durable; returns its name."""
        # Concurrent syncs share a commit of the file system's journal. One by one, each column would wait for its own.
        files = list(draft.path.iterdir())
        with ThreadPoolExecutor(_SYNCED_AT_ONCE) as threads:
            checksums = dict(zip((file.name for file in files), threads.map(_sync_data, files), strict=True))
        write_checksums(draft.path, checksums)
        sync_directory(draft.path)
        name = secrets.token_hex(32)
        draft.path.rename(self.folder / name)
        sync_directory(self.folder)
        return name

    def path(self, name: str) -> Path:
        """The folder of the columns of that name. Raises NotFound: ``records_not_found``."""
        path = self.folder / name
        if not (path / SCHEMA_FILE).is_file():
            raise records_missing()
        return path

    def checked_path(self, name: str, files: Collection[str] | None = None) -> Path:
        """As `path`, after a check of ``files`` (None: all). Reads them, so call it in a thread.

        A folder of version 0.1 has no checksums; the first check adds them.

        Raises:
            NotFound: ``records_not_found``. Unavailable: ``blob_damaged``.
        """
        path = self.path(name)
        try:
            checksums = msgspec.json.decode((path / CHECKSUMS_FILE).read_bytes(), type=dict[str, int])
        except FileNotFoundError:
            checksums = {file.name: crc_of(file) for file in path.iterdir() if not file.name.startswith(".")}
            write_checksums(path, checksums)
        except msgspec.DecodeError:
            raise damaged("a dataset", f"{name}/{CHECKSUMS_FILE}") from None
        for file in checksums.keys() if files is None else {*files, SCHEMA_FILE}:
            try:
                is_whole = self._checked.is_whole(path / file, lambda path: crc_of(path) == checksums.get(path.name))
            except FileNotFoundError:
                raise records_missing() from None
            if not is_whole:
                raise damaged("a column of a dataset", f"{name}/{file}")
        return path

    def locate(self, name: str) -> Path:
        """The folder of that name; its files can be absent before `checked_path`."""
        return self.folder / name

    def hold(self, name: str) -> AbstractContextManager[None]:
        """Keep the files that `checked_path` returned, until the block ends."""
        return contextlib.nullcontext()

    def drop(self, name: str) -> None:
        """Remove columns. A process that has mapped them can go on."""
        shutil.rmtree(self.folder / name, ignore_errors=True)

    def sweep(self, referenced: Collection[str]) -> None:
        """Remove every folder that is not in ``referenced``: what a crash left behind."""
        for folder in self.folder.iterdir():
            if folder.name not in referenced:
                shutil.rmtree(folder)


def _sync_data(file: Path) -> int:
    """Make a file's bytes durable; returns their CRC-32."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)
    return crc_of(file)


def write_checksums(folder: Path, checksums: Mapping[str, int]) -> None:
    """Write the CRC-32 of each other file of a folder of columns."""
    write_atomically(folder / CHECKSUMS_FILE, msgspec.json.encode(checksums))


def records_missing() -> NotFound:
    """The error for columns that are not there."""
    return NotFound("the records of this dataset are not on this machine, or damaged", code=codes.RECORDS_NOT_FOUND)
