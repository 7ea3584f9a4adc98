"""The table of ``scripts/test --cpu``."""

from __future__ import annotations

import re
import time

import pytest

from support.cpu_times import CpuTimes


def _report(nodeid: str) -> pytest.TestReport:
    return pytest.TestReport(nodeid, (nodeid, 0, ""), {}, "passed", None, "call")


def _measured(times: CpuTimes, nodeid: str, busy_s: float) -> None:
    hook = times.pytest_runtest_makereport()
    next(hook)
    end = time.process_time() + busy_s
    while time.process_time() < end:
        pass
    with pytest.raises(StopIteration) as ended:
        hook.send(_report(nodeid))
    times.pytest_runtest_logreport(ended.value.value)


def test_time_is_added_up_by_file_and_by_folder() -> None:
    times = CpuTimes()
    for nodeid, busy_s in (
        ("tests/unit/test_a.py::test_1", 0.02),
        ("tests/unit/test_a.py::test_2", 0.02),
        ("tests/unit/plans/test_b.py::test_3", 0),
        ("tests/web/test_c.py::test_4", 0.2),
    ):
        _measured(times, nodeid, busy_s)
    assert times.by_file["tests/web/test_c.py"] >= 0.2
    assert times.by_file["tests/unit/test_a.py"] >= 0.04
    in_all, *others, with_all = times.lines()
    assert float(in_all.split()[0]) >= 0.2
    assert re.search(r"in all: \d+% of \d+ cores in \d+ s", in_all)
    shown = [line.split() for line in others]
    assert [path for _, path in shown[:2]] == ["tests/web", "tests/unit"]
    assert len(shown) == 2 + 3
    assert float(with_all.split()[0]) >= float(in_all.split()[0])
