"""The running sum of a cycle is a cache: whatever was folded before, in whatever order, the total is that of the
reports.

Should happen: the total equals numpy's weighted mean of exactly the reports asked for, with their final scales.
Should not happen: a report counts twice, or a part of one that failed stays in the sum.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pygrid.aggregation.precisions import Expected
from pygrid.aggregation.rules import Weighed
from pygrid.configuration import ServerConfig
from pygrid.core.processes import HostedProcess
from pygrid.core.reports import ReportCheck, ReportContent
from pygrid.errors import Unavailable
from pygrid.features.cycles.accumulator import CycleSums
from pygrid.storage.blobs.checked import DamagedReportError
from pygrid.storage.diffs import DiffFiles
from pygrid.storage.reports import Report
from pygrid.tensors import encode, read_layout
from support.thorough import examples

SHAPES = {"weight": (3, 2), "bias": (2,)}
LAYOUT = read_layout(encode({name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}))
PROCESS = HostedProcess(1, "digits", "1.0", ServerConfig(cycle_length=None), {}, LAYOUT, (), None)
CYCLE = 5


def nothing_known(_process_id: int) -> Expected:
    """No cycle of the process is completed."""
    return Expected()


class Reports:
    """Reports on the disk, small ones in the segment and every third in a file of its own."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder = folder
        self.diffs = DiffFiles(folder)
        self.rows: list[Report] = []
        self.arrays: list[dict[str, Any]] = []
        self.bytes: list[bytes] = []
        self.contents: list[ReportContent] = []
        generator = np.random.default_rng(count)
        for number in range(1, count + 1):
            arrays = {name: generator.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
            data = encode(arrays)
            if number % 3:
                file, offset = self.diffs.log(PROCESS.id).name, self.diffs.log(PROCESS.id).append(data)
            else:
                spool = self.diffs.spool(CYCLE)
                spool.write(data)
                spool.commit()
                file, offset = spool.name, 0
            norm = math.sqrt(sum(float((array.astype(np.float64) ** 2).sum()) for array in arrays.values()))
            self.rows.append(Report(number, CYCLE, file, offset, len(data), number, number, norm, None, {}))
            self.arrays.append(arrays)
            self.bytes.append(data)
            check = ReportCheck(LAYOUT, len(data))
            check.add(data)
            self.contents.append(check.finish())

    def expected(self, chosen: list[int], scales: dict[int, float]) -> np.ndarray[Any, Any]:
        flat = [
            np.concatenate([self.arrays[n][entry.name].reshape(-1) for entry in LAYOUT.entries]).astype(np.float64)
            * scales[self.rows[n].id]
            for n in chosen
        ]
        mean: np.ndarray[Any, Any] = np.average(flat, axis=0, weights=[self.rows[n].weight for n in chosen])
        return mean

    def weighed(self, scales: dict[int, float], limit: float = math.inf) -> Weighed:
        return Weighed(scales, {row.id: row.weight for row in self.rows}, 0.0, limit, 0)


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Reports:
    return Reports(tmp_path_factory.mktemp("diffs"), 6)


@settings(max_examples=examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_the_total_is_that_of_the_reports(reports: Reports, data: st.DataObject) -> None:
    """Some are folded before, some twice, some with their bytes at hand, and some are only queued; an earlier limit
    guessed other scales.
    """
    guess = data.draw(st.sampled_from([Expected(), Expected(1.0, 2.0, 3), Expected(0.1, 1e-6)]))
    sums = CycleSums(reports.diffs, lambda _process_id: guess)
    numbers = list(range(len(reports.rows)))
    for number in data.draw(st.lists(st.sampled_from(numbers), max_size=8)):
        row, content = reports.rows[number], reports.contents[number]
        match data.draw(st.sampled_from(["stored", "bytes", "content", "queued"])):
            case "stored":
                sums.fold(PROCESS, row, None)
            case "bytes":
                sums.fold(PROCESS, row, reports.bytes[number])
            case "content":
                sums.fold(PROCESS, row, reports.bytes[number], content)
            case "queued":
                sums.queue(PROCESS, row, reports.bytes[number], content)
    limit = data.draw(st.sampled_from([math.inf, 2.0, 0.01]))
    scales = {row.id: min(1.0, limit / row.norm) for row in reports.rows}
    mean = sums.reconcile(PROCESS, CYCLE, reports.rows, reports.weighed(scales, limit))
    np.testing.assert_allclose(mean(0, 8, None), reports.expected(numbers, scales), rtol=1e-12, atol=1e-12)


def test_after_a_start_the_limit_is_that_of_the_last_cycle(reports: Reports) -> None:
    """It only decides what is read again: of the six, those that are folded on the right side are not."""
    asked: list[int] = []

    def find_expected(process_id: int) -> Expected:
        asked.append(process_id)
        return Expected(2.0, 12.0, 6)

    sums = CycleSums(reports.diffs, find_expected)
    for row, data in zip(reports.rows, reports.bytes, strict=True):
        sums.fold(PROCESS, row, data)
    assert asked == [PROCESS.id]
    scales = {row.id: min(1.0, 2.0 / row.norm) for row in reports.rows}
    assert 0 < sum(scale == 1.0 for scale in scales.values()) < len(scales)
    folder = reports.folder
    aside = folder.with_suffix(".aside")
    folder.rename(aside)
    try:
        mean = sums.reconcile(PROCESS, CYCLE, reports.rows, reports.weighed(scales, 2.0))
    finally:
        aside.rename(folder)
    np.testing.assert_allclose(mean(0, 8, None), reports.expected(list(range(6)), scales), rtol=1e-12)


def test_the_queue_is_folded_once(reports: Reports) -> None:
    """The first report of the queue asks for the fold; those that come while it runs ask for another one."""

    def queue(number: int) -> bool:
        return sums.queue(PROCESS, reports.rows[number], reports.bytes[number], reports.contents[number])

    def find_expected(_process_id: int) -> Expected:
        assert not queue(3), "the fold that is under way says that there is more"
        return Expected()

    sums = CycleSums(reports.diffs, find_expected)
    assert [queue(number) for number in range(3)] == [True, False, False]
    assert sums.fold_queued()
    assert sums._sums[CYCLE]._sum.covered.keys() == {1, 2, 3}
    assert not sums.fold_queued()
    assert sums._sums[CYCLE]._sum.covered.keys() == {1, 2, 3, 4}
    assert queue(4)


def test_nothing_is_folded_for_a_cycle_that_is_over(reports: Reports) -> None:
    sums = CycleSums(reports.diffs, nothing_known)
    sums.complete(PROCESS.id, CYCLE)
    sums.fold(PROCESS, reports.rows[0], None)
    assert sums._sums == {}


def test_a_fold_that_fails_spoils_nothing(reports: Reports, caplog: pytest.LogCaptureFixture) -> None:
    """The file of a report cannot be read: what was folded is made again, with what can be read by then."""
    sums = CycleSums(reports.diffs, nothing_known)
    sums.fold(PROCESS, reports.rows[0], None)
    lost = reports.folder / reports.rows[2].file
    aside = lost.with_suffix(".aside")
    lost.rename(aside)
    scales = {row.id: 1.0 for row in reports.rows}
    try:
        sums.fold(PROCESS, reports.rows[2], None)
        assert "fold failed" in caplog.text
        with pytest.raises(DamagedReportError):
            sums.reconcile(PROCESS, CYCLE, reports.rows, reports.weighed(scales))
    finally:
        aside.rename(lost)
    mean = sums.reconcile(PROCESS, CYCLE, reports.rows, reports.weighed(scales))
    np.testing.assert_allclose(mean(0, 8, None), reports.expected(list(range(6)), scales), rtol=1e-12)


def test_a_report_cut_off_on_the_disk_is_noticed(tmp_path: Path) -> None:
    few = Reports(tmp_path, 3)
    path = few.folder / few.rows[2].file
    path.write_bytes(path.read_bytes()[:-4])
    sums = CycleSums(few.diffs, nothing_known)
    with pytest.raises(Unavailable, match="truncated"):
        sums.reconcile(PROCESS, CYCLE, few.rows, few.weighed({row.id: 1.0 for row in few.rows}))
