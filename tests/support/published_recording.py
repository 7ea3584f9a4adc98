"""Recordings of whole cycles of the published client: what it sent, byte by byte, and what it got.

``RECORD_SNAPSHOTS=1 pytest tests/e2e/test_published_recordings.py`` makes them with the real client, from what
`support.pysyft.message` hosts. `replay` needs neither Node nor a browser.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from litestar import Litestar

from pygrid.legacy.websocket import LegacyCaller, Published, answer
from pygrid.web.services import service

FOLDER = Path(__file__).parents[1] / "vectors" / "published"
SENT_HEADERS = ("content-type", "origin", "access-control-request-method", "access-control-request-headers")
ANSWERED_HEADERS = ("content-type", "access-control-allow-origin", "access-control-allow-headers")
RANDOM = ("worker_id", "request_key")
"""Members of answers that are different each time."""

Exchange = dict[str, Any]


class Recorder:
    """An ASGI app around a Domain that notes what passes, in ``exchanges``."""

    def __init__(self, app: Litestar) -> None:
        self.app = app
        self.state = app.state
        self.exchanges: list[Exchange] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        note: Exchange = {}
        if scope["type"] == "http":
            query = scope["query_string"].decode()
            note |= {"method": scope["method"], "path": scope["path"] + (f"?{query}" if query else "")}
            note |= {"headers": {name: headers[name] for name in SENT_HEADERS if name in headers}}
            note |= {"body": b"", "answer": b""}
            self.exchanges.append(note)

        async def heard() -> Any:
            message = await receive()
            if message["type"] == "http.request":
                note["body"] += message.get("body", b"")
            elif message["type"] == "websocket.receive":
                self.exchanges.append({"sent": message.get("text")})
            return message

        async def said(message: Any) -> None:
            if message["type"] == "http.response.start":
                found = {name.decode().lower(): value.decode() for name, value in message["headers"]}
                note["status"] = message["status"]
                note["answered"] = {name: found[name] for name in ANSWERED_HEADERS if name in found}
            elif message["type"] == "http.response.body":
                note["answer"] += message.get("body", b"")
            elif message["type"] == "websocket.send":
                self.exchanges[-1]["received"] = message.get("text")
            await send(message)

        await self.app(scope, heard, said)

    def save(self, name: str) -> None:
        """Write the exchanges with the routes of devices, without those that the test itself made."""
        FOLDER.mkdir(exist_ok=True)
        own = ("/model-centric/host-training", "/users", "/model-centric/retrieve-model")
        kept = [dict(one) for one in self.exchanges if "sent" in one or not one["path"].startswith(own)]
        for one in kept:
            for member in ("body", "answer"):
                if member in one:
                    one[member] = base64.b64encode(one[member]).decode()
        (FOLDER / f"{name}.json").write_text(json.dumps(kept, indent=1) + "\n")


def load(name: str) -> list[Exchange]:
    """The exchanges of a recording, in the order in which they began."""
    found: list[Exchange] = json.loads((FOLDER / f"{name}.json").read_text())
    for one in found:
        for member in ("body", "answer"):
            if member in one:
                one[member] = base64.b64decode(one[member])
    return found


@dataclass
class Replay:
    """Sends the bytes of a recording to a Domain, and compares its answers byte by byte.

    What is random in an answer is replaced by what the recording has there, and the other way around in what is sent.
    """

    app: Litestar
    web: httpx.AsyncClient
    _names: dict[bytes, bytes] = field(default_factory=dict)

    async def run(self, exchanges: list[Exchange]) -> None:
        caller = LegacyCaller(self.app.state.authenticator, "127.0.0.1", is_foreign=True)
        for number, one in enumerate(exchanges):
            where = f"exchange {number + 1}: {one.get('path') or one.get('sent', '')[:80]}"
            if "sent" in one:
                text = self._as_now(one["sent"].encode()).decode()
                found = await answer(service(self.app.state, Published), caller, text)
                self._check(where, one["received"].encode(), json.dumps(found, separators=(",", ":")).encode())
                continue
            response = await self.web.request(
                one["method"],
                self._as_now(one["path"].encode()).decode(),
                content=self._as_now(one["body"]),
                headers=one["headers"],
            )
            assert response.status_code == one["status"], (where, response.text)
            headers = {name: value for name, value in response.headers.items() if name in ANSWERED_HEADERS}
            assert headers == one["answered"], where
            self._check(where, one["answer"], response.content)

    def _as_now(self, data: bytes) -> bytes:
        for recorded, now in self._names.items():
            data = data.replace(recorded, now)
        return data

    def _check(self, where: str, recorded: bytes, found: bytes) -> None:
        for name in RANDOM:
            was, now = (_find(data, name) for data in (recorded, found))
            assert (was is None) == (now is None), (where, found)
            if was is not None and now is not None:
                assert len(was) == len(now), where
                self._names[was] = now
        for was, now in self._names.items():
            found = found.replace(now, was)
        assert found == recorded, where


def _find(data: bytes, name: str) -> bytes | None:
    """The text of a member of a JSON answer, or of its ``data``."""
    try:
        value = json.loads(data)
    except ValueError:
        return None
    value = {**value, **value.get("data", {})} if isinstance(value, dict) else {}
    return value[name].encode() if name in value else None
