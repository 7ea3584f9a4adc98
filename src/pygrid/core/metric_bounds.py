"""Bounds for the metrics of a private evaluation: what a request declares, and defaults for common names.

The value of a metric for one unit is moved to its bounds before it is added. The noise grows with the distance of the
bounds. Bounds are declared and never depend on the data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from pygrid import codes
from pygrid.errors import InvalidConfig
from pygrid.messages.jobs import JobRequest
from pygrid.plans.manifest import Manifest

SHARES = frozenset({"accuracy", "acc", "auc", "error_rate", "f1", "iou", "precision", "recall"})
"""Metrics that lie within 0..1; so do those whose name ends with ``_`` and one of these, such as ``top5_accuracy``."""
DEFAULT_LOSS = (0.0, 10.0)
"""Default bounds of the metric ``loss``."""
_MAX_BOUND = 1e30
"""Far within float32, in which plans compute metrics."""
_MIN_WIDTH = 1e-30


def check_metric_bounds(request: JobRequest) -> None:
    """Check the bounds of a request by themselves.

    Raises:
        InvalidConfig: ``invalid_metric_bounds``: names the metric.
    """
    if request.metric_bounds and (request.kind != "evaluate" or request.privacy is None):
        raise _invalid("metric_bounds is for private evaluations; a non-private one clips nothing, so leave it out")
    for name, (lower, upper) in request.metric_bounds.items():
        finite = math.isfinite(lower) and math.isfinite(upper)
        if not finite or max(abs(lower), abs(upper)) > _MAX_BOUND or upper - lower < _MIN_WIDTH:
            raise _invalid(
                f"metric_bounds of {name[:80]!r} are {lower:g} to {upper:g}; use finite bounds of at most "
                f"{_MAX_BOUND:g} in size, the lower one first"
            )


def resolve_metric_bounds(request: JobRequest, manifest: Manifest) -> dict[str, tuple[float, float]]:
    """The bounds of every metric of a plan's eval graph; none if the request is not a private evaluation.

    Raises:
        InvalidConfig: ``invalid_metric_bounds``: the plan lacks a metric; ``metric_bounds_missing``: a metric has no
            default.
    """
    if request.kind != "evaluate" or request.privacy is None or "eval" not in manifest.graphs:
        return {}
    names = [
        port.name.removeprefix("metrics/")
        for port in manifest.graphs["eval"].outputs
        if port.name.startswith("metrics/")
    ]
    for name in request.metric_bounds:
        if name not in names:
            raise _invalid(f"metric_bounds names {name[:80]!r}; the metrics of this plan are {', '.join(names)}")
    return {name: _bounds_of(name, request.metric_bounds, manifest) for name in names}


def _bounds_of(name: str, declared: Mapping[str, tuple[float, float]], manifest: Manifest) -> tuple[float, float]:
    if name in declared:
        return declared[name]
    if manifest.metrics.get(name) != "sum":
        if name == "loss":
            return DEFAULT_LOSS
        if name.rpartition("_")[2] in SHARES or name in SHARES:
            return 0.0, 1.0
    raise InvalidConfig(
        f"the metric {name[:80]!r} has no default bounds; declare the smallest and the largest value of one unit: "
        f'metric_bounds={{"{name[:80]}": (lower, upper)}}',
        code=codes.METRIC_BOUNDS_MISSING,
        metric=name[:80],
    )


def _invalid(detail: str) -> InvalidConfig:
    return InvalidConfig(detail, code=codes.INVALID_METRIC_BOUNDS)
