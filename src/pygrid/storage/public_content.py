"""Tells that what strangers may know of a Domain has changed, so that nobody who remembers it goes on telling
the old.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable

logger = logging.getLogger(__name__)

Listener = Callable[[str], Awaitable[None]]


class PublicContent:
    """The version of all public datasets, models and processes of a Domain together.

    It is new after each start and each change, and never comes again. Kept in memory: use it from the event loop alone.

    Args:
        listeners: get the new version at each change; `changed` waits for them.
    """

    def __init__(self, *listeners: Listener) -> None:
        self._start = secrets.token_hex(8)
        self._number = 0
        self._listeners = listeners

    @property
    def version(self) -> str:
        """Read it before the content: what is read after it is of this version, or newer."""
        return f"{self._start}-{self._number}"

    async def changed(self) -> None:
        """Call it once a change is stored and before its author is answered: then who was told of the old version
        knows.
        """
        self._number += 1
        told = await asyncio.gather(*(listener(self.version) for listener in self._listeners), return_exceptions=True)
        for failure in told:
            if isinstance(failure, Exception):
                logger.error("public change not told", exc_info=failure)
