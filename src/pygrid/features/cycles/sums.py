"""The running sum of each open cycle: a cache of what the store holds, rebuilt from it after a crash."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from math import inf

import numpy as np

from pygrid.aggregation.mean import BLOCK, WeightedMean
from pygrid.aggregation.outliers import clip_scale
from pygrid.core.processes import HostedProcess
from pygrid.errors import Unavailable
from pygrid.storage.cycles import Report
from pygrid.storage.files import DiffFiles
from pygrid.tensors.flat import VALUE_BYTES, Float32, match, num_values
from pygrid.tensors.safetensors import header_length, parse_header

logger = logging.getLogger(__name__)

_Read = Callable[[int, int], bytes | memoryview]
"""Gives bytes of a report, from an offset, so many."""


class CycleSum:
    """Sum of the diffs of one cycle. Each report is in it once, however often it is folded. Used by one thread at a time."""

    def __init__(self, process: HostedProcess, diffs: DiffFiles) -> None:
        self._process = process
        self._diffs = diffs
        self._scales: dict[int, float] = {}
        self.mean = WeightedMean(num_values(process.model))

    def fold(self, report: Report, scale: float, data: bytes | None = None) -> None:
        """See that a report is in the sum with this scale, adding it or correcting it.

        Args:
            scale: 1.0, or less for a diff that is clipped.
            data: the report's bytes if they are at hand; else they are read back.
        """
        present = self._scales.get(report.id)
        if present is None:
            self.mean.add_weight(report.weight)
        change = scale - (present or 0.0)
        if change:
            for start, block in self._blocks(report, data):
                self.mean.add_block(start, block, change * report.weight)
        self._scales[report.id] = scale

    def _blocks(self, report: Report, data: bytes | None) -> Iterator[tuple[int, Float32]]:
        """The report's values, and where each block of them belongs in the model."""
        if data is not None:
            yield from self._pieces(lambda begin, count: memoryview(data)[begin : begin + count])
            return
        self._diffs.check(report.id, report.file, report.offset, report.length, report.fingerprint)
        descriptor = os.open(self._diffs.path(report.file), os.O_RDONLY)
        try:
            yield from self._pieces(lambda begin, count: os.pread(descriptor, count, report.offset + begin))
        finally:
            os.close(descriptor)

    def _pieces(self, read: _Read) -> Iterator[tuple[int, Float32]]:
        header_bytes = header_length(read(0, 8))
        layout = parse_header(read(0, header_bytes))
        for run in match(self._process.model, layout):
            for begin in range(0, run.count, BLOCK):
                count = min(BLOCK, run.count - begin)
                raw = read(header_bytes + (run.source + begin) * VALUE_BYTES, count * VALUE_BYTES)
                if len(raw) != count * VALUE_BYTES:
                    raise Unavailable("a stored report is cut off", code="report_damaged")
                yield run.target + begin, np.frombuffer(raw, dtype="<f4")


class CycleSums:
    """The sums of all open cycles of a Domain. Used by the one thread that folds and completes."""

    def __init__(self, diffs: DiffFiles) -> None:
        self._diffs = diffs
        self._sums: dict[int, CycleSum] = {}
        self._bounds: dict[int, float] = {}
        self._completed: dict[int, int] = {}

    def fold(self, process: HostedProcess, report: Report, data: bytes | None) -> None:
        """Fold a report that was just accepted, with the scale that it will probably have."""
        if report.cycle_id <= self._completed.get(process.id, 0):
            return
        try:
            self._get(process, report.cycle_id).fold(report, clip_scale(report.norm, self._bounds.get(process.id, inf)), data)
        except Exception:
            logger.exception("fold failed; the sum will be made again", extra={"cycle_id": report.cycle_id})
            self._sums.pop(report.cycle_id, None)

    def total(self, process: HostedProcess, cycle_id: int, reports: list[Report], scales: dict[int, float]) -> WeightedMean:
        """The sum of exactly these reports with these scales (by report id), whatever was folded before."""
        total = self._get(process, cycle_id)
        try:
            for report in reports:
                total.fold(report, scales[report.id])
        except Exception:
            self._sums.pop(cycle_id, None)
            raise
        return total.mean

    def complete(self, process_id: int, cycle_id: int, bound: float) -> None:
        """Forget the sum of a completed cycle; ``bound``, which its norms were held to, is what to expect of the next."""
        self._completed[process_id] = cycle_id
        self._bounds[process_id] = bound
        self._sums.pop(cycle_id, None)

    def _get(self, process: HostedProcess, cycle_id: int) -> CycleSum:
        found = self._sums.get(cycle_id)
        if found is None:
            found = self._sums[cycle_id] = CycleSum(process, self._diffs)
        return found
