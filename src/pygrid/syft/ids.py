"""``types.syft.v1.Id``: an integer or a text."""

from __future__ import annotations

from typing import TypeAlias

from pygrid.syft.wire import WireReader, integer_of, invalid, text_of, write_bytes, write_int, write_text

Id: TypeAlias = int | str
MAX_ID_CHARS = 200


def read_id(reader: WireReader, data: memoryview, depth: int) -> Id:
    """The id of a message ``Id``."""
    found: Id | None = None
    for field in reader.fields(data, depth):
        if field.number in (1, 2):
            if found is not None:
                raise invalid("an id is given twice")
            found = integer_of(field) if field.number == 1 else text_of(field)
    if found is None:
        raise invalid("an id is empty")
    if isinstance(found, str) and len(found) > MAX_ID_CHARS:
        raise invalid(f"an id has more than {MAX_ID_CHARS} characters")
    return found


def write_id(number: int, value: Id) -> bytes:
    """A field with a message ``Id``."""
    return write_bytes(number, write_int(1, value) if isinstance(value, int) else write_text(2, value))
