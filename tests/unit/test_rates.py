"""How often an address may do something.

Should happen: so many uses at once, then one as often as the rate says; the refusal says when to come back.
Should not happen: a crowd of keys makes the table forget one, or fills memory; a clock that is set back refuses for
ever.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pygrid.clock import ManualClock
from pygrid.errors import TooManyRequests
from pygrid.rates import CELLS, ROWS, RateTable


def table(per_minute: int = 6) -> tuple[RateTable, ManualClock]:
    clock = ManualClock()
    return RateTable(clock, per_minute / 60, per_minute, "too many things; wait {wait_s} s"), clock


def refused(rates: RateTable, key: str) -> TooManyRequests:
    with pytest.raises(TooManyRequests) as error:
        rates.take(key)
    return error.value


def test_a_minute_of_uses_at_once_and_then_one_after_the_other() -> None:
    rates, clock = table()
    for _ in range(6):
        rates.take("one")
    error = refused(rates, "one")
    assert (error.code, error.fields["retry_after_s"]) == ("rate_limited", 10.0)
    assert error.detail == "too many things; wait 10.0 s"
    rates.take("two")
    clock.advance(9.9)
    assert refused(rates, "one").fields["retry_after_s"] == pytest.approx(0.1, abs=2e-3)
    clock.advance(0.2)
    rates.take("one")
    refused(rates, "one")


@settings(deadline=None)
@given(st.lists(st.floats(0.0, 30.0), min_size=1, max_size=60))
def test_no_minute_sees_more_than_twice_the_rate(pauses: list[float]) -> None:
    rates, clock = table()
    taken: list[float] = []
    for pause in pauses:
        clock.advance(pause)
        try:
            rates.take("one")
        except TooManyRequests:
            continue
        taken.append(clock.now().timestamp())
    for at in taken:
        assert sum(at - 60 < other <= at for other in taken) <= 12


def test_other_keys_flush_nothing_and_take_no_memory() -> None:
    rates, _ = table()
    for _ in range(6):
        rates.take("victim")
    for number in range(20_000):
        rates.take(f"crowd {number}")
    refused(rates, "victim")
    assert (len(rates._used), len(rates._at)) == (ROWS * CELLS, ROWS * CELLS)


def test_a_key_that_shares_a_place_is_not_refused_for_the_other() -> None:
    rates, _ = table()
    mine = rates._places("mine")
    other = next(key for key in map(str, range(100_000)) if len(set(mine) & set(rates._places(key))) == 1)
    for _ in range(6):
        rates.take(other)
    refused(rates, other)
    rates.take("mine")


def test_a_clock_that_is_set_back_refuses_nobody_for_long() -> None:
    rates, clock = table()
    for _ in range(6):
        rates.take("one")
    clock.advance(-86_400)
    refused(rates, "one")
    clock.advance(10.1)
    rates.take("one")


def test_off_is_off() -> None:
    rates, _ = table(0)
    for _ in range(1000):
        rates.take("one")
    limited, _ = table(1)
    for _ in range(1000):
        limited.take(None)


def test_any_text_is_a_key() -> None:
    rates, _ = table()
    for key in ("", "\ud800", "x" * 100_000, "\0"):
        rates.take(key)
