"""Models as named arrays, and the difference of two models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from pygrid.errors import ShapeMismatch

Params = dict[str, npt.NDArray[np.generic]]
"""Arrays by name. The arrays of a model are float32 and C-contiguous; they have the names of its ``state_dict``."""


def make_diff(
    original: Mapping[str, npt.NDArray[np.generic]], trained: Mapping[str, npt.NDArray[np.generic]]
) -> Params:
    """The diff of a training run: ``original - trained`` for each name, in the original's dtype.

    Raises:
        ShapeMismatch: an array is missing, added, or has another shape; the error names the first one.
    """
    _same_arrays(original, trained)
    return {name: np.subtract(array, trained[name]) for name, array in original.items()}


def apply_diff(model: Mapping[str, npt.NDArray[np.generic]], diff: Mapping[str, npt.NDArray[np.generic]]) -> Params:
    """The model after a diff: ``model - diff`` for each name; the inverse of `make_diff`.

    Raises:
        ShapeMismatch: an array is missing, added, or has another shape; the error names the first one.
    """
    _same_arrays(model, diff)
    return {name: np.subtract(array, diff[name]) for name, array in model.items()}


class Difference(Mapping[str, npt.NDArray[np.generic]]):
    """The diff ``original - trained`` as a mapping that computes an array each time it is read, and stores none.

    Raises:
        ShapeMismatch: an array is missing, added, or has another shape; the error names the first one.
    """

    def __init__(
        self, original: Mapping[str, npt.NDArray[np.generic]], trained: Mapping[str, npt.NDArray[np.generic]]
    ) -> None:
        for name in {**original, **trained}:
            if name not in original or name not in trained or original[name].shape != trained[name].shape:
                raise ShapeMismatch(f"array {name!r} is not in both models with the same shape", array=name)
        self._original = original
        self._trained = trained

    def __getitem__(self, name: str) -> npt.NDArray[np.generic]:
        difference: npt.NDArray[np.generic] = np.subtract(self._original[name], self._trained[name])
        return difference

    def __iter__(self) -> Iterator[str]:
        return iter(self._original)

    def __len__(self) -> int:
        return len(self._original)

    def specs(self) -> dict[str, tuple[np.dtype[np.generic], tuple[int, ...]]]:
        """Dtype and shape of each array, without computing it."""
        return {name: (array.dtype, array.shape) for name, array in self._original.items()}


def _same_arrays(expected: Mapping[str, npt.NDArray[np.generic]], given: Mapping[str, npt.NDArray[np.generic]]) -> None:
    for name, array in expected.items():
        if name not in given:
            raise ShapeMismatch(f"array {name!r} is missing", array=name)
        if given[name].shape != array.shape:
            raise ShapeMismatch(
                f"array {name!r} has shape {list(given[name].shape)}, expected {list(array.shape)}", array=name
            )
    for name in given:
        if name not in expected:
            raise ShapeMismatch(f"array {name!r} is not expected", array=name)
