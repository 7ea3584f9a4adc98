"""Leases with fences.

Should happen: one holder at a time; each claim raises the fence. Should not happen: a holder that has lost its lease
renews, releases or ends the work.
"""

from __future__ import annotations

import datetime as dt

from pygrid.core import leases
from pygrid.core.leases import FREE, GIVE_UP_S, LEASE_S, RENEW_S, FencedLease

NOW = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)


def after(seconds: float) -> dt.datetime:
    return NOW + dt.timedelta(seconds=seconds)


def claimed(holder: str = "a") -> FencedLease:
    lease = leases.claim(FREE, holder, NOW)
    assert lease is not None
    return lease


def test_a_claim_is_valid_until_its_end():
    lease = claimed()
    assert lease == FencedLease("a", 1, after(LEASE_S))
    assert leases.claim(lease, "b", after(LEASE_S - 0.001)) is None
    assert leases.claim(lease, "a", after(1)) is None, "not even its holder claims it twice"
    assert leases.claim(lease, "b", after(LEASE_S)) == FencedLease("b", 2, after(2 * LEASE_S))


def test_a_renewal_keeps_the_fence():
    assert leases.renew(claimed(), "a", 1, after(3)) == FencedLease("a", 1, after(3 + LEASE_S))
    late = leases.renew(claimed(), "a", 1, after(100))
    assert late == FencedLease("a", 1, after(100 + LEASE_S)), "nobody else has claimed it"


def test_a_lost_lease_is_lost():
    taken = leases.claim(claimed(), "b", after(20))
    assert taken is not None
    assert not leases.is_held(taken, "a", 1)
    assert leases.renew(taken, "a", 1, after(21)) is None
    assert leases.release(taken, "a", 1) is None
    again = leases.claim(taken, "a", after(40))
    assert again is not None
    assert leases.is_held(again, "a", 3)
    assert not leases.is_held(again, "a", 1), "the same process, but an earlier claim"


def test_a_release_frees_it_at_once_and_keeps_the_fence():
    free = leases.release(claimed(), "a", 1)
    assert free == FencedLease(None, 1, None)
    assert leases.renew(free, "a", 1, NOW) is None
    assert leases.claim(free, "b", NOW) == FencedLease("b", 2, after(LEASE_S))


def test_a_holder_gives_up_before_its_lease_ends():
    assert RENEW_S < GIVE_UP_S < LEASE_S
    assert leases.may_continue(5.0, 5.0 + GIVE_UP_S - 0.001)
    assert not leases.may_continue(5.0, 5.0 + GIVE_UP_S)
