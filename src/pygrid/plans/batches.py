"""Data as the batches that a plan takes: checked, converted, and shuffled with a seed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import UNSET

from pygrid.errors import InvalidInput, NonFinite, ShapeMismatch
from pygrid.plans.manifest import DataPort, Manifest, NoisePort

Array = npt.NDArray[Any]
Batch = dict[str, Array]
"""Arrays by the name of the data port, without the prefix; all with the same first dimension."""
Data = Mapping[str, Any] | Iterable[Mapping[str, Any]]
"""A whole dataset as arrays by port, or an iterable of batches of it, for example a loader."""

_CHECK_ROWS = 65_536
_NOISE_STREAM = 1


@dataclass(frozen=True)
class Batches:
    """The batches of one dataset, epoch by epoch."""

    manifest: Manifest
    arrays: Batch | None
    """The whole dataset, checked; None if the data is an iterable of batches."""
    source: Iterable[Mapping[str, Any]] | None
    """Otherwise the iterable of batches; each batch is checked when it is taken."""
    batch_size: int

    @classmethod
    def of(cls, manifest: Manifest, data: Data, *, batch_size: int, epochs: int = 1) -> Batches:
        """The batches of data, after the checks that are possible before the first step.

        Raises:
            ShapeMismatch: a column is missing, not expected, or of another shape or length.
            InvalidInput: a dtype cannot hold the values, a label is out of range, there are no examples, or the batch
                size is not possible.
            NonFinite: infinity in a float column, or NaN in one whose port is not optional.
        """
        if not 1 <= batch_size <= manifest.max_batch_size:
            raise InvalidInput(f"the batch size is {batch_size}; this plan takes 1 to {manifest.max_batch_size}")
        if isinstance(data, Mapping):
            return cls(manifest, check_arrays(manifest.data, data), None, batch_size)
        if epochs > 1 and iter(data) is data:
            raise InvalidInput(
                f"epochs is {epochs}, but the data is an iterator, which can be read once; pass arrays, a list of "
                "batches, or an object whose __iter__ starts again"
            )
        return cls(manifest, None, data, batch_size)

    @property
    def num_examples(self) -> int | None:
        """Number of examples of the dataset; None for an iterable of batches."""
        return None if self.arrays is None else len(next(iter(self.arrays.values())))

    @property
    def num_batches(self) -> int | None:
        """Batches per epoch, with the short last one; None for an iterable of batches."""
        return None if self.num_examples is None else -(-self.num_examples // self.batch_size)

    def epoch(self, *, seed: int, epoch: int, shuffle: bool) -> Iterator[Batch]:
        """The batches of an epoch, in the model's dtypes, C-contiguous; seed and epoch determine their order."""
        if self.arrays is None:
            for batch in self.source or ():
                yield convert(self.manifest.data, self._checked(batch))
            return
        size = self.num_examples or 0
        order = np.random.Generator(np.random.PCG64([seed, epoch])).permutation(size) if shuffle else None
        for begin in range(0, size, self.batch_size):
            rows: Any = (
                slice(begin, begin + self.batch_size) if order is None else order[begin : begin + self.batch_size]
            )
            yield convert(self.manifest.data, {name: array[rows] for name, array in self.arrays.items()})

    def _checked(self, batch: Mapping[str, Any]) -> Batch:
        arrays = check_arrays(self.manifest.data, batch)
        size = batch_length(arrays)
        if size > self.manifest.max_batch_size:
            raise InvalidInput(f"a batch has {size} examples; this plan takes at most {self.manifest.max_batch_size}")
        return arrays


def batch_length(batch: Mapping[str, Array]) -> int:
    """Number of examples in a batch."""
    return len(next(iter(batch.values())))


def check_arrays(ports: Mapping[str, DataPort], data: Mapping[str, Any]) -> Batch:
    """The columns as arrays, after checks of names, shapes, lengths, dtypes, label ranges and finiteness.

    Raises:
        As `Batches.of`.
    """
    for name in ports:
        if name not in data:
            raise ShapeMismatch(f"column {name!r} is missing; the plan takes {', '.join(ports)}", column=name)
    for name in data:
        if name not in ports:
            raise ShapeMismatch(f"column {name!r} is not expected; the plan takes {', '.join(ports)}", column=name)
    arrays = {name: _unmasked(name, data[name]) for name in ports}
    length: int | None = None
    for name, array in arrays.items():
        port = ports[name]
        if array.ndim == 0 or array.shape[1:] != port.shape:
            wanted = ["batch", *port.shape]
            raise ShapeMismatch(f"column {name!r} has shape {list(array.shape)}, expected {wanted}", column=name)
        length = len(array) if length is None else length
        if len(array) != length:
            raise ShapeMismatch(f"column {name!r} has {len(array)} examples, the others have {length}", column=name)
        _check_values(name, port, array)
    if not length:
        raise InvalidInput("the data has no examples")
    return arrays


