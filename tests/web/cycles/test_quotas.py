"""What one address, and one bearer of tokens, can use of a Domain.

Should happen: devices of other addresses go on; a refusal is a 429 that says when to come back and changes nothing.
Should not happen: one address fills a cycle; a subject takes part twice in a cycle; rows of clients that are gone stay.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
import sqlalchemy as sa

from pygrid.clock import ManualClock
from pygrid.domain import build_domain
from pygrid.features.cycles.clients import ClientRegistry
from pygrid.settings import DomainSettings
from pygrid.storage.cycles import clients
from pygrid.storage.reports import assignments, reports
from pygrid.storage.sql.database import Database
from pygrid.web.services import service
from support.training import Device, Site, gate_in_process, running_site
from support.web import assert_problem

SECRET = "a secret of more than 32 characters!"
SIGNED: dict[str, Any] = {"authentication": {"secret": SECRET}}
Open = Callable[..., Any]


@pytest.fixture
async def opening(
    owned_folder: tuple[Path, dict[str, str]],
    settings: DomainSettings,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Open]:
    """Starts a Domain with these limits."""
    monkeypatch.setattr("pygrid.features.processes.hosting.check_async", gate_in_process)
    folder, owner = owned_folder
    shutil.copytree(folder, settings.data_dir)
    async with AsyncExitStack() as stack:

        async def open_with(**limits: Any) -> Site:
            app = build_domain(replace(settings, **limits), clock=clock)
            return await stack.enter_async_context(running_site(app, clock, settings.data_dir, owner))

        yield open_with


def at(site: Site, address: str, **headers: str) -> Site:
    """The same Domain, as one address reaches it."""
    transport = httpx.ASGITransport(site.app, raise_app_exceptions=False, client=(address, 1))  # type: ignore[arg-type]
    web = httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=headers)
    return Site(site.app, web, site.clock, site.folder, site.owner)


async def authenticate(site: Site, process: dict[str, Any], **more: Any) -> httpx.Response:
    message = {"model_name": process["name"], "model_version": process["version"], **more}
    return await site.web.post("/model-centric/authenticate", json=message)


def token(subject: str | None) -> str:
    return jwt.encode({} if subject is None else {"sub": subject}, SECRET, "HS256")


async def count(site: Site, table: sa.Table) -> int:
    def query(connection: sa.Connection) -> int:
        return int(connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())

    number: int = await service(site.app.state, Database).read(query)
    return number


async def test_one_address_does_not_fill_a_cycle(opening: Open) -> None:
    """300 ids from one address: it gets as many as the limit says, and the cycle has room for others."""
    site = await opening(clients_per_address=8, authentications_per_minute=0)
    process = await site.host(max_workers=20, max_diffs=20)
    hostile = at(site, "203.0.113.5")
    answers = [await authenticate(hostile, process) for _ in range(300)]
    assert [answer.status_code for answer in answers] == [200] * 8 + [429] * 292
    problem = assert_problem(answers[-1], 429, "too_many_clients")
    assert answers[-1].headers["Retry-After"] == str(problem["retry_after_s"]).removesuffix(".0")
    assert await count(site, clients) == 8
    for answer in answers[:8]:
        await Device(hostile, process, answer.json()["worker_id"]).join()
    for other in ("203.0.113.6", "2001:db8::1", "127.0.0.1"):
        await (await at(site, other).device(process)).join()
    assert (await site.cycle(process))["num_assigned"] == 11
    # A process of its own is another matter.
    assert (await authenticate(hostile, await site.host(name="other"))).status_code == 200


async def test_who_leaves_does_not_get_more_clients(opening: Open) -> None:
    site = await opening(clients_per_address=1)
    process = await site.host()
    hostile = at(site, "203.0.113.5")
    device = await (await hostile.device(process)).join()
    await device.report()
    message = {"worker_id": device.worker_id, "model": process["name"], "version": process["version"]}
    assert (await hostile.web.post("/model-centric/leave", json=message)).status_code == 200
    assert_problem(await authenticate(hostile, process), 429, "too_many_clients")


async def test_addresses_of_an_ipv6_network_are_one(opening: Open) -> None:
    site = await opening(clients_per_address=1)
    process = await site.host()
    assert (await authenticate(at(site, "2001:db8::1"), process)).status_code == 200
    assert_problem(await authenticate(at(site, "2001:db8::ffff:1"), process), 429, "too_many_clients")
    assert (await authenticate(at(site, "2001:db8:0:1::1"), process)).status_code == 200


async def test_this_machine_has_no_limits_unless_told(opening: Open) -> None:
    site = await opening(clients_per_address=1, authentications_per_minute=1, cycle_requests_per_minute=1)
    process = await site.host()
    for device in [await site.device(process) for _ in range(3)]:
        await device.ask()


async def test_this_machine_has_limits_if_told(opening: Open) -> None:
    strict = await opening(clients_per_address=1, limit_loopback=True)
    process = await strict.host()
    assert (await authenticate(strict, process)).status_code == 200
    assert_problem(await authenticate(strict, process), 429, "too_many_clients")


@pytest.mark.parametrize("trusted", ["", "127.0.0.1"])
async def test_behind_a_proxy_that_is_trusted_each_client_has_its_own_address(opening: Open, trusted: str) -> None:
    site = await opening(clients_per_address=1, limit_loopback=True, trusted_proxies=trusted)
    process = await site.host()
    codes = []
    for client in ("203.0.113.5", "203.0.113.6", "203.0.113.5"):
        # The first hop is what the client made up.
        through = at(site, "127.0.0.1", **{"X-Forwarded-For": f"198.51.100.{len(codes)}, {client}"})
        codes.append((await authenticate(through, process)).status_code)
    assert codes == ([200, 200, 429] if trusted else [200, 429, 429])


async def test_pings_have_a_limit_of_their_own(opening: Open) -> None:
    site = await opening(cycle_requests_per_minute=3)
    hostile, other = at(site, "203.0.113.5"), at(site, "203.0.113.6")
    path = "/model-centric/speed-test?worker_id=x&random=y&is_ping=true"
    assert [(await hostile.web.get(path)).status_code for _ in range(31)] == [200] * 30 + [429]
    asked = {"worker_id": "x", "model": "x", "version": "1", "wait_s": 0}
    assert (await hostile.web.post("/model-centric/cycle-request", json=asked)).status_code == 404
    assert (await other.web.get(path)).status_code == 200


@pytest.mark.parametrize(
    ("limit", "method", "path", "changes"),
    [
        (
            "authentications_per_minute",
            "POST",
            "/model-centric/authenticate",
            {"model_name": "x", "model_version": "1"},
        ),
        (
            "cycle_requests_per_minute",
            "POST",
            "/model-centric/cycle-request",
            {"worker_id": "x", "model": "x", "version": "1"},
        ),
        ("cycle_requests_per_minute", "POST", "/model-centric/leave", {"worker_id": "x", "model": "x", "version": "1"}),
        ("speed_tests_per_minute", "GET", "/model-centric/speed-test?worker_id=x&random=y&size_bytes=1", None),
        ("speed_tests_per_minute", "POST", "/model-centric/speed-test?worker_id=x&random=y", None),
    ],
)
async def test_an_address_may_ask_so_often(opening: Open, limit: str, method: str, path: str, changes: Any) -> None:
    site = await opening(**{limit: 3})
    hostile, other = at(site, "203.0.113.5"), at(site, "203.0.113.6")

    async def ask(whose: Site) -> httpx.Response:
        return await whose.web.request(method, path, json=changes)

    for _ in range(3):
        assert (await ask(hostile)).status_code != 429
    problem = assert_problem(refused := await ask(hostile), 429, "rate_limited")
    assert (problem["retry_after_s"], refused.headers["Retry-After"]) == (20.0, "20")
    assert (await ask(other)).status_code != 429
    site.clock.advance(20.1)
    assert (await ask(hostile)).status_code != 429


async def test_one_subject_is_one_client(opening: Open) -> None:
    site = await opening(clients_per_address=1)
    process = await site.host(**SIGNED, max_diffs=3)
    alice = [
        (await authenticate(at(site, f"203.0.113.{n}"), process, auth_token=token("alice"))).json() for n in range(3)
    ]
    assert len({answer["worker_id"] for answer in alice}) == 1
    # Others have their own, from the same address too.
    bob = (await authenticate(at(site, "203.0.113.0"), process, auth_token=token("bob"))).json()
    assert bob["worker_id"] != alice[0]["worker_id"]
    device = await Device(site, process, alice[0]["worker_id"]).join()
    await device.report()
    assert (await device.ask())["reason"] == "already_assigned"
    # It is not told to anybody under its name.
    answer = await site.web.get(f"/model-centric/processes/{process['id']}/contributions", headers=site.owner)
    assert [one["client"] for one in answer.json()["contributions"]] == [""]


async def test_a_subject_that_has_left_does_not_come_back_as_another(opening: Open) -> None:
    site = await opening()
    process = await site.host(**SIGNED)
    device = await (await site.device(process, auth_token=token("alice"))).join()
    message = {"worker_id": device.worker_id, "model": process["name"], "version": process["version"]}
    assert (await site.web.post("/model-centric/leave", json=message)).status_code == 200
    again = await site.device(process, auth_token=token("alice"))
    assert (await again.ask())["reason"] == "training_finished"


@pytest.mark.parametrize(("most", "num_clients"), [(2, 2), (0, 5)])
async def test_a_process_says_how_many_clients_a_subject_is(opening: Open, most: int, num_clients: int) -> None:
    site = await opening()
    process = await site.host(**SIGNED, clients_per_subject=most)
    ids = [(await site.device(process, auth_token=token("alice"))).worker_id for _ in range(5)]
    assert len(set(ids)) == num_clients


async def test_tokens_without_a_subject_count_by_address(opening: Open) -> None:
    site = await opening(clients_per_address=1)
    process = await site.host(**SIGNED)
    hostile = at(site, "203.0.113.5")
    assert (await authenticate(hostile, process, auth_token=token(None))).status_code == 200
    assert_problem(await authenticate(hostile, process, auth_token=token(None)), 429, "too_many_clients")


async def test_a_subject_may_authenticate_so_often_from_all_addresses_together(opening: Open) -> None:
    site = await opening(authentications_per_minute=2)
    process = await site.host(**SIGNED)
    codes = [
        (await authenticate(at(site, f"203.0.113.{n}"), process, auth_token=token("alice"))).status_code
        for n in range(3)
    ]
    assert codes == [200, 200, 429]


async def test_a_token_of_a_whole_crowd_counts_by_address(opening: Open) -> None:
    site = await opening(authentications_per_minute=1)
    process = await site.host(**SIGNED, clients_per_subject=0)
    for number in range(3):
        answer = await authenticate(at(site, f"203.0.113.{number}"), process, auth_token=token("everybody"))
        assert answer.status_code == 200


async def test_a_client_that_is_not_used_expires_and_frees_its_place_in_the_quota(opening: Open) -> None:
    site = await opening(clients_per_address=2, client_expiry_days=2)
    process = await site.host(max_workers=1, max_diffs=1, cycle_length=1e6)
    here = at(site, "203.0.113.5")
    idle, used = await here.device(process), await here.device(process)
    await (await site.device(process)).join()
    for _ in range(4):
        site.clock.advance(86_400 - 60)
        assert (await used.ask())["reason"] == "cycle_full"
    asked = {"worker_id": idle.worker_id, "model": process["name"], "version": process["version"], "wait_s": 0}
    assert_problem(await site.web.post("/model-centric/cycle-request", json=asked), 404, "worker_not_found")
    assert (await authenticate(here, process)).status_code == 200
    assert_problem(await authenticate(here, process), 429, "too_many_clients")
    before = await count(site, clients)
    await service(site.app.state, ClientRegistry).remove_unused()
    assert await count(site, clients) == before - 1
    assert (await used.ask())["reason"] == "cycle_full"


async def test_named_clients_do_not_expire(opening: Open) -> None:
    site = await opening(client_expiry_days=1)
    process = await site.host(**SIGNED, named_clients=True, cycle_length=None)
    device = await site.device(process, auth_token=token("alice"))
    site.clock.advance(10 * 86_400)
    await service(site.app.state, ClientRegistry).remove_unused()
    await device.join()


async def test_rows_of_clients_that_bring_nothing_do_not_stay(opening: Open) -> None:
    """They take a place and leave it, again and again; of who reported, the history stays."""
    site = await opening(client_expiry_days=1)
    process = await site.host(max_diffs=1)
    for _ in range(3):
        device = await (await site.device(process)).join()
        message = {"worker_id": device.worker_id, "model": process["name"], "version": process["version"]}
        await site.web.post("/model-centric/leave", json=message)
    await (await (await site.device(process)).join()).report()
    await site.until_completed(process)
    left = await site.device(process)
    message = {"worker_id": left.worker_id, "model": process["name"], "version": process["version"]}
    await site.web.post("/model-centric/leave", json=message)
    assert (await count(site, clients), await count(site, assignments)) == (5, 4)
    await service(site.app.state, ClientRegistry).remove_unused()
    assert await count(site, clients) == 5
    site.clock.advance(3601)
    await service(site.app.state, ClientRegistry).remove_unused()
    assert (await count(site, clients), await count(site, assignments)) == (4, 4)
    site.clock.advance(86_400)
    await service(site.app.state, ClientRegistry).remove_unused()
    assert (await count(site, clients), await count(site, assignments)) == (1, 1)
    assert await count(site, reports) == 1
