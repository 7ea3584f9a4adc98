"""The bytes of a partial sum.

    PGPS   length of the head (4 bytes)   head (JSON)   first sum (int64)   [second sum (int64)]

All numbers are little-endian. An unknown version is refused, and its reports are then read back.
"""

from __future__ import annotations

import struct
import zlib

import msgspec
import numpy as np

from pygrid.aggregation.precisions import Precision
from pygrid.aggregation.running import SumValues

_MAGIC = b"PGPS"
VERSION = 1
_LENGTH = struct.Struct("<4sI")


class StoredSumError(Exception):
    """Bytes that are not a partial sum of these reports."""


class _Head(msgspec.Struct, forbid_unknown_fields=True):
    version: int
    num_values: int
    exponent: int
    reach: int
    has_far: bool
    covered_crc: int


def pack(covered: dict[int, bool]) -> bytes:
    """The ids of reports, int64, ascending; negative for those in the second sum."""
    return np.array(
        [number if is_near else -number for number, is_near in sorted(covered.items())], dtype="<i8"
    ).tobytes()


def unpack(data: bytes) -> dict[int, bool]:
    """The reverse of `pack`."""
    return {abs(number): number > 0 for number in np.frombuffer(data, dtype="<i8").tolist()}


def encode(values: SumValues, covered: bytes) -> bytes:
    """The bytes of a partial sum that covers these reports (`pack`)."""
    head = _Head(
        version=VERSION,
        num_values=len(values.near),
        exponent=values.precision.exponent,
        reach=values.precision.reach,
        has_far=values.far is not None,
        covered_crc=zlib.crc32(covered),
    )
    text = msgspec.json.encode(head)
    sums = [values.near] if values.far is None else [values.near, values.far]
    return b"".join([_LENGTH.pack(_MAGIC, len(text)), text, *(one.astype("<i8", copy=False).data for one in sums)])


def decode(data: bytes, covered: bytes) -> SumValues:
    """The sums in ``data``, without a copy.

    Raises:
        StoredSumError: an unknown version, damaged, or a sum of other reports.
    """
    try:
        magic, length = _LENGTH.unpack_from(data)
        head = msgspec.json.decode(data[_LENGTH.size : _LENGTH.size + length], type=_Head)
    except (struct.error, msgspec.DecodeError, msgspec.ValidationError) as error:
        raise StoredSumError(str(error)) from None
    start, count = _LENGTH.size + length, head.num_values
    if magic != _MAGIC or head.version != VERSION:
        raise StoredSumError(f"version {head.version} is not known")
    if head.covered_crc != zlib.crc32(covered):
        raise StoredSumError("it is a sum of other reports")
    if len(data) != start + 8 * count * (1 + head.has_far):
        raise StoredSumError(f"it has {len(data):,} bytes")
    sums = [
        np.frombuffer(data, dtype="<i8", count=count, offset=start + 8 * count * number).astype(np.int64, copy=False)
        for number in range(1 + head.has_far)
    ]
    return SumValues(Precision(head.exponent, head.reach), sums[0], sums[1] if head.has_far else None, unpack(covered))
