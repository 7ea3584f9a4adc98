"""Live pages: a browser learns which of the topics of its page have changed, and fetches these parts again.

`GET /admin/live?topics=process:7,queue` is an event stream. ``changed`` names a topic whose parts of the page are
fetched again. ``data`` has the texts, rows and points themselves: a training changes with each report, so its page
fetches nothing for that. Nothing is sent again: after each connect, the page fetches all of its parts once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec
from litestar import get
from litestar.datastructures import State
from litestar.params import FromQuery
from litestar.response import Stream

from pygrid import codes
from pygrid.errors import InvalidInput, NotFound, TooManyRequests
from pygrid.storage.signals import Signals
from pygrid.ui.access import find_cookie, signed_in
from pygrid.ui.feed import Topic, Topics
from pygrid.ui.session_limits import SessionLimits
from pygrid.web.auth import find_authenticator
from pygrid.web.requests import AppRequest
from pygrid.web.services import service
from pygrid.web.sessions import SessionWatch
from pygrid.web.sse import ServerEvent, event_stream

MAX_TOPICS = 12
LOOK_S = 1.0
PAUSE_S = 0.1
"""Shortest time between two events of a stream: changes that come together are one event."""


@get("/live", guards=[signed_in()])
async def live(request: AppRequest, state: State, topics: FromQuery[str] = "") -> Stream:
    """Answer with the stream of changes. Topics that the caller may not see are left out.

    Raises:
        TooManyRequests: ``too_many_streams``: the session or the app has too many streams.
    """
    names = [name for name in topics.split(",") if name]
    if len(names) > MAX_TOPICS:
        raise InvalidInput(f"a page follows at most {MAX_TOPICS} topics", code=codes.INVALID_INPUT)
    found = service(state, Topics)
    watched = {name: topic for name in names if (topic := await found.find_topic(state, request.user, name))}
    token = find_cookie(request)
    assert token is not None, "a guard has checked it"
    limits = service(state, SessionLimits)
    limits.check_streams(token)
    request.stop_counting()
    return event_stream(
        _counted(_changes(found.signals_of(state), watched), limits, token),
        state.stopping,
        SessionWatch(find_authenticator(request), token, request.user),
    )


async def _counted(
    events: AsyncGenerator[ServerEvent, None], limits: SessionLimits, token: str
) -> AsyncGenerator[ServerEvent, None]:
    """Yield the events of a stream, which counts from its first byte until it is closed.

    One of several streams that begin together can find no place: it ends, and the browser reads why when it asks again.
    """
    async with aclosing(events):
        try:
            limits.check_streams(token)
        except TooManyRequests:
            return
        with limits.stream(token):
            async for event in events:
                yield event


async def _changes(signals: Signals, watched: dict[str, Topic]) -> AsyncGenerator[ServerEvent, None]:
    """Yield changes and data of each topic that was notified; many notifications between two events are one."""
    number = 0
    waiting = {
        (name, is_data): signals_of
        for name, topic in watched.items()
        for is_data, signals_of in ((False, topic.signals), (True, topic.data_signals))
        if signals_of
    }
    futures = {key: [signals.next(signal) for signal in names] for key, names in waiting.items()}
    looks = {name: topic.look for name, topic in watched.items() if topic.look is not None}
    seen = {name: look() for name, look in looks.items()}
    while True:
        pending = [future for some in futures.values() for future in some]
        if pending:
            await asyncio.wait(pending, timeout=LOOK_S if looks else None, return_when=asyncio.FIRST_COMPLETED)
        elif looks:
            await asyncio.sleep(LOOK_S)
        else:
            await asyncio.Event().wait()
        now = {name: look() for name, look in looks.items()}
        drifted = [(name, False) for name in looks if now[name] != seen[name]]
        seen = now
        woken = [key for key, some in futures.items() if any(future.done() for future in some)]
        for name, is_data in dict.fromkeys([*woken, *drifted]):
            futures[name, is_data] = [signals.next(signal) for signal in waiting.get((name, is_data), ())]
            load = watched[name].load
            if is_data and load is not None:
                try:
                    data = await load()
                except NotFound:
                    continue
            else:
                data = msgspec.json.encode({"topic": name})
            number += 1
            yield ServerEvent(number, "data" if is_data else "changed", data)
        await asyncio.sleep(PAUSE_S)
