"""Processes and drafts that are sent twice under one ``Idempotency-Key``: each is made once, and both answers are the
same.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pygrid.tensors import encode
from support.pysyft import message
from support.training import PLAN, Site, config, form, model
from support.web import assert_problem

HOST, DRAFTS = "/model-centric/host-training", "/model-centric/drafts"


@pytest.mark.parametrize("path", [HOST, DRAFTS])
async def test_it_is_made_once(site: Site, path: str) -> None:
    async def send(value: float = 1.0) -> Any:
        headers = {**site.owner, "Idempotency-Key": "one"}
        return await site.web.post(path, files=form(config(), encode(model(value))), headers=headers)

    answers = await asyncio.gather(*(send() for _ in range(3)))
    again = await send()
    assert again.status_code == 201, again.text
    for answer in answers:
        assert answer.status_code == 409 or answer.content == again.content
    assert_problem(await send(2.0), 409, "idempotency_key_reused")
    if path == DRAFTS:
        hosting = f"{DRAFTS}/{again.json()['id']}/host"
        sent = {
            "json": {"server_config": {"cycle_length": None, "num_cycles": 1}},
            "headers": {**site.owner, "Idempotency-Key": "two"},
        }
        first = await site.web.post(hosting, **sent)
        assert first.status_code == 200, first.text
        assert (await site.web.post(hosting, **sent)).content == first.content
    found = await site.web.get("/model-centric/processes", headers=site.owner)
    assert len(found.json()["processes"]) == 1


@pytest.mark.parametrize("kind", ["native", "published"])
async def test_json_with_files_as_text_hosts_once(site: Site, kind: str) -> None:
    forms = [message(num_cycles=number) for number in (1, 2)]
    if kind == "native":
        files = {"model": encode(model()).hex(), "plans": {"training_plan": PLAN.hex()}}
        forms = [{**files, **config(num_cycles=number)} for number in (1, 2)]

    async def send(form: Any, **more: str) -> Any:
        return await site.web.post(HOST, json=form, headers={**site.owner, "Idempotency-Key": "one", **more})

    first = await send(forms[0])
    assert (first.status_code, first.json()) == (201, {"status": "success"}), first.text
    assert "Idempotency-Replayed" not in first.headers
    again = await send(forms[0])
    assert (again.status_code, again.content, again.headers["Idempotency-Replayed"]) == (201, first.content, "true")
    for other in (forms[1], {"model": ""}, []):
        assert_problem(await send(other), 409, "idempotency_key_reused")
    longer = {**forms[0], "protocols": "x" * 1_000_000}
    assert_problem(await send(longer), 409, "idempotency_key_reused")
    as_form = {"files": form(config(), encode(model())), "headers": {**site.owner, "Idempotency-Key": "one"}}
    assert_problem(await site.web.post(HOST, **as_form), 409, "idempotency_key_reused")
    taken = await send(forms[0], **{"Idempotency-Key": "two"})
    assert_problem(taken, 409, "process_exists")
    found = await site.web.get("/model-centric/processes", headers=site.owner)
    assert len(found.json()["processes"]) == 1


async def test_json_that_is_refused_keeps_no_answer(site: Site) -> None:
    headers = {**site.owner, "Idempotency-Key": "one"}
    refused = await site.web.post(HOST, json={**message(), "model": "xyz"}, headers=headers)
    assert_problem(refused, 400, "invalid_input")
    assert (await site.web.post(HOST, json=message(), headers=headers)).json() == {"status": "success"}


async def test_without_an_account_a_key_changes_nothing(site: Site) -> None:
    answer = await site.web.post(HOST, files=form(config(), encode(model())), headers={"Idempotency-Key": "one"})
    assert answer.status_code == 401
