"""The limit of attempts: never more than allowed in any window, and bounded memory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pygrid.clock import ManualClock
from pygrid.errors import TooManyRequests
from pygrid.web import limits
from pygrid.web.limits import AttemptLimit


@given(st.lists(st.integers(0, 30), max_size=80))
def test_no_window_holds_more_than_allowed(pauses_s: list[int]) -> None:
    clock = ManualClock()
    limit = AttemptLimit(clock, max_attempts=5, window_s=60)
    allowed: list[float] = []
    now_s = 0.0
    for pause_s in pauses_s:
        clock.advance(pause_s)
        now_s += pause_s
        recent = [at for at in allowed if at > now_s - 60]
        if len(recent) == 5:
            with pytest.raises(TooManyRequests) as refused:
                limit.record("key")
            assert refused.value.fields["retry_after_s"] == pytest.approx(recent[0] + 60 - now_s)
        else:
            limit.record("key")
            allowed.append(now_s)


def test_keys_do_not_share_and_success_starts_anew() -> None:
    limit = AttemptLimit(ManualClock(), max_attempts=1, window_s=60)
    limit.record(("1.2.3.4", "a"))
    limit.record(("1.2.3.4", "b"))
    with pytest.raises(TooManyRequests):
        limit.record(("1.2.3.4", "a"))
    limit.forget(("1.2.3.4", "a"))
    limit.record(("1.2.3.4", "a"))
    limit.forget("never seen")


def test_memory_is_bounded_by_forgetting_the_least_recent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_KEYS", 3)
    limit = AttemptLimit(ManualClock(), max_attempts=1, window_s=60)
    for key in "abcd":
        limit.record(key)
    limit.record("a")
    with pytest.raises(TooManyRequests):
        limit.record("d")
