"""A model's arrays as one flat float32 vector, in the order of its file.

A diff may list its arrays in another order. `match` maps each piece of the diff to its place in the model, so a diff
can be checked and summed while it streams, without building arrays.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pygrid.errors import InvalidTensors, NonFinite, ShapeMismatch
from pygrid.tensors.safetensors import Layout

Float32 = npt.NDArray[np.float32]

VALUE_BYTES = 4
_CACHED = 32_768
"""Values per step where intermediate arrays are needed, so that they fit the processor's cache."""


@dataclass(frozen=True)
class Run:
    """``count`` values that are contiguous in both: from index ``source`` of the diff, ``target`` of the model."""

    source: int
    target: int
    count: int


def num_values(layout: Layout) -> int:
    """Number of values in the flat vector."""
    return layout.data_bytes // VALUE_BYTES


def check_model(layout: Layout) -> None:
    """Check that a model can be averaged: all its arrays are float32, and they have values.

    Raises:
        InvalidTensors: the model has no values, or an array that is not float32.
    """
    if not layout.entries or layout.data_bytes == 0:
        raise InvalidTensors("the model has no values")
    for entry in layout.entries:
        if entry.dtype != np.float32:
            raise InvalidTensors(
                f"array {entry.name!r} is {entry.dtype}; a model's arrays are float32", array=entry.name
            )


def match(model: Layout, diff: Layout) -> tuple[Run, ...]:
    """The contiguous runs of values that map the flat vector of a diff to the one of the model.

    Raises:
        ShapeMismatch: an array is missing, unknown, or has another shape or dtype; the error names the first one.
    """
    expected = {entry.name: entry for entry in model.entries}
    runs: list[Run] = []
    for entry in diff.entries:
        own = expected.pop(entry.name, None)
        if own is None:
            raise ShapeMismatch(f"the model has no array {entry.name!r}", array=entry.name)
        if entry.dtype != own.dtype:
            raise ShapeMismatch(f"array {entry.name!r} is {entry.dtype}, expected {own.dtype}", array=entry.name)
        if entry.shape != own.shape:
            raise ShapeMismatch(
                f"array {entry.name!r} has shape {list(entry.shape)}, expected {list(own.shape)}", array=entry.name
            )
        source, target = entry.begin // VALUE_BYTES, own.begin // VALUE_BYTES
        count = (entry.end - entry.begin) // VALUE_BYTES
        last = runs[-1] if runs else None
        if last and last.source + last.count == source and last.target + last.count == target:
            runs[-1] = Run(last.source, last.target, last.count + count)
        elif count:
            runs.append(Run(source, target, count))
    if expected:
        name = next(iter(expected))
        raise ShapeMismatch(f"array {name!r} is missing", array=name)
    return tuple(runs)


class FiniteNorm:
    """The L2 norm of a flat vector that arrives in blocks. Rejects values that are not finite."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._seen = 0
        self._squares = 0.0

    @property
    def norm(self) -> float:
        """L2 norm of the blocks so far."""
        return math.sqrt(self._squares)

    def add(self, block: Float32) -> None:
        """Add the next values. Raises NonFinite: a value is NaN or infinite; the error names its array."""
        # One BLAS pass finds the norm and any NaN or infinity. Values beyond 1e19 overflow float32 too; the slow path
        # below distinguishes the two cases.
        with np.errstate(over="ignore", invalid="ignore"):
            squares = float(np.dot(block, block))
        if not math.isfinite(squares):
            finite = np.isfinite(block)
            if not finite.all():
                name = self._array_at(self._seen + int(np.argmin(finite)))
                raise NonFinite(f"array {name!r} holds a value that is NaN or infinite", array=name)
            wide = block.astype(np.float64)
            squares = float(np.dot(wide, wide))
        self._squares += squares
        self._seen += block.size

    def _array_at(self, position: int) -> str:
        offset = position * VALUE_BYTES
        return next(e.name for e in self._layout.entries if e.begin <= offset < e.end)


class DistanceTo:
    """The L2 norm of the difference of two flat vectors, of which the first arrives in blocks of finite values.

    Each difference is rounded to float32. The relative error of the result is about 1e-6, also for vectors that are
    almost equal.

    Args:
        centre: the second vector; float32, in the model's order.
        runs: where the values of the first vector belong in the model; see `match`.
    """

    def __init__(self, centre: Float32, runs: tuple[Run, ...]) -> None:
        self._centre = centre
        self._runs = runs
        self._run = 0
        self._seen = 0
        self._squares = 0.0

    @property
    def distance(self) -> float:
        """L2 norm of the difference so far."""
        return math.sqrt(self._squares)

    def add(self, block: Float32) -> None:
        """Add the next values."""
        while block.size:
            run = self._runs[self._run]
            offset = self._seen - run.source
            count = min(block.size, run.count - offset)
            target = run.target + offset
            self._add_run(block[:count], self._centre[target : target + count])
            block, self._seen = block[count:], self._seen + count
            self._run += self._seen == run.source + run.count

    def _add_run(self, block: Float32, centre: Float32) -> None:
        for begin in range(0, block.size, _CACHED):
            ours, theirs = block[begin : begin + _CACHED], centre[begin : begin + _CACHED]
            with np.errstate(over="ignore", invalid="ignore"):
                change = ours - theirs
                squares = float(np.dot(change, change))
            if not math.isfinite(squares):
                wide = ours.astype(np.float64) - theirs
                squares = float(np.dot(wide, wide))
            self._squares += squares
