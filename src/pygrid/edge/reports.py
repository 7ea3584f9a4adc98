"""Reports whose bytes are computed while they are sent, without a second copy of the model."""

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
        num_examples: number of examples behind the diff, >= 1.
        metrics: finite numbers by name.
    Raises:
        InvalidInput: ``num_examples`` is below 1.
        NonFinite: a metric is not a finite number; the message names it.
    """

    def __init__(self, diff: Mapping[str, Array], num_examples: int, metrics: Mapping[str, float]) -> None:
        if num_examples < 1:
            raise InvalidInput(f"num_examples is {num_examples}; a report needs at least one example")
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise NonFinite(
                    f"metric {name!r} is {value} after training: it diverged, and its diff would damage the model. A "
                    "lower learning rate or clipped gradients can help; also look for extreme values in the data",
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
