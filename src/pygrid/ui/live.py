"""Live pages: a browser learns which of the topics of its page have changed, and fetches these parts again.

`GET /admin/live?topics=process:7,queue` is an event stream. ``changed`` names a topic whose parts of the page are
fetched again. ``data`` has the texts, rows and points themselves: a training changes with each report, so its page
fetches nothing for that. Nothing is sent again: after each connect, the page fetches all of its parts once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from litestar import get
from litestar.datastructures import State
from litestar.params import FromQuery
from litestar.response import Stream

from pygrid import codes
from pygrid.core.access import Permission, Principal
from pygrid.errors import Forbidden, InvalidInput, NotFound
from pygrid.features.associations.network.service import NetworkAssociations
from pygrid.features.cycles.progress import ProgressService
from pygrid.features.datasets.service import DatasetsService
from pygrid.features.jobs.service import JobsService
from pygrid.features.processes.service import ProcessesService
from pygrid.features.relay.network.service import Relay
from pygrid.storage.signals import (
    LocalSignals,
    Signals,
    audit_topic,
    budgets_topic,
    cycle_topic,
    datasets_topic,
    domains_topic,
    event_topic,
    job_topic,
    people_topic,
    processes_topic,
    progress_topic,
    queue_topic,
)
from pygrid.storage.store import Store
from pygrid.ui.access import find_cookie, signed_in
from pygrid.ui.console import console_of
from pygrid.ui.feed import SharedReads
from pygrid.ui.pages.people import SEE_PEOPLE
from pygrid.ui.pages.supervision import SEE_AUDIT
from pygrid.ui.training import encode_live
from pygrid.web.auth import find_authenticator
from pygrid.web.requests import AppRequest
from pygrid.web.services import service
from pygrid.web.sessions import SessionWatch
from pygrid.web.sse import ServerEvent, event_stream

MAX_TOPICS = 12
LOOK_S = 1.0
PAUSE_S = 0.1
"""Shortest time between two events of a stream: changes that come together are told once."""


@dataclass(frozen=True, slots=True)
class Topic:
    """What a page follows."""

    signals: tuple[str, ...]
    """Signals of the store after which its parts are fetched again."""
    data_signals: tuple[str, ...] = ()
    """Signals after which `load` returns new data."""
    load: Callable[[], Awaitable[bytes]] | None = None
    look: Callable[[], object] | None = None
    """Returns numbers in memory that change without a signal; the stream compares them each `LOOK_S` seconds."""


_LISTS: dict[str, tuple[tuple[Permission, ...], tuple[str, ...]]] = {
    "audit": (SEE_AUDIT, (audit_topic(),)),
    "datasets": ((), (datasets_topic(),)),
    "people": (SEE_PEOPLE, (people_topic(),)),
    "processes": ((), (processes_topic(),)),
    "queue": ((), (queue_topic(),)),
}
"""The topics of lists: one of the permissions that they need, and their signals."""
_BUDGETS = (Permission.TRIAGE_REQUESTS, Permission.UPLOAD_DATA)
"""One of them is needed to follow what others spend: other people see their own share alone."""


@get("/live", guards=[signed_in()])
async def live(request: AppRequest, state: State, topics: FromQuery[str] = "") -> Stream:
    """Answer with the stream of changes. Topics that the caller may not see are left out."""
    names = [name for name in topics.split(",") if name]
    if len(names) > MAX_TOPICS:
        raise InvalidInput(f"a page follows at most {MAX_TOPICS} topics", code=codes.INVALID_INPUT)
    is_network = console_of(request).kind == "network"
    signals: Signals = service(state, LocalSignals) if is_network else service(state, Store).signals
    find = _find_network_topic if is_network else _find_topic
    watched = {name: topic for name in names if (topic := await find(state, request.user, name))}
    token = find_cookie(request)
    assert token is not None, "a guard has checked it"
    request.stop_counting()
    return event_stream(
        _changes(signals, watched),
        state.stopping,
        SessionWatch(find_authenticator(request), token, request.user),
    )


async def _changes(signals: Signals, watched: dict[str, Topic]) -> AsyncIterator[ServerEvent]:
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
        if not pending:
            await asyncio.Event().wait()
        await asyncio.wait(pending, timeout=LOOK_S if looks else None, return_when=asyncio.FIRST_COMPLETED)
        now = {name: look() for name, look in looks.items()}
        drifted = [(name, False) for name in looks if now[name] != seen[name]]
        seen = now
        woken = [key for key, some in futures.items() if any(future.done() for future in some)]
        for name, is_data in dict.fromkeys([*woken, *drifted]):
            futures[name, is_data] = [signals.next(signal) for signal in waiting[name, is_data]]
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


async def _find_topic(state: State, principal: Principal, name: str) -> Topic | None:
    """Return a topic; None: it is unknown, or not for this principal."""
    kind, _, key = name.partition(":")
    try:
        if kind == "process" and key.isdecimal():
            return await _training(state, principal, int(key))
        if kind == "job":
            return Topic((job_topic((await service(state, JobsService).get(principal, key)).id),))
        if kind == "budget" and key.isdecimal() and len(key) < 10:
            await service(state, DatasetsService).get(principal, int(key))
            return Topic((queue_topic(),))
    except (NotFound, Forbidden):
        return None
    permissions, signals = _LISTS.get(name, ((), ()))
    if permissions and not any(map(principal.may, permissions)):
        return None
    if name == "datasets" and any(map(principal.may, _BUDGETS)):
        signals += (budgets_topic(),)
    return Topic(signals) if signals else None


async def _find_network_topic(state: State, principal: Principal, name: str) -> Topic | None:
    """Return a topic of a Network; None: it is unknown, or not for this principal."""
    if name not in ("domains", "invitations", "relay") or not principal.may(Permission.MANAGE_NODES):
        return None
    members, pipes = service(state, NetworkAssociations).fleet, service(state, Relay)

    def look_at_domains() -> object:
        return [(one.name, one.state, one.heartbeat.load, one.heartbeat.counts) for one in members]

    def look_at_relay() -> object:
        use = [(one.name, pipes.pipes.list_callers(one.name), pipes.pipes.carried_bytes(one.name)) for one in members]
        return use, dict(pipes.refusals)

    look = {"domains": look_at_domains, "relay": look_at_relay}.get(name)
    return Topic((domains_topic(),), look=look)


async def _training(state: State, principal: Principal, process_id: int) -> Topic:
    """Return the topic of a training. Pages of callers who see the same share the reads."""
    progress, reads = service(state, ProgressService), service(state, SharedReads)
    process = await service(state, ProcessesService).get(principal, process_id)
    is_managed = (await progress.get(principal, process_id)).is_managed

    async def read() -> bytes:
        found = await progress.get(principal, process_id)
        return encode_live(found, process.server_config, f"process:{process_id}")

    async def load() -> bytes:
        data: bytes = await reads.read(("training", process_id, is_managed), read)
        return data

    signals = cycle_topic(process_id), event_topic(process_id)
    return Topic(signals, (progress_topic(process_id),), load)


def live_routes() -> list[Any]:
    """Return the route of the stream."""
    return [live]
