"""Reports as bytes that are made while they are sent: no second copy of the model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from pygrid.errors import InvalidInput, NonFinite
from pygrid.messages.media import METRIC_PREFIX, NUM_EXAMPLES
from pygrid.tensors.params import Difference
from pygrid.tensors.safetensors import make_layout
from pygrid.transport.base import slices

Array = npt.NDArray[np.generic]


class ReportBody:
    """The safetensors bytes of a report; a `pygrid.transport.Body`.

    Args:
        diff: ``original - trained``; float32, the model's names and shapes.
        num_examples: how many examples are behind the diff, >= 1.
        metrics: by name, finite numbers.
    Raises:
        InvalidInput: ``num_examples`` below 1.
        NonFinite: names the metric that is not a finite number.
    """

    def __init__(self, diff: Mapping[str, Array], num_examples: int, metrics: Mapping[str, float]) -> None:
        if num_examples < 1:
            raise InvalidInput(f"a report needs at least one example behind it; num_examples is {num_examples}")
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise NonFinite(
                    f"metric {name!r} is {value} after training: it diverged, and its diff would spoil the model. A "
                    "lower learning rate or clipped gradients may help; also look for extreme values in the data",
                    metric=name,
                )
        metadata = {NUM_EXAMPLES: str(num_examples), **{METRIC_PREFIX + k: repr(float(v)) for k, v in metrics.items()}}
        specs = diff.specs() if isinstance(diff, Difference) else {name: (a.dtype, a.shape) for name, a in diff.items()}
        self._diff = diff
        self._layout, self._header = make_layout(specs, metadata)

    @property
    def num_bytes(self) -> int:
        return self._layout.total_bytes

    def __iter__(self) -> Iterator[bytes | memoryview]:
        yield self._header
        for entry in self._layout.entries:
            array = np.ascontiguousarray(self._diff[entry.name])
            if array.size:
                yield from slices(array.reshape(-1).view(np.uint8).data)
