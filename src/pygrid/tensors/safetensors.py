"""The safetensors byte format: a reader that checks every bound and copies no array, and a writer.

    8 bytes   N, the length of the header, little-endian unsigned
    N bytes   JSON: {name: {"dtype", "shape", "data_offsets": [begin, end]}, "__metadata__": {text: text}}
    rest      the arrays, row-major, little-endian, without holes or overlaps

Source: the format description of the safetensors project (https://github.com/huggingface/safetensors).
Files written here are deterministic: equal content means equal bytes. Arrays are sorted by dtype, wider ones first,
then by name; metadata is sorted by name.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from pygrid.errors import InvalidTensors
from pygrid.tensors.params import Params

MAX_HEADER_BYTES = 8 * 1024 * 1024
MAX_ARRAYS = 50_000
MAX_DIMENSIONS = 16
_PREFIX_BYTES = 8

_DTYPES: dict[str, np.dtype[np.generic]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}


@dataclass(frozen=True)
class ArrayEntry:
    """One array of a file. ``begin`` and ``end`` are offsets in bytes from the end of the header."""

    name: str
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class Layout:
    """The position of each array of a file, in the order of the bytes."""

    entries: tuple[ArrayEntry, ...]
    metadata: Mapping[str, str]
    header_bytes: int
    """Length of the prefix plus the JSON, which is the offset of the first array."""
    data_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.header_bytes + self.data_bytes


class _Info(msgspec.Struct, forbid_unknown_fields=True):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


def header_length(prefix: bytes | memoryview) -> int:
    """Bytes of the prefix plus the JSON header, read from the first 8 bytes of a file.

    Raises:
        InvalidTensors: there are fewer than 8 bytes, or the header is longer than `MAX_HEADER_BYTES`.
    """
    if len(prefix) < _PREFIX_BYTES:
        raise InvalidTensors("the data ends before its 8-byte length prefix")
    length = int.from_bytes(prefix[:_PREFIX_BYTES], "little")
    if not 2 <= length <= MAX_HEADER_BYTES:
        raise InvalidTensors(f"the header claims {length} bytes; 2 to {MAX_HEADER_BYTES} are allowed")
    return _PREFIX_BYTES + length


def parse_header(header: bytes | memoryview) -> Layout:
    """The layout of a file, from its prefix and JSON header (`header_length` bytes). The arrays are not read.

    Raises:
        InvalidTensors: the bytes are not in this format, a dtype is unknown, a name occurs twice, or offsets do not fit
            shape and dtype, overlap or leave holes.
    """
    length = header_length(header)
    if len(header) < length:
        raise InvalidTensors("the data ends inside its header")
    try:
        raw = msgspec.json.decode(bytes(header[_PREFIX_BYTES:length]), type=dict[str, msgspec.Raw])
        metadata_raw = raw.pop("__metadata__", None)
        metadata = msgspec.json.decode(metadata_raw, type=dict[str, str]) if metadata_raw is not None else {}
        if len(raw) > MAX_ARRAYS:
            raise InvalidTensors(f"the header lists {len(raw)} arrays; at most {MAX_ARRAYS} are allowed")
        infos = {name: msgspec.json.decode(info, type=_Info) for name, info in raw.items()}
        num_strings = 5 * len(infos) + (0 if metadata_raw is None else 1 + 2 * len(metadata))
        _check_no_name_twice(bytes(header[_PREFIX_BYTES:length]), num_strings)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidTensors(f"the header is not valid: {error}") from error
    entries = sorted((_entry(name, info) for name, info in infos.items()), key=lambda e: (e.begin, e.end))
    position = 0
    for entry in entries:
        if entry.begin != position:
            raise InvalidTensors(
                f"array {entry.name!r} begins at byte {entry.begin}, expected {position}", array=entry.name
            )
        position = entry.end
    return Layout(tuple(entries), metadata, length, position)


def _check_no_name_twice(text: bytes, num_strings: int) -> None:
    """Reject a header in which a name occurs twice: this decoder takes the last entry, other readers the first one.

    Args:
        num_strings: number of strings in the decoded header. Without escapes, the text has exactly two quotes for each;
            a name that occurs twice adds more.
    """
    if b"\\" in text:
        json.loads(text, object_pairs_hook=_unique)
    elif text.count(b'"') != 2 * num_strings:
        raise InvalidTensors("the header contains a name twice")


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise InvalidTensors("the header contains a name twice")
    return found


def _entry(name: str, info: _Info) -> ArrayEntry:
    dtype = _DTYPES.get(info.dtype)
    if dtype is None:
        raise InvalidTensors(f"array {name!r} has unknown dtype {info.dtype!r}", array=name)
    if len(info.shape) > MAX_DIMENSIONS or any(size < 0 for size in info.shape):
        raise InvalidTensors(f"array {name!r} needs at most {MAX_DIMENSIONS} dimensions, none negative", array=name)
    begin, end = info.data_offsets
    if begin < 0 or end - begin != math.prod(info.shape) * dtype.itemsize:
        raise InvalidTensors(f"the offsets of array {name!r} do not fit its shape and dtype", array=name)
    return ArrayEntry(name, dtype, tuple(info.shape), begin, end)


def read_layout(data: bytes | bytearray | memoryview) -> Layout:
    """The layout of a complete file in memory.

    Raises:
        InvalidTensors: as `parse_header`, or the data is shorter or longer than the header describes.
    """
    view = memoryview(data).cast("B")
    layout = parse_header(view)
    if len(view) != layout.total_bytes:
        raise InvalidTensors(f"the data has {len(view)} bytes, its header describes {layout.total_bytes}")
    return layout


def decode(data: bytes | bytearray | memoryview) -> tuple[Params, dict[str, str]]:
    """The arrays and the metadata of a file. The arrays are views of ``data``, not copies.

    Raises:
        InvalidTensors: as `read_layout`.
    """
    view = memoryview(data).cast("B")
    layout = read_layout(view)
    body = view[layout.header_bytes :]
    arrays = {e.name: np.frombuffer(body[e.begin : e.end], dtype=e.dtype).reshape(e.shape) for e in layout.entries}
    return arrays, dict(layout.metadata)


def make_layout(
    arrays: Mapping[str, tuple[np.dtype[np.generic], tuple[int, ...]]], metadata: Mapping[str, str] | None = None
) -> tuple[Layout, bytes]:
    """The layout of arrays of these dtypes and shapes, and the bytes of the prefix and the header."""
    names = sorted(arrays, key=lambda n: (-arrays[n][0].itemsize, n))
    return _ordered_layout([(name, *arrays[name]) for name in names], metadata)


def ordered_header(arrays: Sequence[tuple[str, np.dtype[np.generic], tuple[int, ...]]]) -> bytes:
    """The bytes of the prefix and the header of a file whose arrays have these names, dtypes and shapes, in order."""
    return _ordered_layout(arrays)[1]


def _ordered_layout(
    arrays: Sequence[tuple[str, np.dtype[np.generic], tuple[int, ...]]], metadata: Mapping[str, str] | None = None
) -> tuple[Layout, bytes]:
    position = 0
    entries: list[ArrayEntry] = []
    for name, dtype, shape in arrays:
        dtype = dtype.newbyteorder("<")
        if dtype not in _CODES:
            raise InvalidTensors(f"array {name!r} has dtype {dtype}, which the format does not support", array=name)
        size = math.prod(shape) * dtype.itemsize
        entries.append(ArrayEntry(name, dtype, tuple(shape), position, position + size))
        position += size
    document: dict[str, object] = {}
    if metadata:
        document["__metadata__"] = dict(sorted(metadata.items()))
    for e in entries:
        document[e.name] = {"dtype": _CODES[e.dtype], "shape": list(e.shape), "data_offsets": [e.begin, e.end]}
    text = msgspec.json.encode(document)
    text += b" " * (-len(text) % _PREFIX_BYTES)
    header = len(text).to_bytes(_PREFIX_BYTES, "little") + text
    return Layout(tuple(entries), dict(metadata or {}), len(header), position), header


def encode(arrays: Mapping[str, npt.NDArray[np.generic]], metadata: Mapping[str, str] | None = None) -> bytes:
    """The bytes of a file with these arrays and this metadata. Copies each array once. Raises as `encode_pieces`."""
    return b"".join(encode_pieces(arrays, metadata))


def encode_pieces(
    arrays: Mapping[str, npt.NDArray[np.generic]], metadata: Mapping[str, str] | None = None
) -> list[bytes | memoryview]:
    """The bytes of a file in pieces: its header, then each array. An array that is contiguous is not copied.

    Raises:
        InvalidTensors: the format does not support the dtype of an array.
    """
    if sys.byteorder != "little":  # pragma: no cover
        raise InvalidTensors("this machine is big-endian; only little-endian machines are supported")
    layout, header = make_layout({name: (a.dtype, a.shape) for name, a in arrays.items()}, metadata)
    chunks: list[bytes | memoryview] = [header]
    for entry in layout.entries:
        array = np.ascontiguousarray(arrays[entry.name], dtype=entry.dtype)
        chunks.append(array.reshape(-1).view(np.uint8).data if array.size else b"")
    return chunks
