"""Requests that a Domain holds open, over connections that a test can watch and close: event streams, long polls."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from litestar import Litestar

from support.training import Device, Site, scope


class Stream:
    """A client of an event stream."""

    def __init__(self, app: Litestar, path: str, headers: dict[str, str]) -> None:
        self.received = bytearray()
        self.headers: dict[str, str] = {}
        """Of the answer."""
        self._opened, self._over, self._beaten = asyncio.Event(), asyncio.Event(), asyncio.Event()
        raw = [(name.lower().encode(), value.encode()) for name, value in {"host": "localhost", **headers}.items()]
        self._task = asyncio.create_task(app(scope("GET", path, raw), self._receive, self._send))  # type: ignore[arg-type]

    async def _receive(self) -> Any:
        await self._over.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
            return
        self.received += message.get("body", b"")
        if b"event:" in self.received:
            self._opened.set()
        if b"still here" in message.get("body", b""):
            self._beaten.set()
        if not message.get("more_body", False):
            self._over.set()

    @property
    def is_open(self) -> bool:
        return not self._over.is_set()

    @property
    def events(self) -> list[str]:
        """The kinds of the events so far."""
        lines = self.received.decode().splitlines()
        return [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]

    async def opened(self) -> Stream:
        """Itself, once the first event has come."""
        await asyncio.wait_for(self._opened.wait(), 60)
        return self

    async def next_heartbeat(self) -> None:
        """Wait for the next one."""
        self._beaten.clear()
        await asyncio.wait_for(self._beaten.wait(), 60)

    async def close(self) -> None:
        """Close it as a browser does, and wait until the server has noticed."""
        self._over.set()
        await self.end()

    async def end(self) -> None:
        """Wait until the server has ended it."""
        await asyncio.wait_for(asyncio.shield(self._task), 60)


class Waiting:
    """A device that asks for a cycle and is held."""

    def __init__(self, site: Site, device: Device, wait_s: float = 60) -> None:
        process = device.process
        message = {
            "worker_id": device.worker_id,
            "model": process["name"],
            "version": process["version"],
            "wait_s": wait_s,
        }
        self._body: list[bytes] = [json.dumps(message).encode()]
        self._held, self._gone = asyncio.Event(), asyncio.Event()
        self._answer = bytearray()
        headers = [(b"content-type", b"application/json")]
        self.task = asyncio.create_task(
            site.app(scope("POST", "/model-centric/cycle-request", headers), self._receive, self._send)  # type: ignore[arg-type]
        )

    async def _receive(self) -> Any:
        if self._body:
            return {"type": "http.request", "body": self._body.pop(), "more_body": False}
        self._held.set()  # the Domain looks whether the device goes, so it has to wait
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        self._answer += message.get("body", b"")

    async def held(self) -> Waiting:
        """Itself, once the Domain holds the request."""
        await asyncio.wait_for(self._held.wait(), 60)
        return self

    async def answer(self) -> dict[str, Any]:
        """What the Domain answers in the end."""
        await asyncio.wait_for(self.task, 60)
        answer: dict[str, Any] = json.loads(self._answer)
        return answer

    async def leave(self) -> None:
        """Close the connection once the request is held; the app must come to an end with it."""
        await self.held()
        assert not self.task.done()
        self._gone.set()
        await asyncio.wait_for(self.task, 60)


def events_of(stream: Stream, kind: str) -> list[dict[str, Any]]:
    """The data of the events of a kind."""
    blocks = [block.split("\n") for block in stream.received.decode().split("\n\n")]
    return [json.loads(block[2].removeprefix("data: ")) for block in blocks if f"event: {kind}" in block]
