"""What tests wait with: support/eventually.py."""

from __future__ import annotations

import asyncio
import threading

import pytest

from support.eventually import eventually, eventually_blocking, never, turns


async def test_eventually_returns_the_first_true_value():
    values = iter([0, None, "", [], "there", "later"])
    assert await eventually(lambda: next(values)) == "there"
    assert next(values) == "later"


async def test_eventually_awaits_a_coroutine_function_and_lets_other_tasks_run():
    done = asyncio.Event()

    async def is_done() -> bool:
        return done.is_set()

    task = asyncio.create_task(asyncio.to_thread(done.set))
    assert await eventually(is_done)
    await task


async def test_eventually_names_the_condition_and_its_last_value():
    def number_of_reports() -> list[int]:
        return []

    with pytest.raises(
        AssertionError, match=r"number_of_reports \(.*test_eventually.py:\d+\) .* 0.01 s.* value is \[]"
    ):
        await eventually(number_of_reports, within_s=0.01)
    with pytest.raises(AssertionError, match=r"<lambda> \(.*test_eventually.py:\d+\) .* value is 0"):
        eventually_blocking(lambda: 0, within_s=0.01)


async def test_eventually_ends_when_the_condition_hangs():
    with pytest.raises(AssertionError, match="its last value is None"):
        await eventually(asyncio.Event().wait, within_s=0.01)


def test_the_blocking_one_sees_what_a_thread_does():
    done = threading.Event()
    thread = threading.Timer(0.01, done.set)
    thread.start()
    assert eventually_blocking(done.is_set)
    thread.join()


async def test_errors_of_the_condition_are_raised():
    with pytest.raises(ZeroDivisionError):
        await eventually(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        eventually_blocking(lambda: 1 / 0)


async def test_never_fails_once_the_condition_is_true():
    await never(lambda: False, for_s=0.01)
    values = iter([0, 0, 7])
    with pytest.raises(AssertionError, match="became 7"):
        await never(lambda: next(values), for_s=10)


async def test_turns_let_the_others_run():
    seen: list[int] = []

    async def task() -> None:
        for number in range(3):
            seen.append(number)
            await turns()

    running = asyncio.create_task(task())
    await turns(2)
    assert seen == [0, 1]
    await turns(5)
    assert running.done()
