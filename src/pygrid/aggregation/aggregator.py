"""The interface between cycles and the rules that combine diffs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pygrid.aggregation.rules import Vote, Weighed

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Blocks = Iterable[tuple[int, Float32]]
"""The values of a diff: blocks, each with its position in the model."""
MeanBlock = Callable[[int, int, Float32 | None], Float64]
"""``(start, count, centre)`` -> these values of the mean. ``centre``: the same values of ``v``, None without ``v``."""


class Aggregator(Protocol):
    """Combines the diffs of one cycle. Used by one thread at a time."""

    @property
    def num_values(self) -> int:
        """Length of a diff."""
        ...

    def fold(self, vote: Vote, limit: float, blocks: Callable[[], Blocks]) -> None:
        """Add a diff, unless it was added before.

        Args:
            limit: the expected limit of this cycle; diffs with a larger distance are shortened.
            blocks: returns the values of the diff.
        """
        ...

    def result(self, votes: Mapping[int, Vote], weighed: Weighed, blocks: Callable[[int], Blocks]) -> MeanBlock:
        """The result of exactly these diffs, independent of what was folded before.

        Args:
            votes: the diffs, by id.
            weighed: weights and scales of the diffs under the rule of the process.
            blocks: returns the values of the diff with an id.
        """
        ...
