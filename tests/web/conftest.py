"""The real Domain in process: migrations, SQLite in a temporary folder, a clock that the test holds."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from litestar import Litestar
from litestar.testing import AsyncTestClient

from pygrid.clock import ManualClock
from pygrid.domain import build_domain
from pygrid.settings import DomainSettings, load_settings

PASSWORD = "correct horse battery"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def settings(tmp_path: Path) -> DomainSettings:
    return load_settings({}, data_dir=tmp_path / "data", id="test")


@pytest.fixture
def domain(settings: DomainSettings, clock: ManualClock) -> Litestar:
    return build_domain(settings, clock=clock)


@pytest.fixture
async def web(domain: Litestar) -> AsyncIterator[AsyncTestClient[Litestar]]:
    """A client of a Domain that runs, without credentials."""
    async with AsyncTestClient(domain, raise_server_exceptions=False) as client:
        yield client


class People:
    """Makes accounts and logs in, over HTTP."""

    def __init__(self, web: AsyncTestClient[Litestar]) -> None:
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

    async def owner(self) -> dict[str, str]:
        """Headers of the first user, who is made here."""
        await self.sign_up("owner@example.org")
        return await self.log_in("owner@example.org")

    async def with_role(self, role: int, owner: dict[str, str], email: str = "other@example.org") -> dict[str, str]:
        """Headers of a new user to whom the Owner gave this role."""
        user = await self.sign_up(email)
        answer = await self._web.put(f"/users/{user['id']}/role", json={"role": role}, headers=owner)
        assert answer.status_code == 200, answer.text
        return await self.log_in(email)


@pytest.fixture
def people(web: AsyncTestClient[Litestar]) -> People:
    return People(web)


def assert_problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The problem document of an answer that must be this refusal."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert (problem["status"], problem["code"], problem["type"]) == (status, code, f"urn:pygrid:error:{code}")
    assert problem["title"]
    assert problem["detail"]
    return problem
