"""A Domain that runs in the test's event loop, and people who use it over HTTP."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from litestar import Litestar

from pygrid.web.connections import ConnectionLimits
from pygrid.web.server import AppServer

PASSWORD = "correct horse battery"


@asynccontextmanager
async def running(app: Litestar) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an app that runs in this event loop, as it does under a server: requests overlap, and so do its
    tasks.

    A fault of the app is an answer (500), not an exception here.
    """
    incoming: asyncio.Queue[Any] = asyncio.Queue()
    outgoing: asyncio.Queue[Any] = asyncio.Queue()
    lifespan = asyncio.create_task(app({"type": "lifespan"}, incoming.get, outgoing.put))  # type: ignore[arg-type,typeddict-item]

    async def pass_through(phase: str) -> None:
        incoming.put_nowait({"type": f"lifespan.{phase}"})
        answer = await outgoing.get()
        if answer["type"] != f"lifespan.{phase}.complete":
            await lifespan
            raise AssertionError(answer)

    await pass_through("startup")
    try:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            yield client
    finally:
        await pass_through("shutdown")
        await lifespan


def flip(path: Path, offset: int = -1) -> None:
    """Change one bit of a file, as a disk may."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(bytes(data))


class People:
    """Makes accounts and logs in, over HTTP."""

    def __init__(self, web: httpx.AsyncClient) -> None:
        self._web = web

    async def sign_up(self, email: str, **more: Any) -> dict[str, Any]:
        """The new user as answered, its private key included."""
        answer = await self._web.post("/users", json={"email": email, "password": PASSWORD, **more})
        assert answer.status_code == 200, answer.text
        user: dict[str, Any] = answer.json()["user"]
        return user

    async def log_in(self, email: str, password: str = PASSWORD) -> dict[str, str]:
        """The headers of a new session."""
        answer = await self._web.post("/users/login", json={"email": email, "password": password})
        assert answer.status_code == 200, answer.text
        return {"Authorization": f"Bearer {answer.json()['token']}"}

    async def owner(self, **more: Any) -> dict[str, str]:
        """Headers of the first user, who is made here."""
        await self.sign_up("owner@example.org", **more)
        return await self.log_in("owner@example.org")

    async def with_role(self, role: int, owner: dict[str, str], email: str = "other@example.org") -> dict[str, str]:
        """Headers of a new user to whom the Owner gave this role."""
        user = await self.sign_up(email)
        answer = await self._web.put(f"/users/{user['id']}/role", json={"role": role}, headers=owner)
        assert answer.status_code == 200, answer.text
        return await self.log_in(email)


def assert_problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The problem document of an answer that must be this refusal."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert (problem["status"], problem["code"], problem["type"]) == (status, code, f"urn:pygrid:error:{code}")
    assert problem["title"]
    assert problem["detail"]
    return problem


@asynccontextmanager
async def serving(domain: Litestar, **limits: Any) -> AsyncIterator[tuple[AppServer, int]]:
    listening = socket.create_server(("127.0.0.1", 0))
    ready = asyncio.Event()
    serving = AppServer(domain, 1, ready.set, ConnectionLimits(**{"idle_s": 5, **limits}))
    task = asyncio.create_task(serving.serve(sockets=[listening]))
    await ready.wait()
    try:
        yield serving, listening.getsockname()[1]
    finally:
        serving.should_exit = True
        await asyncio.wait_for(task, 60)
