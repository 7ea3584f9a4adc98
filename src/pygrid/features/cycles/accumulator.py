"""The running sum of each open cycle: a cache of the stored reports, rebuilt from them after a crash."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from math import inf

import numpy as np

from pygrid import codes
from pygrid.aggregation.aggregator import Aggregator, MeanBlock
from pygrid.aggregation.mean import BLOCK
from pygrid.aggregation.rules import Vote, Weighed
from pygrid.aggregation.running import RunningSum
from pygrid.core.processes import HostedProcess
from pygrid.errors import Unavailable
from pygrid.storage.blobs.protocol import Diffs
from pygrid.storage.reports import Report
from pygrid.tensors.flat import VALUE_BYTES, Float32, match, num_values
from pygrid.tensors.safetensors import header_length, parse_header

logger = logging.getLogger(__name__)

_Read = Callable[[int, int], bytes | memoryview]
"""`(offset, count) -> bytes` of a report."""


def make_running_sum(process: HostedProcess) -> Aggregator:
    """Return the aggregator of a new cycle of a process."""
    return RunningSum(num_values(process.model))


class CycleSum:
    """The reports of one cycle in an aggregator. Used by one thread at a time."""

    def __init__(self, process: HostedProcess, diffs: Diffs, aggregator: Aggregator) -> None:
        self._process = process
        self._diffs = diffs
        self._aggregator = aggregator

    @property
    def process_id(self) -> int:
        """The process of the cycle."""
        return self._process.id

    def fold(self, report: Report, limit: float, data: bytes | None = None) -> None:
        """Add a report unless it is in the sum.

        Args:
            limit: the distance, or norm, to which the report will probably be clipped.
            data: the bytes of the report; None reads them from the store.
        """
        self._aggregator.fold(vote_of(report), limit, lambda: self._blocks(report, data))

    def reconcile(self, reports: Sequence[Report], weighed: Weighed) -> MeanBlock:
        """Return the mean of exactly these reports, whatever was folded before."""
        by_id = {report.id: report for report in reports}
        votes = {number: vote_of(report) for number, report in by_id.items()}
        return self._aggregator.result(votes, weighed, lambda number: self._blocks(by_id[number], None))

    def _blocks(self, report: Report, data: bytes | None) -> Iterator[tuple[int, Float32]]:
        """Yield the report's values in blocks, each with its start in the model."""
        if data is not None:
            yield from self._pieces(lambda begin, count: memoryview(data)[begin : begin + count])
            return
        with self._diffs.local(report) as path, path.open("rb", buffering=0) as file:
            yield from self._pieces(lambda begin, count: os.pread(file.fileno(), count, report.offset + begin))

    def _pieces(self, read: _Read) -> Iterator[tuple[int, Float32]]:
        header_bytes = header_length(read(0, 8))
        layout = parse_header(read(0, header_bytes))
        for run in match(self._process.model, layout):
            for begin in range(0, run.count, BLOCK):
                count = min(BLOCK, run.count - begin)
                raw = read(header_bytes + (run.source + begin) * VALUE_BYTES, count * VALUE_BYTES)
                if len(raw) != count * VALUE_BYTES:
                    raise Unavailable("a stored report is truncated", code=codes.REPORT_DAMAGED)
                yield run.target + begin, np.frombuffer(raw, dtype="<f4")


def vote_of(report: Report) -> Vote:
    """Return the values that decide how much a report counts."""
    return Vote(report.id, report.norm, report.distance, report.weight)


class CycleSums:
    """The sums of all open cycles of a Domain. Used by the one thread that folds and completes.

    Args:
        find_limit: returns the limit of the last completed cycle of a process, or None; called once for each process.
        make_aggregator: returns the aggregator of a new cycle.
    """

    def __init__(
        self,
        diffs: Diffs,
        find_limit: Callable[[int], float | None],
        make_aggregator: Callable[[HostedProcess], Aggregator] = make_running_sum,
    ) -> None:
        self._diffs = diffs
        self._find_limit = find_limit
        self._make_aggregator = make_aggregator
        self._sums: dict[int, CycleSum] = {}
        self._limits: dict[int, float] = {}
        self._completed: dict[int, int] = {}

    def fold(self, process: HostedProcess, report: Report, data: bytes | None) -> None:
        """Fold an accepted report, clipped by the limit that will probably hold."""
        if report.cycle_id <= self._completed.get(process.id, 0):
            return
        try:
            self._get(process, report.cycle_id).fold(report, self._limit(process.id), data)
        except Exception:
            logger.exception("fold failed; the sum will be rebuilt", extra={"cycle_id": report.cycle_id})
            self._sums.pop(report.cycle_id, None)

    def reconcile(
        self, process: HostedProcess, cycle_id: int, reports: Sequence[Report], weighed: Weighed
    ) -> MeanBlock:
        """Return the mean of exactly these reports, whatever was folded before."""
        try:
            return self._get(process, cycle_id).reconcile(reports, weighed)
        except Exception:
            self._sums.pop(cycle_id, None)
            raise

    def complete(self, process_id: int, cycle_id: int, limit: float) -> None:
        """Drop the sum of a completed cycle; its limit is the expected limit of the next one."""
        self._completed[process_id] = cycle_id
        self._limits[process_id] = limit
        self._sums.pop(cycle_id, None)

    def drop_before(self, process_id: int, cycle_id: int) -> None:
        """Drop the sums of a process's cycles before ``cycle_id``, which other replicas have completed."""
        self._completed[process_id] = max(self._completed.get(process_id, 0), cycle_id - 1)
        for number in [number for number, kept in self._sums.items() if kept.process_id == process_id]:
            if number < cycle_id:
                del self._sums[number]

    def _limit(self, process_id: int) -> float:
        limit = self._limits.get(process_id)
        if limit is None:
            found = self._find_limit(process_id)
            limit = self._limits[process_id] = inf if found is None else found
        return limit

    def _get(self, process: HostedProcess, cycle_id: int) -> CycleSum:
        found = self._sums.get(cycle_id)
        if found is None:
            found = self._sums[cycle_id] = CycleSum(process, self._diffs, self._make_aggregator(process))
        return found
