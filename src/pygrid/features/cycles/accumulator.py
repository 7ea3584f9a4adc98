"""The running sum of each open cycle: a cache of the stored reports, rebuilt from them after a crash."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from math import inf

import numpy as np

from pygrid import codes
from pygrid.aggregation.aggregator import MeanBlock
from pygrid.aggregation.mean import BLOCK
from pygrid.aggregation.precisions import Expected
from pygrid.aggregation.rules import Vote, Weighed
from pygrid.aggregation.running import RunningSum
from pygrid.core.processes import HostedProcess
from pygrid.core.reports import ReportContent
from pygrid.errors import Unavailable
from pygrid.features.cycles.partials import PartialSums
from pygrid.storage.blobs.protocol import Diffs
from pygrid.storage.last_cycles import find_last_cycle
from pygrid.storage.reports import Report
from pygrid.storage.sql.database import Database
from pygrid.tensors.flat import VALUE_BYTES, Float32, match, num_values
from pygrid.tensors.safetensors import header_length, parse_header

logger = logging.getLogger(__name__)

_Read = Callable[[int, int], bytes | memoryview]
"""`(offset, count) -> bytes` of a report."""


class CycleSum:
    """The sum of the reports of one cycle. Used by one thread at a time."""

    def __init__(self, process: HostedProcess, diffs: Diffs, expected: Expected) -> None:
        self._process = process
        self._diffs = diffs
        self._sum = RunningSum(num_values(process.model), expected)
        self._may_store = True
        self._unstored_bytes = 0

    @property
    def process_id(self) -> int:
        return self._process.id

    def fold(self, report: Report, data: bytes | None = None, content: ReportContent | None = None) -> None:
        """Add a report unless it is in the sum. See `CycleSums.fold`."""
        self._sum.fold(vote_of(report), lambda: self._blocks(report, data, content))
        self._unstored_bytes += report.length

    def store_if_due(self, cycle_id: int, partials: PartialSums, num_left: int | None) -> None:
        """Store the sum as a partial sum, if enough was folded since the last time. See `PartialSums.is_due`."""
        if not (self._may_store and partials.is_due(self._unstored_bytes, self._sum.num_bytes, num_left)):
            return
        self._unstored_bytes = 0
        partials.put_soon(cycle_id, self._sum.snapshot())

    def add_partials(self, cycle_id: int, reports: Sequence[Report], partials: PartialSums) -> None:
        """Add the partial sums of other replicas. After this it is not stored: it has what others cover."""
        self._may_store = False
        votes = {report.id: vote_of(report) for report in reports}
        found = partials.find(cycle_id, votes.keys(), self._sum.covered.keys())
        self._diffs.prefetch([report for report in reports if report.id in found.read])
        for values in partials.load(found):
            if not self._sum.absorb(values, votes):
                logger.info("partial sum has another precision; its reports are read", extra={"cycle_id": cycle_id})

    def reconcile(self, reports: Sequence[Report], weighed: Weighed) -> MeanBlock:
        """Return the mean of exactly these reports, whatever was folded before."""
        by_id = {report.id: report for report in reports}
        votes = {number: vote_of(report) for number, report in by_id.items()}
        return self._sum.result(votes, weighed, lambda number: self._blocks(by_id[number]))

    def _blocks(
        self, report: Report, data: bytes | None = None, content: ReportContent | None = None
    ) -> Iterator[tuple[int, Float32]]:
        """Yield the report's values in blocks, each with its start in the model."""
        if data is not None:
            yield from self._pieces(lambda begin, count: memoryview(data)[begin : begin + count], content)
            return
        with self._diffs.local(report) as path, path.open("rb", buffering=0) as file:
            yield from self._pieces(lambda begin, count: os.pread(file.fileno(), count, report.offset + begin))

    def _pieces(self, read: _Read, content: ReportContent | None = None) -> Iterator[tuple[int, Float32]]:
        if content is not None:
            header_bytes, runs = content.header_bytes, content.runs
        else:
            header_bytes = header_length(read(0, 8))
            runs = match(self._process.model, parse_header(read(0, header_bytes)))
        for run in runs:
            for begin in range(0, run.count, BLOCK):
                count = min(BLOCK, run.count - begin)
                raw = read(header_bytes + (run.source + begin) * VALUE_BYTES, count * VALUE_BYTES)
                if len(raw) != count * VALUE_BYTES:
                    raise Unavailable("a stored report is truncated", code=codes.REPORT_DAMAGED)
                yield run.target + begin, np.frombuffer(raw, dtype="<f4")


