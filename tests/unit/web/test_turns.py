"""Which request of which address begins next.

Should happen: in a round one request of each address begins; few of one address run at once; what waits begins at last.
Should not happen: an address waits for another; a slow request keeps others of its address waiting; something is left
behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from pygrid.web.turns import Turns
from support.eventually import eventually
from support.eventually import turns as loop_turns


class Site:
    """Turns, and what has begun in each round."""

    def __init__(self, max_running: int = 100, counted_s: float = 1.0) -> None:
        self.now = 0.0
        self.turns = Turns(max_running, counted_s, lambda: self.now)
        self.begun: list[str] = []

    def ask(self, address: str, what: str, *, is_counted: bool = True) -> None:
        if self.turns.take(address, lambda: self.begun.append(what), what if is_counted else None):
            self.begun.append(what)

    async def rounds(self, count: int) -> None:
        """As many iterations of the loop as rounds take: what a round lets begin, begins in the next one."""
        await loop_turns(count + 1)


async def test_one_request_of_each_address_begins_in_a_round() -> None:
    site = Site()
    for number in range(3):
        site.ask("a", f"a{number}")
    for number in range(2):
        site.ask("b", f"b{number}")
    assert site.begun == ["a0", "b0"]
    await site.rounds(1)
    assert site.begun == ["a0", "b0", "a1", "b1"]
    await site.rounds(1)
    assert site.begun == ["a0", "b0", "a1", "b1", "a2"]


async def test_an_address_with_hundreds_of_requests_does_not_delay_another() -> None:
    site = Site()
    for number in range(500):
        site.ask("a", f"a{number}")
    await site.rounds(5)
    before = len(site.begun)
    site.ask("b", "b")
    assert site.begun[before:] == ["b"]


async def test_few_requests_of_an_address_run_at_once() -> None:
    site = Site(max_running=2)
    for number in range(5):
        site.ask("a", f"a{number}")
    await site.rounds(10)
    assert site.begun == ["a0", "a1"]
    site.turns.end("a", "a0")
    await site.rounds(10)
    assert site.begun == ["a0", "a1", "a2"]


async def test_what_is_not_counted_does_not_fill_an_address() -> None:
    site = Site(max_running=1)
    for number in range(3):
        site.ask("a", f"a{number}", is_counted=False)
    await site.rounds(3)
    assert site.begun == ["a0", "a1", "a2"]


async def test_a_request_that_waits_for_something_makes_place() -> None:
    site = Site(max_running=1, counted_s=0.01)
    site.ask("a", "long poll")
    site.ask("a", "next")
    await site.rounds(3)
    assert site.begun == ["long poll"]
    site.now = 0.01
    await eventually(lambda: site.begun == ["long poll", "next"])


async def test_an_error_ends_no_round() -> None:
    site = Site()
    errors: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: errors.append(context))

    def fail() -> None:
        raise RuntimeError("of one request")

    site.ask("a", "a0")
    site.turns.take("a", fail, "a1")
    site.ask("a", "a2")
    await site.rounds(3)
    assert site.begun == ["a0", "a2"]
    assert len(errors) == 1


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.integers(0, 2)), max_size=40), st.integers(1, 3))
def test_everything_begins_once_and_nothing_is_left(steps: list[tuple[str, bool, int]], max_running: int) -> None:
    async def run() -> None:
        turns = Turns(max_running, 1.0, lambda: 0.0)
        begun: list[int] = []
        running: dict[str, set[int]] = {"a": set(), "b": set(), "c": set()}

        def beginner(address: str, number: int, is_counted: bool) -> Callable[[], None]:
            def begin() -> None:
                begun.append(number)
                if is_counted:
                    running[address].add(number)
                assert len(running[address]) <= max_running

            return begin

        def end_all() -> None:
            for address, numbers in running.items():
                for number in numbers:
                    turns.end(address, number)
                numbers.clear()

        for number, (address, is_counted, num_rounds) in enumerate(steps):
            begin = beginner(address, number, is_counted)
            if turns.take(address, begin, number if is_counted else None):
                begin()
            await loop_turns(num_rounds)
            if num_rounds == 2:
                end_all()
        for _ in range(4 * len(steps) + 4):
            await loop_turns()
            end_all()
        assert sorted(begun) == list(range(len(steps)))
        await loop_turns(2)
        assert len(turns) == 0

    asyncio.run(run())
