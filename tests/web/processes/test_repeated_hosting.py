"""Processes and drafts that are sent twice under one ``Idempotency-Key``: each is made once, and both answers are the
same.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pygrid.tensors import encode
from support.training import Site, config, form, model
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


async def test_without_an_account_a_key_changes_nothing(site: Site) -> None:
    answer = await site.web.post(HOST, files=form(config(), encode(model())), headers={"Idempotency-Key": "one"})
    assert answer.status_code == 401
