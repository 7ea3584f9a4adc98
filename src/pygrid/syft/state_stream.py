"""Reads a State in pieces: the values of its tensors pass through, and only a few bytes of each tensor are kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pygrid.errors import InvalidTensors, ShapeMismatch
from pygrid.syft.states import FIELDS_PER_TENSOR, MAX_TENSORS
from pygrid.syft.tensors import DTYPES, FIRST_CONTENT, LAST_CONTENT, SERIALIZER_ALL, read_dims
from pygrid.syft.wire import FIXED32, FIXED64, LENGTH, VARINT, WireReader, invalid, read_varint, signed

_STATE, _ENTRY, _PARAMETER, _TENSOR, _DATA = "a State", "an entry of a State", "a parameter", "a tensor", "contents"
_INNER = {
    (_STATE, 2): _ENTRY,
    (_ENTRY, 1): _TENSOR,
    (_ENTRY, 2): _PARAMETER,
    (_PARAMETER, 2): _TENSOR,
    (_TENSOR, 2): _DATA,
}
"""(message, number of a field) -> the message in the field. Each message but a State has one such field."""
_CONTENT_OF_FLOAT32 = DTYPES["float32"][0]
_VALUE_BYTES = 4
_MAX_HEAD = 20
"""Bytes of two integers."""
_MAX_KEPT = 1024
"""Longest shape and name of a dtype."""


@dataclass(slots=True)
class _Message:
    kind: str
    end: int
    """Offset in the State at which it ends."""
    has_inner: bool = False


@dataclass(slots=True)
class _Tensor:
    """What is kept of the current tensor."""

    serializer: int = SERIALIZER_ALL
    shape: bytes | None = None
    dtype: str = ""
    num_bytes: int = 0
    """Bytes of its float32 values."""
    is_uneven: bool = False
    """A field has parts of values."""
    contents: set[int] = field(default_factory=set)
    """Numbers of the fields that have values."""


class _Field(NamedTuple):
    number: int
    kind: int
    integer: int
    """The value of an integer; else the length of the content."""
    end: int
    """Offset in the piece of the byte after the head."""


class StateStream:
    """Reads the tensors of a State, which must be float32 and have known shapes.

    Args:
        shapes: name and shape of each tensor, in order. The names are for errors.
    """

    def __init__(self, shapes: Sequence[tuple[str, tuple[int, ...]]]) -> None:
        self._shapes = shapes
        self._num_tensors = 0
        self._at = 0
        """Offset in the State of the next byte to read."""
        self._messages = [_Message(_STATE, -1)]
        self._tensor = _Tensor()
        self._left = 0
        """Missing bytes of the content of a field."""
        self._field: _Field | None = None
        """The field with this content."""
        self._kept = bytearray()
        self._rest = b""
        """The beginning of the head of a field."""
        self._num_fields_left = MAX_TENSORS * FIELDS_PER_TENSOR

    def add(self, data: bytes) -> list[memoryview]:
        """Read the next bytes, and return the values in them: little-endian float32, in pieces of any length.

        Raises:
            InvalidInput: ``invalid_protobuf``. InvalidTensors: a tensor is not float32. ShapeMismatch.
        """
        view, position = memoryview(self._rest + data if self._rest else data), 0
        self._rest = b""
        found: list[memoryview] = []
        while True:
            if self._left:
                piece = view[position : position + self._left]
                if not piece:
                    return found
                position += len(piece)
                self._take_content(piece, found)
                continue
            self._end_messages()
            one = _read_head(view, position)
            if one is None:
                self._rest = bytes(view[position:])
                return found
            self._at += one.end - position
            position = one.end
            self._begin_field(one)

    def finish(self) -> None:
        """Check that the State is complete. Raises as `add`."""
        self._end_messages()
        if self._left or self._rest or len(self._messages) > 1:
            raise invalid("the data ends inside a field")
        if self._num_tensors != len(self._shapes):
            raise ShapeMismatch(f"the diff has {self._num_tensors} arrays; the model has {len(self._shapes)}")

    def _take_content(self, piece: memoryview, found: list[memoryview]) -> None:
        one, message = self._field, self._messages[-1]
        assert one is not None
        self._left -= len(piece)
        self._at += len(piece)
        if message.kind != _DATA:
            return
        if one.number == _CONTENT_OF_FLOAT32:
            before = self._tensor.num_bytes
            self._tensor.num_bytes += len(piece)
            found.append(piece[: max(0, self._num_expected() - before)])
        elif one.number in (1, 2):
            self._kept += piece
            if not self._left:
                self._keep(one.number)

    def _num_expected(self) -> int:
        """Bytes of the current tensor in the model."""
        if self._num_tensors >= len(self._shapes):
            return 0
        return _VALUE_BYTES * math.prod(self._shapes[self._num_tensors][1])

    def _keep(self, number: int) -> None:
        """Note the shape or the dtype of the tensor, whose bytes are complete."""
        if number == 1:
            self._tensor.shape = bytes(self._kept)
        else:
            try:
                self._tensor.dtype = self._kept.decode()
            except UnicodeDecodeError:
                raise invalid("field 2 is not UTF-8 text") from None
        self._kept.clear()

    def _begin_field(self, one: _Field) -> None:
        message = self._messages[-1]
        self._num_fields_left -= 1
        if self._num_fields_left < 0:
            raise invalid(f"there are more than {MAX_TENSORS * FIELDS_PER_TENSOR:,} fields")
        length = 0 if one.kind == VARINT else one.integer
        if message.end >= 0 and self._at + length > message.end:
            raise invalid(f"field {one.number} ends beyond the end of the data")
        inner = _INNER.get((message.kind, one.number))
        if inner is not None:
            _expect(one, LENGTH)
            if message.kind != _STATE and message.has_inner:
                raise invalid(f"{message.kind} has its contents twice")
            message.has_inner = True
            if inner == _ENTRY and self._num_tensors >= MAX_TENSORS:
                raise invalid(f"a State has more than {MAX_TENSORS:,} tensors")
            self._messages.append(_Message(inner, self._at + length))
            return
        if message.kind == _TENSOR:
            self._note_of_tensor(one)
        elif message.kind == _DATA:
            self._note_of_data(one)
        self._field, self._left = one, length

    def _note_of_tensor(self, one: _Field) -> None:
        if one.number == 3:
            raise invalid(
                "a tensor holds bytes of a serializer, which are never read; write it with SERIALIZER_ALL (4)"
            )
        if one.number == 8:
            _expect(one, VARINT)
            self._tensor.serializer = signed(one.integer)

    def _note_of_data(self, one: _Field) -> None:
        tensor = self._tensor
        if one.number in (1, 2):
            _expect(one, LENGTH)
            if one.number == 1 and tensor.shape is not None:
                raise invalid("a tensor has its shape twice")
            if one.integer > _MAX_KEPT:
                raise invalid(f"a shape, or the name of a dtype, is longer than {_MAX_KEPT} bytes")
            if one.integer == 0:
                self._keep(one.number)
        elif one.number == 3 and one.integer:
            raise invalid("a tensor is quantized")
        elif FIRST_CONTENT <= one.number <= LAST_CONTENT:
            tensor.contents.add(one.number)
            if one.number == _CONTENT_OF_FLOAT32:
                if one.kind not in (LENGTH, FIXED32):
                    raise invalid("contents of a tensor are not floats")
                tensor.is_uneven = tensor.is_uneven or one.integer % _VALUE_BYTES != 0

    def _end_messages(self) -> None:
        """End the messages whose last byte was read."""
        while self._messages[-1].end == self._at:
            message = self._messages.pop()
            if message.kind != _DATA and not message.has_inner:
                raise invalid(f"{message.kind} has no contents")
            if message.kind == _DATA:
                self._check_data()
            elif message.kind == _TENSOR:
                serializer = self._tensor.serializer
                if serializer != SERIALIZER_ALL:
                    raise invalid(f"a tensor has the serializer {serializer}; only SERIALIZER_ALL (4) is read")
                self._tensor = _Tensor()
            elif message.kind == _ENTRY:
                self._num_tensors += 1

    def _check_data(self) -> None:
        tensor = self._tensor
        if tensor.dtype not in DTYPES:
            raise invalid(f"a tensor has the dtype {tensor.dtype[:40]!r}; known are {', '.join(DTYPES)}")
        dims = read_dims(WireReader(), memoryview(tensor.shape or b""), 0)
        if tensor.contents - {DTYPES[tensor.dtype][0]}:
            raise invalid(f"a tensor of dtype {tensor.dtype} has contents of another dtype")
        if tensor.dtype == "float32":
            if tensor.is_uneven:
                raise invalid(f"contents of a tensor are not whole numbers of {_VALUE_BYTES} bytes")
            if tensor.num_bytes != _VALUE_BYTES * math.prod(dims):
                raise invalid(f"a tensor of shape {list(dims)} has {tensor.num_bytes // _VALUE_BYTES:,} values")
        number = self._num_tensors
        if number >= len(self._shapes):
            return
        name, shape = self._shapes[number]
        if tensor.dtype != "float32":
            raise InvalidTensors(f"array {number} of the diff is {tensor.dtype}; a diff is float32", array=name)
        if dims != shape:
            raise ShapeMismatch(
                f"array {number} of the diff has shape {list(dims)}; {name!r} of the model has {list(shape)}",
                array=name,
            )


def _expect(one: _Field, kind: int) -> None:
    if one.kind != kind:
        raise invalid(f"field {one.number} has the wire type {one.kind}, expected {kind}")


def _read_head(view: memoryview, position: int) -> _Field | None:
    """The head of a field, with the value of an integer. None: it is not complete."""
    head = view[position : position + _MAX_HEAD]
    if not _has_integer(head, 0):
        return None
    key, at = read_varint(head, 0)
    number, kind = key >> 3, key & 7
    if not 1 <= number < 1 << 29:
        raise invalid(f"a field has the number {number}")
    if kind in (VARINT, LENGTH):
        if not _has_integer(head, at):
            return None
        integer, at = read_varint(head, at)
    elif kind in (FIXED32, FIXED64):
        integer = 4 if kind == FIXED32 else 8
    else:
        raise invalid(f"field {number} has the unknown wire type {kind}")
    return _Field(number, kind, integer, position + at)


def _has_integer(head: memoryview, at: int) -> bool:
    """Whether an integer that begins at an offset is complete, or longer than an integer can be."""
    part = bytes(head[at : at + 10])
    return len(part) == 10 or any(byte < 0x80 for byte in part)
