"""NPZ files: a zip archive of NPY arrays, read member by member without unpacking it anywhere.

Source of the NPY format: numpy's "A Simple File Format for NumPy Arrays" (NEP 1).
"""

from __future__ import annotations

import codecs
import math
import os
import zipfile
from dataclasses import dataclass
from typing import IO, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from pygrid import codes
from pygrid.core.datasets import looks_like_path
from pygrid.errors import InvalidDataset, PayloadTooLarge
from pygrid.tabular.safetensors_files import PIECE_BYTES, check_bools, fill
from pygrid.tabular.table_writer import Field, TableWriter
from pygrid.tabular.times import microseconds

codecs.lookup("cp437")  # the encoding of names in a zip archive; it cannot be imported inside the sandbox
_SUFFIX = ".npy"
_UNITS = {(unit, 1) for unit in ("D", "s", "ms", "us", "ns")}
_MAX_HEADER_BYTES = 10_000
_MAX_COLUMN_MAJOR_BYTES = 64 * 1024**2
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


@dataclass(frozen=True)
class _Array:
    name: str
    info: zipfile.ZipInfo
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    column_major: bool

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def read(file: BinaryIO, writer: TableWriter) -> None:
    """Read the archive array by array.

    Raises:
        InvalidDataset: the archive is damaged or encrypted, names lead elsewhere or occur twice, arrays hold Python
            objects, or sizes are wrong. PayloadTooLarge: the unpacked arrays are too large.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            arrays = _list(archive, os.fstat(file.fileno()).st_size, writer)
            writer.begin([_field(array) for array in arrays])
            for array in arrays:
                with archive.open(array.info) as member:
                    _head(member, array.name)
                    _copy(member, array, writer)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError) as error:
        raise InvalidDataset(
            f"this is not a valid npz file: {error}", code=codes.DATASET_MALFORMED, format="npz"
        ) from error


def _list(archive: zipfile.ZipFile, size: int, writer: TableWriter) -> list[_Array]:
    """The arrays of the archive, from their headers; the sizes are checked before anything is unpacked."""
    infos = archive.infolist()
    if len(infos) > writer.limits.max_columns:
        raise InvalidDataset(
            f"the archive has {len(infos):,} members", code=codes.DATASET_TOO_MANY_COLUMNS, num_columns=len(infos)
        )
    claimed = sum(info.file_size for info in infos)
    if claimed > writer.limits.max_stored_bytes(size):
        raise PayloadTooLarge(
            f"the archive unpacks to {claimed:,} bytes, which is more than {writer.limits.max_ratio} times its size, "
            "or more than the Domain stores",
            code=codes.DATASET_TOO_LARGE,
        )
    arrays = []
    for info in infos:
        name = info.filename.removesuffix(_SUFFIX)
        if looks_like_path(info.filename) or not info.filename.endswith(_SUFFIX) or info.flag_bits & 0x1:
            raise InvalidDataset(
                f"the archive has a member {info.filename[:100]!r}: members are plain NAME.npy, not encrypted; "
                "unpack a zip archive of other files",
                code=codes.DATASET_MEMBER_REFUSED,
            )
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise InvalidDataset(
                "the archive uses a compression that numpy does not use; save it with numpy.savez_compressed",
                code=codes.DATASET_MEMBER_REFUSED,
            )
        with archive.open(info) as member:
            array = _Array(name, info, *_head(member, name))
            if member.tell() + array.num_bytes != info.file_size:
                raise InvalidDataset(
                    f"array {name!r} has {info.file_size - member.tell():,} bytes, its header describes "
                    f"{array.num_bytes:,}",
                    code=codes.DATASET_MALFORMED,
                    format="npz",
                )
        arrays.append(array)
    return arrays


def _head(member: IO[bytes], name: str) -> tuple[np.dtype[Any], tuple[int, ...], bool]:
    """dtype, shape and whether the array is stored column by column, from the header of a member."""
    version = np.lib.format.read_magic(member)
    if version not in _HEADERS:
        raise InvalidDataset(
            f"array {name!r} has NPY version {version}, which is not supported", code=codes.DATASET_MALFORMED
        )
    shape, column_major, dtype = _HEADERS[version](member, max_header_size=_MAX_HEADER_BYTES)
    if dtype.hasobject:
        raise InvalidDataset(
            f"array {name!r} holds Python objects, which need pickle; convert it to numbers or texts",
            code=codes.DATASET_PICKLE,
            column=name,
        )
    if dtype.kind == "M" and np.datetime_data(dtype) not in _UNITS:
        raise InvalidDataset(
            f"array {name!r} holds {dtype}, which is not stored; use datetime64[D], [s], [ms], [us] or [ns]",
            code=codes.DATASET_DTYPE,
            column=name,
        )
    if dtype.kind not in "fiubUSM" or dtype.itemsize == 0 or dtype.itemsize > 4 * 4096:
        raise InvalidDataset(
            f"array {name!r} holds {dtype}, which is not stored", code=codes.DATASET_DTYPE, column=name
        )
    if not shape or any(length < 0 for length in shape) or len(shape) > 16:
        raise InvalidDataset(
            f"array {name!r} is a single number: its first axis must be the record",
            code=codes.DATASET_RAGGED,
            column=name,
        )
    return dtype, shape, column_major and len(shape) > 1


def _field(array: _Array) -> Field:
    kind = "text" if array.dtype.kind in "US" else array.dtype.name
    if array.dtype.kind == "M":
        kind = "date" if np.datetime_data(array.dtype)[0] == "D" else "datetime"
    return Field(array.name, kind, array.shape[1:])


def _copy(member: IO[bytes], array: _Array, writer: TableWriter) -> None:
    if array.column_major:
        # A record is spread over the whole array, so the array must be in memory as a whole.
        if array.num_bytes > _MAX_COLUMN_MAJOR_BYTES:
            raise InvalidDataset(
                f"array {array.name!r} is stored column by column; save it with numpy.ascontiguousarray",
                code=codes.DATASET_COLUMN_MAJOR,
                column=array.name,
            )
        whole = np.empty(math.prod(array.shape), array.dtype)
        fill(member, memoryview(whole.view(np.uint8).data))
        writer.add(
            array.name, _piece(np.ascontiguousarray(whole.reshape(array.shape, order="F")).reshape(-1), array.name)
        )
    else:
        step = PIECE_BYTES - PIECE_BYTES % array.dtype.itemsize
        buffer = bytearray(min(step, array.num_bytes))
        left = array.num_bytes
        while left:
            view = memoryview(buffer)[: min(left, step)]
            fill(member, view)
            writer.add(array.name, _piece(np.frombuffer(view, array.dtype), array.name))
            left -= len(view)
    if member.read(1):  # the checksum is compared at the end of a member
        raise InvalidDataset(
            f"array {array.name!r} is longer than its header describes", code=codes.DATASET_MALFORMED, format="npz"
        )


def _piece(values: npt.NDArray[Any], name: str) -> npt.NDArray[Any] | list[str]:
    if values.dtype.kind == "U":
        return list(map(str, values.tolist()))
    if values.dtype.kind == "S":
        try:
            return [text.decode("utf-8") for text in values.tolist()]
        except UnicodeDecodeError as error:
            reason = f"array {name!r} has bytes that are not UTF-8; pass texts"
            raise InvalidDataset(reason, code=codes.DATASET_ENCODING, column=name) from error
    if values.dtype.kind == "M":
        unit, _ = np.datetime_data(values.dtype)
        there = ~np.isnat(values)
        ticks = np.where(there, values.astype(np.int64), 0)
        return np.where(there, ticks if unit == "D" else microseconds(ticks, unit, name), np.nan)
    return check_bools(values, name)
