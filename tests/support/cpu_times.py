"""Processor time of the tests, by folder and by file: ``scripts/test --cpu`` prints it.

It includes the processes that a test started and waited for, and changes little on a busy machine. Only the last line
has what no test used: the collection of the tests, and the process that shares them out.
"""

from __future__ import annotations

import os
import resource
import time
from collections import Counter
from collections.abc import Generator, Iterator
from typing import Any

import pytest

NUM_FILES = 40


def cpu_s() -> float:
    """Seconds that this process and its ended children have used so far."""
    used = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


class CpuTimes:
    """A plugin of pytest; with xdist, each process measures its tests and the first one adds them up."""

    def __init__(self) -> None:
        self._last = cpu_s()
        self.by_file: Counter[str] = Counter()
        self._began: float | None = None
        """When the first test began."""

    def pytest_runtest_logstart(self) -> None:
        self._last = cpu_s()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Generator[None, Any, Any]:
        """Note the time since the report before; xdist passes the attributes of a report on."""
        report = yield
        now = cpu_s()
        report.cpu_s, self._last = now - self._last, now
        return report

    def pytest_runtest_logreport(self, report: Any) -> None:
        if self._began is None:
            self._began = time.monotonic() - report.duration
        # The report of a test whose process crashed has none.
        self.by_file[report.nodeid.partition("::")[0]] += getattr(report, "cpu_s", 0.0)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        terminalreporter.section("processor time in seconds")
        for line in self.lines():
            terminalreporter.write_line(line)

    def lines(self) -> Iterator[str]:
        """Yield a line for all tests, for each folder, and for the files that took longest."""
        by_folder: Counter[str] = Counter()
        for path, seconds in self.by_file.items():
            by_folder["/".join(path.split("/")[:2])] += seconds
        wall_s = time.monotonic() - (self._began or 0.0)
        total_s, num_cores = self.by_file.total(), os.cpu_count() or 1
        yield f"{total_s:9.1f}  in all: {total_s / wall_s / num_cores:.0%} of {num_cores} cores in {wall_s:.0f} s"
        for times, most in ((by_folder, None), (self.by_file, NUM_FILES)):
            yield from (f"{seconds:9.1f}  {path}" for path, seconds in times.most_common(most))
        yield f"{cpu_s():9.1f}  with all that no test used"
