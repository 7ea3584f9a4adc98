"""The rules of associations: every arrival, every decision, and how a Domain is doing.

Should happen: what the diagrams show. Should not happen: a way to another's name, or back in after a revocation.
"""

from __future__ import annotations

import datetime as dt
import random
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pygrid.core.associations import (
    HOLDING,
    MAX_RETRY_S,
    RARE_RETRY_S,
    Act,
    AssociationState,
    DomainHealth,
    HandshakeRefusal,
    arrive,
    check_domain_name,
    choose,
    find_health,
    move,
    name_key,
    retry_s,
)
from pygrid.errors import Conflict, InvalidInput

KEY, OTHER = "ed25519:a", "ed25519:b"
AT_NETWORK = [
    AssociationState.PENDING,
    AssociationState.ACCEPTED,
    AssociationState.DENIED,
    AssociationState.REVOKED,
    AssociationState.LEFT,
]
NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("before", "is_invited", "outcome"),
    [
        (None, False, AssociationState.PENDING),
        (None, True, AssociationState.ACCEPTED),
        (AssociationState.PENDING, False, AssociationState.PENDING),
        (AssociationState.PENDING, True, AssociationState.ACCEPTED),
        (AssociationState.ACCEPTED, False, AssociationState.ACCEPTED),
        (AssociationState.ACCEPTED, True, AssociationState.ACCEPTED),
        (AssociationState.DENIED, False, "denied"),
        (AssociationState.DENIED, True, AssociationState.ACCEPTED),
        (AssociationState.REVOKED, False, "revoked"),
        (AssociationState.REVOKED, True, "revoked"),
        (AssociationState.LEFT, False, AssociationState.PENDING),
        (AssociationState.LEFT, True, AssociationState.ACCEPTED),
    ],
)
def test_every_arrival(before: AssociationState | None, is_invited: bool, outcome: object) -> None:
    found = arrive("alice", before, is_taken=False, is_invited=is_invited)
    assert (found.code if isinstance(found, HandshakeRefusal) else found) == outcome
    taken = arrive("alice", before, is_taken=True, is_invited=is_invited)
    assert isinstance(taken, HandshakeRefusal)
    assert taken.code == "name_taken"


@dataclass(frozen=True)
class Row:
    identity: str | None
    state: AssociationState


@pytest.mark.parametrize(
    ("named", "identity", "chosen"),
    [
        ([Row(KEY, AssociationState.PENDING)], None, 0),
        ([Row(KEY, AssociationState.PENDING)], KEY, 0),
        ([Row(KEY, AssociationState.PENDING)], OTHER, "other_identity"),
        ([Row(KEY, AssociationState.PENDING), Row(OTHER, AssociationState.PENDING)], None, "several_domains"),
        ([Row(KEY, AssociationState.PENDING), Row(OTHER, AssociationState.PENDING)], OTHER, 1),
        ([Row(KEY, AssociationState.DENIED), Row(OTHER, AssociationState.PENDING)], None, 1),
        ([Row(KEY, AssociationState.DENIED), Row(OTHER, AssociationState.PENDING)], KEY, 0),
        ([Row(KEY, AssociationState.DENIED), Row(OTHER, AssociationState.DENIED)], None, "several_domains"),
        ([Row(KEY, AssociationState.DENIED), Row(OTHER, AssociationState.LEFT)], None, 1),
        ([Row(None, AssociationState.ACCEPTED)], None, 0),
        ([Row(None, AssociationState.ACCEPTED)], KEY, "other_identity"),
    ],
)
def test_whom_a_decision_is_meant_for(named: list[Row], identity: str | None, chosen: int | str) -> None:
    if isinstance(chosen, int):
        assert choose(named, Act.ACCEPT, "alice", identity) is named[chosen]
        return
    with pytest.raises(Conflict) as refused:
        choose(named, Act.ACCEPT, "alice", identity)
    assert refused.value.code == chosen


ALLOWED = {
    (AssociationState.PENDING, Act.ACCEPT): AssociationState.ACCEPTED,
    (AssociationState.DENIED, Act.ACCEPT): AssociationState.ACCEPTED,
    (AssociationState.REVOKED, Act.ACCEPT): AssociationState.ACCEPTED,
    (AssociationState.LEFT, Act.ACCEPT): AssociationState.ACCEPTED,
    (AssociationState.PENDING, Act.DENY): AssociationState.DENIED,
    (AssociationState.ACCEPTED, Act.REVOKE): AssociationState.REVOKED,
    (AssociationState.ACCEPTED, Act.LEAVE): AssociationState.LEFT,
}


