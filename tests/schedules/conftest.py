"""Prints how many schedules ran."""

from __future__ import annotations

from typing import Any

import pytest

RAN = "schedules"
"""Property of a test: the number of schedules that it ran."""


def pytest_terminal_summary(terminalreporter: Any) -> None:
    counts = [
        value
        for report in terminalreporter.stats.get("passed", [])
        for name, value in getattr(report, "user_properties", [])
        if name == RAN
    ]
    if counts:
        terminalreporter.write_line(f"schedules: {sum(counts):,} without a broken invariant")


@pytest.fixture
def count_schedules(record_property: Any) -> Any:
    """Record how many schedules a test ran."""
    return lambda number: record_property(RAN, number)
