"""Metrics of devices and cycles, for `/metrics`."""

from __future__ import annotations

from collections import Counter as Tally

from prometheus_client import Counter, Histogram

from pygrid.metrics import Metrics


class CycleCounts:
    """Counters of admissions, reports and cycles; the label of a refusal is its code or reason."""

    def __init__(self, metrics: Metrics) -> None:
        registry = metrics.registry
        self.refusals: dict[int, Tally[str]] = {}
        """Refused requests and reports of each process, by reason. They have no metric: it would have a label for each
        process."""
        self.admissions = Counter(
            "pygrid_admissions",
            "Answers to requests to take part: accepted, or why not.",
            ("outcome",),
            registry=registry,
        )
        self.reports = Counter(
            "pygrid_reports",
            "Reports: accepted, repeated, or the code of the refusal.",
            ("outcome",),
            registry=registry,
        )
        self.report_bytes = Counter("pygrid_report_bytes", "Bytes of accepted reports.", registry=registry)
        self.clipped = Counter("pygrid_reports_clipped", "Reports that were clipped as outliers.", registry=registry)
        self.late = Counter(
            "pygrid_clients_late",
            "Clients that were admitted to a cycle and had not reported when it closed.",
            registry=registry,
        )
        self.cycles = Counter("pygrid_cycles_completed", "Cycles that were completed.", registry=registry)
        self.completion_seconds = Histogram(
            "pygrid_cycle_completion_seconds",
            "Time from the closing of a cycle to its checkpoint.",
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
            registry=registry,
        )

    def count_refusal(self, process_id: int, reason: str) -> None:
        """Count a request or a report of a process that was refused."""
        self.refusals.setdefault(process_id, Tally())[reason] += 1
