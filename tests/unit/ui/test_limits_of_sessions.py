"""What one session can use: streams count while they are open, pages by a bucket that empties with time."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pygrid.clock import ManualClock
from pygrid.errors import TooManyRequests
from pygrid.ui.session_limits import MAX_APP_STREAMS, MAX_STREAMS, PAGES_AT_ONCE, PAGES_PER_S, SessionLimits


def opens(limits: SessionLimits, session: str, num_pages: int) -> int:
    """Pages that the session could open out of so many."""
    done = 0
    for _ in range(num_pages):
        try:
            limits.pages.take(session)
        except TooManyRequests:
            continue
        done += 1
    return done


def test_streams_count_while_they_are_open() -> None:
    limits = SessionLimits(ManualClock())
    with ExitStack() as others:
        with ExitStack() as open_streams:
            for _ in range(MAX_STREAMS):
                limits.check_streams("a")
                open_streams.enter_context(limits.stream("a"))
            limits.check_streams("b")
            with pytest.raises(TooManyRequests, match="this session has 8 pages open") as refused:
                limits.check_streams("a")
            assert refused.value.code == "too_many_streams"
            assert refused.value.to_problem()["retry_after_s"] == 5.0
        limits.check_streams("a")
        for number in range(MAX_APP_STREAMS):
            others.enter_context(limits.stream(f"session {number}"))
        with pytest.raises(TooManyRequests, match=r"1,000 pages .* in all sessions"):
            limits.check_streams("a")
    limits.check_streams("a")


@given(st.lists(st.tuples(st.floats(0, 20), st.integers(0, 150)), max_size=12))
def test_pages_within_any_time_are_bounded(steps: list[tuple[float, int]]) -> None:
    clock = ManualClock()
    limits, passed_s, opened = SessionLimits(clock), 0.0, 0
    for pause_s, num_pages in steps:
        clock.advance(pause_s)
        passed_s += pause_s
        opened += opens(limits, "a", num_pages)
        assert opened <= PAGES_AT_ONCE + PAGES_PER_S * passed_s + 1e-3  # the clock counts microseconds


def test_a_refused_page_can_be_opened_after_the_time_that_is_named() -> None:
    clock = ManualClock()
    limits = SessionLimits(clock)
    assert opens(limits, "a", 150) == PAGES_AT_ONCE
    assert opens(limits, "b", 1) == 1
    with pytest.raises(TooManyRequests, match="more than 20 pages a second") as refused:
        limits.pages.take("a")
    clock.advance(refused.value.to_problem()["retry_after_s"] + 1e-5)
    limits.pages.take("a")
    clock.advance(60)
    assert opens(limits, "a", 150) == PAGES_AT_ONCE
