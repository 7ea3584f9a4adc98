"""States and facts in words."""

from __future__ import annotations

from pygrid.units import counted

JOB_STATES = {
    "checking": "is tried on the mock dataset",
    "waiting": "waits for a decision",
    "approved": "approved, waits for a Worker",
    "running": "running",
    "held": "result waits for release",
    "released": "released",
    "rejected": "rejected",
    "denied": "denied",
    "revoked": "revoked",
    "failed": "failed",
    "cancelled": "cancelled",
}
CYCLE_STATES = {
    "hosted": "waits for devices",
    "open": "open",
    "closing": "is being completed",
    "completed": "completed",
}
PROCESS_STATES = {"active": "training", "paused": "paused", "finished": "finished"}
VISIBILITIES = {
    "public": "public: everybody sees the columns, nobody sees a record",
    "listed": "listed: everybody with an account sees the columns, nobody sees a record",
    "private": "private: only its owner sees it",
}


def summary_of_cycle(num_reports: int, min_diffs: int | None, max_diffs: int | None, num_training: int) -> str:
    """Return what an open cycle waits for, in one sentence."""
    parts = []
    if max_diffs is not None and num_reports < max_diffs:
        num_missing = max_diffs - num_reports
        parts.append(f"{counted(num_missing, 'report')} more {'closes' if num_missing == 1 else 'close'} the cycle")
    if min_diffs is not None and num_reports < min_diffs:
        num_missing = min_diffs - num_reports
        parts.append(f"at least {counted(num_missing, 'report')} more {'is' if num_missing == 1 else 'are'} needed")
    if num_training > 0:
        devices = "1 device is" if num_training == 1 else f"{num_training} devices are"
        parts.append(f"{devices} still training")
    sentence = "; ".join(parts)
    return f"{sentence[0].upper()}{sentence[1:]}." if sentence else "Nothing is missing."


REFUSALS = {
    "cycle_full": "the cycle is full",
    "not_drawn": "the lot fell on others",
    "waiting_for_workers": "too few devices ask",
    "between_cycles": "between two cycles",
    "already_assigned": "took part already",
    "resting": "pauses after an earlier cycle",
    "too_slow": "connection too slow",
    "training_finished": "the training is over",
    "process_paused": "the training is paused",
    "places_kept": "places are kept for late devices",
    "cycle_closed": "reported too late",
}
"""Reasons why a device was refused. Others are shown as they are."""


def name_of_refusal(reason: str) -> str:
    """Return why a device was refused, in words."""
    return REFUSALS.get(reason, reason.replace("_", " "))
