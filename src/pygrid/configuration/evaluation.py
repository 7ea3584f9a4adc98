"""When a training has become good enough: the best checkpoint of a curve of evaluations, and early stopping."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Annotated, Literal

import msgspec

from pygrid.configs import Config, FieldFault, Spec

_LARGER_IS_BETTER = ("accuracy", "auc", "bleu", "dice", "f1", "iou", "precision", "r2", "recall", "sensitivity")
"""Parts of the names of metrics whose best value is the largest."""

Curve = Sequence[tuple[int, Mapping[str, float]]]
"""Number of the checkpoint, and its metrics, in the order of the checkpoints."""


class EarlyStop(Config, frozen=True, kw_only=True):
    """Ends a training whose metric on held-out data does not improve."""

    patience: Annotated[int, Spec(5, 1, 1_000_000)]
    """Number of evaluations in a row without a better value after which the training ends."""
    metric: Annotated[str, Spec("accuracy")] = "loss"
    """Name of the metric."""
    mode: Annotated[Literal["min", "max"] | None, Spec("max")] = None
    """Whether the smallest or the largest value is the best. Null: by the name of the metric; ``max`` for accuracy,
    AUC, F1, precision, recall and similar ones."""
    min_delta: Annotated[float, Spec(0.001, 0.0, 1e9)] = 0.0
    """A value counts as better if it is better by more than this."""

    def find_faults(self, given: Collection[str]) -> Iterator[FieldFault]:
        if not 1 <= len(self.metric) <= 64 or not self.metric.isprintable():
            yield FieldFault("metric", "must be a printable text of 1 to 64 characters")

    def is_over(self, curve: Curve) -> bool:
        """Whether the last ``patience`` evaluations were not better than the best one before them."""
        best = find_best(curve, self.metric, self.mode, self.min_delta)
        known = [number for number, metrics in curve if self.metric in metrics]
        return best is not None and len(known) - 1 - known.index(best[0]) >= self.patience


class Evaluation(Config, frozen=True, kw_only=True):
    """Evaluates checkpoints on a dataset of the Domain that belongs to the user who hosts the process."""

    dataset: Annotated[str, Spec("held-out digits")]
    """Name of the dataset; its newest version is used."""
    binding: Annotated[Mapping[str, str], Spec({"x": "pixels"})] = msgspec.field(default_factory=dict)
    """Data port of the plan -> column. Other ports take the column of their name."""
    every: Annotated[int, Spec(5, 1, 1_000_000)] = 1
    """Number of checkpoints from one evaluation to the next."""
    batch_size: Annotated[int, Spec(256, 1, 1_000_000)] = 256
    """Number of records that the plan gets at once, at most its largest batch."""
    stop: Annotated[EarlyStop | None, Spec({"patience": 5, "metric": "loss"})] = None
    """When to finish the process early. Null: never."""

    def complete_binding(self, ports: Collection[str]) -> dict[str, str]:
        """The column of each data port."""
        return {**{port: port for port in ports}, **self.binding}


def choose_plan(names: Collection[str]) -> str:
    """The name of the training plan that evaluates: ``training_plan``, or the first one."""
    return "training_plan" if "training_plan" in names else min(names)


def find_best(
    curve: Curve, metric: str = "loss", mode: Literal["min", "max"] | None = None, min_delta: float = 0.0
) -> tuple[int, float] | None:
    """The checkpoint with the best value of a metric, and the value; None: no evaluation has the metric.

    Args:
        min_delta: a later checkpoint is better only by more than this. Of equal ones, the first is the best.
    """
    sign = 1.0 if (mode or mode_of(metric)) == "min" else -1.0
    best: tuple[int, float] | None = None
    for number, metrics in curve:
        if metric in metrics and (best is None or sign * metrics[metric] < sign * best[1] - min_delta):
            best = number, metrics[metric]
    return best


def mode_of(metric: str) -> Literal["min", "max"]:
    """Whether the smallest or the largest value of a metric is the best, by its name."""
    words = metric.lower().replace("-", "_")
    return "max" if any(part in words for part in _LARGER_IS_BETTER) else "min"
