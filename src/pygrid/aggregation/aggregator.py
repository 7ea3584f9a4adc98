"""The types of what is combined."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Blocks = Iterable[tuple[int, Float32]]
"""The values of a diff: blocks, each with its position in the model."""
MeanBlock = Callable[[int, int, Float32 | None], Float64]
"""``(start, count, centre)`` -> these values of the mean. ``centre``: the same values of ``v``, None without ``v``."""
