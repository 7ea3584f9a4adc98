"""A fleet whose Domains answer over real links, through pairs of sockets in memory; a test says what each answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from pygrid.messages.discovery import DomainState
from pygrid.transport.links import Link, SocketClosed

Answer = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


class MemorySocket:
    """One end of a pair."""

    def __init__(self, incoming: asyncio.Queue[str | None], outgoing: asyncio.Queue[str | None]) -> None:
        self._incoming, self._outgoing = incoming, outgoing

    async def send_text(self, text: str) -> None:
        await self._outgoing.put(text)

    async def receive_text(self) -> str:
        if (text := await self._incoming.get()) is None:
            raise SocketClosed
        return text

    async def close(self, code: int = 1000, reason: str = "") -> None:
        await self._outgoing.put(None)
        await self._incoming.put(None)


class Domain:
    """A Domain and its end of the link; what it is asked is counted."""

    def __init__(self, name: str, search: Answer | None = None, summary: Answer | None = None) -> None:
        self.name = name
        self.state: DomainState = "online"
        self.address = ""
        self.identity = "ed25519:" + "a" * 52
        self.catalog = "v1"
        self.asked: list[dict[str, Any]] = []
        self.search = search or self._nothing
        self.summary = summary or self._nothing
        there: asyncio.Queue[str | None] = asyncio.Queue()
        back: asyncio.Queue[str | None] = asyncio.Queue()
        self._network = Link(MemorySocket(back, there), {}, name=name)
        self._domain = Link(MemorySocket(there, back), {"search": self._search, "summary": self._summary})

    async def request(self, type: str, payload: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        return await self._network.ask(type, payload, timeout_s)

    async def run(self) -> None:
        await asyncio.gather(self._network.run(), self._domain.run())

    async def die(self) -> None:
        """Close the link, as if the Domain had ended; the Network does not know yet."""
        await self._domain.close()

    async def _search(self, payload: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(payload)
        return await self.search(payload)

    async def _summary(self, payload: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(payload)
        return await self.summary(payload)

    async def _nothing(self, _payload: dict[str, Any]) -> dict[str, Any]:
        return {"version": self.catalog}


class Fleet:
    def __init__(self, domains: list[Domain]) -> None:
        self.domains = domains

    def members(self) -> list[Domain]:
        return self.domains


@asynccontextmanager
async def linked(*domains: Domain) -> AsyncIterator[Fleet]:
    """The Domains as a fleet, with their links open."""
    tasks = [asyncio.create_task(domain.run()) for domain in domains]
    try:
        yield Fleet(list(domains))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def dataset(name: str = "people", **fields: Any) -> dict[str, Any]:
    """A dataset as a Domain tells of it."""
    plain = {"description": "", "tags": [], "version": 1, "num_records": 3, "num_columns": 1, "updated_at": None}
    return {"id": 1, "name": name, **plain, "columns": [{"name": "age", "dtype": "int32"}], **fields}


def answering(*datasets: dict[str, Any], version: str = "v1", **more: Any) -> Answer:
    """Answers with these datasets."""

    async def answer(_payload: dict[str, Any]) -> dict[str, Any]:
        return {"version": version, "datasets": list(datasets), **more}

    return answer
