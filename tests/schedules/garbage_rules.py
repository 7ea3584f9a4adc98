"""When the bytes of a name may be deleted: after a time in which no row names them.

    named ──the last row is deleted──> doomed until now + DROPPED ──no row names it then──> deleted
    unnamed for UNNAMED (found nightly) ──> doomed until now + UNNAMED ──no row names it then──> deleted
    doomed ──put finds the bytes──> doomed until now + UNNAMED at least: a row is about to name them

Bytes are stored before the row that names them. So bytes without a row can be garbage, or the bytes of a row that comes
next. Only their age distinguishes the two.

A put that finds its bytes first postpones their end with `postpone`, in a transaction of its own, and then looks again
whether they are there. A put that stores its bytes writes nothing else: their age protects them.

The process that deletes holds the lock of the doomed row while it looks for a row and deletes. If it is paused between
the two, the database takes the lock back, and a put can find the bytes. So it deletes only if `is_fresh`.

All functions are pure. `pygrid.storage.blobs.garbage` states the same rules in SQL.
"""

from __future__ import annotations

import datetime as dt

DROPPED = dt.timedelta(minutes=10)
"""How long bytes stay after their last row was deleted."""
UNNAMED = dt.timedelta(hours=24)
"""The age from which bytes without a row count as garbage; also how long they stay after that was noticed."""
DELETE_WITHIN_S = 5.0
"""Seconds between the look for a row and the deletion; less than the database's limit for an idle transaction."""


def doom_dropped(not_before: dt.datetime | None, now: dt.datetime) -> dt.datetime:
    """When bytes may be deleted whose last row was deleted.

    Args:
        not_before: the time that is stored for them; None if there is none. It is never moved forward, because a put
            relies on it.
    """
    return _later(not_before, now + DROPPED)


def doom_unnamed(stored_at: dt.datetime, now: dt.datetime) -> dt.datetime | None:
    """When bytes may be deleted that no row names; None if they are too young."""
    return now + UNNAMED if now - stored_at >= UNNAMED else None


def postpone(not_before: dt.datetime | None, now: dt.datetime) -> dt.datetime:
    """When bytes may be deleted that a put has found, and that a row will name within `UNNAMED`.

    Args:
        not_before: the time that is stored for them; None if there is none.
    """
    return _later(not_before, now + UNNAMED)


def may_delete(not_before: dt.datetime, stored_at: dt.datetime | None, is_named: bool, now: dt.datetime) -> bool:
    """Whether doomed bytes are deleted now.

    Args:
        stored_at: when the bytes were stored, as the store reports it; None if their name is never used twice. Their
            name can be doomed from earlier bytes, whose deletion was interrupted before its commit.
        is_named: whether a row names them.
    """
    is_old = stored_at is None or now - stored_at >= UNNAMED
    return is_old and not is_named and now >= not_before


def is_fresh(looked_s: float, now_s: float) -> bool:
    """Whether the process that looked for a row may delete.

    Args:
        looked_s: when it sent the query, by its monotonic clock.
        now_s: the time of the same clock, just before the deletion is sent.
    """
    return now_s - looked_s < DELETE_WITHIN_S


def _later(one: dt.datetime | None, other: dt.datetime) -> dt.datetime:
    return other if one is None else max(one, other)