@pytest.mark.parametrize("state", AT_NETWORK)
@pytest.mark.parametrize("act", list(Act))
def test_only_the_moves_of_the_diagram_lead_on(state: AssociationState, act: Act) -> None:
    if (state, act) in ALLOWED:
        assert move(state, act, "alice") is ALLOWED[state, act]
    else:
        with pytest.raises(Conflict) as refused:
            move(state, act, "alice")
        assert refused.value.code == "wrong_state"


@given(
    st.lists(st.tuples(st.sampled_from([KEY, OTHER]), st.sampled_from([*Act, "hello", "hello, invited"])), max_size=16)
)
def test_whatever_happens_a_name_is_held_by_one_key_at_most(events: list[tuple[str, str]]) -> None:
    """As the store keeps it: a row for each key, requests end when another gets the name."""
    known: dict[str, AssociationState] = {}
    for key, event in events:
        before = dict(known)
        others = {other: state for other, state in known.items() if other != key}
        is_taken = any(state in HOLDING for state in others.values())
        if event in list(Act):
            if key not in known or (known[key], Act(event)) not in ALLOWED or (event is Act.ACCEPT and is_taken):
                continue
            known[key] = move(known[key], Act(event), "alice")
        else:
            outcome = arrive("alice", known.get(key), is_taken=is_taken, is_invited=event == "hello, invited")
            if isinstance(outcome, HandshakeRefusal):
                continue
            known[key] = outcome
        if known[key] is AssociationState.ACCEPTED:
            known = {
                other: state for other, state in known.items() if other == key or state is not AssociationState.PENDING
            }
        assert sum(state in HOLDING for state in known.values()) <= 1
        if before.get(key) is AssociationState.REVOKED:
            assert (known[key], event) == (AssociationState.ACCEPTED, Act.ACCEPT)


@pytest.mark.parametrize("name", ["a", "A", "7", "alice", "hospital-a", "a.b_c-9", "a" * 100])
def test_plain_names_are_taken(name: str) -> None:
    assert check_domain_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", " ", ".", "..", "-a", "a-", "a/b", "a b", "a\0", "a\n", "a?b", "a%2fb", "é", "аlice", "a" * 101, "@a", "a:b"],
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        check_domain_name(name)
    assert refused.value.code == "invalid_name"


def test_case_makes_no_other_name() -> None:
    assert name_key("Hospital-A") == name_key("hospital-a")


@pytest.mark.parametrize(
    ("silent_s", "says_degraded", "health"),
    [
        (0, False, DomainHealth.ONLINE),
        (25, False, DomainHealth.ONLINE),
        (25.1, False, DomainHealth.DEGRADED),
        (60, False, DomainHealth.DEGRADED),
        (60.1, False, DomainHealth.OFFLINE),
        (0, True, DomainHealth.DEGRADED),
        (61, True, DomainHealth.OFFLINE),
        # The clock was put back.
        (-100, False, DomainHealth.ONLINE),
    ],
)
def test_health_by_the_age_of_the_last_heartbeat(silent_s: float, says_degraded: bool, health: DomainHealth) -> None:
    heard_at = NOW - dt.timedelta(seconds=silent_s)
    assert find_health(heard_at, NOW, 10, says_degraded=says_degraded) is health
    assert find_health(None, NOW, 10, says_degraded=says_degraded) is DomainHealth.OFFLINE


@given(st.integers(1, 10_000), st.integers(0, 2**32))
def test_a_domain_waits_longer_each_time_up_to_a_bound(num_failures: int, seed: int) -> None:
    draw = random.Random(seed)
    waited = retry_s(num_failures, AssociationState.ACCEPTED, draw)
    assert 0 <= waited <= min(MAX_RETRY_S, 2**num_failures)
    rare = retry_s(num_failures, AssociationState.DENIED, draw)
    assert RARE_RETRY_S / 2 <= rare <= RARE_RETRY_S * 1.5


def test_domains_that_were_cut_off_together_do_not_come_back_together() -> None:
    draw = random.Random(1)
    waits = sorted(retry_s(6, AssociationState.ACCEPTED, draw) for _ in range(600))
    # Full jitter over a minute: no second has more than a few of them.
    busiest = max(sum(second <= wait < second + 1 for wait in waits) for second in range(60))
    assert busiest < 30
