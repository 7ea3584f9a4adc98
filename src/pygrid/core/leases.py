"""Leases: which of several processes does a piece of work, and how a process that was paused is refused.

    free ──claim──> held by A, fence 1 ──renew──> held by A, fence 1 ──release──> free, fence 1
                         │ `until` passes
                         └──claim──> held by B, fence 2

The **fence** is incremented by each claim and by nothing else. A holder passes its fence to the transaction that ends
the work, which requires `is_held`. So a holder that was paused for longer than its lease changes nothing, although it
does not know that another process has claimed the work.

All times are those of the database, because the clocks of machines differ. Only `may_continue` takes times of the
holder's own monotonic clock.

All functions are pure. The caller holds the lock of the row that stores the lease.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

LEASE_S = 12.0
"""Seconds for which a claim or a renewal is valid."""
RENEW_S = 3.0
"""Seconds between two renewals."""
GIVE_UP_S = 9.0
"""Seconds after which a holder without a granted renewal stops; less than `LEASE_S`, as clocks differ in speed."""
_LEASE = dt.timedelta(seconds=LEASE_S)


@dataclass(frozen=True, slots=True)
class FencedLease:
    """The lease of one piece of work."""

    holder: str | None = None
    """Instance of the process that claimed it last; None after a release, and before the first claim."""
    fence: int = 0
    """Number of claims so far."""
    until: dt.datetime | None = None
    """End of the lease; None if nobody holds it."""


FREE = FencedLease()


def end_of_lease(now: dt.datetime) -> dt.datetime:
    """The end of a lease that is claimed or renewed at ``now``."""
    return now + _LEASE


def claim(lease: FencedLease, holder: str, now: dt.datetime) -> FencedLease | None:
    """The lease with a new holder and the next fence; None while it is valid for a holder."""
    if lease.until is not None and now < lease.until:
        return None
    return FencedLease(holder, lease.fence + 1, end_of_lease(now))


def is_held(lease: FencedLease, holder: str, fence: int) -> bool:
    """Whether no other claim came after the one that returned this fence.

    It is also true after the end of the lease, as long as nobody else has claimed it: the work is still the holder's.
    """
    return lease.fence == fence and lease.holder == holder


def renew(lease: FencedLease, holder: str, fence: int, now: dt.datetime) -> FencedLease | None:
    """The lease, valid from now on again; None if it was lost."""
    return FencedLease(holder, fence, end_of_lease(now)) if is_held(lease, holder, fence) else None


def release(lease: FencedLease, holder: str, fence: int) -> FencedLease | None:
    """The lease without a holder, so that the next claim does not wait for its end; None if it was lost."""
    return FencedLease(None, fence, None) if is_held(lease, holder, fence) else None


def may_continue(sent_s: float, now_s: float) -> bool:
    """Whether a holder may go on with its work.

    Args:
        sent_s: when the holder sent its claim, or the last renewal that was granted, by its monotonic clock.
        now_s: the time of the same clock.
    """
    return now_s - sent_s < GIVE_UP_S
