"""A Network on a real port in the test's event loop, Domains that dial it, and a Domain that lies."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import msgspec
import uvicorn
from litestar import Litestar
from websockets.asyncio.client import ClientConnection, connect

from pygrid.domain import build_domain
from pygrid.messages.associations import canonical
from pygrid.messages.identity import from_base64url, to_base64url
from pygrid.network import build_network
from pygrid.settings import load_network_settings, load_settings
from pygrid.transport.identity import Identity, IdentityKey
from support.eventually import eventually
from support.web import People, running

SECRET = "0123456789abcdef0123456789abcdef"


@asynccontextmanager
async def served(app: Litestar, port: int = 0) -> AsyncIterator[int]:
    """The app on a port of loopback; gives the port."""
    config = uvicorn.Config(
        app,
        port=port,
        ws="websockets-sansio",
        log_config=None,
        lifespan="on",
        timeout_graceful_shutdown=2,
        timeout_keep_alive=75,  # as of an app: a slow client trains for longer than the 5 s of uvicorn
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())

    def is_started() -> bool:
        assert not task.done()
        return server.started

    await eventually(is_started)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        app.state.stopping.set()
        server.should_exit = True
        await task


@dataclass
class Net:
    """A Network that is running, and its Owner."""

    app: Litestar
    url: str
    port: int
    web: httpx.AsyncClient
    owner: dict[str, str] = field(default_factory=dict)

    async def list(self, association: str = "accepted", **kwargs: Any) -> dict[str, dict[str, Any]]:
        """The Domains in this state, by name; as its Owner sees them."""
        answer = await self.web.get("/domains", params={"association": association}, headers=self.owner, **kwargs)
        assert answer.status_code == 200, answer.text
        return {found["name"]: found for found in answer.json()["domains"]}

    async def decide(self, name: str, act: str, **decision: Any) -> httpx.Response:
        return await self.web.post(f"/domains/{name}/{act}", json=decision, headers=self.owner)

    async def invite(self, **wanted: Any) -> str:
        answer = await self.web.post("/invitations", json=wanted, headers=self.owner)
        assert answer.status_code == 201, answer.text
        token: str = answer.json()["token"]
        return token

    def control_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/network/control"


@asynccontextmanager
async def running_network(
    folder: Path, port: int = 0, *, sign_up: bool = True, clock: Any = None, **given: Any
) -> AsyncIterator[Net]:
    """A Network with an Owner."""
    app = build_network(
        load_network_settings({}, data_dir=folder, id="net", **{"heartbeat_s": 1, **given}), clock=clock
    )
    async with served(app, port) as bound:
        url = f"http://127.0.0.1:{bound}"
        async with httpx.AsyncClient(base_url=url) as web:
            people = People(web)
            owner = await (people.owner() if sign_up else people.log_in("owner@example.org"))
            yield Net(app, url, bound, web, owner)


class Dom:
    """A Domain that is running in process, and its Owner."""

    def __init__(self, web: httpx.AsyncClient, app: Any, owner: dict[str, str]) -> None:
        self.web, self.app, self.owner = web, app, owner

    async def associations(self) -> list[dict[str, Any]]:
        answer = await self.web.get("/associations", headers=self.owner)
        assert answer.status_code == 200, answer.text
        found: list[dict[str, Any]] = answer.json()["associations"]
        return found

    async def until(self, **wanted: Any) -> dict[str, Any]:
        """Its one association, once that is as wanted."""

        async def holds() -> Any:
            found = await self.associations()
            return found[0] if found and all(found[0][name] == value for name, value in wanted.items()) else None

        found: dict[str, Any] = await eventually(holds)
        return found


@asynccontextmanager
async def running_domain(
    folder: Path, name: str = "alice", *, sign_up: bool = True, **given: Any
) -> AsyncIterator[Dom]:
    app = build_domain(load_settings({}, data_dir=folder, id=name, **given))
    async with running(app) as web:
        people = People(web)
        owner = await (people.owner() if sign_up else people.log_in("owner@example.org"))
        yield Dom(web, app, owner)


async def until_listed(net: Net, name: str, association: str = "accepted", **wanted: Any) -> dict[str, Any]:
    async def holds() -> Any:
        found = (await net.list(association)).get(name)
        return found if found and all(found[key] == value for key, value in wanted.items()) else None

    found: dict[str, Any] = await eventually(holds)
    return found


class Impostor:
    """A Domain's side of the greeting, told step by step, so that each step can be wrong."""

    def __init__(self, name: str = "alice", identity: Identity | None = None) -> None:
        self.name = name
        self.identity = identity or Identity.make()
        self.nonce = secrets.token_bytes(32)

    def hello(self, challenge: dict[str, Any], **changes: Any) -> dict[str, Any]:
        """The hello that answers a challenge, honest but for ``changes``; ``signed`` ones go in before it is signed."""
        signed = {
            "nonce": from_base64url(challenge["nonce"], 32, "nonce"),
            "network": IdentityKey.parse(challenge["identity"]).raw,
            "name": self.name.encode(),
            "entry": {"name": self.name, "version": "0"},
            **changes.pop("signed", {}),
        }
        entry = canonical(signed["entry"])
        parts = (signed["nonce"], signed["network"], signed["name"], hashlib.sha256(entry).digest())
        return {
            "type": "hello",
            "name": self.name,
            "identity": str(self.identity.key),
            "nonce": to_base64url(self.nonce),
            "signature": to_base64url(self.identity.sign("control", *parts)),
            "entry": signed["entry"],
            "entry_signature": to_base64url(self.identity.sign("entry", entry)),
            **changes,
        }

    @asynccontextmanager
    async def greeting(self, net: Net, **changes: Any) -> AsyncIterator[tuple[ClientConnection, dict[str, Any]]]:
        """A control WebSocket after the hello, and the answer to that."""
        async with connect(net.control_url(), proxy=None) as connection:
            challenge = msgspec.json.decode(await connection.recv())
            await connection.send(msgspec.json.encode(self.hello(challenge, **changes)).decode())
            yield connection, msgspec.json.decode(await connection.recv())

    async def greet(self, net: Net, **changes: Any) -> dict[str, Any]:
        """The answer to the hello; the connection is closed."""
        async with self.greeting(net, **changes) as (_, answer):
            return answer
