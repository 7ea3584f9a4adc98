"""What a model owner sees of a process and does with it.

Should happen: lists, cycles, checkpoints, plans and events are those of the process, and a client that has a file is
told so. Should not happen: an unknown id is anything but a 404; an event is missed or comes twice; finishing twice does
more than once.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from pygrid.tensors import decode, encode
from support.streams import Waiting
from support.training import PLAN, Site, assert_values, config, form, model, scope
from support.web import People, assert_problem


async def _get(site: Site, path: str, **params: Any) -> Any:
    return await site.web.get(f"/model-centric/{path}", params=params or None, headers=site.owner)


async def _train(site: Site, process: dict[str, Any], sequence: int, value: float) -> None:
    (device,) = await site.devices(process, 1)
    await device.report(value)
    await site.until_completed(process, sequence)


async def test_lists_are_newest_first_and_can_be_narrowed(site: Site) -> None:
    for name, version in (("a", "1"), ("b", "1"), ("a", "2")):
        await site.host(name=name, version=version)

    async def listed(**params: str) -> list[str]:
        return [f"{p['name']} {p['version']}" for p in (await _get(site, "processes", **params)).json()["processes"]]

    assert await listed() == ["a 2", "b 1", "a 1"]
    assert await listed(name="a") == ["a 2", "a 1"]
    assert await listed(version="1") == ["b 1", "a 1"]
    assert await listed(name="a", version="1") == ["a 1"]
    assert await listed(name="nobody") == []
    assert_problem(await _get(site, "processes", name="a\0b"), 400, "invalid_text")


async def test_cycles_and_checkpoints_are_oldest_first(site: Site) -> None:
    process = await site.host(max_diffs=1, num_cycles=0)
    for sequence, value in enumerate((0.5, 0.25), 1):
        await _train(site, process, sequence, value)
    cycles = (await _get(site, f"processes/{process['id']}/cycles")).json()["cycles"]
    assert [(c["sequence"], c["state"], c["checkpoint"]) for c in cycles] == [
        (1, "completed", 1),
        (2, "completed", 2),
        (3, "open", 3),
    ]
    for params, sequences in (
        ({"after": 1}, [2, 3]),
        ({"limit": 1}, [1]),
        ({"after": 1, "limit": 1}, [2]),
        ({"after": 9}, []),
    ):
        found = (await _get(site, f"processes/{process['id']}/cycles", **params)).json()["cycles"]
        assert [c["sequence"] for c in found] == sequences
    for params in ({"after": -1}, {"limit": 0}, {"limit": 1001}, {"after": "x"}, {"after": 2**31}):
        assert_problem(await _get(site, f"processes/{process['id']}/cycles", **params), 400, "invalid_input")
    checkpoints = (await _get(site, f"processes/{process['id']}/checkpoints")).json()["checkpoints"]
    assert [(c["number"], c["alias"]) for c in checkpoints] == [(1, ""), (2, ""), (3, "latest")]
    assert checkpoints[0]["model_hash"] == hashlib.sha256(encode(model())).hexdigest()
    assert checkpoints[2]["model_hash"] == hashlib.sha256(encode(model(0.25))).hexdigest()


async def test_checkpoints_are_had_by_number_and_by_alias(site: Site) -> None:
    process = await site.host(max_diffs=1, num_cycles=0)
    await _train(site, process, 1, 0.5)
    for wanted, value in (("1", 1.0), ("2", 0.5), ("latest", 0.5)):
        answer = await _get(site, "retrieve-model", name="digits", version="1.0", checkpoint=wanted)
        arrays, _ = decode(answer.content)
        assert_values(arrays, value)
        assert answer.headers["PyGrid-Checkpoint"] == ("1" if wanted == "1" else "2")
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["etag"] == f'"{hashlib.sha256(answer.content).hexdigest()}"'
    assert (await _get(site, "retrieve-model", name="digits")).headers["PyGrid-Checkpoint"] == "2"
    for wanted in ("0", "3", "-1", "oldest", "1e3", "٣", "9" * 40, "a\1"):
        answer = await _get(site, "retrieve-model", name="digits", checkpoint=wanted)
        assert_problem(answer, 404, "checkpoint_not_found")


async def test_who_has_the_file_is_told_so(site: Site) -> None:
    process = await site.host()
    for path in ("retrieve-model?name=digits", f"processes/{process['id']}/plans/{process['plans'][0]['id']}"):
        first = await _get(site, path)
        known = {**site.owner, "If-None-Match": first.headers["etag"]}
        again = await site.web.get(f"/model-centric/{path}", headers=known)
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
        other = {**site.owner, "If-None-Match": '"something else"'}
        assert (await site.web.get(f"/model-centric/{path}", headers=other)).content == first.content
    assert first.content == PLAN


async def test_what_is_not_there_is_a_404(site: Site) -> None:
    process = await site.host()
    for path in ("", "/cycles", "/checkpoints", "/events", "/plans/1"):
        assert_problem(
            await _get(site, f"processes/{process['id'] + 1}{path}"),
            404,
            "process_not_found" if path != "/plans/1" else "plan_not_found",
        )
    assert_problem(await _get(site, f"processes/{process['id']}/plans/99"), 404, "plan_not_found")
    for params in ({"name": "nobody"}, {"name": "digits", "version": "9"}, {"name": ""}, {"name": "a\1b"}):
        assert_problem(await _get(site, "retrieve-model", **params), 404, "process_not_found")
    assert_problem(await _get(site, "retrieve-model"), 400, "invalid_input")
    answer = await site.web.post(f"/model-centric/processes/{process['id'] + 1}/finish", headers=site.owner)
    assert_problem(answer, 404, "process_not_found")


@pytest.mark.parametrize("number", ["0", "-1", "9" * 30, "x"])
async def test_an_id_that_is_none_is_refused(site: Site, number: str) -> None:
    for path in ("", "/cycles", "/checkpoints", "/events", "/plans/1"):
        answer = await _get(site, f"processes/{number}{path}")
        assert answer.status_code in (400, 404), answer.text
    assert (await _get(site, f"processes/1/plans/{number}")).status_code in (400, 404)


# -- other people's processes ------------------------------------------------------------------------------------------


async def test_only_the_creator_or_an_owner_finishes_and_lists_contributions(site: Site) -> None:
    people = People(site.web)
    creator = await people.with_role(3, site.owner, "creator@example.org")
    other = await people.with_role(3, site.owner, "colleague@example.org")
    answer = await site.try_host(form(config(), encode(model())), creator)
    base = f"/model-centric/processes/{answer.json()['id']}"
    for call in (site.web.post(f"{base}/finish", headers=other), site.web.get(f"{base}/contributions", headers=other)):
        assert_problem(await call, 403, "not_your_process")
    unknown = "/model-centric/processes/99"
    assert_problem(await site.web.post(f"{unknown}/finish", headers=other), 404, "process_not_found")
    assert_problem(await site.web.get(f"{unknown}/contributions", headers=other), 404, "process_not_found")
    for headers in (creator, site.owner):
        assert (await site.web.get(f"{base}/contributions", headers=headers)).status_code == 200
    assert (await site.web.get(base, headers=site.owner)).json()["state"] == "active"
    assert (await site.web.post(f"{base}/finish", headers=creator)).json()["state"] == "finished"


async def test_a_creator_without_the_permission_manages_no_process(site: Site) -> None:
    people = People(site.web)
    creator = await people.with_role(3, site.owner, "creator@example.org")
    answer = await site.try_host(form(config(), encode(model())), creator)
    user = (await site.web.get("/users/me", headers=creator)).json()["user"]
    await site.web.put(f"/users/{user['id']}/role", json={"role": 1}, headers=site.owner)
    creator = await people.log_in("creator@example.org")
    path = f"/model-centric/processes/{answer.json()['id']}/finish"
    assert_problem(await site.web.post(path, headers=creator), 403, "not_permitted")


# -- finish ------------------------------------------------------------------------------------------------------------


async def _finish(site: Site, process: dict[str, Any]) -> dict[str, Any]:
    answer = await site.web.post(f"/model-centric/processes/{process['id']}/finish", headers=site.owner)
    assert answer.status_code == 200, answer.text
    shown: dict[str, Any] = answer.json()
    return shown


async def test_finishing_keeps_what_came(site: Site) -> None:
    process = await site.host(max_diffs=3, num_cycles=0, published=True)
    one, late = await site.devices(process, 2)
    await one.report(0.5)
    assert (await _finish(site, process))["state"] == "finished"
    await site.until_completed(process)
    assert_values(await site.checkpoint(process), 0.5)
    assert_problem(await late.send(model(0.5)), 410, "cycle_closed")
    assert await late.ask(wait_s=None) == {"status": "rejected"}
    # Again: the same, and no further checkpoint.
    again = await _finish(site, process)
    assert (again["state"], again["num_checkpoints"], len(await site.cycles(process))) == ("finished", 2, 1)


async def test_finishing_without_reports_makes_no_checkpoint(site: Site) -> None:
    process = await site.host()
    await _finish(site, process)
    await site.until_completed(process)
    shown = (await _get(site, f"processes/{process['id']}")).json()
    assert (shown["state"], shown["num_checkpoints"]) == ("finished", 1)


async def test_finishing_a_process_that_waits_for_clients_answers_them(site: Site) -> None:
    process = await site.host(min_workers=3)
    waiting = await Waiting(site, await site.device(process)).held()
    await _finish(site, process)
    assert (await waiting.answer())["reason"] == "training_finished"
    await site.until_completed(process)


# -- events ------------------------------------------------------------------------------------------------------------


class Stream:
    """Events as a browser would read them, from an app that is called directly: it may go on without end."""

    def __init__(self, site: Site, process: dict[str, Any], last_event_id: str | None = None) -> None:
        self._site = site
        self._headers = [(b"authorization", site.owner["Authorization"].encode())]
        if last_event_id is not None:
            self._headers.append((b"last-event-id", last_event_id.encode()))
        self._path = f"/model-centric/processes/{process['id']}/events"
        self._gone = asyncio.Event()
        self.ended = False
        self._chunks: asyncio.Queue[bytes] = asyncio.Queue()

    async def __aenter__(self) -> Stream:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._gone.set()
        await asyncio.wait_for(self._task, 60)

    async def _run(self) -> None:
        async def receive() -> Any:
            if not self._asked:
                self._asked = True
                return {"type": "http.request", "body": b"", "more_body": False}
            await self._gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.body":
                self._chunks.put_nowait(message.get("body", b""))
                if not message.get("more_body", False):
                    # As a server does: once the answer is complete there is nothing more to receive.
                    self.ended = True
                    self._gone.set()
            else:
                self.status, self.headers = message["status"], dict(message["headers"])

        self._asked = False
        await self._site.app(scope("GET", self._path, self._headers), receive, send)  # type: ignore[arg-type]

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        buffer = b""
        while True:
            buffer += await asyncio.wait_for(self._chunks.get(), 60)
            while b"\n\n" in buffer:
                block, _, buffer = buffer.partition(b"\n\n")
                fields = dict(line.split(": ", 1) for line in block.decode().split("\n") if not line.startswith(":"))
                if fields:
                    event = json.loads(fields["data"])
                    assert (str(event["id"]), event["kind"]) == (fields["id"], fields["event"])
                    yield event

    async def take(self, count: int) -> list[dict[str, Any]]:
        taken = []
        async for event in self.events():
            taken.append(event)
            if len(taken) == count:
                break
        return taken


async def test_events_tell_the_life_of_a_process(site: Site) -> None:
    process = await site.host(max_diffs=1, num_cycles=2, min_diffs=1)
    async with Stream(site, process) as stream:
        started = await stream.take(2)
        assert [event["kind"] for event in started] == ["process_hosted", "cycle_opened"]
        assert stream.headers[b"content-type"].startswith(b"text/event-stream")
        await site.pass_time(61)
        assert [event["kind"] for event in await stream.take(1)] == ["cycle_expired"]
        for sequence in (1, 2):
            await _train(site, process, sequence, 0.5)
        rest = await stream.take(7)
    assert [(event["kind"], event["cycle"]) for event in rest] == [
        ("cycle_closing", 1),
        ("too_few_for_robust", 1),
        ("cycle_completed", 1),
        ("cycle_opened", 2),
        ("cycle_closing", 2),
        ("too_few_for_robust", 2),
        ("cycle_completed", 2),
    ]
    assert rest[1]["data"] == {"num_reports": 1, "needed": 5}
    assert rest[2]["data"] == {"checkpoint": 2, "num_reports": 1, "num_clipped": 0, "num_late": 0, "metrics": {}}
    ids = [event["id"] for event in (*started, *rest)]
    assert ids == sorted(set(ids))
    # Resumed in the middle: exactly what came after.
    async with Stream(site, process, str(rest[2]["id"])) as stream:
        resumed = await stream.take(5)
    assert [event["kind"] for event in resumed[1:]] == [
        "cycle_closing",
        "too_few_for_robust",
        "cycle_completed",
        "process_finished",
    ]
    assert resumed[:4] == rest[3:]


async def test_events_of_others_are_not_told(site: Site) -> None:
    one, two = await site.host(name="one"), await site.host(name="two")
    async with Stream(site, one) as stream:
        await stream.take(2)
        await _finish(site, two)
        await site.until_completed(two)
        await _finish(site, one)
        assert [event["kind"] for event in await stream.take(1)] == ["cycle_closing"]


@pytest.mark.parametrize("last", ["x", "-1", "9" * 30])
async def test_a_last_event_that_is_none_is_refused(site: Site, last: str) -> None:
    process = await site.host()
    answer = await site.web.get(
        f"/model-centric/processes/{process['id']}/events", headers={**site.owner, "Last-Event-ID": last}
    )
    assert_problem(answer, 400, "invalid_input")


async def test_a_stream_ends_when_the_domain_stops(site: Site) -> None:
    process = await site.host()
    async with Stream(site, process) as stream:
        await stream.take(2)
        site.app.state.stopping.set()
        await asyncio.wait_for(asyncio.shield(stream._task), 60)
        assert stream.ended
