"""Tables of processes, and of their cycles, reports and checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from pygrid.client.display.tables import Table, TableColumn, metric_columns
from pygrid.messages.processes import CheckpointInfo, Contribution, CycleInfo, EvaluationInfo, ProcessInfo
from pygrid.units import size


class ProcessTable(Table[ProcessInfo]):
    """Processes of a Domain."""

    def columns(self) -> Sequence[TableColumn[ProcessInfo]]:
        return (
            TableColumn("name", lambda item: item.name, weight=5),
            TableColumn("version", lambda item: item.version, weight=5),
            TableColumn("state", lambda item: item.state, weight=4),
            TableColumn("cycles", num_completed, weight=3),
            TableColumn("parameters", lambda item: f"{item.num_parameters:,}", weight=2, align="right"),
            TableColumn("created", lambda item: f"{item.created_at:%Y-%m-%d %H:%M}", min=16),
        )


class CyclesTable(Table[CycleInfo]):
    """Cycles of a process; a column for each metric that clients report."""

    def columns(self) -> Sequence[TableColumn[CycleInfo]]:
        return (
            TableColumn("cycle", lambda item: item.sequence, weight=6, align="right"),
            TableColumn("state", lambda item: item.state, weight=6),
            TableColumn("reports", lambda item: item.num_reports, weight=5, align="right"),
            TableColumn("devices", lambda item: item.num_assigned, weight=3, align="right"),
            TableColumn("late", lambda item: item.num_late, weight=3, align="right"),
            TableColumn("examples", lambda item: f"{item.num_examples:,}", weight=3, align="right"),
            *metric_columns(self, weight=4),
            TableColumn("received", lambda item: size(item.bytes_received), align="right"),
            TableColumn("s", _seconds, align="right"),
            *self._spreads(),
        )

    def _spreads(self) -> Sequence[TableColumn[CycleInfo]]:
        """For each metric, its smallest value, median and largest value over devices, if the user may see them."""
        names = sorted({name for item in self for name in item.metric_spread})
        return [TableColumn(f"{name} range", partial(_spread, name), weight=2) for name in names]


def _spread(name: str, item: CycleInfo) -> str:
    spread = item.metric_spread.get(name)
    return "" if spread is None else f"{spread.min:.4g}/{spread.median:.4g}/{spread.max:.4g}"


class ContributionTable(Table[Contribution]):
    """Accepted reports of a process."""

    def columns(self) -> Sequence[TableColumn[Contribution]]:
        return (
            TableColumn("id", lambda item: item.id, weight=2, align="right"),
            TableColumn("cycle", lambda item: item.cycle, weight=5, align="right"),
            TableColumn("client", lambda item: item.client, weight=5),
            TableColumn("examples", lambda item: f"{item.num_examples:,}", weight=4, align="right"),
            TableColumn("weight", lambda item: item.weight, align="right"),
            TableColumn("norm", lambda item: f"{item.norm:.3g}", weight=3, align="right"),
            TableColumn("scale", lambda item: f"{item.scale:.3g}", weight=2, align="right"),
            *metric_columns(self, weight=3),
        )


class EvaluationTable(Table[EvaluationInfo]):
    """Metrics of checkpoints on held-out data."""

    def columns(self) -> Sequence[TableColumn[EvaluationInfo]]:
        return (
            TableColumn("checkpoint", lambda item: item.checkpoint, weight=5, align="right"),
            TableColumn("cycle", lambda item: item.cycle or "", weight=4, align="right"),
            *metric_columns(self, weight=5),
            TableColumn("source", lambda item: item.source, weight=2),
            TableColumn("at", lambda item: f"{item.at:%Y-%m-%d %H:%M}", min=16),
        )


class CheckpointTable(Table[CheckpointInfo]):
    """States of the model of a process."""

    def columns(self) -> Sequence[TableColumn[CheckpointInfo]]:
        return (
            TableColumn("number", lambda item: item.number, weight=5, align="right"),
            TableColumn("created", lambda item: f"{item.created_at:%Y-%m-%d %H:%M}", min=16, weight=3),
            TableColumn("size", lambda item: size(item.size_bytes), weight=2, align="right"),
            TableColumn("SHA-256", lambda item: item.model_hash, weight=3, is_id=True),
            TableColumn("alias", lambda item: item.alias, weight=4),
        )


def seconds(cycle: CycleInfo) -> float | None:
    """How long a completed cycle took, from its opening; None: it is not completed."""
    if cycle.completed_at is None or cycle.opened_at is None:
        return None
    return (cycle.completed_at - cycle.opened_at).total_seconds()


def num_completed(info: ProcessInfo) -> str:
    """How many cycles are completed, of how many: ``3 of 5``."""
    done, wanted = info.num_checkpoints - 1, info.server_config.get("num_cycles")
    return f"{done} of {wanted}" if wanted else str(done)


def _seconds(cycle: CycleInfo) -> str:
    took = seconds(cycle)
    return "" if took is None else f"{took:.1f}"
