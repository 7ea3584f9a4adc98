"""Checks of reports: the arrays of the model with finite values, and plausible metadata."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from pygrid.errors import InvalidInput
from pygrid.messages import media
from pygrid.tensors.flat import DistanceTo, Float32, Run, match
from pygrid.tensors.safetensors import Layout
from pygrid.tensors.stream import Bytes, StreamCheck

MAX_METRICS = 32
MAX_METRIC_NAME = 64
MAX_EXAMPLES = 10**12


@dataclass(frozen=True)
class ReportContent:
    fingerprint: str
    """Length and CRC-32, to distinguish a repeated report from another one under the same key. It does not protect
    against forgery: only the owner of the key could forge it, and only the first report counts."""
    length: int
    num_examples: int
    metrics: dict[str, float]
    norm: float
    """L2 norm of the diff."""
    runs: tuple[Run, ...]
    """Where the values of the diff belong in the model."""
    header_bytes: int
    """Bytes before the first value."""
    distance: float | None = None
    """L2 norm of the diff minus the centre; None without a centre."""


class ReportCheck:
    """Checks the bytes of a report in pieces of any size, and fails at the first fault.

    Args:
        model: the layout of the diff. The order of its arrays is free.
        max_bytes: maximum bytes of the report.
        centre: flat vector in the order of the model, for the distance. None: no distance is computed.
    """

    def __init__(self, model: Layout, max_bytes: int, centre: Float32 | None = None) -> None:
        self._model = model
        self._centre = centre
        self._distance: DistanceTo | None = None
        self._stream = StreamCheck(max_bytes, self._check_layout, None if centre is None else self._measure)
        self._num_examples = 1
        self._metrics: dict[str, float] = {}
        self._runs: tuple[Run, ...] = ()

    def add(self, data: Bytes) -> None:
        """Check the next bytes.

        Raises:
            PayloadTooLarge, InvalidTensors, ShapeMismatch, NonFinite, InvalidInput: the report cannot be accepted.
        """
        self._stream.add(data)

    def finish(self) -> ReportContent:
        """The content of the report, after all bytes were added. Raises InvalidTensors: the report ends early."""
        checked = self._stream.finish()
        length = checked.layout.total_bytes
        return ReportContent(
            fingerprint=f"{length:x}-{checked.crc32:08x}",
            length=length,
            num_examples=self._num_examples,
            metrics=self._metrics,
            norm=checked.norm,
            runs=self._runs,
            header_bytes=checked.layout.header_bytes,
            distance=None if self._distance is None else self._distance.distance,
        )

    def _measure(self, values: Float32) -> None:
        assert self._distance is not None
        self._distance.add(values)

    def _check_layout(self, layout: Layout) -> None:
        self._runs = match(self._model, layout)
        if self._centre is not None:
            self._distance = DistanceTo(self._centre, self._runs)
        self._num_examples, self._metrics = _read_metadata(layout.metadata)


def _read_metadata(metadata: Mapping[str, str]) -> tuple[int, dict[str, float]]:
    text = metadata.get(media.NUM_EXAMPLES, "1")
    if not (text.isascii() and text.isdigit()) or not 1 <= len(text) <= 13 or not 1 <= int(text) <= MAX_EXAMPLES:
        raise InvalidInput(
            f"{media.NUM_EXAMPLES} must be a whole number from 1 to {MAX_EXAMPLES}", field=media.NUM_EXAMPLES
        )
    metrics: dict[str, float] = {}
    for key, value in metadata.items():
        if not key.startswith(media.METRIC_PREFIX):
            continue
        name = key.removeprefix(media.METRIC_PREFIX)
        if len(metrics) >= MAX_METRICS or not 1 <= len(name) <= MAX_METRIC_NAME or not name.isprintable():
            raise InvalidInput(
                f"at most {MAX_METRICS} metrics, with printable names of up to {MAX_METRIC_NAME} characters"
            )
        try:
            metrics[name] = float(value)
        except ValueError:
            raise InvalidInput(f"metric {name!r} is not a number", field=key) from None
        if not math.isfinite(metrics[name]):
            raise InvalidInput(f"metric {name!r} is not finite", field=key)
    return int(text), metrics
