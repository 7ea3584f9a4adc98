"""Turns an uploaded file into a folder of columns, in a child process: readers of files meet hostile bytes.

The child has limits on memory, time and file size. One that dies takes nothing along but the upload that it was working on.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec

from pygrid.core.datasets import Column, ColumnDeclaration, DatasetLimits, Schema
from pygrid.errors import InvalidDataset, PygridError, from_problem
from pygrid.features.datasets.formats import read_file
from pygrid.features.datasets.formats.sink import Sink
from pygrid.messages.datasets import Format
from pygrid.plans.child import ChildLimits, run_child

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

        A caller that is cancelled still waits for the child, which is at work in a folder that the caller will remove.

        Raises:
            InvalidDataset, InvalidInput, PayloadTooLarge: what is wrong with the file.
        """
        async with self._turn:
            work = asyncio.ensure_future(asyncio.to_thread(convert_in_child, conversion))
            try:
                return await asyncio.shield(work)
            except asyncio.CancelledError:
                await asyncio.wait([work])
                raise


def convert_in_child(conversion: Conversion) -> Schema:
    """`convert` in a process of its own; blocks."""
    answer = run_child(_CHILD, [msgspec.json.encode(conversion)], limits=_LIMITS, failed=_failed)
    reply = msgspec.json.decode(answer, type=Reply)
    if reply.schema is None:
        raise from_problem(reply.problem)
    return reply.schema


def convert(conversion: Conversion) -> Schema:
    """Write the columns of a file into its folder; gives their schema.

    Raises:
        InvalidDataset, InvalidInput, PayloadTooLarge: what is wrong with the file.
    """
    source = Path(conversion.source)
    sink = Sink(
        Path(conversion.folder),
        declared=conversion.columns,
        skip=conversion.skip,
        subject=conversion.subject,
        max_records_per_subject=conversion.max_records_per_subject,
        limits=conversion.limits,
        uploaded_bytes=source.stat().st_size,
    )
    try:
        read_file(source, conversion.format, sink)
        return sink.finish()
    finally:
        sink.close()


def declare_like(schema: Schema) -> tuple[ColumnDeclaration, ...]:
    """Declarations that make an uploaded mock twin a table like the real one."""
    return tuple(
        ColumnDeclaration(
            column.name,
            column.dtype,
            column.unit,
            column.meaning,
            column.description,
            column.min,
            column.max,
            column.categories if column.declared else None,
        )
        for column in schema.columns
    )


def check_alike(mock: Schema, schema: Schema) -> None:
    """Check that a mock twin has the columns of the real table.

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
                code="mock_differs",
                column=column.name,
            )
    for name in wanted:
        raise InvalidDataset(f"the mock lacks column {name!r}", code="mock_differs", column=name)


def _shown(column: Column) -> str:
    return f"{column.dtype} {list(column.shape)}"


def _failed(why: str) -> PygridError:
    return InvalidDataset(f"the file could not be read within the limits: {why}", code="dataset_check_failed")
