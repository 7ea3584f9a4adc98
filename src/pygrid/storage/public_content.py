"""Notices of changes to what a Domain publishes, so that caches of it, here and on Networks, end."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable

logger = logging.getLogger(__name__)

Listener = Callable[[str], Awaitable[None]]


class PublicContent:
    """The version of all public datasets, models and processes of a Domain together.

    Each start and each change makes a version that was never used before. It is kept in memory; use it from the event
    loop only.

    Args:
        listeners: called with the new version at each change; `changed` waits for them.
    """

    def __init__(self, *listeners: Listener) -> None:
        self._start = secrets.token_hex(8)
        self._number = 0
        self._listeners = listeners

    @property
    def version(self) -> str:
        """Read it before the content. What is read after it has this version, or a newer one."""
        return f"{self._start}-{self._number}"

    async def changed(self) -> None:
        """Notify all listeners. Call it after a change is stored and before its author gets an answer."""
        self._number += 1
        ended = await asyncio.gather(*(listener(self.version) for listener in self._listeners), return_exceptions=True)
        for failure in ended:
            if isinstance(failure, Exception):
                logger.error("public change not announced", exc_info=failure)
