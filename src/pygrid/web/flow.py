"""Flow control of a connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from uvicorn.protocols.http.flow_control import FlowControl


class HeldFlow(FlowControl):
    """Flow control that does not read a held connection, even if the app resumes reading.

    Args:
        on_taken: called when the app asks for more of a body, so it has taken what there was.
    """

    is_held = False

    def __init__(self, transport: asyncio.Transport, on_taken: Callable[[], None]) -> None:
        super().__init__(transport)
        self._on_taken = on_taken

    def resume_reading(self) -> None:
        self._on_taken()
        if not self.is_held:
            super().resume_reading()

    def let_go(self, closed: asyncio.Transport) -> None:
        """Drop references to the connection, which is replaced by ``closed``."""
        self._transport, self._on_taken = closed, _nothing


def _nothing() -> None:
    pass
