"""What a page follows live, and one answer for many readers: pages that show the same numbers share each read."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from litestar.datastructures import State

from pygrid.core.access import Principal
from pygrid.storage.signals import Signals

PAUSE_S = 0.1
"""Shortest time between two reads of one key."""
MAX_SHARE = 0.05
"""Largest part of the time that the reads of one key take."""


class Topic(msgspec.Struct, frozen=True):
    """What a page follows."""

    signals: tuple[str, ...]
    """Signals of the store after which its parts are fetched again."""
    data_signals: tuple[str, ...] = ()
    """Signals after which `load` returns new data."""
    load: Callable[[], Awaitable[bytes]] | None = None
    look: Callable[[], object] | None = None
    """Returns numbers in memory that change without a signal; the stream compares them each second."""


class Topics(msgspec.Struct, frozen=True):
    signals_of: Callable[[State], Signals]
    find_topic: Callable[[State, Principal, str], Awaitable[Topic | None]]
    """Returns a topic by its name; None: it is unknown, or not for this principal."""


class SharedReads:
    """Reads of live numbers, each for all readers that wait for it."""

    def __init__(self) -> None:
        self._waiting: dict[Any, asyncio.Task[Any]] = {}
        self._next: dict[Any, float] = {}
        self._reading: set[asyncio.Task[Any]] = set()

    async def read(self, key: Any, load: Callable[[], Awaitable[Any]]) -> Any:
        """Return what ``load`` of this or another reader returns; it begins after this call.

        Args:
            key: what is read; readers with the same key get the same answer.
        """
        task = self._waiting.get(key)
        if task is None:
            task = self._waiting[key] = asyncio.create_task(self._load(key, load))
            self._reading.add(task)
            task.add_done_callback(self._reading.discard)
        return await asyncio.shield(task)

    async def _load(self, key: Any, load: Callable[[], Awaitable[Any]]) -> Any:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, self._next.pop(key, 0.0) - loop.time()))
        del self._waiting[key]  # a later reader needs a later look
        began = loop.time()
        try:
            return await load()
        finally:
            now = loop.time()
            self._next[key] = now + max(PAUSE_S, (now - began) / MAX_SHARE)
            if len(self._next) > 1000:
                self._next = {other: at for other, at in self._next.items() if at > now}
