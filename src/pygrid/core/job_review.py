"""The facts about a request that a person who decides on it must not miss.

A flag is red if the decision can reveal records or cannot have the wished effect, amber if it deserves a second look,
and info if it helps. `review` is pure: the features collect the facts, and pages, SDK and CLI show the same flags.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass

from pygrid.messages.jobs import FlagSeverity, JobCost, JobFlag, JobRequest
from pygrid.units import counted, decimal


@dataclass(frozen=True, slots=True)
class ReviewThresholds:
    """From which values on a fact becomes a flag."""

    result_ratio: float = 0.1
    """Bytes of a non-private result for each byte of data."""
    budget_share: float = 0.8
    """Share of a budget that is spent after the job."""
    num_similar: int = 5
    """Non-private requests on a dataset within a day."""
    account_age: dt.timedelta = dt.timedelta(hours=24)
    """Age of the requester's account at the time of the request."""
    num_groups: int = 50
    """Groups of one statistic."""


@dataclass(frozen=True, slots=True)
class EarlierApproval:
    """An approval of the same plan on the same dataset."""

    decided_by: str
    """E-mail."""
    decided_at: dt.datetime


@dataclass(frozen=True, slots=True)
class ReviewFacts:
    """What is known about a request."""

    request: JobRequest
    cost: JobCost | None = None
    result_ratio: float | None = None
    """Bytes of the result for each byte of data; before the job ran, as expected. None: unknown."""
    rows_mix: bool = False
    """Whether a model that predicts for each record may let records of a batch influence each other."""
    subject_bound: str = ""
    """A column that the job reads and that is the subject column of the newest version; empty: none."""
    is_coordinator_known: bool = True
    """Whether the coordinator is reached through a Network that this Domain belongs to."""
    account_age: dt.timedelta | None = None
    """Age of the requester's account at the time of the request; None: it was deleted."""
    num_similar: int = 0
    """Non-private requests on this dataset within the day before this one, it included."""
    earlier: EarlierApproval | None = None


def review(facts: ReviewFacts, thresholds: ReviewThresholds | None = None) -> tuple[JobFlag, ...]:
    """Return the flags of a request, red ones first."""
    return tuple(_flags(facts, thresholds or ReviewThresholds()))


def _flags(facts: ReviewFacts, limits: ReviewThresholds) -> Iterator[JobFlag]:
    yield from _red(facts, limits)
    yield from _amber(facts, limits)
    if facts.earlier is not None:
        yield _flag(
            "info",
            "same_plan_approved_before",
            f"{facts.earlier.decided_by} approved the same plan on this dataset on "
            f"{facts.earlier.decided_at.astimezone(dt.UTC):%Y-%m-%d}.",
        )


def _red(facts: ReviewFacts, limits: ReviewThresholds) -> Iterator[JobFlag]:
    ratio = facts.result_ratio
    if facts.request.privacy is None and ratio is not None and ratio >= limits.result_ratio:
        yield _flag(
            "red",
            "result_can_hold_records",
            f"The result is {decimal(ratio, 2)} times as large as the data that the job reads, so it can hold records.",
        )
    if facts.rows_mix:
        yield _flag(
            "red", "rows_mix", "Records of a batch may mix in the model, so one answer can contain other records."
        )
    if facts.cost is not None and facts.cost.fits is False:
        yield _flag("red", "budget_refuses", "The budget is too small for this job, so it would not run.")
    if facts.subject_bound:
        yield _flag(
            "red",
            "subject_column_bound",
            f"The job reads the column {facts.subject_bound!r}, which tells persons apart.",
        )
    if not facts.is_coordinator_known:
        yield _flag(
            "red",
            "unknown_coordinator",
            "The coordinator is not a Domain of a Network that this Domain belongs to. It receives each cycle's diff.",
        )


def _amber(facts: ReviewFacts, limits: ReviewThresholds) -> Iterator[JobFlag]:
    cost, share = facts.cost, limits.budget_share
    if cost is not None and cost.cap and cost.spent_after is not None and cost.spent_after > share * cost.cap:
        yield _flag(
            "amber", "budget_nearly_spent", f"After this job more than {share:.0%} of the dataset's budget is spent."
        )
    if facts.request.privacy is None and facts.num_similar >= limits.num_similar:
        yield _flag(
            "amber",
            "many_similar",
            f"This is one of {facts.num_similar} non-private requests on this dataset within 24 hours. The difference "
            "of two exact answers can reveal a single record.",
        )
    if facts.account_age is not None and facts.account_age < limits.account_age:
        yield _flag("amber", "new_account", f"The account of the requester was {_age(facts.account_age)} old.")
    num_groups = max((len(one.keys) for one in facts.request.statistics), default=0)
    if num_groups > limits.num_groups:
        yield _flag(
            "amber",
            "many_keys",
            f"A statistic has {num_groups:,} groups. A group with few records tells something about each of them.",
        )


def _flag(severity: FlagSeverity, name: str, sentence: str) -> JobFlag:
    return JobFlag(severity, name, sentence)


def _age(age: dt.timedelta) -> str:
    minutes = int(age.total_seconds() // 60)
    if minutes < 1:
        return "less than a minute"
    return counted(minutes, "minute") if minutes < 60 else counted(minutes // 60, "hour")
