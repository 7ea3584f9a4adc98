"""Processes that know their clients by name: one client for each subject, and nobody waits for one that has left.

Should happen: the same subject is the same client; a cycle closes without the one that left; who reported what is told
by name. Should not happen: a second report of one subject in a cycle; a report that is thrown away because its sender
left after it; a client that comes back after it left; names for those who may not host.
"""

from __future__ import annotations

from typing import Any

import jwt
import pytest

from pygrid.tensors import encode
from support.eventually import eventually
from support.training import Device, Site, assert_values, config, form, model
from support.web import People, assert_problem

SECRET = "s" * 32


def token(subject: Any = None) -> str:
    return jwt.encode({} if subject is None else {"sub": subject}, SECRET, "HS256")


async def host(site: Site, **changes: Any) -> dict[str, Any]:
    given = {"max_diffs": 3, "min_diffs": 1, "named_clients": True, "authentication": {"secret": SECRET}}
    return await site.host(**{**given, **changes})


async def joined(site: Site, process: dict[str, Any], *names: str) -> list[Device]:
    return [await (await site.device(process, auth_token=token(name))).join() for name in names]


async def leave(site: Site, device: Device) -> Any:
    message = {"worker_id": device.worker_id, "model": device.process["name"], "version": device.process["version"]}
    return await site.web.post("/model-centric/leave", json=message)


async def contributions(site: Site, process: dict[str, Any]) -> list[tuple[int, str, float]]:
    answer = await site.web.get(f"/model-centric/processes/{process['id']}/contributions", headers=site.owner)
    assert answer.status_code == 200, answer.text
    return [(one["cycle"], one["client"], one["scale"]) for one in answer.json()["contributions"]]


async def test_one_subject_is_one_client_and_reports_once(site: Site) -> None:
    process = await host(site)
    first = await site.device(process, auth_token=token("alice"))
    again = await site.device(process, auth_token=token("alice"))
    other = await site.device(process, auth_token=token("bob"))
    assert first.worker_id == again.worker_id != other.worker_id
    await first.join()
    await first.report()
    answer = await again.ask()
    assert (answer["status"], answer["reason"]) == ("rejected", "already_assigned")
    assert (await site.cycle(process))["num_reports"] == 1


@pytest.mark.parametrize("subject", [None, "", " \n", "x" * 201, "a\0b"])
async def test_a_token_must_name_its_bearer(site: Site, subject: Any) -> None:
    process = await host(site)
    message = {"model_name": process["name"], "auth_token": token(subject)}
    answer = await site.web.post("/model-centric/authenticate", json=message)
    assert_problem(answer, 401, "auth_token_nameless")


async def test_names_need_signed_tokens(site: Site) -> None:
    for changes in ({}, {"authentication": {"endpoint": "http://127.0.0.1:1/"}}):
        parts = form(config(named_clients=True, **changes), encode(model()))
        assert_problem(await site.try_host(parts), 400, "invalid_config")


async def test_a_cycle_does_not_wait_for_who_has_left(site: Site) -> None:
    process = await host(site, num_cycles=2)
    alice, bob, carol = await joined(site, process, "alice", "bob", "carol")
    await alice.report(0.5, num_examples=2)
    await bob.report(0.25, num_examples=2)
    assert (await site.cycle(process))["state"] == "open"
    answer = await leave(site, carol)
    assert (answer.status_code, answer.json()) == (200, {"status": "success"})
    await site.until_completed(process)
    assert_values(await site.checkpoint(process), 1 - 0.375)
    assert await contributions(site, process) == [(1, "alice", 1.0), (1, "bob", 1.0)]
    # And later cycles neither.
    for device in (alice, bob):
        await (await device.join()).report()

    async def is_over() -> bool:
        return await site.num_checkpoints(process) == 3

    await eventually(is_over)


async def test_who_leaves_after_its_report_counts_and_the_others_are_waited_for(site: Site) -> None:
    process = await host(site)
    alice, bob, carol = await joined(site, process, "alice", "bob", "carol")
    await alice.report()
    await leave(site, alice)
    await bob.report()
    assert (await site.cycle(process))["state"] == "open", "carol is still at it"
    await carol.report()
    cycle = await site.until_completed(process)
    assert cycle["num_reports"] == 3
    for device in (bob, carol):
        await (await device.join()).report()
    await site.until_completed(process, 2)


async def test_a_key_of_who_has_left_is_over_and_it_does_not_come_back(site: Site) -> None:
    process = await host(site)
    alice, bob = await joined(site, process, "alice", "bob")
    await leave(site, alice)
    await leave(site, alice)
    assert_problem(await alice.send(model()), 410, "cycle_closed")
    back = await site.device(process, auth_token=token("alice"))
    answer = await back.ask()
    assert (answer["reason"], "timeout" in answer) == ("training_finished", False)
    cycle = await site.cycle(process)
    assert (cycle["num_assigned"], cycle["num_reports"]) == (1, 0)
    await bob.report()


async def test_a_client_without_a_name_may_leave_and_its_place_is_free(site: Site) -> None:
    process = await site.host(max_workers=1, max_diffs=1)
    first = await (await site.device(process)).join()
    second = await site.device(process)
    assert (await second.ask())["reason"] == "cycle_full"
    await leave(site, first)
    await (await second.join()).report()
    await site.until_completed(process)


async def test_departures_of_strangers_are_refused(site: Site) -> None:
    process = await host(site)
    message = {"worker_id": "nobody", "model": process["name"]}
    assert_problem(await site.web.post("/model-centric/leave", json=message), 404, "worker_not_found")
    unknown = {"worker_id": "nobody", "model": "unknown"}
    assert_problem(await site.web.post("/model-centric/leave", json=unknown), 404, "process_not_found")


async def test_names_are_for_those_who_may_host(site: Site) -> None:
    process = await host(site)
    path = f"/model-centric/processes/{process['id']}/contributions"
    user = await People(site.web).with_role(1, site.owner)
    assert_problem(await site.web.get(path, headers=user), 403, "not_permitted")
    assert (await site.web.get(path)).status_code == 401
    missing = await site.web.get("/model-centric/processes/99/contributions", headers=site.owner)
    assert_problem(missing, 404, "process_not_found")


async def test_contributions_come_in_pages(site: Site) -> None:
    process = await host(site, max_diffs=5)
    for device in await joined(site, process, "a", "b", "c"):
        await device.report()
    path, seen, after = f"/model-centric/processes/{process['id']}/contributions", [], 0
    while True:
        answer = await site.web.get(path, headers=site.owner, params={"after": after, "limit": 2})
        page = answer.json()["contributions"]
        if not page:
            break
        seen += [one["client"] for one in page]
        after = page[-1]["id"]
    assert sorted(seen) == ["a", "b", "c"]
