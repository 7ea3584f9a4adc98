"""The parts of a federated job, and what all its cycles cost."""

from __future__ import annotations

import datetime as dt
import itertools
from dataclasses import replace
from typing import Any

import dp_accounting
import pytest
from dp_accounting.pld import privacy_loss_distribution
from hypothesis import given, settings
from hypothesis import strategies as st

from pygrid.core import federated as rules
from pygrid.core import jobs
from pygrid.core.datasets import Column, Schema
from pygrid.core.federated import PartState, RoundAttempt
from pygrid.core.job_terms import epsilon_alone, events_of, make_terms
from pygrid.core.jobs import JobRecord, JobState
from pygrid.errors import Conflict, InvalidConfig, InvalidInput
from pygrid.messages.jobs import FederationRequest, JobRequest, PrivacyRequest
from pygrid.privacy.ledger import open_cap

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
FEDERATION = FederationRequest("http://127.0.0.1:5000", "shared", "1", 10, "secret")
SCHEMA = Schema(
    num_records=1000, columns=(Column(name="x", dtype="float32", shape=(4,)), Column(name="y", dtype="int64", shape=()))
)
DELTA = 1e-6


def request(**changes: Any) -> JobRequest:
    given: dict[str, Any] = {
        "dataset": 1,
        "kind": "train",
        "reason": "a test",
        "batch_size": 50,
        "privacy": PrivacyRequest(2.0, DELTA),
        "federation": FEDERATION,
    }
    return JobRequest(**{**given, **changes})


def part(number: int = 1, state: PartState = PartState.TRAINING, **changes: Any) -> RoundAttempt:
    values: dict[str, Any] = {
        "job_id": "j",
        "number": number,
        "state": state,
        "cycle": number,
        "model_hash": "m",
        "client_id": "c",
        "request_key": "k",
        "begun_at": NOW,
    }
    return RoundAttempt(**{**values, **changes})


def job(state: JobState, **changes: Any) -> JobRecord:
    values: dict[str, Any] = {
        "id": "j",
        "dataset_id": 1,
        "version_id": 1,
        "state": state,
        "request": request(),
        "request_hash": "h",
        "requested_by": 1,
        "plan_id": "p",
        "plan_name": "p",
        "plan_summary": "",
        "model_hash": "m",
        "terms": make_terms(request(), SCHEMA, ()),
        "created_at": NOW,
        "updated_at": NOW,
    }
    return JobRecord(**{**values, **changes})


# Prices


@settings(max_examples=10, deadline=None)
@given(cycles=st.integers(1, 200), epochs=st.integers(1, 5), batch_size=st.integers(1, 1000))
def test_all_cycles_together_are_what_was_asked_for(cycles: int, epochs: int, batch_size: int) -> None:
    asked = request(epochs=epochs, batch_size=batch_size, federation=replace_cycles(cycles))
    terms = make_terms(asked, SCHEMA, ())
    alone = make_terms(request(epochs=epochs, batch_size=batch_size, federation=None), SCHEMA, ())
    assert terms is not None
    assert alone is not None
    assert (terms.rounds, terms.cycles) == (alone.rounds, cycles), "the Worker of a cycle runs as many rounds as ever"
    (event,) = events_of(terms)
    assert event.rounds == terms.rounds * cycles
    assert epsilon_alone(terms) <= 2.0 + 1e-6
    assert terms.noise_multiplier >= alone.noise_multiplier - 1e-9


@pytest.mark.parametrize(("cycles", "batch_size"), [(1, 50), (10, 50), (20, 100), (40, 1000)])
def test_the_price_is_that_of_another_library(cycles: int, batch_size: int) -> None:
    terms = make_terms(request(batch_size=batch_size, federation=replace_cycles(cycles)), SCHEMA, ())
    assert terms is not None
    one = privacy_loss_distribution.from_gaussian_mechanism(
        terms.noise_multiplier,
        sampling_prob=terms.sampling_rate,
        neighboring_relation=dp_accounting.NeighboringRelation.REPLACE_ONE,
        value_discretization_interval=1e-3,
    )
    tight = one.self_compose(cycles * terms.rounds).get_epsilon_for_delta(DELTA)
    # Renyi curves on one side, the tighter distributions on the other.
    assert tight <= epsilon_alone(terms) <= 1.3 * tight


def test_a_whole_budget_is_enough_for_what_asks_for_it() -> None:
    cap = open_cap(2.0, DELTA)
    terms = make_terms(request(), SCHEMA, (cap,))
    assert terms is not None
    from pygrid.privacy.ledger import cost_of

    assert cost_of(events_of(terms)).at(cap.order).divergence <= cap.divergence


def test_a_domain_as_the_unit_adds_its_noise_once_a_cycle() -> None:
    terms = make_terms(request(privacy=PrivacyRequest(2.0, DELTA, unit="domain")), SCHEMA, ())
    assert terms is not None
    assert (terms.rounds, terms.cycles, terms.sampling_rate) == (1, 10, 1.0)


def test_too_many_rounds_in_all_are_refused() -> None:
    with pytest.raises(InvalidInput, match=r"10,000 times.* are 2,000,000 rounds"):
        make_terms(request(epochs=10, federation=replace_cycles(10_000)), SCHEMA, ())


