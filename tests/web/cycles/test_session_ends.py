"""What lasts longer than a request ends with its session, and a request has one credential.

Should happen: the event stream of a process ends at once when its user logs out, or gets another password, role or
permissions, or is deleted, and with the next heartbeat when the session has expired.
Should not happen: another user's log-out ends it; an event is sent after the end; looking at a stream keeps a session
alive.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pygrid.web import sse
from support.training import Site
from support.web import PASSWORD, People, assert_problem


class Stream:
    """A client of an event stream."""

    def __init__(self, site: Site, path: str, headers: dict[str, str]) -> None:
        self.received = bytearray()
        self.opened = asyncio.Event()
        self._over, self._beaten = asyncio.Event(), asyncio.Event()
        self._task = asyncio.create_task(self._run(site, path, headers))

    async def _run(self, site: Site, path: str, headers: dict[str, str]) -> None:
        async def receive() -> dict[str, Any]:
            await self._over.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            self.received += message.get("body", b"")
            if b"event:" in self.received:
                self.opened.set()
            if b"still here" in message.get("body", b""):
                self._beaten.set()
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                self._over.set()

        raw = [(name.lower().encode(), value.encode()) for name, value in {"host": "localhost", **headers}.items()]
        scope = {
            "type": "http",
            "method": "GET",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": raw,
        }
        await site.app(scope, receive, send)  # type: ignore[arg-type]

    @property
    def is_open(self) -> bool:
        return not self._over.is_set()

    async def next_heartbeat(self) -> None:
        """Wait for the next one."""
        self._beaten.clear()
        await asyncio.wait_for(self._beaten.wait(), 60)

    async def end(self) -> None:
        """Wait until the server has ended it."""
        await asyncio.wait_for(asyncio.shield(self._task), 60)


async def open_stream(site: Site, headers: dict[str, str]) -> Stream:
    process = await site.host()
    stream = Stream(site, f"/model-centric/processes/{process['id']}/events", headers)
    await asyncio.wait_for(stream.opened.wait(), 60)
    return stream


@pytest.mark.parametrize("how", ["logout", "password", "role", "permissions", "deletion"])
async def test_a_stream_ends_with_the_session(site: Site, how: str) -> None:
    people = People(site.web)
    flags = {
        name: False
        for name in (await site.web.get("/roles/1", headers=site.owner)).json()["role"]
        if name[:4] == "can_"
    }
    role = (await site.web.post("/roles", json={"name": "r", **flags}, headers=site.owner)).json()["role"]["id"]
    headers = await people.with_role(role, site.owner, "reader@example.org")
    me = (await site.web.get("/users/me", headers=headers)).json()["user"]["id"]
    stream = await open_stream(site, headers)
    other = await people.log_in("reader@example.org")
    await site.web.post("/users/logout", headers=other)
    assert stream.is_open, "it was another session"
    answer = await {
        "logout": lambda: site.web.post("/users/logout", headers=headers),
        "password": lambda: site.web.put(f"/users/{me}/password", json={"password": "another one"}, headers=site.owner),
        "role": lambda: site.web.put(f"/users/{me}/role", json={"role": 1}, headers=site.owner),
        "permissions": lambda: site.web.put(f"/roles/{role}", json={"can_upload_data": True}, headers=site.owner),
        "deletion": lambda: site.web.delete(f"/users/{me}", headers=site.owner),
    }[how]()
    assert answer.status_code == 200, answer.text
    await stream.end()


async def test_a_stream_ends_with_an_expired_session_and_does_not_keep_it_alive(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse.event_stream, "__defaults__", (0.05,))
    headers = await People(site.web).log_in("owner@example.org", PASSWORD)
    stream = await open_stream(site, headers)
    site.clock.advance(11.9 * 3600)
    await stream.next_heartbeat()
    assert stream.is_open
    site.clock.advance(0.2 * 3600)
    await stream.end()


async def test_no_event_is_sent_after_the_end(site: Site) -> None:
    headers = await People(site.web).log_in("owner@example.org", PASSWORD)
    stream = await open_stream(site, headers)
    await site.web.post("/users/logout", headers=headers)
    await stream.end()
    seen = bytes(stream.received)
    await site.host(version="2.0")
    assert bytes(stream.received) == seen


# One credential


async def test_two_credentials_in_one_request_are_refused(site: Site) -> None:
    token = site.owner["Authorization"]
    plain = token.removeprefix("Bearer ")
    other = (await People(site.web).log_in("owner@example.org"))["Authorization"]
    for headers in (
        [("authorization", token), ("authorization", token)],
        [("authorization", other), ("authorization", token)],
        [("authorization", token), ("token", other.removeprefix("Bearer "))],
        [("token", plain), ("token", other.removeprefix("Bearer "))],
    ):
        assert_problem(await site.web.get("/model-centric/processes", headers=headers), 401, "ambiguous_credentials")
        assert_problem(await site.web.get("/users/me", headers=headers), 400, "ambiguous_credentials")
        assert_problem(await site.web.get("/data-centric/datasets", headers=headers), 401, "ambiguous_credentials")
    agreeing = [("authorization", token), ("token", plain)]
    assert (await site.web.get("/users/me", headers=agreeing)).status_code == 200
