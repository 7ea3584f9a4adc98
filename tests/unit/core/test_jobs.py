"""The rules of jobs.

Should happen: every walk follows the diagram; decisions count once, for what was looked at, by those who may make them.
Should not happen: an exact result that leaves without a person; a private job that starts twice; a way out of an end.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import math
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pygrid.core import jobs as rules
from pygrid.core.access import ADMINISTRATOR, COMPLIANCE_OFFICER, DEFAULT_ROLES, OWNER, USER, Principal
from pygrid.core.datasets import Holding, bounds_of
from pygrid.core.job_checks import name_groups, read_statistics, schema_for_mock, used_columns
from pygrid.core.job_spec import PrivacyTerms
from pygrid.core.job_terms import epsilon_alone, events_of, make_terms
from pygrid.core.jobs import ENDED, TRANSITIONS, JobRecord, JobRefusal, JobState, Result, hash_request
from pygrid.errors import Conflict, InvalidInput
from pygrid.messages.datasets import Column, Schema
from pygrid.messages.jobs import JobRequest, PrivacyRequest, StatisticRequest
from pygrid.plans.manifest import DataPort, Manifest
from pygrid.privacy.ledger import Accepted, Spending, Use, check, cost_of, open_cap

NOW = dt.datetime(2026, 5, 1, 12, tzinfo=dt.UTC)
TERMS = PrivacyTerms(clip=1.0, noise_multiplier=1.0, rounds=1, delta=1e-6, expected_size=10.0)
REQUEST = JobRequest(dataset=1, kind="train", reason="to learn")
RESULT = Result("f" * 64, 10, "application/json")
ASKER, DECIDER = 7, 8


def job(state: JobState = JobState.CHECKING, terms: PrivacyTerms | None = None) -> JobRecord:
    return JobRecord(
        id="a" * 32,
        dataset_id=1,
        version_id=1,
        state=state,
        request=REQUEST,
        request_hash="e" * 64,
        requested_by=ASKER,
        plan_id="",
        plan_name="",
        plan_summary="",
        model_hash="",
        terms=terms,
        created_at=NOW,
        updated_at=NOW,
    )


STEPS = {
    "present": lambda j: rules.present(j, {}),
    "admit": lambda j: rules.admit(j, {}),
    "reject": lambda j: rules.reject(j, "code", "why"),
    "approve": lambda j: rules.approve(j, DECIDER, j.request_hash, ""),
    "release": lambda j: rules.release(j, DECIDER, j.request_hash, ""),
    "deny": lambda j: rules.deny(j, DECIDER, j.request_hash, ""),
    "revoke": lambda j: rules.revoke(j, DECIDER),
    "cancel": rules.cancel,
    "start": rules.start,
    "requeue": rules.requeue,
    "finish": lambda j: rules.finish(j, RESULT, {}),
    "fail": lambda j: rules.fail(j, "code", "why"),
}


@given(st.lists(st.sampled_from(sorted(STEPS)), max_size=40), st.booleans())
@example(["admit", "start", "admit", "start"], True)
def test_every_walk_follows_the_diagram(steps: list[str], is_private: bool) -> None:
    now = job(terms=TERMS if is_private else None)
    done: list[str] = []
    for name in steps:
        if (name == "requeue" and not rules.may_run_again(now)) or (name == "admit" and not is_private):
            continue
        try:
            after = STEPS[name](now)
        except Conflict:
            continue
        assert after.state in TRANSITIONS[now.state]
        assert after.sequence == now.sequence + 1
        done.append(name)
        now = after
    assert done.count("start") <= (1 if is_private else rules.MAX_ATTEMPTS)
    if now.state is JobState.RELEASED:
        assert is_private or "release" in done, "an exact result leaves by a person's hand alone"
        assert is_private or "approve" in done
        assert now.result is not None
    if now.state in (JobState.DENIED, JobState.FAILED, JobState.CANCELLED):
        assert now.result is None
    assert now.has_ended == (now.state in ENDED)
    if now.has_ended:
        for name in set(STEPS) - {"requeue"} - (set() if is_private else {"admit"}):
            with pytest.raises(Conflict):
                STEPS[name](now)


def test_every_state_can_be_reached_and_ends() -> None:
    reached, todo = {JobState.CHECKING}, [JobState.CHECKING]
    while todo:
        new = TRANSITIONS[todo.pop()] - reached
        reached |= new
        todo += new
    assert reached == set(JobState) == set(TRANSITIONS)
    for state in JobState:
        assert state in ENDED or TRANSITIONS[state] & {JobState.DENIED, JobState.CANCELLED}, (
            f"nobody gets out of {state}"
        )


def test_an_exact_job_is_never_admitted_by_a_policy() -> None:
    with pytest.raises(ValueError, match="without a person"):
        rules.admit(job(), {})


@pytest.mark.parametrize("decide", [rules.approve, rules.deny, rules.release])
def test_a_changed_request_is_not_decided_on(decide: Any) -> None:
    state = JobState.HELD if decide is rules.release else JobState.WAITING
    with pytest.raises(Conflict) as caught:
        decide(job(state), DECIDER, "0" * 64, "")
    assert caught.value.code == "request_changed"


CHANGES: list[dict[str, Any]] = [
    {"request": msgspec.structs.replace(REQUEST, epochs=2)},
    {"request": msgspec.structs.replace(REQUEST, reason="to learn more")},
    {"request": msgspec.structs.replace(REQUEST, hyper={"lr": 0.1})},
    {"request": msgspec.structs.replace(REQUEST, privacy=PrivacyRequest(1.0, 1e-6))},
    {"requested_by": ASKER + 1},
    {"version_id": 2},
    {"plan_id": "b" * 64},
    {"model_hash": "b" * 64},
    {"terms": TERMS},
    {"terms": msgspec.structs.replace(TERMS, noise_multiplier=0.5)},
]


def test_the_hash_covers_all_that_is_approved() -> None:
    bound: dict[str, Any] = {"request": REQUEST, "requested_by": ASKER, "version_id": 1, "terms": None}
    bound |= {"plan_id": "a" * 64, "model_hash": "a" * 64}
    hashes = [hash_request(**bound), *(hash_request(**{**bound, **change}) for change in CHANGES)]
    assert len(set(hashes)) == len(hashes)
    assert hash_request(**bound) == hashes[0]
    reordered = [
        hash_request(**{**bound, "request": msgspec.structs.replace(REQUEST, binding=binding)})
        for binding in ({"x": "a", "y": "b"}, {"y": "b", "x": "a"})
    ]
    assert reordered[0] == reordered[1]


def test_who_may_decide() -> None:
    listed, private = Holding(DECIDER, "listed"), Holding(DECIDER, "private")
    cases = [
        (Principal(DECIDER, ADMINISTRATOR), listed, None),
        (Principal(DECIDER, ADMINISTRATOR), private, None),
        (Principal(1, OWNER), private, None),
        (Principal(2, COMPLIANCE_OFFICER), listed, None),
        (Principal(2, COMPLIANCE_OFFICER), private, JobRefusal.INVISIBLE),
        (Principal(2, ADMINISTRATOR), listed, None),
        (Principal(2, USER), listed, JobRefusal.INVISIBLE),
        (Principal(DECIDER, USER), listed, JobRefusal.INVISIBLE),
        (Principal(ASKER, USER), listed, JobRefusal.NOT_YOURS),
        *(
            (Principal(ASKER, role), listed, JobRefusal.OWN_REQUEST)
            for role in (OWNER, COMPLIANCE_OFFICER, ADMINISTRATOR)
        ),
    ]
    for principal, holding, refusal in cases:
        assert rules.may_decide(principal, ASKER, holding) is refusal, (principal, holding)


@given(
    st.integers(1, 4),
    st.sampled_from(DEFAULT_ROLES),
    st.integers(1, 4),
    st.integers(1, 4) | st.none(),
    st.sampled_from(["private", "listed", "public"]),
)
def test_nobody_decides_on_their_own_and_who_decides_sees_all(
    user: int, role: Any, asker: int, holder: Any, seen: Any
) -> None:
    principal, holding = Principal(user, role), Holding(holder, seen)
    refusal = rules.may_decide(principal, asker, holding)
    if user == asker:
        assert refusal is not None
        assert rules.may_see(principal, asker, holding)
        assert rules.may_cancel(principal, asker, holding) is None
    if refusal is None:
        assert rules.sees_all(principal, asker, holding)
    if refusal is JobRefusal.INVISIBLE:
        assert not rules.sees_all(principal, asker, holding)


def test_who_may_have_a_result() -> None:
    held = dataclasses.replace(job(JobState.HELD), result=RESULT)
    released = dataclasses.replace(held, state=JobState.RELEASED)
    assert [rules.may_have_result(held, is_all_seen=seen) for seen in (True, False)] == [True, False]
    assert [rules.may_have_result(released, is_all_seen=seen) for seen in (True, False)] == [True, True]
    assert not rules.may_have_result(job(JobState.RUNNING), is_all_seen=True)


# Terms

SCHEMA = Schema((Column("x", "float32"), Column("person", "text")), num_records=1000)
OF_PEOPLE = Schema(SCHEMA.columns, 1000, subject="person", max_records_per_subject=4, num_subjects=400)


def asked(
    epsilon: float = 1.0, delta: float = 1e-6, *, kind: Any = "train", epochs: int = 3, **more: Any
) -> JobRequest:
    privacy = PrivacyRequest(epsilon, delta, **more)
    return JobRequest(dataset=1, kind=kind, reason="r", epochs=epochs, batch_size=50, privacy=privacy)


def terms(request: JobRequest, schema: Schema = SCHEMA, *caps: Any) -> PrivacyTerms:
    made = make_terms(request, schema, caps)
    assert made is not None
    return made


@settings(max_examples=15, deadline=None)
@given(
    st.floats(0.2, 8.0),
    st.sampled_from([1e-5, 1e-6, 1e-8]),
    st.sampled_from(["train", "statistics"]),
    st.integers(1, 5),
)
def test_a_job_costs_no_more_than_it_asks_for_and_hardly_less(
    epsilon: float, delta: float, kind: Any, epochs: int
) -> None:
    made = terms(asked(epsilon, delta, kind=kind, epochs=epochs))
    assert 0.99 * epsilon < epsilon_alone(made) <= epsilon


@pytest.mark.parametrize("use", list(Use))
@pytest.mark.parametrize("epsilon", [0.8, 1.0, 3.0, 8.0])
@pytest.mark.parametrize("kind", ["train", "statistics"])
def test_who_asks_for_a_whole_budget_fits_into_it(use: Use, epsilon: float, kind: Any) -> None:
    cap = open_cap(epsilon, 1e-6, use)
    made = terms(asked(epsilon, kind=kind), SCHEMA, cap)
    empty = (Spending(), cap)
    assert check(empty, empty, cost_of(events_of(made))) == Accepted()


def test_rounds_and_sizes_follow_from_published_numbers() -> None:
    made = terms(asked())
    assert (made.rounds, made.sampling_rate, made.expected_size) == (60, 0.05, 50.0)
    made = terms(asked(sampling_rate=0.3))
    assert (made.rounds, made.expected_size) == (10, 300.0)
    made = terms(asked(kind="statistics"))
    assert (made.rounds, made.sampling_rate, made.expected_size) == (1, 1.0, 1000.0)
    made = terms(asked(unit="domain"))
    assert (made.rounds, made.sampling_rate, made.expected_size) == (1, 1.0, 1.0)
    made = terms(asked(unit="subject"), OF_PEOPLE)
    assert (made.rounds, made.sampling_rate, made.expected_size, made.max_rows_per_subject) == (24, 0.125, 50.0, 4)
    made = terms(asked(unit="subject", sampling_rate=0.25), OF_PEOPLE)
    assert made.expected_size == 100.0, "of subjects, most of whom have fewer records than a subject may have"
    made = terms(msgspec.structs.replace(asked(), batch_size=5000))
    assert (made.rounds, made.sampling_rate) == (3, 1.0)


def test_who_may_add_records_changes_no_price() -> None:
    """Only the number of records that is published counts, so two tables of one length cost the same."""
    assert terms(asked(), SCHEMA) == terms(asked(), Schema((Column("other", "int64"),), 1000))


@pytest.mark.parametrize(
    ("request_", "schema", "code"),
    [(asked(epsilon), SCHEMA, "invalid_epsilon") for epsilon in (0.0, -1.0, math.nan, math.inf)]
    + [(asked(delta=delta), SCHEMA, "invalid_delta") for delta in (0.0, 1.0, -1e-6, math.nan, math.inf)]
    + [(asked(clip=clip), SCHEMA, "invalid_privacy_terms") for clip in (0.0, -1.0, math.nan, math.inf, 5e-324, 1e308)]
    + [(asked(sampling_rate=rate), SCHEMA, "invalid_privacy_terms") for rate in (0.0, -1.0, 1.1, math.nan)]
    + [
        (asked(unit="subject"), SCHEMA, "invalid_privacy_terms"),
        (asked(), OF_PEOPLE, "invalid_privacy_terms"),
        (asked(unit="domain", kind="evaluate"), SCHEMA, "invalid_privacy_terms"),
        (asked(kind="evaluate", sampling_rate=0.1), SCHEMA, "invalid_privacy_terms"),
        (asked(), Schema(SCHEMA.columns, 0), "invalid_privacy_terms"),
        (asked(sampling_rate=1e-8), SCHEMA, "invalid_privacy_terms"),
        (asked(sampling_rate=5e-324), SCHEMA, "invalid_privacy_terms"),
    ],
)
def test_terms_that_make_no_sense_are_refused(request_: JobRequest, schema: Schema, code: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        make_terms(request_, schema, ())
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("request_", "schema", "unit"),
    [
        (asked(unit="domain"), SCHEMA, "record"),
        (asked(), SCHEMA, "domain"),
        (asked(), OF_PEOPLE, "subject"),
        (asked(unit="domain"), OF_PEOPLE, "subject"),
        (asked(unit="subject"), OF_PEOPLE, "record"),
    ],
)
def test_a_unit_that_the_budget_does_not_protect_is_refused(request_: JobRequest, schema: Schema, unit: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        make_terms(request_, schema, (open_cap(3.0, 1e-6),), unit)
    assert caught.value.code == "unit_not_budgeted"
    assert unit in caught.value.detail


def test_a_delta_that_protects_no_record_is_refused() -> None:
    with pytest.raises(InvalidInput) as caught:
        make_terms(asked(delta=1e-3), SCHEMA, ())
    assert caught.value.code == "invalid_delta"


def test_a_budget_kept_for_a_smaller_delta_is_not_asked_for_a_larger_one() -> None:
    with pytest.raises(InvalidInput, match=r"the budget has delta 0\.0000001"):
        make_terms(asked(), SCHEMA, (open_cap(3.0, 1e-7),))


# Statistics

TOWNS = Schema(
    (
        Column("age", "float32"),
        Column("town", "text", categories=("Bern", "Chur"), num_categories=2),
        Column("class", "int32"),
        Column("person", "text"),
    ),
    num_records=5,
    subject="person",
    max_records_per_subject=2,
)


def of(*statistics: StatisticRequest) -> JobRequest:
    return JobRequest(dataset=1, kind="statistics", reason="r", statistics=statistics)


def test_texts_become_codes_and_unknown_ones_groups_that_are_empty() -> None:
    request = of(StatisticRequest("count", by="town", keys=("Oz", "Chur", "Atlantis", "Bern")))
    (statistic,) = read_statistics(request, TOWNS)
    assert statistic.keys == (-2, 1, -4, 0)
    answer = {"kind": "count", "groups": [[key, 10 * number] for number, key in enumerate(statistic.keys)]}
    (named,) = name_groups([answer], request)
    assert named["groups"] == [["Oz", 0], ["Chur", 10], ["Atlantis", 20], ["Bern", 30]]


def test_only_what_is_asked_of_is_within_reach() -> None:
    request = of(StatisticRequest("mean", "age", 0, 99, by="class", keys=(1,)), StatisticRequest("count"))
    assert used_columns(request, TOWNS) == ("age", "class")
    assert used_columns(of(StatisticRequest("count")), TOWNS) == ("age",)
    private = msgspec.structs.replace(request, privacy=PrivacyRequest(1.0, 1e-6, unit="subject"))
    assert used_columns(private, TOWNS) == ("age", "class", "person")


def test_a_mock_twin_has_the_labels_that_the_plan_takes() -> None:
    manifest = Manifest(1, "training", "p", "", "", 20, {}, data={"y": DataPort("int64", (), num_classes=3)})
    request = JobRequest(dataset=1, kind="train", reason="r", binding={"y": "class"})
    column = schema_for_mock(TOWNS, request, manifest).find("class")
    assert column is not None
    assert (column.min, column.max) == (0, 2)
    declared = Schema((Column("class", "int32", min=5, max=9),), 5)
    assert schema_for_mock(declared, request, manifest) == declared


def test_a_mock_twin_has_no_values_between_the_labels_and_the_one_for_no_label() -> None:
    manifest = Manifest(1, "training", "p", "", "", 20, {}, data={"y": DataPort("int64", (), "", 3, ignore=255)})
    request = JobRequest(dataset=1, kind="train", reason="r", binding={"y": "class"})
    schema = Schema((Column("class", "uint8", meaning="label 0..2 or 255"),), 5)
    column = schema_for_mock(schema, request, manifest).find("class")
    assert column is not None
    assert bounds_of(column) == (0, 2)


DECLARED = Schema(
    (
        Column("sex", "text", categories=("f", "m"), declared=True),
        Column("seen", "text", categories=("f", "m")),
        Column("label", "int64", meaning="label 0..2"),
        Column("grade", "int32", min=1.0, max=6.0),
        Column("small", "uint8"),
        Column("is_new", "bool"),
    ),
    num_records=1000,
)


@pytest.mark.parametrize(
    ("by", "keys", "is_taken"),
    [
        ("sex", ("f",), True),
        ("sex", ("f", "M"), False),
        ("seen", ("f", "M"), True),
        ("label", (0, 2), True),
        ("label", (3,), False),
        ("label", (-1,), False),
        ("grade", (1, 6), True),
        ("grade", (7,), False),
        ("small", (255,), True),
        ("small", (256,), False),
        ("is_new", (0, 1), True),
        ("is_new", (2,), False),
    ],
)
def test_a_key_outside_of_what_is_declared_is_refused(by: str, keys: tuple[Any, ...], is_taken: bool) -> None:
    """Keys that may or may not be in the data pass: to refuse them would tell of the data."""
    asked_for = JobRequest(
        dataset=1, kind="statistics", reason="r", statistics=(StatisticRequest("count", by=by, keys=keys),)
    )
    if is_taken:
        assert len(read_statistics(asked_for, DECLARED)) == 1
        return
    with pytest.raises(InvalidInput) as caught:
        read_statistics(asked_for, DECLARED)
    assert caught.value.code == "unknown_key"
