"""A Network and its Domains in the test's event loop, over real sockets on loopback."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from litestar import Litestar

from pygrid.domain import build_domain
from pygrid.features.discovery.service import DiscoveryService
from pygrid.network import build_network
from pygrid.settings import load_network_settings, load_settings
from pygrid.web.server import AppServer
from pygrid.web.services import service
from support.discovery import Holder
from support.eventually import eventually
from support.web import PASSWORD, People

SETUP_CODE = "ssss-ssss-ssss-ssss"
INVITATION = "an invitation for tests, 32 chars and more"


class Served:
    """An app that listens on a free port; `stop` ends it as SIGTERM does."""

    def __init__(self, app: Litestar, listening: socket.socket) -> None:
        self.app = app
        self.url = _url(listening)
        self.web = httpx.AsyncClient(base_url=self.url, timeout=180)
        self._server = AppServer(app, 1, lambda: None)
        self._task = asyncio.create_task(self._server.serve(sockets=[listening]))

    async def until_started(self) -> None:
        def is_started() -> bool:
            assert not self._task.done()
            return self._server.started

        await eventually(is_started)

    async def stop(self) -> None:
        await self.web.aclose()
        self._server.should_exit = True
        await self._task


@dataclass
class Domain:
    """A Domain that belongs to the Network, and its Owner."""

    name: str
    served: Served
    holder: Holder

    @property
    def app(self) -> Litestar:
        return self.served.app


class Site:
    """The Network."""

    def __init__(self, served: Served, folder: Path, stack: AsyncExitStack) -> None:
        self.served = served
        self.web = served.web
        self.owner: dict[str, str] = {}
        self._folder = folder
        self._stack = stack

    @property
    def url(self) -> str:
        return self.served.url

    async def start(self, name: str, *, direct: bool = True, **settings: Any) -> Served:
        """A Domain on its own folder, where it may have been before."""
        listening = _listen()
        address = _url(listening) if direct else ""
        given = {
            "data_dir": self._folder / name,
            "id": name,
            "network": self.url,
            "invitation": INVITATION,
            "address": address,
        }
        served = Served(build_domain(load_settings({}, **{**given, **settings})), listening)
        self._stack.push_async_callback(served.stop)
        await served.until_started()
        return served

    async def add(
        self, name: str, *, direct: bool = True, owner: dict[str, str] | None = None, **settings: Any
    ) -> Domain:
        """A Domain that has joined and is online.

        Args:
            direct: the Network lists its address, which it has checked.
            owner: headers of a session of the Owner, if there is one already.
        """
        served = await self.start(name, direct=direct, **settings)
        holder = Holder(served.web, owner) if owner is not None else await Holder.first(served.web)
        await self.until(name, "online")
        if direct:
            await self._until_direct(name)
        return Domain(name, served, holder)

    async def state(self, name: str) -> str | None:
        """How the Network says that a Domain is doing."""
        answer = await self.web.get("/domains")
        found = [one["state"] for one in answer.json()["domains"] if one["name"] == name]
        return found[0] if found else None

    async def until(self, name: str, state: str) -> None:
        async def is_so() -> bool:
            return await self.state(name) == state and self._is_told(name)

        await eventually(is_so)

    async def _until_direct(self, name: str) -> None:
        async def address() -> str | None:
            found: str | None = (await self.web.get(f"/domains/{name}")).json()["domain"].get("address")
            return found

        await eventually(address)

    def _is_told(self, name: str) -> bool:
        """Whether the Domain has told the version of what it publishes, unless it is gone."""
        members = [
            member
            for member in service(self.served.app.state, DiscoveryService).domains.members()
            if member.name == name
        ]
        return all(member.catalog or member.state == "offline" for member in members)

    async def search(self, **query: Any) -> dict[str, Any]:
        answer = await self.web.post("/network/search", json={"timeout_s": 5, **query})
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def found(self, **query: Any) -> list[tuple[str, str]]:
        """Domain and name of each thing that was found, sorted."""
        answer = await self.search(**query)
        things = [*answer["datasets"], *answer["processes"]]
        named = [(one["domain"]["name"], one["name"]) for one in things]
        return sorted(named + [(one["domain"]["name"], one["id"]) for one in answer["models"]])


@asynccontextmanager
async def running_network(folder: Path, **settings: Any) -> AsyncIterator[Site]:
    """A Network whose Owner has signed up."""
    async with AsyncExitStack() as stack:
        given = {"data_dir": folder / "network", "invitation": INVITATION, "setup_code": SETUP_CODE, **settings}
        served = Served(build_network(load_network_settings({}, **given)), _listen())
        stack.push_async_callback(served.stop)
        await served.until_started()
        site = Site(served, folder, stack)
        people = People(site.web)
        await people.sign_up("owner@example.org", setup_code=SETUP_CODE)
        site.owner = await people.log_in("owner@example.org")
        yield site


def log_in(client: Any) -> Any:
    """A client of the SDK, in the name of an Owner."""
    return client.login("owner@example.org", PASSWORD)


def _listen() -> socket.socket:
    # With the protocol said, asyncio switches off what waits for more to send.
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    listening.listen(128)
    return listening


def _url(listening: socket.socket) -> str:
    return f"http://127.0.0.1:{listening.getsockname()[1]}"
