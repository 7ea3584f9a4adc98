"""The wire format of protobuf: fields of one message, and a writer.

Source: https://protobuf.dev/programming-guides/encoding. Groups, which the format dropped, are refused.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

from pygrid import codes
from pygrid.errors import InvalidInput

MAX_DEPTH = 24
"""Messages inside of each other."""
MAX_FIELDS = 400_000
"""Fields of a message with all messages inside it, as far as they are read."""

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
Piece: TypeAlias = bytes | memoryview


def invalid(why: str) -> InvalidInput:
    """The error for bytes that are not a valid message."""
    return InvalidInput(f"the protobuf bytes are not valid: {why}", code=codes.INVALID_PROTOBUF)


class WireField(NamedTuple):
    """One field: an integer below 2^64 if ``kind`` is `VARINT`, else its bytes."""

    number: int
    kind: int
    integer: int
    content: memoryview


_NOTHING = memoryview(b"")


class WireReader:
    """Reads the fields of messages, with limits on all messages of one file together."""

    def __init__(self, max_fields: int = MAX_FIELDS) -> None:
        self._left = max_fields
        self._max_fields = max_fields

    def fields(self, data: memoryview, depth: int = 0) -> Iterator[WireField]:
        """Yield the fields of a message in the order of its bytes.

        Args:
            depth: number of messages around this one.
        Raises:
            InvalidInput: ``invalid_protobuf``.
        """
        if depth > MAX_DEPTH:
            raise invalid(f"messages are nested deeper than {MAX_DEPTH} levels")
        position, end = 0, len(data)
        while position < end:
            self._left -= 1
            if self._left < 0:
                raise invalid(f"there are more than {self._max_fields:,} fields")
            key, position = read_varint(data, position)
            number, kind = key >> 3, key & 7
            if not 1 <= number < 1 << 29:
                raise invalid(f"a field has the number {number}")
            if kind == VARINT:
                integer, position = read_varint(data, position)
                yield WireField(number, kind, integer, _NOTHING)
                continue
            if kind == LENGTH:
                size, position = read_varint(data, position)
            elif kind == FIXED32:
                size = 4
            elif kind == FIXED64:
                size = 8
            else:
                raise invalid(f"field {number} has the unknown wire type {kind}")
            if size > end - position:
                raise invalid(f"field {number} ends beyond the end of the data")
            yield WireField(number, kind, 0, data[position : position + size])
            position += size


def read_varint(data: memoryview, position: int) -> tuple[int, int]:
    """Return an integer below 2^64, and the position after it."""
    value = shift = 0
    for byte in data[position : position + 10]:
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >= 1 << 64:
                raise invalid("an integer has more than 64 bits")
            return value, position
        shift += 7
    raise invalid("an integer has more than 10 bytes" if shift == 70 else "the data ends inside an integer")


def message_of(field: WireField) -> memoryview:
    """The bytes of a field that is a message, text or bytes."""
    if field.kind != LENGTH:
        raise invalid(f"field {field.number} has the wire type {field.kind}, expected {LENGTH}")
    return field.content


def text_of(field: WireField) -> str:
    try:
        return str(message_of(field), "utf-8")
    except UnicodeDecodeError:
        raise invalid(f"field {field.number} is not UTF-8 text") from None


def integer_of(field: WireField) -> int:
    """The signed 64-bit integer of a field."""
    if field.kind != VARINT:
        raise invalid(f"field {field.number} has the wire type {field.kind}, expected {VARINT}")
    return signed(field.integer)


def float_of(field: WireField) -> float:
    """The 32-bit float of a field."""
    if field.kind != FIXED32:
        raise invalid(f"field {field.number} has the wire type {field.kind}, expected {FIXED32}")
    return float(struct.unpack("<f", field.content)[0])


def signed(integer: int) -> int:
    """A 64-bit integer in two's complement."""
    return integer - (1 << 64) if integer >= 1 << 63 else integer


def read_packed(content: memoryview, most: int) -> list[int]:
    """The signed integers of a packed field, at most ``most`` of them."""
    values: list[int] = []
    position = 0
    while position < len(content):
        if len(values) >= most:
            raise invalid(f"a list has more than {most:,} integers")
        value, position = read_varint(content, position)
        values.append(signed(value))
    return values


def varint(value: int) -> bytes:
    """The bytes of an integer from -2^63 to 2^64 - 1."""
    value &= (1 << 64) - 1
    found = bytearray()
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)


def write_int(number: int, value: int) -> bytes:
    """A field with an integer or a boolean."""
    return varint(number << 3 | VARINT) + varint(value)


def write_float(number: int, value: float) -> bytes:
    """A field with a 32-bit float."""
    return varint(number << 3 | FIXED32) + struct.pack("<f", value)


def write_bytes(number: int, value: Piece) -> bytes:
    """A field with a message, or bytes."""
    return head_of(number, len(value)) + bytes(value)


def write_text(number: int, value: str) -> bytes:
    return write_bytes(number, value.encode())


def head_of(number: int, size: int) -> bytes:
    """The beginning of a field with a message of ``size`` bytes, which follow."""
    return varint(number << 3 | LENGTH) + varint(size)
