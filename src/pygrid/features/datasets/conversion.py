"""Converts an uploaded file to a folder of columns, in a child process, because the file's bytes are untrusted.

The child has limits on memory, time and file size, and a sandbox in which it can write only to this folder. If it
dies, only its upload is lost.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, ClassVar

import msgspec

from pygrid import codes
from pygrid.core.datasets import Column, ColumnDeclaration, DatasetLimits, Schema
from pygrid.errors import InvalidDataset, PygridError, StorageFull
from pygrid.messages.datasets import CsvOptions, Format
from pygrid.sandbox import Output
from pygrid.sandbox.child import ChildSandbox
from pygrid.sandbox.process import ChildLimits, Stop, run
from pygrid.storage.columns import ColumnDraft
from pygrid.tabular import Reader, detect_format, find_reader, num_bytes
from pygrid.tabular.table_writer import TableDeclaration, TableWriter


class _ConversionLimits(ChildLimits):
    num_files: ClassVar[int] = 4096 + 256
    """One for each column, and 256 others."""
    max_file_bytes: ClassVar[int] = -1


_LIMITS = _ConversionLimits(memory_bytes=4 * 1024**3, cpu_s=4 * 3600, wall_s=4 * 3600.0, max_output_bytes=256 * 1024**2)
_NUM_CHILDREN = 2


class Conversion(msgspec.Struct, frozen=True):
    """One file to convert."""

    source: str
    folder: str
    format: Format | None
    columns: tuple[ColumnDeclaration, ...]
    skip: tuple[str, ...]
    subject: str | None
    max_records_per_subject: int | None
    limits: DatasetLimits
    csv: CsvOptions = CsvOptions()
    skip_if_present: tuple[str, ...] = ()
    """Columns that the previous version left out; the file need not have them."""


class Converted(msgspec.Struct, frozen=True):
    """What was read of a file, and what the reader decided by itself, for the owner."""

    schema: Schema
    notes: tuple[str, ...]


class Converter:
    """Converts files, a few at once; further ones wait."""

    def __init__(self) -> None:
        self._turn = asyncio.Semaphore(_NUM_CHILDREN)

    async def convert(self, conversion: Conversion) -> Converted:
        """Write the columns of a file into its folder, and return what was read.

        If the caller is cancelled, the child is stopped before this returns, so that its folder can be removed.

        Raises:
            InvalidDataset, InvalidInput, PayloadTooLarge: the file is not valid.
        """
        async with self._turn:
            with Stop() as stop:
                work = asyncio.ensure_future(asyncio.to_thread(convert_in_child, conversion, stop))
                try:
                    return await asyncio.shield(work)
                except asyncio.CancelledError:
                    stop.set()
                    await asyncio.wait([work])
                    raise


def convert_in_child(conversion: Conversion, stop: Stop | None = None) -> Converted:
    """Run `convert` in a process of its own; blocks."""
    parts = [msgspec.json.encode(conversion)]
    reply = run(convert_parts, parts, limits=_limits(conversion), failed=_failed, stop=stop)
    if reply.error is not None:
        raise reply.error
    return msgspec.json.decode(reply.value, type=Converted)


def convert_parts(parts: list[bytes], sandbox: ChildSandbox) -> bytes:
    """Run in the child process of `convert_in_child`."""
    (raw,) = parts
    conversion = msgspec.json.decode(raw, type=Conversion)

    def enter(file: BinaryIO) -> Path:
        layers = sandbox.enter(
            keep={file.fileno()}, threads=True, output=Output(conversion.folder, conversion.limits.max_total_bytes)
        )
        return Path("/" if layers is not None and layers.empty_root else conversion.folder)

    try:
        return msgspec.json.encode(convert(conversion, enter))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise StorageFull("the disk of this Domain is full; nothing of the upload was kept") from error


def _limits(conversion: Conversion) -> ChildLimits:
    with Path(conversion.source).open("rb") as file:
        if detect_format(file.read(16)) != "arrow":
            return _LIMITS
        # The file is mapped as a whole, which takes address space, but no memory.
        return replace(_LIMITS, memory_bytes=_LIMITS.memory_bytes + num_bytes(file))


Enter = Callable[[BinaryIO], Path]
"""Enters a sandbox in which the open file can be read; returns the path of the folder to write to."""


def convert(conversion: Conversion, enter: Enter | None = None) -> Converted:
    """Write the columns of a file into its folder, and return what was read.

    Args:
        enter: called before more than the first bytes of the file are read.
    Raises:
        InvalidDataset, InvalidInput, PayloadTooLarge: the file is not valid.
    """
    with Path(conversion.source).open("rb") as file:
        reader = find_reader(file, conversion.format, conversion.csv)
        uploaded_bytes = num_bytes(file)
        folder = Path(conversion.folder) if enter is None else enter(file)
        return _convert(conversion, reader, folder, uploaded_bytes)


def _convert(conversion: Conversion, reader: Reader, folder: Path, uploaded_bytes: int) -> Converted:
    declared = TableDeclaration(
        conversion.columns, conversion.skip, conversion.subject, conversion.max_records_per_subject
    )
    writer = TableWriter(ColumnDraft(folder), declared, limits=conversion.limits, uploaded_bytes=uploaded_bytes)
    writer.skip_if_present(conversion.skip_if_present)
    try:
        reader.read(writer)
        return Converted(writer.finish(), tuple(writer.notes))
    finally:
        writer.close()


def is_csv(path: Path) -> bool:
    """Whether a file is read as CSV. Blocks; reads its first bytes."""
    with path.open("rb") as file:
        return detect_format(file.read(16)) == "csv"


def check_alike(mock: Schema, schema: Schema) -> None:
    """Check that a mock dataset has the columns of the real one, and missing values in the same columns.

    Raises:
        InvalidDataset: ``mock_differs``; the error names the first column that differs.
    """
    wanted = {column.name: column for column in schema.columns}
    for column in mock.columns:
        real = wanted.pop(column.name, None)
        if real is None or (real.dtype, real.shape) != (column.dtype, column.shape):
            there = "no such column" if real is None else _shown(real)
            raise InvalidDataset(
                f"the mock has column {column.name!r} as {_shown(column)}; the data has {there}",
                code=codes.MOCK_DIFFERS,
                column=column.name,
            )
        if column.has_missing != real.has_missing:
            has, needs = (
                ("has", "has none") if column.has_missing else ("has no", "has some; leave out the value of a record")
            )
            raise InvalidDataset(
                f"the mock {has} missing values in column {column.name!r}, and the data {needs}",
                code=codes.MOCK_DIFFERS,
                column=column.name,
            )
    for name in wanted:
        raise InvalidDataset(f"the mock lacks column {name!r}", code=codes.MOCK_DIFFERS, column=name)


def _shown(column: Column) -> str:
    return f"{column.dtype} {list(column.shape)}"


def _failed(why: str) -> PygridError:
    return InvalidDataset(f"the file could not be read within the limits: {why}", code=codes.DATASET_CHECK_FAILED)
