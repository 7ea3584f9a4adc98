"""The app's time while somebody sets the machine's clock.

Should happen: real time passes; the clock's new setting is approached slowly.
Should not: a jump, in either direction; time that runs back; a deadline that a jump moves by more than 1%.
"""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pygrid.clock import MAX_SLEW, SystemClock

DAY_S = 86_400.0


class Machine:
    """The clocks of a machine."""

    def __init__(self) -> None:
        self.wall, self.elapsed = 1.8e9, 100.0

    def clock(self) -> SystemClock:
        return SystemClock(lambda: self.wall, lambda: self.elapsed)

    def wait(self, seconds: float) -> None:
        self.wall += seconds
        self.elapsed += seconds


@pytest.mark.parametrize("jump_s", [DAY_S, -DAY_S, 3.0, -3.0])
def test_a_deadline_keeps_its_length_when_the_clock_is_set(jump_s: float) -> None:
    machine = Machine()
    clock = machine.clock()
    deadline = clock.now() + dt.timedelta(seconds=600)
    machine.wait(60)
    clock.now()
    machine.wall += jump_s
    machine.wait(530)
    assert clock.now() < deadline
    machine.wait(60)
    assert clock.now() > deadline


def test_a_clock_that_is_set_is_followed_slowly() -> None:
    machine = Machine()
    clock = machine.clock()
    machine.wall += 60
    for _ in range(int(60 / MAX_SLEW / 100) + 1):
        machine.wait(100)
        now = clock.now()
    assert now.timestamp() == pytest.approx(machine.wall, abs=1e-3)


@given(st.lists(st.tuples(st.floats(0, 1e5), st.floats(-2 * DAY_S, 2 * DAY_S)), max_size=20))
def test_time_never_runs_back_and_keeps_its_pace(steps: list[tuple[float, float]]) -> None:
    machine = Machine()
    clock = machine.clock()
    last = clock.now()
    for waited, jump in steps:
        machine.wall = max(1e9, machine.wall + jump)
        machine.wait(waited)
        now = clock.now()
        passed = (now - last).total_seconds()
        # A microsecond is the resolution of a datetime.
        assert (1 - MAX_SLEW) * waited - 1e-5 <= passed <= (1 + MAX_SLEW) * waited + 1e-5
        last = now
