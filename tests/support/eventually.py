"""Waits for what another task, thread or process brings about.

No test waits for a fixed time: it polls for what it expects, or proves that nothing comes by something that would come
later. The deadlines are against hangs only, so they are long.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Iterator
from typing import Any

WITHIN_S = 60.0
MAX_PAUSE_S = 0.05


async def eventually(condition: Callable[[], Any], within_s: float = WITHIN_S) -> Any:
    """The first true value of a condition, which is a function or a coroutine function.

    Raises:
        AssertionError: the condition was false until the deadline; the message has its last value.
    """
    value = None
    try:
        async with asyncio.timeout(within_s):
            for pause_s in _pauses():
                if value := await _value(condition):
                    return value
                await asyncio.sleep(pause_s)  # between two polls
    except TimeoutError:
        raise AssertionError(_never_true(condition, within_s, value)) from None


def eventually_blocking(condition: Callable[[], Any], within_s: float = WITHIN_S) -> Any:
    """As `eventually`, for tests without an event loop."""
    end = time.monotonic() + within_s
    for pause_s in _pauses():
        if value := condition():
            return value
        if time.monotonic() > end:
            raise AssertionError(_never_true(condition, within_s, value))
        time.sleep(pause_s)  # between two polls


async def never(condition: Callable[[], Any], for_s: float = 0.2) -> None:
    """Check that a condition stays false for a short time; only where nothing else can prove it.

    Raises:
        AssertionError: the condition became true.
    """
    end = time.monotonic() + for_s
    while time.monotonic() < end:
        value = await _value(condition)
        assert not value, f"{_name(condition)} became {value!r}"
        await asyncio.sleep(for_s / 20)  # between two polls


async def turns(number: int = 1) -> None:
    """Let each task of the event loop that is ready run, this many times."""
    for _ in range(number):
        await asyncio.sleep(0)  # no wait: the other tasks run


async def _value(condition: Callable[[], Any]) -> Any:
    value = condition()
    return await value if inspect.isawaitable(value) else value


def _pauses() -> Iterator[float]:
    """Seconds between polls: 1 ms at first, then ever longer, up to 50 ms."""
    pause_s = 0.001
    while True:
        yield pause_s
        pause_s = min(1.5 * pause_s, MAX_PAUSE_S)


def _never_true(condition: Callable[[], Any], within_s: float, value: Any) -> str:
    return f"{_name(condition)} was not true within {within_s:g} s: its last value is {value!r}"


def _name(condition: Callable[[], Any]) -> str:
    """The condition's name and, as lambdas have none, its line."""
    code = getattr(condition, "__code__", None)
    place = f" ({code.co_filename}:{code.co_firstlineno})" if code else ""
    return f"{getattr(condition, '__qualname__', repr(condition))}{place}"
