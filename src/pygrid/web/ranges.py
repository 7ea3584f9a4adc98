"""The part of a file that a request asks for (RFC 9110, section 14)."""

from __future__ import annotations

import re

from pygrid.errors import RangeNotSatisfiable

_ONE_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)


def read_range(header: str, size: int) -> range | None:
    """The bytes that a header ``Range`` asks for; None: all, because it is absent, malformed, or has several ranges.

    Raises:
        RangeNotSatisfiable: the file ends before the range begins.
    """
    found = _ONE_RANGE.fullmatch(header.strip())
    if found is None or found[0] == "bytes=-":
        return None
    first, last = found.groups()
    if not first:
        wanted = range(max(0, size - int(last)), size)
    elif last and int(last) < int(first):
        return None
    else:
        wanted = range(int(first), min(size, int(last) + 1) if last else size)
    if not wanted:
        raise RangeNotSatisfiable(f"the range {header[:80]!r} has no byte of this file, which has {size}", size=size)
    return wanted
