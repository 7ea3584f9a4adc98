"""Charts: series by cycle or over time, which a script draws, with a sentence for those who do not see them."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from pygrid.configuration.evaluation import mode_of
from pygrid.messages.processes import CycleInfo, EvaluationInfo
from pygrid.plans.text import printable
from pygrid.storage.progress import ReportNorm
from pygrid.ui.render import show_number
from pygrid.units import counted

Kind = Literal["line", "dashed", "band", "dots", "rings", "steps", "limit"]


class Series(msgspec.Struct, frozen=True):
    """Values of a chart, one for each x; None: there is no value."""

    label: str
    kind: Kind
    values: Sequence[float | None]


class Chart(msgspec.Struct, frozen=True):
    """Series over cycles, or over time."""

    name: str
    title: str
    summary: str
    x: Sequence[float]
    series: Sequence[Series]
    x_name: str = "Cycle"
    is_time: bool = False
    """Whether x is a time, in seconds since 1970."""

    @property
    def data(self) -> str:
        """The chart as JSON, for the script."""
        series = [{"label": printable(one.label), "kind": one.kind, "values": one.values} for one in self.series]
        chart = {"x": self.x, "series": series, **({"time": True} if self.is_time else {})}
        return json.dumps(chart, separators=(",", ":"))


def metric_charts(cycles: Sequence[CycleInfo], evaluations: Sequence[EvaluationInfo]) -> list[Chart]:
    """Return a chart of each metric: its mean, its spread over devices, and its value on held-out data.

    Args:
        cycles: oldest first. The last one can be open; its point is dashed.
    """
    names = {name for cycle in cycles for name in cycle.metrics} | {name for one in evaluations for name in one.metrics}
    charts = (_metric_chart(name, cycles, evaluations) for name in sorted(names))
    return [chart for chart in charts if chart is not None]


def _metric_chart(name: str, cycles: Sequence[CycleInfo], evaluations: Sequence[EvaluationInfo]) -> Chart | None:
    held_out = {one.cycle: one.metrics[name] for one in evaluations if name in one.metrics}
    means = {cycle.sequence: cycle.metrics[name] for cycle in cycles if name in cycle.metrics}
    x = sorted(means.keys() | held_out.keys())
    if not x:
        return None
    series = []
    if means:
        done = {cycle.sequence for cycle in cycles if cycle.state == "completed"}
        series.append(Series("devices", "line", [means.get(at) if at in done else None for at in x]))
        last = max(done & means.keys(), default=0)
        running = [means.get(at) if at >= last else None for at in x]
        series.append(Series("this cycle", "dashed", running))
    spread = {cycle.sequence: cycle.metric_spread[name] for cycle in cycles if name in cycle.metric_spread}
    if spread:
        low = [spread[at].min if at in spread else None for at in x]
        high = [spread[at].max if at in spread else None for at in x]
        series += [Series("lowest device", "band", low), Series("highest device", "band", high)]
    if held_out:
        series.append(Series("held-out data", "line", [held_out.get(at) for at in x]))
    shown = means or held_out
    first, last_at = min(shown), max(shown)
    best = (min if mode_of(name) == "min" else max)(shown.values())
    summary = f"{show_number(shown[last_at])} in cycle {last_at}"
    if last_at > first:
        summary = f"{show_number(shown[first])} in cycle {first}, {summary}, best {show_number(best)}"
    return Chart(f"metric {name}", name, summary, x, series)


def norm_chart(norms: Sequence[ReportNorm], radii: Mapping[int, float]) -> Chart | None:
    """Return the chart of the norms of reports, with the bound; clipped ones are rings. None: there are no reports."""
    if not norms:
        return None
    x = [float(one.cycle) for one in norms]
    series = [
        Series("report", "dots", [None if one.is_clipped else one.norm for one in norms]),
        Series("clipped report", "rings", [one.norm if one.is_clipped else None for one in norms]),
    ]
    if radii:
        series.append(Series("bound", "limit", [radii.get(one.cycle) for one in norms]))
    num_clipped = sum(one.is_clipped for one in norms)
    largest = max(one.norm for one in norms)
    summary = f"{counted(len(norms), 'report')}, {num_clipped} clipped, largest norm {show_number(largest)}"
    return Chart("norms", "Norm of each report", summary, x, series)


def schedule_charts(cycles: Sequence[CycleInfo]) -> list[Chart]:
    charts = []
    for name in sorted({name for cycle in cycles for name in cycle.scheduled}):
        known = {cycle.sequence: cycle.scheduled[name] for cycle in cycles if name in cycle.scheduled}
        x, values = list(known), list(known.values())
        summary = f"{show_number(values[-1])} in cycle {x[-1]}"
        charts.append(Chart(f"schedule {name}", name, summary, x, [Series(name, "line", values)]))
    return charts


def spending_chart(points: Sequence[tuple[dt.datetime, float]], cap: float) -> Chart | None:
    """Return the chart of what was spent of a budget over time, with its limit. None: nothing was spent."""
    if not points:
        return None
    spent = [value for _, value in points]
    return Chart(
        "spent",
        "Spent over time",
        f"epsilon {show_number(spent[-1])} of {show_number(cap)}",
        [at.timestamp() for at, _ in points],
        [Series("spent", "steps", spent), Series("limit", "limit", [cap] * len(points))],
        x_name="Time",
        is_time=True,
    )


def run_charts(runs: Mapping[str, tuple[Sequence[CycleInfo], Sequence[EvaluationInfo]]]) -> list[Chart]:
    """Return a chart of each metric with a line for each run, by its name."""
    curves: dict[str, dict[str, dict[int, float]]] = {}
    for run, (cycles, evaluations) in runs.items():
        for cycle in cycles:
            for name, value in cycle.metrics.items():
                curves.setdefault(name, {}).setdefault(run, {})[cycle.sequence] = value
        for one in evaluations:
            for name, value in one.metrics.items():
                curves.setdefault(f"{name}, held-out", {}).setdefault(run, {})[one.cycle] = value
    charts = []
    for name, by_run in sorted(curves.items()):
        x = sorted({at for values in by_run.values() for at in values})
        series = [Series(run, "line", [values.get(at) for at in x]) for run, values in by_run.items()]
        last = "; ".join(f"{run}: {show_number(values[max(values)])}" for run, values in by_run.items())
        charts.append(Chart(f"runs {name}", name, last, x, series))
    return charts
