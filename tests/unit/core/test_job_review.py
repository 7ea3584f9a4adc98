"""Flags of requests: each fires at its threshold, and not below it."""

from __future__ import annotations

import dataclasses
import datetime as dt
from typing import Any

import pytest

from pygrid.core.job_review import EarlierApproval, ReviewFacts, ReviewThresholds, review
from pygrid.messages.jobs import JobCost, JobRequest, PrivacyRequest, StatisticRequest

EXACT = JobRequest(1, "train", "a reason")
PRIVATE = JobRequest(1, "train", "a reason", privacy=PrivacyRequest(1.0, 1e-6))
COST = JobCost(1.0, 1e-6, 1.0, 1)
DAY = dt.timedelta(hours=24)
SECOND = dt.timedelta(seconds=1)


def codes(request: JobRequest = EXACT, **facts: Any) -> list[str]:
    return [flag.code for flag in review(ReviewFacts(request, **facts))]


def groups(count: int) -> JobRequest:
    asked = StatisticRequest("count", by="town", keys=tuple(range(count)))
    return JobRequest(1, "statistics", "a reason", statistics=(asked,))


@pytest.mark.parametrize(
    ("code", "below", "above"),
    [
        ("result_can_hold_records", {"result_ratio": 0.0999}, {"result_ratio": 0.1}),
        ("result_can_hold_records", {"request": PRIVATE, "result_ratio": 5.0}, {"result_ratio": 5.0}),
        ("rows_mix", {"rows_mix": False}, {"rows_mix": True}),
        (
            "budget_refuses",
            {"cost": COST},
            {"cost": JobCost(1.0, 1e-6, 1.0, 1, fits=False)},
        ),
        ("subject_column_bound", {}, {"subject_bound": "person"}),
        ("unknown_coordinator", {}, {"is_coordinator_known": False}),
        (
            "budget_nearly_spent",
            {"cost": JobCost(1.0, 1e-6, 1.0, 1, spent_after=8.0, cap=10.0)},
            {"cost": JobCost(1.0, 1e-6, 1.0, 1, spent_after=8.01, cap=10.0)},
        ),
        ("many_similar", {"num_similar": 4}, {"num_similar": 5}),
        ("many_similar", {"request": PRIVATE, "num_similar": 50}, {"num_similar": 50}),
        ("new_account", {"account_age": DAY}, {"account_age": DAY - SECOND}),
        ("many_keys", {"request": groups(50)}, {"request": groups(51)}),
        ("same_plan_approved_before", {}, {"earlier": EarlierApproval("ann@example.org", dt.datetime.now(dt.UTC))}),
    ],
)
def test_a_flag_fires_from_its_threshold_on(code: str, below: dict[str, Any], above: dict[str, Any]) -> None:
    assert code not in codes(**below)
    assert code in codes(**above)


def test_a_request_without_such_facts_has_no_flag() -> None:
    assert codes() == []
    assert codes(account_age=None) == [], "the account was deleted"


def test_flags_are_sorted_by_severity() -> None:
    earlier = EarlierApproval("ann@example.org", dt.datetime(2026, 1, 2, tzinfo=dt.UTC))
    flags = review(ReviewFacts(EXACT, result_ratio=1.0, num_similar=9, account_age=SECOND, earlier=earlier))
    assert [flag.severity for flag in flags] == ["red", "amber", "amber", "info"]
    assert flags[-1].sentence == "ann@example.org approved the same plan on this dataset on 2026-01-02."


def test_thresholds_are_those_of_the_owner() -> None:
    facts = ReviewFacts(EXACT, result_ratio=0.05, num_similar=2, account_age=2 * DAY)
    strict = ReviewThresholds(result_ratio=0.01, num_similar=2, account_age=7 * DAY)
    assert review(facts) == ()
    assert {flag.code for flag in review(facts, strict)} == {"result_can_hold_records", "many_similar", "new_account"}
    assert dataclasses.asdict(strict)["num_groups"] == 50


@pytest.mark.parametrize(
    ("age", "words"),
    [
        (dt.timedelta(seconds=59), "less than a minute"),
        (dt.timedelta(minutes=1), "1 minute"),
        (dt.timedelta(minutes=61), "1 hour"),
        (dt.timedelta(hours=3, minutes=59), "3 hours"),
    ],
)
def test_the_age_of_an_account_is_told_in_words(age: dt.timedelta, words: str) -> None:
    (flag,) = review(ReviewFacts(EXACT, account_age=age))
    assert flag.sentence == f"The account of the requester was {words} old."
