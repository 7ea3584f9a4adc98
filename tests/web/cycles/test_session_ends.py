"""What lasts longer than a request ends with its session, and a request has one credential.

Should happen: the event stream of a process ends at once when its user logs out, or gets another password, role or
permissions, or is deleted, and with the next heartbeat when the session has expired.
Should not happen: another user's log-out ends it; an event is sent after the end; looking at a stream keeps a session
alive.
"""

from __future__ import annotations

import pytest

from pygrid.web import sse
from support.streams import Stream
from support.training import Site
from support.web import PASSWORD, People, assert_problem


async def open_stream(site: Site, headers: dict[str, str]) -> Stream:
    process = await site.host()
    return await Stream(site.app, f"/model-centric/processes/{process['id']}/events", headers).opened()


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


@pytest.mark.parametrize("how", ["revoked", "revoked by another", "expired"])
async def test_a_stream_ends_with_its_api_token(site: Site, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse.event_stream, "__defaults__", (0.05,))
    user = await People(site.web).with_role(1, site.owner, "reader@example.org")
    me = (await site.web.get("/users/me", headers=user)).json()["user"]["id"]
    asked = {"name": "t", "scope": "read", "expires_in_days": 1}
    made = (await site.web.post("/users/me/tokens", json=asked, headers=user)).json()
    stream = await open_stream(site, {"Authorization": f"Bearer {made['token']}"})
    await site.web.post("/users/logout", headers=user)
    await stream.next_heartbeat()
    assert stream.is_open, "the session that made the token is another credential"
    if how == "expired":
        site.clock.advance(24 * 3600)
    else:
        caller = site.owner if how == "revoked by another" else await People(site.web).log_in("reader@example.org")
        answer = await site.web.delete(f"/users/{me}/tokens/{made['api_token']['id']}", headers=caller)
        assert answer.status_code == 200, answer.text
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