def replace_cycles(cycles: int) -> FederationRequest:
    return FederationRequest("http://127.0.0.1:5000", "shared", "1", cycles, "secret")


# Parts


def test_parts_move_as_the_diagram_says() -> None:
    moves = {
        "trained": lambda one: rules.trained(one, "d", {}),
        "failed": lambda one: rules.failed(one, "why", NOW),
        "report": lambda one: rules.report(one, NOW),
        "expired": lambda one: rules.expired(one, NOW),
    }
    allowed = {
        (PartState.TRAINING, "trained"): PartState.TRAINED,
        (PartState.TRAINING, "failed"): PartState.LOST,
        (PartState.TRAINED, "failed"): PartState.LOST,
        (PartState.TRAINED, "report"): PartState.REPORTED,
        (PartState.TRAINED, "expired"): PartState.MISSED,
    }
    for state, name in itertools.product(PartState, moves):
        if (state, name) in allowed:
            moved = moves[name](part(state=state))
            assert moved.state is allowed[state, name]
            assert moved.has_ended == (moved.state is not PartState.TRAINED)
        else:
            with pytest.raises(AssertionError):
                moves[name](part(state=state))


@given(states=st.lists(st.sampled_from(PartState), max_size=20))
def test_a_private_job_spends_a_cycle_with_each_training_that_began(states: list[PartState]) -> None:
    parts = [part(number, state) for number, state in enumerate(states, 1)]
    assert rules.num_spent(parts, is_private=True) == len(states)
    assert rules.num_spent(parts, is_private=False) == sum(state is not PartState.LOST for state in states)


def test_three_trainings_without_a_diff_in_a_row_are_hopeless() -> None:
    lost, fine = PartState.LOST, PartState.REPORTED
    for states, hopeless in (
        ([], False),
        ([lost, lost], False),
        ([lost, lost, lost], True),
        ([lost, lost, fine], False),
        ([fine, lost, lost, lost], True),
        ([lost, fine, lost, lost], False),
    ):
        assert rules.is_hopeless([part(n, state) for n, state in enumerate(states, 1)]) is hopeless


def test_a_diff_is_good_for_its_own_cycle_alone() -> None:
    kept = part(state=PartState.TRAINED)
    assert rules.fits_cycle(kept, 1, "m")
    assert not rules.fits_cycle(kept, 2, "m")
    assert not rules.fits_cycle(kept, 1, "another model")
    assert not rules.fits_cycle(part(state=PartState.REPORTED), 1, "m")


def test_what_workers_saw_is_added_up() -> None:
    facts = [{"num_calls": 2, "max_rss_bytes": 50, "sandbox": ["a"]}, None, {"num_calls": 3, "max_rss_bytes": 40}]
    parts = [part(number, facts=one) for number, one in enumerate(facts, 1)]
    assert rules.add_facts(parts) == {"num_calls": 5, "max_rss_bytes": 50, "sandbox": ["a"]}


# Requests and jobs


def test_federations_that_make_no_sense() -> None:
    rules.check_federation(request())
    rules.check_federation(request(federation=None))
    for changes in ({"kind": "evaluate"}, {"kind": "statistics"}):
        with pytest.raises(InvalidConfig, match="of kind train"):
            rules.check_federation(request(**changes))
    wrong = {"coordinator": " ", "process": "a\nb", "version": "x" * 201, "cycles": 0, "auth_token": "a\0b"}
    given = {"coordinator": "http://a", "process": "p", "version": "1", "cycles": 1, "auth_token": ""}
    for name, value in wrong.items():
        with pytest.raises(InvalidConfig, match=name):
            rules.check_federation(request(federation=FederationRequest(**{**given, name: value})))


def test_the_token_is_shown_to_nobody_and_bound_by_the_hash() -> None:
    assert rules.without_secrets(FEDERATION).auth_token == "(set)"
    hashes = set()
    for federation in (
        None,
        FEDERATION,
        replace_cycles(11),
        FederationRequest("http://b", "shared", "1", 10, "secret"),
    ):
        asked = request(federation=federation)
        hashes.add(
            jobs.hash_request(
                asked, requested_by=1, version_id=1, plan_id="p", model_hash="m", terms=make_terms(asked, SCHEMA, ())
            )
        )
    assert len(hashes) == 4


def test_a_federated_job_may_be_revoked_while_it_runs_and_departs_without_a_result() -> None:
    running = job(JobState.RUNNING)
    assert running.is_federated
    assert jobs.revoke(running, 2).state is JobState.REVOKED
    departed = jobs.depart(running, "done", {"num_calls": 1})
    assert (departed.state, departed.result) == (JobState.RELEASED, None)
    assert not jobs.may_have_result(departed, is_all_seen=True)
    assert not jobs.may_run_again(replace(running, terms=None)), "it goes on with its next cycle"
    ordinary = job(JobState.RUNNING, request=request(federation=None))
    with pytest.raises(Conflict, match="running"):
        jobs.revoke(ordinary, 2)
    with pytest.raises(AssertionError):
        jobs.depart(ordinary, "done", {})
