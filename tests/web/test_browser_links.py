"""One-time links that open the console for a user of a command, and what a session by a code is worth.

Should happen: a link shows whom it signs in, and signs in once, also after it was looked at.
Should not happen: a link that works twice, late, after the end of its session, or for an API token; a code in place of
the password that hard acts ask for.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from litestar import Litestar

from pygrid.clock import ManualClock
from pygrid.domain import build_domain
from pygrid.features.accounts.browser_login import challenge_of
from pygrid.settings import load_settings
from pygrid.ui.console import Console
from pygrid.web.services import service
from support.console import Browser, Page
from support.web import PASSWORD, People, running


@dataclass
class Command:
    """A command of the Owner."""

    app: Litestar
    web: httpx.AsyncClient
    clock: ManualClock
    headers: dict[str, str]

    async def link(self) -> str:
        answer = await self.web.post("/users/browser-link", headers=self.headers)
        assert answer.status_code == 201, answer.text
        assert answer.json()["expires_in_s"] == 120
        return str(answer.json()["path"])


@pytest.fixture
async def command(tmp_path: Path) -> AsyncIterator[Command]:
    clock = ManualClock()
    app = build_domain(load_settings({}, data_dir=tmp_path, id="test"), clock=clock)
    async with running(app) as web:
        yield Command(app, web, clock, await People(web).owner())


async def test_a_link_opens_the_console_once(command: Command) -> None:
    path = await command.link()
    tab = Browser(command.web)
    for _ in range(2):
        page = await tab.page(path)
        assert "Sign in as owner@example.org" in page.text
        assert tab.cookie == ""
    foreign = await tab.post(path, {}, **{"Sec-Fetch-Site": "cross-site"})
    assert (foreign.status_code, tab.cookie) == (403, "")
    answer = await tab.post(path)
    assert (answer.status_code, answer.headers["location"]) == (303, "/admin/")
    assert "owner@example.org" in (await tab.page("/admin/")).text
    again = await Browser(command.web).post(path)
    assert (again.status_code, "code_not_valid" in again.text) == (403, True)
    assert (await tab.get(path)).status_code == 403


async def test_a_link_ends_with_its_time_and_with_its_session(command: Command) -> None:
    late = await command.link()
    command.clock.advance(121)
    assert (await Browser(command.web).post(late)).status_code == 403
    path = await command.link()
    await command.web.post("/users/logout", headers=command.headers)
    assert (await Browser(command.web).get(path)).status_code == 403
    assert (await Browser(command.web).post(path)).status_code == 403


async def test_an_api_token_makes_no_link(command: Command) -> None:
    made = await command.web.post("/users/me/tokens", headers=command.headers, json={"name": "x", "scope": "all"})
    token = {"Authorization": f"Bearer {made.json()['token']}"}
    answer = await command.web.post("/users/browser-link", headers=token)
    assert (answer.status_code, answer.json()["code"]) == (403, "session_needed")
    assert (await command.web.post("/users/browser-link")).status_code == 400


async def test_a_link_gives_no_session_more_than_seven_days(command: Command) -> None:
    for _ in range(2 * 7 - 1):
        command.clock.advance(12 * 3600 - 1)
        path = await command.link()
    tab = Browser(command.web)
    assert (await tab.post(path)).status_code == 303
    command.clock.advance(12 * 3600 - 1)
    await tab.page("/admin/me")
    command.clock.advance(20)
    assert (await tab.get("/admin/me")).headers["location"].startswith("/admin/login")


async def asks_for_the_password(tab: Browser) -> bool:
    answer = await tab.post("/admin/people/2/role", {"role": "1"})
    assert answer.status_code in (303, 401), answer.text
    return bool(Page.read(answer).find("input", name="confirm_password")) if answer.status_code == 401 else False


@pytest.mark.parametrize("way", ["link", "code"])
async def test_a_code_is_not_a_password_that_was_typed(command: Command, way: str) -> None:
    await People(command.web).with_role(1, command.headers, "bob@example.org")

    async def enter() -> Browser:
        tab = Browser(command.web)
        if way == "link":
            await tab.post(await command.link())
            return tab
        name = service(command.app.state, Console).cookie
        tab.cookie = f"{name}={command.headers['Authorization'].removeprefix('Bearer ')}"
        page = await tab.post("/admin/terminal", {"challenge": challenge_of("v" * 43)})
        code = page.text.partition('id="code">')[2].partition("<")[0]
        begun = await command.web.post("/users/login/code", json={"code": code, "verifier": "v" * 43})
        tab.cookie = f"{name}={begun.json()['token']}"
        return tab

    assert not await asks_for_the_password(await enter())
    command.clock.advance(16 * 60)
    tab = await enter()
    assert await asks_for_the_password(tab)
    answer = await tab.post("/admin/people/2/role", {"role": "1", "confirm_password": PASSWORD})
    assert answer.status_code == 303
