"""Drafts whose bytes changed on the disk of a Domain.

Should happen: the refusal names the file; the draft stays, and is hosted once its bytes are back.
Should not: damaged bytes are sent, or hosted; anything is left of the attempt.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_drafts import DRAFTS, host, kept, made

from pygrid.tensors import decode
from support.training import Site, assert_values
from support.web import assert_problem, flip


def blob(site: Site, draft: dict[str, Any], part: str) -> Path:
    (found,) = (file["hash"] for file in draft["files"] if file["part"] == part)
    return site.folder / "drafts" / found


@pytest.mark.parametrize("part", ["model", "plan:training_plan"])
async def test_a_damaged_draft_is_not_sent_or_hosted(site: Site, part: str) -> None:
    draft = await made(site)
    damaged, before = blob(site, draft, part), kept(site)
    flip(damaged)
    answer = await site.web.get(f"{DRAFTS}/{draft['id']}/files/{damaged.name}", headers=site.owner)
    assert assert_problem(answer, 503, "blob_damaged")["name"] == damaged.name
    assert assert_problem(await host(site, draft), 503, "blob_damaged")["name"] == damaged.name
    assert (await site.web.get("/model-centric/processes", headers=site.owner)).json() == {"processes": []}
    assert {path.name for path in (site.folder / "blobs").iterdir() if path.is_file()} == set()
    assert kept(site) == before
    flip(damaged)
    assert (await host(site, draft)).status_code == 200
    answer = await site.web.get("/model-centric/retrieve-model", params={"name": "digits"}, headers=site.owner)
    assert_values(decode(answer.content)[0], 1.0)


async def test_a_damaged_draft_can_be_deleted_and_made_again(site: Site) -> None:
    draft = await made(site)
    flip(blob(site, draft, "model"))
    assert (await site.web.delete(f"{DRAFTS}/{draft['id']}", headers=site.owner)).status_code == 200
    assert (await host(site, await made(site))).status_code == 200
