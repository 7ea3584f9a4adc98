"""The metrics of a private evaluation as one vector for each unit: one noisy sum yields all metrics and their count.

For m metrics the vector of a unit is (1, t_1, ..., t_m) / sqrt(m + 1), where t is the metric's value for this unit,
clamped to the declared bounds of this metric and mapped to [-1, 1]. Its norm is at most one, so no metric shrinks
another. The vector of a unit on which the plan fails, or returns a value that is not finite, is zeros: the first entry
counts the units with metrics.

    mean    middle + half width * (sum of t) / count: the mean over units of a unit's metric
    sum     middle * count + half width * (sum of t): the sum over units of a unit's metric

The metric of a subject is what the plan's eval graph returns for all records of the subject that count: for a metric
that is a mean, the mean over these records. So in a mean over subjects each subject has the same weight, for any
number of records.

The mapping uses clamping, -, * and / only, which IEEE 754 rounds in one way: the vector is a bit-exact function of the
metrics.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pygrid import codes
from pygrid.compute.runtime.contributions import ContributionBlock, PlanRows, add_blocks
from pygrid.compute.runtime.watch import Watch
from pygrid.errors import InvalidInput
from pygrid.privacy.mechanisms import GaussianSum

Array = npt.NDArray[Any]
Float64 = npt.NDArray[np.float64]


class MetricRows:
    """Contributions made of the metrics of a plan.

    Args:
        metrics: their vectors have one entry for each metric.
        bounds: for each metric the lower and the upper bound of one unit's value.
        combined: for each metric ``mean`` or ``sum``, as in the plan's manifest; mean if left out.
    Raises:
        InvalidInput: ``invalid_job``: bounds for other metrics than the plan has.
    """

    names: tuple[str, ...] = ()
    is_trusted = False

    def __init__(
        self, metrics: PlanRows, bounds: Mapping[str, tuple[float, float]], combined: Mapping[str, str] | None = None
    ) -> None:
        if set(bounds) != set(metrics.names):
            raise InvalidInput(
                f"metric_bounds are for {', '.join(bounds) or 'no metric'}; the plan has {', '.join(metrics.names)}",
                code=codes.INVALID_JOB,
            )
        self._metrics = metrics
        self._combined = combined or {}
        self.num_units = metrics.num_units
        self.size = 1 + len(metrics.names)
        lower, upper = np.array([bounds[name] for name in metrics.names], np.float64).reshape(-1, 2).T
        self._lower, self._upper = lower, upper
        # Halves first: the sum and the difference of large bounds stay finite.
        self._middle, self._half = lower / 2 + upper / 2, upper / 2 - lower / 2

    def set_params(self, params: Mapping[str, Array]) -> None:
        self._metrics.set_params(params)

    def unit_s(self) -> float:
        """As `Contributions.unit_s`."""
        return self._metrics.unit_s()

    def add_to(self, total: GaussianSum, units: Array, watch: Watch) -> int:
        """As `Contributions.add_to`."""
        return add_blocks(total, self.blocks(units, watch))

    def blocks(self, units: Array, watch: Watch) -> Iterator[ContributionBlock]:
        """The vectors of these units, in their order; the norm of each is at most one, up to rounding."""
        for rows, failed in self._metrics.blocks(units, watch):
            values = np.where(failed[:, np.newaxis], 0.0, rows.astype(np.float64))
            mapped = np.clip((np.clip(values, self._lower, self._upper) - self._middle) / self._half, -1.0, 1.0)
            vectors = np.concatenate([np.ones((len(values), 1)), mapped], axis=1) / math.sqrt(self.size)
            yield ContributionBlock(np.where(failed[:, np.newaxis], 0.0, vectors), failed)

    def read_answer(self, sums: Float64, noise_std: float) -> dict[str, Any]:
        """The metrics, their standard errors from the noise, and the number of units that have metrics.

        The standard error of a mean is that of the ratio r = (sum of t) / count, by the delta method:
        half width * noise * sqrt(1 + r^2) / count.

        Args:
            sums: of the vectors, shape ``[size]``.
            noise_std: standard deviation of the noise in each entry.
        """
        scale = math.sqrt(self.size)
        noise, count = noise_std * scale, float(sums[0]) * scale
        divisor = max(count, 1.0)  # noise can bring the count of a few units below one, where a ratio means nothing
        metrics, errors = {}, {}
        for name, total, middle, half in zip(self._metrics.names, sums[1:], self._middle, self._half, strict=True):
            moved = float(total) * scale
            if self._combined.get(name) == "sum":
                metrics[name] = float(middle) * count + float(half) * moved
                errors[name] = noise * math.hypot(middle, half)
            else:
                ratio = min(1.0, max(-1.0, moved / divisor))
                metrics[name] = float(middle + half * ratio)
                errors[name] = float(half) * noise * math.sqrt(1 + ratio * ratio) / divisor
        return {"metrics": metrics, "noise_std": errors, "count": count, "count_noise_std": noise}
