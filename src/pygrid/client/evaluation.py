"""Evaluations of the checkpoints of a process on held-out data, on this machine, and early stopping by them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pygrid import codes
from pygrid.client.display.process_tables import EvaluationTable
from pygrid.client.hosting import PlanSource, load_plan
from pygrid.configuration.evaluation import EarlyStop, find_best
from pygrid.errors import InvalidInput, NotFound
from pygrid.messages.processes import CycleInfo, EvaluationInfo
from pygrid.plans import Plan
from pygrid.tensors import Params

if TYPE_CHECKING:
    from pygrid.plans.batches import Data

Metrics = Callable[[Params], Mapping[str, float]]
"""A function of your own: the arrays of a checkpoint -> its metrics."""


@dataclass(frozen=True)
class HeldOut:
    """Held-out data on this machine, with which a plan evaluates a checkpoint."""

    data: Data
    """Arrays by the name of the plan's data port; or a list of such batches."""
    plan: PlanSource | None = None
    """A plan with an ``eval`` graph; None: the training plan of the process."""
    batch_size: int = 256


Evaluate = HeldOut | Mapping[str, Any] | Metrics
"""Held-out data (a mapping: arrays by the name of the data port), or a function."""


class EvaluatedProcess(Protocol):
    """What is evaluated: a `Process`."""

    @property
    def evaluations(self) -> EvaluationTable: ...

    def plan(self) -> Plan: ...

    def download(self, checkpoint: int) -> Params: ...

    def record_evaluation(self, checkpoint: int, metrics: Mapping[str, float]) -> EvaluationInfo: ...

    def finish(self) -> object: ...


class Evaluator:
    """Evaluates each new checkpoint of a process once, stores the metrics on its Domain, and stops the training early.

    Args:
        stop: when to finish the process; None: never.
    """

    def __init__(self, process: EvaluatedProcess, evaluate: Evaluate, stop: EarlyStop | None) -> None:
        self._process = process
        self._measure = measure_of(process, evaluate)
        self._stop = stop
        self.curve: list[EvaluationInfo] = list(process.evaluations)
        self.has_stopped = False

    def update(self, completed: Sequence[CycleInfo]) -> None:
        """Evaluate the checkpoints that these cycles made, unless that was done, and finish the process if it is due.

        Raises:
            Forbidden: you do not manage the process (``not_your_process``), so no evaluation can be stored.
            InvalidInput: the metrics do not contain the one of early stopping.
        """
        known = {one.checkpoint for one in self.curve}
        for cycle in completed:
            number = cycle.checkpoint + 1
            if cycle.num_reports and number not in known and not self.has_stopped:
                metrics = self._measure(self._process.download(number))
                self.curve.append(self._process.record_evaluation(number, metrics))
                self.curve.sort(key=lambda one: one.checkpoint)
                self._stop_if_over(metrics)

    def _stop_if_over(self, metrics: Mapping[str, float]) -> None:
        if self._stop is None:
            return
        if self._stop.metric not in metrics:
            has = ", ".join(sorted(metrics)) or "none"
            raise InvalidInput(f"the evaluation has no metric {self._stop.metric!r} for stop_after; it has {has}")
        if self._stop.is_over([(one.checkpoint, one.metrics) for one in self.curve]):
            self.has_stopped = True
            self._process.finish()

    def summary(self) -> str:
        """The newest evaluation and the best one, in one line; empty without evaluations."""
        if not self.curve:
            return ""
        newest = self.curve[-1]
        shown = ", ".join(f"{name} {value:.4g}" for name, value in sorted(newest.metrics.items()))
        text = f"held-out data: {shown} at checkpoint {newest.checkpoint}"
        metric = self._stop.metric if self._stop is not None else "loss"
        mode = None if self._stop is None else self._stop.mode
        best = find_best([(one.checkpoint, one.metrics) for one in self.curve], metric, mode)
        text += "" if best is None else f"; best {metric} {best[1]:.4g} at checkpoint {best[0]}"
        return text + ("; stopped early" if self.has_stopped else "")


def early_stop(stop_after: int | EarlyStop | None) -> EarlyStop | None:
    """The rule that ``stop_after`` of `Process.watch` means."""
    if stop_after is None or isinstance(stop_after, EarlyStop):
        return stop_after
    return EarlyStop(patience=stop_after)


def measure_of(process: EvaluatedProcess, evaluate: Evaluate) -> Callable[[Params], dict[str, float]]:
    """A function that computes the metrics of a checkpoint.

    Raises:
        InvalidInput, InvalidPlan: the plan cannot evaluate this data.
    """
    if callable(evaluate):
        return lambda params: _checked(evaluate(params))
    held_out = evaluate if isinstance(evaluate, HeldOut) else HeldOut(evaluate)
    plan = process.plan() if held_out.plan is None else load_plan(held_out.plan)
    check_held_out(plan, held_out.data)
    from pygrid.plans import Runner

    runner = Runner(plan)
    return lambda params: runner.evaluate(params, held_out.data, batch_size=held_out.batch_size)


def check_held_out(plan: Plan, data: Data) -> None:
    """Check that a plan can evaluate held-out data; nothing is computed.

    Raises:
        InvalidInput: the plan has no ``eval`` graph, or the data cannot be read twice.
        ShapeMismatch, InvalidInput: arrays that do not fit the data ports of the plan.
    """
    if "eval" not in plan.manifest.graphs:
        raise InvalidInput(
            f"plan {plan.manifest.name!r} has no eval graph, so it cannot evaluate held-out data", code=codes.PLAN_KIND
        )
    if isinstance(data, Mapping):
        from pygrid.plans.batches import check_arrays

        if not len(next(iter(check_arrays(plan.manifest.data, data).values()), ())):
            raise InvalidInput("the held-out data has no examples")
    elif iter(data) is data:
        raise InvalidInput("the held-out data is an iterator, which is empty after one evaluation; pass a list")


def _checked(metrics: Mapping[str, float]) -> dict[str, float]:
    try:
        return {str(name): float(value) for name, value in metrics.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise InvalidInput(f"evaluate must return numbers by the names of metrics: {error}") from error


def best_checkpoint(curve: EvaluationTable, metric: str, mode: Literal["min", "max"] | None) -> int:
    """The checkpoint with the best value of a metric.

    Raises:
        NotFound: no evaluation has the metric (``evaluation_not_found``).
    """
    best = find_best([(one.checkpoint, one.metrics) for one in curve], metric, mode)
    if best is None:
        names = sorted({name for one in curve for name in one.metrics})
        has = f"the evaluations have {', '.join(names)}" if names else "there are none; use watch(evaluate=...)"
        raise NotFound(f"no checkpoint has the metric {metric!r}; {has}", code=codes.EVALUATION_NOT_FOUND)
    return best[0]
