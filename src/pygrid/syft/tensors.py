"""``types.torch.v1.TorchTensor``: an array with its shape and dtype.

Only contents in protobuf are read (``SERIALIZER_ALL``). Contents that a serializer of PyTorch or numpy wrote are
refused, because reading them can run code.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pygrid.syft import wire
from pygrid.syft.ids import write_id

Array = npt.NDArray[np.generic]

MAX_DIMENSIONS = 16
MAX_INTEGERS = 1_000_000
"""Elements of an integer or boolean tensor, each of which is read on its own."""
SERIALIZER_ALL = 4
FIRST_CONTENT, LAST_CONTENT = 16, 28
DTYPES: dict[str, tuple[int, np.dtype[np.generic]]] = {
    "uint8": (16, np.dtype("u1")),
    "int8": (17, np.dtype("i1")),
    "int16": (18, np.dtype("<i2")),
    "int32": (19, np.dtype("<i4")),
    "int64": (20, np.dtype("<i8")),
    "float32": (22, np.dtype("<f4")),
    "float64": (23, np.dtype("<f8")),
    "bool": (24, np.dtype("?")),
}
_NAMES = {dtype: name for name, (_, dtype) in DTYPES.items()}

if sys.byteorder != "little":  # pragma: no cover
    raise ImportError("this machine is big-endian; only little-endian machines are supported")


def read_tensor(reader: wire.WireReader, data: memoryview, depth: int) -> Array:
    """The array of a TorchTensor. Packed floats are a view of ``data``, not a copy.

    Raises:
        InvalidInput: ``invalid_protobuf``.
    """
    content: memoryview | None = None
    serializer = SERIALIZER_ALL
    for field in reader.fields(data, depth):
        if field.number == 2:
            content = _once(content, wire.message_of(field), "contents")
        elif field.number == 3:
            raise wire.invalid(
                "a tensor holds bytes of a serializer, which are never read; write it with SERIALIZER_ALL (4)"
            )
        elif field.number == 8:
            serializer = wire.integer_of(field)
    if serializer != SERIALIZER_ALL:
        raise wire.invalid(f"a tensor has the serializer {serializer}; only SERIALIZER_ALL (4) is read")
    if content is None:
        raise wire.invalid("a tensor has no contents")
    return _read_data(reader, content, depth + 1)


def _read_data(reader: wire.WireReader, data: memoryview, depth: int) -> Array:
    shape: memoryview | None = None
    dtype = ""
    contents: list[wire.WireField] = []
    for field in reader.fields(data, depth):
        if field.number == 1:
            shape = _once(shape, wire.message_of(field), "shape")
        elif field.number == 2:
            dtype = wire.text_of(field)
        elif field.number == 3 and field.integer:
            raise wire.invalid("a tensor is quantized")
        elif FIRST_CONTENT <= field.number <= LAST_CONTENT:
            contents.append(field)
    if dtype not in DTYPES:
        raise wire.invalid(f"a tensor has the dtype {dtype[:40]!r}; known are {', '.join(DTYPES)}")
    number, kind = DTYPES[dtype]
    if any(field.number != number for field in contents):
        raise wire.invalid(f"a tensor of dtype {dtype} has contents of another dtype")
    dims = read_dims(reader, shape if shape is not None else memoryview(b""), depth + 1)
    values = _read_floats(contents, kind) if kind.kind == "f" else _read_integers(contents, kind)
    if values.size != math.prod(dims):
        raise wire.invalid(f"a tensor of shape {list(dims)} has {values.size:,} values")
    return values.reshape(dims)


def read_dims(reader: wire.WireReader, data: memoryview, depth: int) -> tuple[int, ...]:
    """The sizes of a ``Size`` or ``Shape``: field 1, packed or not."""
    dims: list[int] = []
    for field in reader.fields(data, depth):
        if field.number == 1:
            dims += (
                wire.read_packed(field.content, MAX_DIMENSIONS)
                if field.kind == wire.LENGTH
                else [wire.integer_of(field)]
            )
            if len(dims) > MAX_DIMENSIONS:
                raise wire.invalid(f"a tensor has more than {MAX_DIMENSIONS} dimensions")
    if any(not 0 <= size < 1 << 31 for size in dims):
        raise wire.invalid(f"a tensor has the shape {dims}")
    return tuple(dims)


def _read_floats(contents: Sequence[wire.WireField], dtype: np.dtype[np.generic]) -> Array:
    alone = wire.FIXED32 if dtype.itemsize == 4 else wire.FIXED64
    parts = []
    for field in contents:
        if field.kind not in (wire.LENGTH, alone) or len(field.content) % dtype.itemsize:
            raise wire.invalid(f"contents of a tensor are not whole numbers of {dtype.itemsize} bytes")
        parts.append(field.content)
    data = parts[0] if len(parts) == 1 else b"".join(parts)
    return np.frombuffer(data, dtype)


def _read_integers(contents: Sequence[wire.WireField], dtype: np.dtype[np.generic]) -> Array:
    values: list[int] = []
    for field in contents:
        if field.kind == wire.VARINT:
            values.append(wire.signed(field.integer))
        else:
            values += wire.read_packed(wire.message_of(field), MAX_INTEGERS - len(values))
    if len(values) > MAX_INTEGERS:
        raise wire.invalid(f"a tensor has more than {MAX_INTEGERS:,} integers")
    found = np.array(values, np.int64)
    if dtype.kind != "b":
        limits = np.iinfo(dtype.str)
        if found.size and not (limits.min <= found.min() and found.max() <= limits.max):
            raise wire.invalid(f"a tensor has values outside of its dtype {dtype.name}")
    return found.astype(dtype)


def _once(before: memoryview | None, now: memoryview, what: str) -> memoryview:
    if before is not None:
        raise wire.invalid(f"a tensor has its {what} twice")
    return now


def tensor_pieces(tensor_id: int, array: Array) -> list[wire.Piece]:
    """The bytes of a TorchTensor in pieces. Contiguous floats are not copied.

    Raises:
        InvalidInput: the dtype is not supported.
    """
    dtype = array.dtype.newbyteorder("<")
    if dtype not in _NAMES:
        raise wire.invalid(f"a tensor of dtype {array.dtype} cannot be written")
    name = _NAMES[dtype]
    number = DTYPES[name][0]
    content: wire.Piece
    if dtype.kind == "f":
        flat = np.ascontiguousarray(array, dtype).reshape(-1)
        content = flat.view(np.uint8).data if flat.size else b""
    else:
        content = b"".join(wire.varint(int(value)) for value in array.reshape(-1))
    dims = b"".join(wire.varint(size) for size in array.shape)
    shape = wire.head_of(1, len(dims)) + dims if dims else b""
    before = wire.head_of(1, len(shape)) + shape + wire.write_text(2, name)
    if len(content):
        before += wire.head_of(number, len(content))
    identity = write_id(1, tensor_id)
    after = wire.write_int(8, SERIALIZER_ALL)
    return [identity + wire.head_of(2, len(before) + len(content)) + before, content, after]
