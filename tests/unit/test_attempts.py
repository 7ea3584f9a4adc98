"""The sketch of attempts: never more than allowed in any window, whatever else is tried, in memory of a fixed size."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pygrid.attempts import AttemptSketch, Bound
from pygrid.clock import ManualClock
from pygrid.core.addresses import network_of, shortened
from pygrid.errors import TooManyRequests
from support.thorough import examples


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 30)), max_size=60))
def test_no_window_holds_more_than_allowed_and_waiting_as_told_helps(steps: list[tuple[int, int]]) -> None:
    """Each step: a pause, then attempts with other keys, then one with the key that is watched."""
    clock = ManualClock()
    sketch = AttemptSketch(clock, window_s=60)
    allowed: list[float] = []
    now_s = 0.0
    for number, (pause_s, num_others) in enumerate(steps):
        clock.advance(pause_s)
        now_s += pause_s
        for other in range(num_others):
            sketch.record(Bound(f"{number} {other}", 5))
        try:
            sketch.record(Bound("key", 5))
        except TooManyRequests as refused:
            assert len([at for at in allowed if at > now_s - 65]) >= 5, "refused without need"
            wait_s = refused.fields["retry_after_s"]
            assert 0 < wait_s <= 65
            clock.advance(wait_s)
            now_s += wait_s
            sketch.record(Bound("key", 5))
        allowed.append(now_s)
        assert len([at for at in allowed if at > now_s - 60]) <= 5


def test_a_million_other_keys_do_not_make_room_for_one_more() -> None:
    sketch = AttemptSketch(ManualClock())
    for _ in range(3):
        sketch.record(Bound("victim", 3))
    size = sketch._counts.nbytes
    for number in range(examples(100_000)):
        sketch.record(Bound(f"other {number}", 10**9))
    with pytest.raises(TooManyRequests):
        sketch.record(Bound("victim", 3))
    assert sketch._counts.nbytes == size < 8 * 1024**2


def test_a_refusal_counts_no_key() -> None:
    sketch = AttemptSketch(ManualClock())
    sketch.record(Bound("full", 1))
    for _ in range(20):
        with pytest.raises(TooManyRequests):
            sketch.record(Bound("other", 2), Bound("full", 1))
    sketch.record(Bound("other", 2))
    sketch.record(Bound("other", 2))


def test_what_turned_out_well_is_taken_back_exactly() -> None:
    clock = ManualClock()
    sketch = AttemptSketch(clock)
    sketch.record(Bound("key", 2))
    for _ in range(50):
        attempt = sketch.record(Bound("key", 2))
        clock.advance(0.2)
        sketch.forget(attempt)
    sketch.record(Bound("key", 2))
    with pytest.raises(TooManyRequests):
        sketch.record(Bound("key", 2))


def test_an_attempt_that_is_taken_back_late_takes_nothing_from_others() -> None:
    clock = ManualClock()
    sketch = AttemptSketch(clock)
    late = sketch.record(Bound("key", 2))
    clock.advance(13 * 5)
    sketch.record(Bound("key", 2))
    sketch.forget(late)
    sketch.record(Bound("key", 2))
    with pytest.raises(TooManyRequests):
        sketch.record(Bound("key", 2))


@pytest.mark.parametrize("jump_s", [-86_400, 86_400])
def test_a_clock_that_jumps_locks_nobody_out_for_long(jump_s: float) -> None:
    clock = ManualClock()
    sketch = AttemptSketch(clock)
    for _ in range(3):
        sketch.record(Bound("key", 3))
    clock.advance(jump_s)
    with contextlib.suppress(TooManyRequests):
        sketch.record(Bound("key", 3))
    clock.advance(65)
    sketch.record(Bound("key", 3))


@pytest.mark.parametrize(
    ("address", "network", "short"),
    [
        ("203.0.113.7", "203.0.113.7/32", "203.0.113.0/24"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64", "2001:db8:1::/48"),
        ("::ffff:203.0.113.7", "203.0.113.7/32", "203.0.113.0/24"),
        ("fe80::1%eth0", "fe80::/64", "fe80::/48"),
        ("relayed:203.0.113.7", "relayed:203.0.113.7/32", "relayed:203.0.113.0/24"),
        ("", "unknown", "unknown"),
        ("\udc80", "unknown", "unknown"),
    ],
)
def test_addresses_count_by_the_network_that_one_machine_has(address: str, network: str, short: str) -> None:
    assert network_of(address) == network
    assert shortened(address) == short