def vote_of(report: Report) -> Vote:
    """Return the values that decide how much a report counts."""
    return Vote(report.id, report.norm, report.distance, report.weight)


def find_expected(database: Database, process_id: int) -> Expected:
    """Return what the last completed cycle of a process lets expect of the next one."""
    last = database.read_now(lambda connection: find_last_cycle(connection, process_id))
    if last is None or last.largest == 0.0:
        return Expected()
    return Expected(inf if last.radius is None else last.radius, last.largest, last.num_reports)


class CycleSums:
    """The sums of all open cycles of a Domain. Used by the one thread that folds and completes.

    Args:
        find_expected: what the last completed cycle of a process lets expect of the next one; called once a cycle.
        partials: of replicas; None: there is one process.
    """

    def __init__(
        self, diffs: Diffs, find_expected: Callable[[int], Expected], partials: PartialSums | None = None
    ) -> None:
        self._diffs = diffs
        self._find_expected = find_expected
        self._partials = partials
        self._sums: dict[int, CycleSum] = {}
        self._completed: dict[int, int] = {}
        self._queued: deque[tuple[HostedProcess, Report, bytes | None, ReportContent, int]] = deque()

    def queue(
        self, process: HostedProcess, report: Report, data: bytes | None, content: ReportContent, num_reports: int = 0
    ) -> bool:
        """Note an accepted report for `fold_queued`, which must be called soon if this returns True. In any thread."""
        self._queued.append((process, report, data, content, num_reports))
        return len(self._queued) == 1

    def fold_queued(self) -> bool:
        """Fold the reports that are noted now. Returns whether more were noted meanwhile: call it again soon."""
        for _ in range(len(self._queued)):
            self.fold(*self._queued.popleft())
        return bool(self._queued)

    def fold(
        self,
        process: HostedProcess,
        report: Report,
        data: bytes | None,
        content: ReportContent | None = None,
        num_reports: int = 0,
    ) -> None:
        """Fold an accepted report, as it will probably count.

        Args:
            data: its bytes; None: they are read from the store.
            content: from its check; None: its header is read again.
            num_reports: of its cycle, with this one.
        """
        if report.cycle_id <= self._completed.get(process.id, 0):
            return
        try:
            kept = self._get(process, report.cycle_id)
            kept.fold(report, data, content)
            if self._partials is not None:
                most = process.config.max_diffs
                kept.store_if_due(report.cycle_id, self._partials, None if most is None else most - num_reports)
        except Exception:
            logger.exception("fold failed; the sum will be rebuilt", extra={"cycle_id": report.cycle_id})
            self._sums.pop(report.cycle_id, None)

    def reconcile(
        self, process: HostedProcess, cycle_id: int, reports: Sequence[Report], weighed: Weighed
    ) -> MeanBlock:
        """Return the mean of exactly these reports, whatever was folded before."""
        self.fold_queued()
        try:
            kept = self._get(process, cycle_id)
            if self._partials is not None:
                kept.add_partials(cycle_id, reports, self._partials)
            return kept.reconcile(reports, weighed)
        except Exception:
            self._sums.pop(cycle_id, None)
            raise

    def complete(self, process_id: int, cycle_id: int) -> None:
        self._completed[process_id] = cycle_id
        self._sums.pop(cycle_id, None)

    def drop_before(self, process_id: int, cycle_id: int) -> None:
        """Drop the sums of a process's cycles before ``cycle_id``, which other replicas have completed."""
        self._completed[process_id] = max(self._completed.get(process_id, 0), cycle_id - 1)
        for number in [number for number, kept in self._sums.items() if kept.process_id == process_id]:
            if number < cycle_id:
                del self._sums[number]

    def _get(self, process: HostedProcess, cycle_id: int) -> CycleSum:
        found = self._sums.get(cycle_id)
        if found is None:
            found = self._sums[cycle_id] = CycleSum(process, self._diffs, self._find_expected(process.id))
        return found
