"""The rules of associations: every arrival, every decision, and how a Domain is doing.

Should happen: what the diagrams show. Should not happen: a way to another's name, or back in after a revocation.
"""

from __future__ import annotations

import datetime as dt
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pygrid.core.associations import (
    MAX_RETRY_S,
    RARE_RETRY_S,
    Act,
    AssociationState,
    Health,
    Known,
    Turned,
    arrive,
    check_domain_name,
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
    ("known", "invited", "outcome"),
    [
        (None, False, AssociationState.PENDING),
        (None, True, AssociationState.ACCEPTED),
        (Known(KEY, AssociationState.PENDING), False, AssociationState.PENDING),
        (Known(KEY, AssociationState.PENDING), True, AssociationState.ACCEPTED),
        (Known(KEY, AssociationState.ACCEPTED), False, AssociationState.ACCEPTED),
        (Known(KEY, AssociationState.ACCEPTED), True, AssociationState.ACCEPTED),
        (Known(KEY, AssociationState.DENIED), False, "denied"),
        (Known(KEY, AssociationState.DENIED), True, AssociationState.ACCEPTED),
        (Known(KEY, AssociationState.REVOKED), False, "revoked"),
        (Known(KEY, AssociationState.REVOKED), True, "revoked"),
        (Known(KEY, AssociationState.LEFT), False, AssociationState.PENDING),
        (Known(KEY, AssociationState.LEFT), True, AssociationState.ACCEPTED),
        (Known(OTHER, AssociationState.DENIED), False, AssociationState.PENDING),
        (Known(OTHER, AssociationState.PENDING), True, "name_taken"),
        (Known(OTHER, AssociationState.ACCEPTED), True, "name_taken"),
        (Known(OTHER, AssociationState.REVOKED), True, "name_taken"),
        (Known(OTHER, AssociationState.LEFT), True, "name_taken"),
        (Known(None, AssociationState.ACCEPTED), True, "name_taken"),
    ],
)
def test_every_arrival(known: Known | None, invited: bool, outcome: object) -> None:
    found = arrive("alice", KEY, known, invited)
    assert (found.code if isinstance(found, Turned) else found) == outcome


ALLOWED = {
    (AssociationState.PENDING, Act.ACCEPT): AssociationState.ACCEPTED,
    (AssociationState.DENIED, Act.ACCEPT): AssociationState.ACCEPTED,
    (AssociationState.REVOKED, Act.ACCEPT): AssociationState.ACCEPTED,
    (AssociationState.LEFT, Act.ACCEPT): AssociationState.ACCEPTED,
    (AssociationState.PENDING, Act.DENY): AssociationState.DENIED,
    (AssociationState.ACCEPTED, Act.REVOKE): AssociationState.REVOKED,
    (AssociationState.PENDING, Act.LEAVE): AssociationState.LEFT,
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
    st.lists(st.sampled_from([*Act, "hello", "hello, invited", "hello of another key"]), max_size=12),
)
def test_whatever_happens_another_key_gets_no_accepted_name(events: list[str]) -> None:
    known: Known | None = None
    for event in events:
        before = known
        if event in list(Act):
            if known is not None and (known.state, Act(event)) in ALLOWED:
                known = Known(known.identity, move(known.state, Act(event), "alice"))
            continue
        key = OTHER if event == "hello of another key" else KEY
        outcome = arrive("alice", key, known, event == "hello, invited")
        if not isinstance(outcome, Turned):
            known = Known(key, outcome)
        if before is not None and known is not None and before.identity != known.identity:
            assert before.state is AssociationState.DENIED
        if before is not None and before.state is AssociationState.REVOKED:
            assert known == before


@pytest.mark.parametrize("name", ["a", "A", "7", "alice", "hospital-a", "a.b_c-9", "a" * 100])
def test_plain_names_are_taken(name: str) -> None:
    assert check_domain_name(name) == name


@pytest.mark.parametrize(
    "name", ["", " ", ".", "..", "-a", "a-", "a/b", "a b", "a\0", "a\n", "a?b", "a%2fb", "é", "аlice", "a" * 101, "@a", "a:b"]
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
        (0, False, Health.ONLINE),
        (25, False, Health.ONLINE),
        (25.1, False, Health.DEGRADED),
        (60, False, Health.DEGRADED),
        (60.1, False, Health.OFFLINE),
        (0, True, Health.DEGRADED),
        (61, True, Health.OFFLINE),
        # The clock was put back.
        (-100, False, Health.ONLINE),
    ],
)
def test_health_by_the_age_of_the_last_heartbeat(silent_s: float, says_degraded: bool, health: Health) -> None:
    heard_at = NOW - dt.timedelta(seconds=silent_s)
    assert find_health(heard_at, NOW, 10, says_degraded=says_degraded) is health
    assert find_health(None, NOW, 10, says_degraded=says_degraded) is Health.OFFLINE


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
