"""The live view of a training: counts of the open cycle, its devices, what it waits for, and its charts."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from pygrid.configuration.evaluation import find_best
from pygrid.core.cycles import AssignmentState
from pygrid.features.cycles.progress import CycleProgress
from pygrid.messages.processes import EvaluationInfo
from pygrid.plans.text import printable
from pygrid.storage.progress import Participant
from pygrid.ui.charts import norm_chart
from pygrid.ui.render import show_number, show_size
from pygrid.ui.words import CYCLE_STATES, name_of_refusal, summary_of_cycle

MAX_ROWS = 50
"""Devices that are shown; those that still train come first."""
_DEVICE_STATES = {
    AssignmentState.ASSIGNED: "training",
    AssignmentState.REPORTED: "reported",
    AssignmentState.EXPIRED: "ended without a report",
}


class DeviceRow(msgspec.Struct, frozen=True):
    """A device of the newest cycle."""

    name: str
    state: str
    seconds: str
    examples: str
    norm: str
    metrics: str

    @property
    def cells(self) -> list[str]:
        """The texts of its row in the table."""
        return [self.name, self.state, self.seconds, self.examples, self.norm, self.metrics]


DEVICE_COLUMNS = ("Device", "State", "Seconds", "Examples", "Norm", "Metrics")


class LiveCycle(msgspec.Struct, frozen=True):
    """The newest cycle as texts. A page shows each where it has an element with the name of the field."""

    sequence: int
    state: str
    is_open: bool
    num_reports: int
    max_diffs: int | None
    deadline_at: dt.datetime | None
    now: dt.datetime
    fields: dict[str, str]
    devices: list[DeviceRow]
    num_more: int
    """Devices that are not shown."""


def live_cycle(progress: CycleProgress, config: Mapping[str, Any]) -> LiveCycle:
    """Return what a page shows of the newest cycle.

    Args:
        config: the public server configuration of the process.
    """
    cycle, totals = progress.cycle, progress.totals
    refused = sum(progress.refusals.values())
    reasons = ", ".join(f"{name_of_refusal(reason)} {count}" for reason, count in sorted(progress.refusals.items()))
    in_grace = cycle.grace_until is not None
    fields = {
        "cycle": str(cycle.sequence),
        "state": "waits for late devices" if in_grace else CYCLE_STATES[cycle.state],
        "training": str(progress.num_training),
        "reported": str(cycle.num_reports),
        "late": str(progress.num_late),
        "expired": str(progress.num_expired),
        "refused": str(refused),
        "reasons": reasons or "none",
        "examples": f"{totals.num_examples:,}",
        "received": show_size(totals.bytes_received),
        "metrics": ", ".join(f"{name} {show_number(value)}" for name, value in totals.metrics.items()) or "none so far",
        "summary": summary_of_cycle(
            cycle.num_reports, config.get("min_diffs"), config.get("max_diffs"), progress.num_training
        ),
        **{f"metric {name}": show_number(value) for name, value in totals.metrics.items()},
    }
    rows = [_row(one, progress.at) for one in progress.participants[:MAX_ROWS]]
    num_devices = progress.num_training + progress.num_expired + cycle.num_reports
    return LiveCycle(
        sequence=cycle.sequence,
        state=cycle.state.value,
        is_open=cycle.state == "open",
        num_reports=cycle.num_reports,
        max_diffs=config.get("max_diffs"),
        deadline_at=cycle.ends_at,
        now=progress.at,
        fields={name: printable(text) for name, text in fields.items()},
        devices=rows,
        num_more=max(0, num_devices - len(rows)) if progress.is_managed else 0,
    )


def _row(one: Participant, now: dt.datetime) -> DeviceRow:
    end = one.received_at or now
    norm = "" if one.norm is None else show_number(one.norm)
    if one.scale is not None and one.scale < 1:
        norm += " (clipped)"
    metrics = ", ".join(f"{name} {show_number(value)}" for name, value in sorted((one.metrics or {}).items()))
    return DeviceRow(
        printable(one.client) or f"device {one.id}",
        "left" if one.has_left and one.state is AssignmentState.EXPIRED else _DEVICE_STATES[one.state],
        f"{max(0.0, (end - one.admitted_at).total_seconds()):.1f}",
        "" if one.num_examples is None else f"{one.num_examples:,}",
        norm,
        printable(metrics),
    )


def encode_live(progress: CycleProgress, config: Mapping[str, Any], topic: str) -> bytes:
    """Return the data of a live event: texts by field, rows of devices, and points of the open cycle for charts."""
    shown, norms = live_cycle(progress, config), norm_chart(progress.norms, progress.radii)
    points = {f"metric {name}": [shown.sequence, value] for name, value in progress.totals.metrics.items()}
    summaries = {name: f"{shown.fields[name]} in cycle {shown.sequence} so far" for name in points}
    return msgspec.json.encode(
        {
            "topic": topic,
            "now": shown.now,
            "fields": shown.fields,
            "meters": {"reports": shown.num_reports},
            "rows": {"devices": [row.cells for row in shown.devices]},
            "points": points if shown.is_open else {},
            "charts": {} if norms is None else {norms.name: norms.data},
            "summaries": (summaries if shown.is_open else {}) | ({} if norms is None else {norms.name: norms.summary}),
        }
    )


def early_stop_in_words(stop: Mapping[str, Any] | None, evaluations: Sequence[EvaluationInfo]) -> str:
    """Return when a training ends early, and how near that is; empty: it does not."""
    if not stop:
        return ""
    metric, patience = stop["metric"], int(stop["patience"])
    curve = [(one.checkpoint, one.metrics) for one in evaluations]
    rule = f"The training ends early when {metric} has not improved in {patience} evaluations."
    best = find_best(curve, metric, stop.get("mode"), stop.get("min_delta", 0.0))
    if best is None:
        return f"{rule} No checkpoint is evaluated so far."
    known = [number for number, metrics in curve if metric in metrics]
    since = len(known) - 1 - known.index(best[0])
    return f"{rule} Best so far: {show_number(best[1])} at checkpoint {best[0]}, {since} evaluations ago."
