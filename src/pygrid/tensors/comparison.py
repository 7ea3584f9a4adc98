"""How much two files of the same arrays differ, array by array, read in blocks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pygrid.tensors.safetensors import ArrayEntry, Layout

_BLOCK = 65_536
"""Values that are read at once."""


@dataclass(frozen=True)
class ArrayChange:
    """The difference of an array between two files, in float64."""

    name: str
    shape: tuple[int, ...]
    norm: float
    """L2 norm of the array in the first file."""
    change: float
    """L2 norm of the difference."""
    dot: float
    """Inner product of both."""
    other_norm: float

    @property
    def relative(self) -> float | None:
        """The norm of the difference relative to ``norm``; None: the first array is zero."""
        return self.change / self.norm if self.norm else None

    @property
    def cosine(self) -> float | None:
        """The cosine of the angle between both; None: one of them is zero."""
        product = self.norm * self.other_norm
        return self.dot / product if product else None


def compare_files(first: Path, second: Path, layouts: tuple[Layout, Layout]) -> list[ArrayChange]:
    """Return the changes of all arrays, in the order of the first file.

    Args:
        layouts: of both files, which have the same float32 arrays.
    """
    others = {entry.name: entry for entry in layouts[1].entries}
    changes = []
    with first.open("rb") as left, second.open("rb") as right:
        starts = [layout.header_bytes for layout in layouts]
        for entry in layouts[0].entries:
            left.seek(starts[0] + entry.begin)
            right.seek(starts[1] + others[entry.name].begin)
            sums = np.zeros(4)
            for size in _blocks(entry):
                a, b = (np.frombuffer(file.read(4 * size), "<f4").astype(np.float64) for file in (left, right))
                sums += (a @ a, b @ b, (b - a) @ (b - a), a @ b)
            norm, other, change = map(math.sqrt, sums[:3])
            changes.append(ArrayChange(entry.name, entry.shape, norm, change, float(sums[3]), other))
    return changes


def _blocks(entry: ArrayEntry) -> list[int]:
    count = (entry.end - entry.begin) // 4
    return [min(_BLOCK, count - start) for start in range(0, count, _BLOCK)]
