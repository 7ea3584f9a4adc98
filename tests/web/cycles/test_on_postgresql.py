"""The same Domain on PostgreSQL: one walk through everything, and the texts that this database cannot hold.

Should happen: cycles run as on SQLite; whatever is asked for and is not there is a 404, or a 400 if it cannot be.
Should not happen: a text with NUL, a number beyond 32 bits or a broken surrogate is a fault of the server.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pygrid.clock import ManualClock
from pygrid.domain import build_domain
from pygrid.settings import load_settings
from pygrid.tensors import encode
from support.eventually import eventually
from support.training import Site, assert_values, config, form, gate_in_process, model, running_site
from support.web import People


@pytest.fixture
async def site(
    postgres_url: str, tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Site]:
    monkeypatch.setattr("pygrid.features.processes.hosting.check_async", gate_in_process)
    folder = tmp_path / "data"
    app = build_domain(load_settings({}, data_dir=folder, id="test", database_url=postgres_url), clock=clock)
    async with running_site(app, clock, folder, {}) as running_now:
        running_now.owner = await People(running_now.web).owner()
        yield running_now


async def test_a_process_is_trained_to_its_end(site: Site) -> None:
    process = await site.host(
        num_cycles=2, max_diffs=None, max_workers=4, min_diffs=2, server_optimizer={"name": "momentum"}
    )
    devices = await site.devices(process, 4)
    data = encode(model(0.5), {"num_examples": "2", "metric.loss": "0.5"})
    answers = await asyncio.gather(*(device.send(data) for device in devices for _ in range(5)))
    assert {answer.status_code for answer in answers} == {200}
    completed = await site.until_completed(process)
    assert (completed["num_reports"], completed["num_examples"], completed["metrics"]) == (4, 8, {"loss": 0.5})
    assert_values(await site.checkpoint(process), 0.5)
    one, two = await site.devices(process, 2)
    await one.report(0.25)
    await site.pass_time(61)

    async def reopened() -> bool:
        return (await site.cycle(process))["attempt"] == 2

    await eventually(reopened)
    await (await two.join()).report(0.25)
    await site.pass_time(61)
    await site.until_completed(process, 2)
    assert (await one.ask())["reason"] == "training_finished"


async def test_two_who_host_one_name_at_once_get_one_process(site: Site) -> None:
    answers = await asyncio.gather(*(site.try_host(form(config(), encode(model()))) for _ in range(6)))
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409, 409, 409]


async def test_texts_and_numbers_that_it_cannot_hold_are_no_fault(site: Site, subtests: pytest.Subtests) -> None:
    process = await site.host()
    device = await site.device(process)
    owner = site.owner
    for bad in ("a\0b", "\0", "é\0", "x" * 10_000):
        asked = {"worker_id": device.worker_id, "model": "digits", "version": "1.0", "wait_s": 0}
        messages = [
            ("authenticate", {"model_name": bad}),
            ("authenticate", {"model_name": "digits", "model_version": bad}),
            ("cycle-request", {**asked, "model": bad}),
            ("cycle-request", {**asked, "version": bad}),
            ("cycle-request", {**asked, "worker_id": bad}),
        ]
        for route, message in messages:
            with subtests.test(route, message=str(message)[:60]):
                answer = await site.web.post(f"/model-centric/{route}", json=message)
                assert answer.status_code in (400, 404), answer.text
        for path, params in (
            ("processes", {"name": bad}),
            ("processes", {"version": bad}),
            ("retrieve-model", {"name": bad}),
            ("retrieve-model", {"name": "digits", "version": bad}),
            ("retrieve-model", {"name": "digits", "checkpoint": bad}),
        ):
            with subtests.test(path, params=str(params)[:60]):
                answer = await site.web.get(f"/model-centric/{path}", params=params, headers=owner)
                expected = (400, 404) if path == "retrieve-model" else (400,) if "\0" in bad else (200,)
                assert answer.status_code in expected, answer.text
                if answer.status_code == 200:
                    assert answer.json()["processes"] == []
        with subtests.test("report", key=bad[:5]):
            answer = await site.web.post(
                "/model-centric/report", params={"request_key": bad, "worker_id": bad}, content=b""
            )
            assert answer.status_code == (400 if "\0" in bad else 401), answer.text
    for number in ("2147483648", "9" * 30, "-1"):
        for path in ("", "/cycles", "/checkpoints", "/events", "/plans/1"):
            with subtests.test(path, number=number):
                answer = await site.web.get(f"/model-centric/processes/{number}{path}", headers=owner)
                assert answer.status_code in (400, 404), answer.text
