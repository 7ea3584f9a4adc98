"""When bytes without a row are deleted.

Should happen: dropped bytes go after minutes, unnamed ones after two days. Should not happen: bytes are deleted that a
row names, or that a put relies on.
"""

from __future__ import annotations

import datetime as dt

from schedules.garbage_rules import (
    DELETE_WITHIN_S,
    DROPPED,
    UNNAMED,
    doom_dropped,
    doom_unnamed,
    is_fresh,
    may_delete,
    postpone,
)

NOW = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)
SECOND = dt.timedelta(seconds=1)


def test_dropped_bytes_stay_for_minutes():
    assert doom_dropped(None, NOW) == NOW + DROPPED == NOW + dt.timedelta(minutes=10)


def test_a_drop_does_not_overtake_a_put():
    """A put has found the bytes and is about to name them; meanwhile their last row is deleted."""
    promised = postpone(None, NOW)
    assert promised == NOW + UNNAMED
    assert doom_dropped(promised, NOW + SECOND) == promised
    assert postpone(NOW + DROPPED, NOW) == NOW + UNNAMED
    assert postpone(NOW + 2 * UNNAMED, NOW) == NOW + 2 * UNNAMED


def test_young_bytes_are_not_garbage():
    assert doom_unnamed(NOW, NOW + UNNAMED - SECOND) is None
    assert doom_unnamed(NOW, NOW + UNNAMED) == NOW + 2 * UNNAMED


def test_only_old_doomed_bytes_without_a_row_are_deleted():
    old = NOW - UNNAMED
    assert may_delete(NOW, old, False, NOW)
    assert may_delete(NOW, None, False, NOW), "a name that is never used twice"
    assert not may_delete(NOW, old, True, NOW + UNNAMED)
    assert not may_delete(NOW, old - SECOND, False, NOW - SECOND)
    assert not may_delete(NOW, old + SECOND, False, NOW), "stored again after a deletion that was interrupted"


def test_a_paused_process_deletes_nothing():
    assert is_fresh(3.0, 3.0 + DELETE_WITHIN_S - 0.001)
    assert not is_fresh(3.0, 3.0 + DELETE_WITHIN_S)
