"""Turns an uploaded file into a folder of columns, in a child process: readers of files meet hostile bytes.

The child has limits on memory, time and file size, and is locked in a sandbox that lets it write to that folder. One
that dies takes nothing along but the upload that it was working on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from pygrid import codes
from pygrid.core.datasets import Column, ColumnDeclaration, DatasetLimits, Schema
from pygrid.errors import InvalidDataset, PygridError, from_problem
from pygrid.messages.datasets import Format
from pygrid.sandbox.process import ChildLimits, Stop, run_child
from pygrid.storage.columns import ColumnDraft
from pygrid.tabular import Reader, find_reader, num_bytes, tell_format
from pygrid.tabular.table_writer import TableWriter

_CHILD = "pygrid.features.datasets.conversion_child"
_LIMITS = ChildLimits(memory_bytes=4 * 1024**3, cpu_s=4 * 3600, wall_s=4 * 3600.0, max_output_bytes=256 * 1024**2)
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


class Reply(msgspec.Struct, frozen=True):
    """What the child answers: the schema, or a problem document."""

    schema: Schema | None = None
    problem: dict[str, Any] = {}


class Converter:
    """Converts files, a few at a time; others wait for their turn."""

    def __init__(self) -> None:
        self._turn = asyncio.Semaphore(_NUM_CHILDREN)

    async def convert(self, conversion: Conversion) -> Schema:
        """Write the columns of a file into its folder; gives their schema.

        If the caller is cancelled, the child is ended; it has ended when this returns, so that its folder can be
        removed.

        Raises:
            InvalidDataset, InvalidInput, PayloadTooLarge: what is wrong with the file.
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


def convert_in_child(conversion: Conversion, stop: Stop | None = None) -> Schema:
    """`convert` in a process of its own; blocks."""
    answer = run_child(_CHILD, [msgspec.json.encode(conversion)], limits=_limits(conversion), failed=_failed, stop=stop)
    reply = msgspec.json.decode(answer, type=Reply)
    if reply.schema is None:
        raise from_problem(reply.problem)
    return reply.schema


def _limits(conversion: Conversion) -> ChildLimits:
    with Path(conversion.source).open("rb") as file:
        if tell_format(file.read(16)) != "arrow":
            return _LIMITS
        # It is mapped as a whole, which takes addresses and no memory.
        return replace(_LIMITS, memory_bytes=_LIMITS.memory_bytes + num_bytes(file))


LockIn = Callable[[BinaryIO], Path]
"""Closes a sandbox around this process, in which an open file can be read; gives the path of the folder to write to."""


def convert(conversion: Conversion, lock_in: LockIn | None = None) -> Schema:
    """Write the columns of a file into its folder; gives their schema.

    Args:
        lock_in: called before anything but the first bytes of the file is read.
    Raises:
        InvalidDataset, InvalidInput, PayloadTooLarge: what is wrong with the file.
    """
    with Path(conversion.source).open("rb") as file:
        reader = find_reader(file, conversion.format)
        uploaded_bytes = num_bytes(file)
        folder = Path(conversion.folder) if lock_in is None else lock_in(file)
        return _convert(conversion, reader, folder, uploaded_bytes)


def _convert(conversion: Conversion, reader: Reader, folder: Path, uploaded_bytes: int) -> Schema:
    writer = TableWriter(
        ColumnDraft(folder),
        declared=conversion.columns,
        skip=conversion.skip,
        subject=conversion.subject,
        max_records_per_subject=conversion.max_records_per_subject,
        limits=conversion.limits,
        uploaded_bytes=uploaded_bytes,
    )
    try:
        reader.read(writer)
        return writer.finish()
    finally:
        writer.close()


def check_alike(mock: Schema, schema: Schema) -> None:
    """Check that a mock twin has the columns of the real table, with missing values where that has some.

    Raises:
        InvalidDataset: ``mock_differs``: names the first column that differs.
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
