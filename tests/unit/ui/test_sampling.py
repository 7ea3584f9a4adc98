"""Figures of the health page: rates, times to answer, and their charts.

Should happen: a counter becomes its growth per second; quantiles are those of the interval; a day has a row a minute.
Should not happen: a figure that an app has not; the time of a stream that stays open; rings that grow without end.
"""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge

from pygrid.clock import ManualClock
from pygrid.metrics import Metrics
from pygrid.ui.charts import Chart
from pygrid.ui.sampling import HOURS, MAX_POINTS, Sampler


def titles(charts: list[Chart]) -> dict[str, Chart]:
    return {chart.title: chart for chart in charts}


def test_counters_become_rates_and_labels_are_told_apart() -> None:
    metrics, clock = Metrics(), ManualClock()
    reports = Counter("pygrid_reports", "Reports.", ("outcome",), registry=metrics.registry)
    Gauge("pygrid_disk_free_bytes", "Free.", registry=metrics.registry).set(3e9)
    sampler = Sampler(metrics.registry, clock)
    sampler.sample(0.0, 0.0)
    assert sampler.charts("1") == [], "one look is not enough for a rate"
    for now in (5.0, 15.0):
        for status in (200, 200, 404, 500):
            metrics.observe("GET", "/users", status, 0.02)
        reports.labels("accepted").inc(10)
        reports.labels("repeated").inc(7)
        clock.advance(5)
        sampler.sample(now, 0.002)
    found = titles(sampler.charts("1"))
    requests = found["Requests per second"]
    assert [list(one.values) for one in requests.series] == [[0.8, 0.4], [0.2, 0.1]]
    assert requests.x == [clock.now().timestamp() - 5, clock.now().timestamp()]
    (accepted,) = found["Reports per second"].series  # none was refused
    assert list(accepted.values) == [2.0, 1.0]
    assert list(found["Free disk, in GB"].series[0].values) == [3.0, 3.0]
    assert list(found["Delay of the event loop, in milliseconds"].series[0].values) == [2.0, 2.0]
    assert not {"Jobs", "Relay, in MB per second"} & set(found), "this app has neither"
    assert sampler.newest == clock.now().timestamp()


def test_quantiles_are_those_of_the_interval() -> None:
    metrics, clock = Metrics(), ManualClock()
    sampler = Sampler(metrics.registry, clock)
    for _ in range(1000):
        metrics.observe("GET", "/old", 200, 9.0)
    sampler.sample(0.0, 0.0)
    for number in range(100):
        metrics.observe("GET", "/quick", 200, 0.03 if number < 90 else 0.3)
    metrics.observe("GET", "/admin/live", 200, 600.0)
    sampler.sample(5.0, 0.0)
    sampler.sample(10.0, 0.0)
    times = titles(sampler.charts("1"))["Time to answer, in milliseconds"]
    median, slow = (one.values[0] for one in times.series)
    # Within the buckets from 25 to 50 ms and from 250 to 500 ms, as if the times in each were spread evenly.
    assert median == pytest.approx(25 + 25 * 50 / 90, abs=0.01)
    assert slow == pytest.approx(250 + 250 * 5 / 10, abs=0.01)
    assert [one.values[1] for one in times.series] == [None, None], "nothing was answered since"


def test_the_rings_are_bounded_and_a_day_has_a_row_for_each_minute() -> None:
    metrics, clock = Metrics(), ManualClock()
    sampler = Sampler(metrics.registry, clock)
    for number in range(2 * HOURS["1"] + 1):
        sampler.sample(5.0 * number, 0.0)
        clock.advance(5)
    hour, day = titles(sampler.charts("1")), titles(sampler.charts("24"))
    for charts, seconds in ((hour, 3600), (day, 7200)):
        x = charts["Open requests"].x
        assert 2 < len(x) <= MAX_POINTS
        assert x[-1] - x[0] <= seconds
    assert hour["Open requests"].x[0] > day["Open requests"].x[0]


def test_an_empty_registry_has_the_figures_of_the_process() -> None:
    sampler = Sampler(CollectorRegistry(), ManualClock())
    for now in (0.0, 5.0, 10.0):
        sampler.sample(now, 0.0)
    assert {"Processor, in % of a core", "Memory, in MB"} <= set(titles(sampler.charts("1")))
