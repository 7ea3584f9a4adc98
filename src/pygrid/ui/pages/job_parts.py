"""What several pages show of a job."""

from __future__ import annotations

import datetime as dt

import msgspec

from pygrid.messages.jobs import JobInfo
from pygrid.privacy.words import explain_epsilon
from pygrid.summaries.jobs import cost_in_words
from pygrid.ui.request_words import ask_in_words
from pygrid.ui.words import JOB_STATES

JOB_TONES = {
    "waiting": "warn",
    "held": "warn",
    "running": "busy",
    "checking": "busy",
    "approved": "busy",
    "released": "good",
}
_FLAG_TONES = {"red": "bad", "amber": "warn", "info": "busy"}
_FLAG_NAMES = {
    "result_can_hold_records": "result can hold records",
    "rows_mix": "rows mix",
    "budget_refuses": "budget too small",
    "subject_column_bound": "reads the person column",
    "unknown_coordinator": "unknown coordinator",
    "budget_nearly_spent": "budget nearly spent",
    "many_similar": "many similar requests",
    "new_account": "new account",
    "many_keys": "many groups",
    "same_plan_approved_before": "approved before",
}


COLUMNS = ("id", "sentence", "requester", "dataset", "dataset_name", "cost", "words", "created_at")
"""What a list of jobs has as a file."""


class Bar(msgspec.Struct, frozen=True):
    """A part of a budget, and what is spent of it before and after a job."""

    label: str
    before: float
    after: float | None
    cap: float


class FlagView(msgspec.Struct, frozen=True):
    code: str
    name: str
    tone: str
    sentence: str


class JobLine(msgspec.Struct, frozen=True):
    id: str
    sentence: str
    dataset: int
    dataset_name: str
    cost: str
    words: str
    tone: str
    created_at: dt.datetime
    flags: list[FlagView]
    request_hash: str
    is_waiting: bool
    requester: str


def flags_of(info: JobInfo) -> list[FlagView]:
    return [
        FlagView(flag.code, _FLAG_NAMES.get(flag.code, flag.code), _FLAG_TONES[flag.severity], flag.sentence)
        for flag in info.flags
    ]


def line_of(info: JobInfo) -> JobLine:
    return JobLine(
        info.id,
        ask_in_words(info),
        info.dataset,
        info.dataset_name,
        cost_in_words(info) or "no noise",
        JOB_STATES[info.state],
        JOB_TONES.get(info.state, "off"),
        info.created_at,
        flags_of(info),
        info.request_hash,
        info.state == "waiting",
        info.requested_by_email,
    )


def cost_bars(info: JobInfo) -> list[Bar]:
    """Return the budget of the dataset and the requester's share, before and after the job."""
    cost, bars = info.cost, []
    if cost is None:
        return []
    if cost.cap is not None and cost.spent_before is not None:
        bars.append(Bar("The whole dataset", cost.spent_before, cost.spent_after, cost.cap))
    if cost.your_cap is not None and cost.yours_before is not None:
        bars.append(Bar(f"Share of {info.requested_by_email}", cost.yours_before, cost.yours_after, cost.your_cap))
    return bars


def certainty_of(info: JobInfo) -> str:
    """Return what the epsilon of a job means; empty for a non-private job."""
    if info.cost is None or info.privacy is None:
        return ""
    return explain_epsilon(info.cost.epsilon, info.cost.delta, info.privacy.unit)
