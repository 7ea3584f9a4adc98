"""What the Domain of these tests answers: an ASGI app that tells what it was sent, and lets a test hold it back."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import Iterator
from typing import Any

from support.eventually import eventually, turns

BLOCK = bytes(range(256)) * 256
"""64 KiB."""


class RelayedApp:
    """Answers by path."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.scopes: list[dict[str, Any]] = []
        self.num_sent = 0
        """Bytes that were taken from ``/endless`` and ``/held``."""
        self.num_received = 0
        self.released = threading.Event()
        self.is_gone = threading.Event()
        self.fails_once = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while (message := await receive())["type"] != "lifespan.shutdown":
                await send({"type": f"{message['type']}.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        self.calls.append(scope["path"])
        self.scopes.append({**scope, "headers": dict(scope["headers"])})
        await getattr(self, scope["path"].strip("/").partition("/")[0])(scope, receive, send)

    async def echo(self, scope: Any, receive: Any, send: Any) -> None:
        """Size and hash of the body."""
        digest, size, more = hashlib.sha256(), 0, True
        while more:
            message = await receive()
            digest.update(message["body"])
            size += len(message["body"])
            more = message["more_body"]
        await answer(send, {"sha256": digest.hexdigest(), "size": size, "headers": _texts(scope["headers"])})

    async def blocks(self, scope: Any, receive: Any, send: Any) -> None:
        """So many blocks, with a Content-Length."""
        num = int(scope["path"].rpartition("/")[2])
        length = str(num * len(BLOCK)).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
        for _ in range(num):
            await send({"type": "http.response.body", "body": BLOCK, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def endless(self, scope: Any, receive: Any, send: Any) -> None:
        """Blocks without an end."""
        await send({"type": "http.response.start", "status": 200, "headers": []})
        gone = asyncio.ensure_future(receive_until_gone(receive))
        while not gone.done():
            await send({"type": "http.response.body", "body": BLOCK, "more_body": True})
            self.num_sent += len(BLOCK)
            await turns()
        self.is_gone.set()

    async def events(self, scope: Any, receive: Any, send: Any) -> None:
        """An event stream: one event, and the next ones each after `released` was set."""
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        for number in range(4):
            await send({"type": "http.response.body", "body": f"data: {number}\n\n".encode(), "more_body": True})
            await self._wait()
        await send({"type": "http.response.body", "body": b""})

    async def held(self, scope: Any, receive: Any, send: Any) -> None:
        """Reads nothing of the body until `released` was set; then as ``/echo``."""
        await self._wait()
        await self.echo(scope, receive, send)

    async def poll(self, scope: Any, receive: Any, send: Any) -> None:
        """Answers once `released` was set, or never if the caller goes."""
        gone = asyncio.ensure_future(receive_until_gone(receive))
        waiting = asyncio.ensure_future(self._wait())
        await asyncio.wait([gone, waiting], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if gone.done():
            self.is_gone.set()
            return
        gone.cancel()
        await answer(send, {"released": True})

    async def small(self, scope: Any, receive: Any, send: Any) -> None:
        await answer(send, {"path": scope["path"]})

    async def goodbye(self, scope: Any, receive: Any, send: Any) -> None:
        """An answer after which the server closes the connection."""
        await answer(send, {"path": scope["path"]}, [(b"connection", b"close")])

    async def _wait(self) -> None:
        await eventually(self.released.is_set, within_s=300)  # longer than any test waits for the answer
        self.released.clear()


async def receive_until_gone(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def answer(send: Any, content: object, headers: Any = ()) -> None:
    body = json.dumps(content).encode()
    length = (b"content-length", str(len(body)).encode())
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-type", b"application/json"), length, *headers],
        }
    )
    await send({"type": "http.response.body", "body": body})


def _texts(headers: Any) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in headers}


class PatternBody:
    """A body of ``num_blocks`` blocks that was never in memory; tells how much of it was taken."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self.num_taken = 0

    @property
    def num_bytes(self) -> int:
        return self.num_blocks * len(BLOCK)

    @property
    def sha256(self) -> str:
        digest = hashlib.sha256()
        for _ in range(self.num_blocks):
            digest.update(BLOCK)
        return digest.hexdigest()

    def __iter__(self) -> Iterator[bytes]:
        self.num_taken = 0
        for _ in range(self.num_blocks):
            self.num_taken += len(BLOCK)
            yield BLOCK
