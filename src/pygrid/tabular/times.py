"""Ticks of clocks of other resolutions as microseconds."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pygrid import codes
from pygrid.errors import InvalidDataset

_PER_TICK = {"s": 1_000_000, "ms": 1000, "us": 1}
_MOST = 2.0**62


def microseconds(ticks: npt.NDArray[np.int64], unit: str, column: str) -> npt.NDArray[np.float64]:
    """The microseconds of ticks of a unit: ``s``, ``ms``, ``us`` or ``ns``.

    Raises:
        InvalidDataset: ``dataset_dtype``: a time is not a whole number of microseconds, or float64 cannot hold it.
    """
    odd: npt.NDArray[Any]
    if unit == "ns":
        us, rest = np.divmod(ticks, 1000)
        odd = rest != 0
    else:
        odd = np.abs(ticks.astype(np.float64)) > _MOST / _PER_TICK[unit]
        us = np.where(odd, 0, ticks) * _PER_TICK[unit]
    floats = us.astype(np.float64)
    odd |= floats.clip(-_MOST, _MOST).astype(np.int64) != us
    if odd.any():
        raise InvalidDataset(
            f"column {column!r} has a time that is not a whole number of microseconds, or has parts of a second and is "
            "not in the years 1684 to 2255; round it",
            code=codes.DATASET_DTYPE,
            column=column,
        )
    return floats
