"""Figures of the app over the last hour and day, for the charts of the health page. They are lost at a restart.

Every 5 s the registry of metrics is read once. A row has 4 bytes for each figure, so both rings take about 400 kB.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from array import array
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
from prometheus_client import CollectorRegistry

from pygrid.clock import Clock
from pygrid.ui.charts import Chart, Series
from pygrid.ui.render import show_number

EVERY_S = 5.0
ROWS_PER_MINUTE = 12
HOURS = {"1": 720, "24": 1440}
"""Rows that each ring keeps: one for each 5 s of an hour, one for each minute of a day."""
MAX_POINTS = 60
"""Points of a chart; each is the mean of the rows since the point before it."""
_LATENCIES = "pygrid_http_request_seconds_bucket"
_LONG = ("/admin/live", "/metrics")
"""Routes whose time says nothing about the app: a stream that stays open, and a reader of these figures."""
_TAKEN = ("accepted", "repeated")
Labels = Mapping[str, str]


class Figure(msgspec.Struct, frozen=True):
    """A figure, and the samples of the registry that it is the sum of."""

    label: str
    sample: str = ""
    """Empty: the sampler computes it itself. A counter becomes its growth per second."""
    factor: float = 1.0
    counts: Callable[[Labels], bool] = lambda _labels: True
    """Whether a sample with these labels is part of it."""


CHARTS: dict[str, tuple[Figure, ...]] = {
    "Requests per second": (
        Figure("all", "pygrid_http_requests_total"),
        Figure("errors of the app", "pygrid_http_requests_total", counts=lambda labels: labels["status"] >= "500"),
    ),
    "Time to answer, in milliseconds": (Figure("median"), Figure("95%")),
    "Open requests": (Figure("open", "pygrid_http_open_requests"),),
    "Processor, in % of a core": (Figure("processor"),),
    "Memory, in MB": (Figure("memory"),),
    "Delay of the event loop, in milliseconds": (Figure("delay"),),
    "Reports per second": (
        Figure("accepted", "pygrid_reports_total", counts=lambda labels: labels["outcome"] == "accepted"),
        Figure("refused", "pygrid_reports_total", counts=lambda labels: labels["outcome"] not in _TAKEN),
    ),
    "Jobs": (
        Figure("running", "pygrid_jobs", counts=lambda labels: labels["state"] == "running"),
        Figure("waiting for a decision", "pygrid_jobs", counts=lambda labels: labels["state"] in ("waiting", "held")),
    ),
    "Relay, in MB per second": (Figure("carried", "pygrid_relay_bytes_total", 1e-6),),
    "Free disk, in GB": (Figure("free", "pygrid_disk_free_bytes", 1e-9),),
}
_FIGURES = [figure for figures in CHARTS.values() for figure in figures]
_BY_SAMPLE = {
    sample: [(at, figure) for at, figure in enumerate(_FIGURES) if figure.sample == sample]
    for sample in {figure.sample for figure in _FIGURES if figure.sample} | {_LATENCIES}
}
_STATM, _PAGE_MB = Path("/proc/self/statm"), os.sysconf("SC_PAGE_SIZE") / 1e6


class Row(msgspec.Struct, frozen=True):
    """A look at all figures."""

    at: float
    """Seconds since 1970."""
    values: array[float]
    """In the order of the figures; NaN: this app has no such figure, or nothing happened that it could count."""


class Sampler:
    """Reads the registry regularly, and keeps what it found."""

    def __init__(self, registry: CollectorRegistry, clock: Clock) -> None:
        self._registry = registry
        self._clock = clock
        self._rings: dict[str, deque[Row]] = {hours: deque(maxlen=rows) for hours, rows in HOURS.items()}
        self._before: tuple[float, float, dict[int, float], dict[float, float]] | None = None

    @property
    def newest(self) -> float:
        """Time of the newest row, in seconds since 1970; 0: there is none."""
        return self._rings["1"][-1].at if self._rings["1"] else 0.0

    async def run(self) -> None:
        """Sample until the app stops."""
        loop, delay_s = asyncio.get_running_loop(), 0.0
        while True:
            self.sample(loop.time(), delay_s)
            planned = loop.time() + EVERY_S
            await asyncio.sleep(EVERY_S)
            delay_s = loop.time() - planned

    def sample(self, now: float, delay_s: float) -> None:
        """Add a row, if there was a look before this one.

        Args:
            now: seconds of a steady clock.
            delay_s: how much later than planned the event loop came to this.
        """
        before, (totals, answers), cpu_s = self._before, self._read(), time.process_time()
        self._before = now, cpu_s, totals, answers
        if before is None or now <= before[0]:
            return
        seconds = now - before[0]
        recent = {bound: answers[bound] - before[3][bound] for bound in sorted(answers)}
        own = {
            "median": _quantile(recent, 0.5),
            "95%": _quantile(recent, 0.95),
            "delay": 1000 * max(0.0, delay_s),
            "processor": 100 * (cpu_s - before[1]) / seconds,
            "memory": float(_STATM.read_text().split()[1]) * _PAGE_MB if _STATM.exists() else math.nan,
        }

        def value(at: int, figure: Figure) -> float:
            if not figure.sample:
                return own[figure.label]
            if at not in totals:
                return math.nan
            is_counter = figure.sample.endswith("_total")
            return figure.factor * ((totals[at] - before[2][at]) / seconds if is_counter else totals[at])

        hour, day = self._rings["1"], self._rings["24"]
        values = array("f", [value(at, figure) for at, figure in enumerate(_FIGURES)])
        hour.append(Row(self._clock.now().timestamp(), values))
        if not day or hour[-1].at - day[-1].at >= 60:
            day.append(_mean([*hour][-ROWS_PER_MINUTE:]))

    def charts(self, hours: str) -> list[Chart]:
        """Return the charts of the last hour, or of the last day. Figures that are not known are left out."""
        rows = [*self._rings[hours]]
        step = math.ceil(len(rows) / MAX_POINTS)
        points = [_mean(rows[start : start + step]) for start in range(0, len(rows), step)] if len(rows) > 1 else []
        return list(_draw(points))

    def _read(self) -> tuple[dict[int, float], dict[float, float]]:
        """The totals by the place of their figure, and the numbers of answers within each number of seconds."""
        totals, answers = defaultdict[int, float](float), defaultdict[float, float](float)
        for metric in self._registry.restricted_registry(_BY_SAMPLE).collect():
            for sample in metric.samples:
                if sample.name == _LATENCIES and sample.labels["route"] not in _LONG:
                    answers[float(sample.labels["le"])] += sample.value
                for at, figure in _BY_SAMPLE.get(sample.name, ()):
                    if figure.counts(sample.labels):
                        totals[at] += sample.value
        return totals, answers


def _quantile(counts: Mapping[float, float], share: float) -> float:
    """Milliseconds within which this share of the answers was sent; NaN: there was none.

    Args:
        counts: answers within each number of seconds, in ascending order; the last one is all of them.
    """
    wanted = share * max(counts.values(), default=0.0)
    below, low = 0.0, 0.0
    for bound, count in counts.items():
        if count >= wanted > 0:
            return 1000 * (low if math.isinf(bound) else low + (bound - low) * (wanted - below) / (count - below))
        below, low = count, bound
    return math.nan


def _mean(rows: Sequence[Row]) -> Row:
    columns = zip(*(row.values for row in rows), strict=True)
    known = ([value for value in column if not math.isnan(value)] for column in columns)
    return Row(rows[-1].at, array("f", [sum(one) / len(one) if one else math.nan for one in known]))


def _draw(points: Sequence[Row]) -> Iterator[Chart]:
    columns = iter(range(len(_FIGURES)))
    for number, (title, figures) in enumerate(CHARTS.items()):
        series, newest = list[Series](), list[str]()
        for figure, at in zip(figures, columns, strict=False):
            values = [None if math.isnan(row.values[at]) else round(row.values[at], 3) for row in points]
            known = [value for value in values if value is not None]
            if known:
                series.append(Series(figure.label, "line", values))
                newest.append(f"{figure.label} {show_number(known[-1])}")
        if series:
            yield Chart(f"health {number}", title, ", ".join(newest), [row.at for row in points], series, "Time", True)
