"""Safetensors files: each array is a column, its first axis the record."""

from __future__ import annotations

import os
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from pygrid import codes
from pygrid.errors import InvalidDataset
from pygrid.tabular.table_writer import Field, TableWriter
from pygrid.tensors.safetensors import header_length, parse_header

PIECE_BYTES = 4 * 1024**2


def read(file: BinaryIO, writer: TableWriter) -> None:
    """Read the file array by array, in pieces of 4 MB.

    Raises:
        InvalidTensors: the file has another format. InvalidDataset: it is too short or too long, or an array has no
            first axis.
    """
    length = header_length(file.read(8))
    file.seek(0)
    layout = parse_header(file.read(length))
    num_bytes = os.fstat(file.fileno()).st_size
    if num_bytes != layout.total_bytes:
        raise InvalidDataset(
            f"the file has {num_bytes:,} bytes, its header describes {layout.total_bytes:,}",
            code=codes.DATASET_MALFORMED,
            format="safetensors",
        )
    for entry in layout.entries:
        if not entry.shape:
            raise InvalidDataset(
                f"array {entry.name!r} is a single number: its first axis must be the record", code=codes.DATASET_RAGGED
            )
    entries = sorted(layout.entries, key=lambda entry: entry.name)
    writer.begin([Field(entry.name, entry.dtype.name, entry.shape[1:]) for entry in entries])
    buffer = bytearray(PIECE_BYTES)
    for entry in layout.entries:
        file.seek(layout.header_bytes + entry.begin)
        left = entry.end - entry.begin
        while left:
            view = memoryview(buffer)[: min(left, PIECE_BYTES)]
            fill(file, view)
            writer.add(entry.name, check_bools(np.frombuffer(view, entry.dtype), entry.name))
            left -= len(view)


def fill(file: Any, view: memoryview) -> None:
    """Fill the view with bytes of the file. Raises EOFError: the file is too short."""
    done = 0
    while done < len(view):
        count = file.readinto(view[done:])
        if not count:
            raise EOFError("it is too short")
        done += count


def check_bools(values: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
    """The values, after a check that a bool array holds 0 and 1 only: programs read other bytes differently."""
    if values.dtype.kind == "b" and values.size and values.view(np.uint8).max() > 1:
        raise InvalidDataset(
            f"array {name!r} is bool, but it holds bytes other than 0 and 1", code=codes.DATASET_MALFORMED
        )
    return values
