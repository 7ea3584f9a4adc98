"""Server-Sent Events: a stream that stays open while nothing happens and ends when the client goes or the app stops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Any

from litestar.response import Stream

from pygrid.lifecycle import Stopping
from pygrid.web.sessions import SessionWatch

HEARTBEAT_S = 30.0
"""Proxies end a connection after a minute of silence."""
CHECK_EVERY = 4
"""Heartbeats between two looks at the session of a stream in which nothing happens: they have no data, and 1,000 open
pages look often enough. A change of sessions and each event cause a look at once."""
_MEDIA_TYPE = "text/event-stream"
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One event. A client that reconnects sends ``id`` as ``Last-Event-ID``; ``data`` is one line of JSON."""

    id: int
    kind: str
    data: bytes

    def encode(self) -> bytes:
        return b"id: %d\nevent: %s\ndata: %s\n\n" % (self.id, self.kind.encode(), self.data)


def event_stream(
    events: AsyncIterator[ServerEvent], stopping: Stopping, session: SessionWatch, heartbeat_s: float = HEARTBEAT_S
) -> Stream:
    """Return the answer that sends ``events`` as they come, and a comment after each ``heartbeat_s`` of silence.

    It ends with the session: no event is sent after that, and one of the next `CHECK_EVERY` heartbeats notices expiry.
    A generator is closed when the stream ends: by its own end, the session, the client, or the app's stop.
    """
    return Stream(_encode(events, stopping, session, heartbeat_s), media_type=_MEDIA_TYPE, headers=_HEADERS)


async def _encode(
    events: AsyncIterator[ServerEvent], stopping: Stopping, session: SessionWatch, heartbeat_s: float
) -> AsyncGenerator[bytes, None]:
    stop = asyncio.ensure_future(stopping.wait())
    change = asyncio.ensure_future(session.wait())
    following: asyncio.Future[ServerEvent] | None = asyncio.ensure_future(anext(events))
    beats = 0
    try:
        # The source listens before the client is told: what the client reads after that is followed.
        await asyncio.sleep(0)
        yield b": open\n\n"
        while True:
            following = following or asyncio.ensure_future(anext(events))
            waiting: set[asyncio.Future[Any]] = {following, stop, change}
            await asyncio.wait(waiting, timeout=heartbeat_s, return_when=asyncio.FIRST_COMPLETED)
            is_woken = change.done()
            if is_woken:
                change = asyncio.ensure_future(session.wait())
            is_idle = not (is_woken or following.done())
            beats = beats + 1 if is_idle else 0
            if (not is_idle or beats % CHECK_EVERY == 0) and await session.is_over():
                return
            if following.done():
                try:
                    event = following.result()
                except StopAsyncIteration:
                    return
                following = None
                yield event.encode()
            elif stop.done():
                return
            elif is_idle:
                yield b": still here\n\n"
    finally:
        stop.cancel()
        change.cancel()
        if following is not None:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
        if isinstance(events, AsyncGenerator):
            await events.aclose()
