"""Reads blocks of CSV text that hold short whole numbers and nothing else, such as pixels: all fields at once, with numpy.

A reader that goes column by column takes longer for each field than for its digits, and as much again for each column.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

AT_ONCE = 256 * 1024
"""Bytes of text that are looked at together: what is made of them stays in the processor's cache."""
MAX_MEAN_BYTES = 5
"""Of a field with what ends it. Each further digit is a pass over the fields that have it."""
MAX_DIGITS = 9
_ZERO, _LF = np.uint8(48), 10

Numbers = npt.NDArray[Any]
"""int16, or int32 if they take it."""


def short_numbers(data: bytes, num_fields: int, delimiter: bytes) -> Numbers | None:
    """The numbers ``[num_fields, num_rows]`` of whole lines without quotes.

    None if there is anything but numbers of up to nine digits: a sign, a needless zero, an empty field or line, a line with
    another number of fields.
    """
    parts, begin = [], 0
    while begin < len(data):
        end = data.rfind(b"\n", begin, begin + AT_ONCE) + 1 or data.find(b"\n", begin) + 1 or len(data)
        part = _rows(data[begin:end], num_fields, ord(delimiter))
        if part is None:
            return None
        parts.append(part.T)
        begin = end
    return np.concatenate(parts, axis=1) if parts else None


def _rows(data: bytes, num_fields: int, delimiter: int) -> Numbers | None:
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n")
    digits = np.frombuffer(data if data.endswith(b"\n") else data + b"\n", np.uint8) - _ZERO
    ends: Any = np.flatnonzero(digits > 9).astype(np.int32)
    if ends.size % num_fields or digits.size > MAX_MEAN_BYTES * ends.size:
        return None
    separators = digits[ends].reshape(-1, num_fields) + _ZERO
    if np.any(separators[:, -1] != _LF) or np.any(separators[:, :-1] != delimiter):
        return None
    lengths = np.diff(ends, prepend=np.int32(-1)) - 1
    most = int(lengths.max())
    if lengths.min() == 0 or most > MAX_DIGITS:
        return None
    dtype = np.int16 if most <= 4 else np.int32
    values: Numbers = digits[ends - 1].astype(dtype)
    places = np.flatnonzero(lengths > 1)
    ends, lengths = ends[places], lengths[places]
    if np.any(digits[ends - lengths] == 0):
        return None
    for count in range(2, most + 1):
        if count > 2:
            has_more = lengths >= count
            places, ends, lengths = places[has_more], ends[has_more], lengths[has_more]
        values[places] += digits[ends - count].astype(dtype) * dtype(10 ** (count - 1))
    return values.reshape(-1, num_fields)