def _unmasked(name: str, values: Any) -> Array:
    """The values as an array; a masked float is NaN, which only an optional port takes."""
    # Recognized by its method, because a Worker cannot import numpy.ma in its sandbox.
    if not hasattr(values, "filled") or not np.any(values.mask):
        return np.asarray(values)
    if values.dtype.kind != "f":
        raise InvalidInput(
            f"column {name!r} has masked values of {values.dtype}, which cannot be missing: leave these examples out",
            column=name,
        )
    return np.asarray(values.filled(np.nan))


def _check_values(name: str, port: DataPort, array: Array) -> None:
    target = np.dtype(port.dtype)
    # "same_kind" casts float64 to float32 and any integer to another. It refuses floats as labels: a cast would
    # truncate them silently.
    if not np.can_cast(array.dtype, target, "same_kind"):
        raise InvalidInput(f"column {name!r} has dtype {array.dtype}, which cannot become {target}", column=name)
    bounds = None
    if port.num_classes is None and target.kind == "i" and not np.can_cast(array.dtype, target):
        bounds = (int(np.iinfo(target).min), int(np.iinfo(target).max))
    for begin in range(0, len(array), _CHECK_ROWS):  # in blocks: a column can be a mapped file larger than memory
        block = array[begin : begin + _CHECK_ROWS]
        if target.kind == "f" and array.dtype.kind == "f" and not np.isfinite(block).all():
            bad = np.isinf(block) if port.optional is True else ~np.isfinite(block)
            if bad.any():
                row = begin + int(np.argwhere(bad)[0][0])
                what = "infinity" if port.optional is True else "NaN or infinity"
                is_gap = port.optional is not True and np.isnan(block[row - begin]).any()
                advice = "; a plan takes NaN as a missing value where its port is .optional()" if is_gap else ""
                raise NonFinite(f"column {name!r} has {what} in example {row}{advice}", column=name, example=row)
        if port.num_classes is not None and block.size and (block.min() < 0 or block.max() >= port.num_classes):
            wrong = invalid_values(port, block)
            if wrong.any():
                row = begin + int(np.argwhere(wrong)[0][0])
                raise InvalidInput(
                    f"column {name!r} contains {block[wrong][0]} in example {row}; allowed are {_allowed(port)}",
                    column=name,
                    example=row,
                )
        if bounds is not None and block.size and (block.min() < bounds[0] or block.max() > bounds[1]):
            worst = block.min() if block.min() < bounds[0] else block.max()
            raise InvalidInput(f"column {name!r} contains {worst}; allowed are {bounds[0]} to {bounds[1]}", column=name)


def invalid_values(port: DataPort, values: Array) -> npt.NDArray[np.bool_]:
    """Which values of a column are not classes of its port; none if the port declares no number of classes."""
    if port.num_classes is None:
        return np.zeros(values.shape, np.bool_)
    wrong: npt.NDArray[np.bool_] = (values < 0) | (values >= port.num_classes)
    return wrong if port.ignore is UNSET else wrong & (values != port.ignore)


def _allowed(port: DataPort) -> str:
    extra = "" if port.ignore is UNSET else f", or {port.ignore} for no label"
    return f"0 to {(port.num_classes or 0) - 1}{extra}"


def convert(ports: Mapping[str, DataPort], batch: Mapping[str, Array]) -> Batch:
    """The batch in the dtypes of the ports, C-contiguous; arrays that already fit are not copied."""
    return {name: _convert(batch[name], port.dtype) for name, port in ports.items()}


def _convert(array: Array, dtype: str) -> Array:
    if array.dtype == dtype and array.flags.c_contiguous and array.flags.aligned:
        return array  # np.require returns the same array, but takes microseconds
    return np.require(array, dtype, ("C", "A"))


def noise_generator(seed: int, epoch: int) -> np.random.Generator:
    """The generator of an epoch's noise; its stream differs from that of the shuffling."""
    return np.random.Generator(np.random.PCG64([seed, epoch, _NOISE_STREAM]))


def draw_noise(ports: Mapping[str, NoisePort], size: int, generator: np.random.Generator) -> Batch:
    """Uniform float32 noise in [0, 1) for each noise port, ``[size, *shape]``, drawn in the order of the names."""
    return {name: generator.random((size, *ports[name].shape), dtype=np.float32) for name in sorted(ports)}
