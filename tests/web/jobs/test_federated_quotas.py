"""How many federated jobs one account may have, and that nobody pays twice for the same part in a training.

Should happen: the one too many is refused in words that say what to do, and an account's quota is its own; an ended job
makes room; of the same request sent twice at the same moment, one is taken.
Should not happen: four accounts whose jobs wait for ever keep everybody else out; two reservations for one training.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from test_federated_jobs import charges_of

from pygrid.settings import load_settings
from support.federation import PRIVATE
from support.jobs import POLICY, running_site
from support.web import assert_problem

NOBODY = {"coordinator": "http://127.0.0.1:9", "version": "1", "cycles": 2}


def asking(process: str, **changes: Any) -> dict[str, Any]:
    return {
        **PRIVATE,
        "federation": {**NOBODY, "process": process, **changes},
        "privacy": {"epsilon": 0.5, "delta": 1e-6},
    }


async def test_each_account_has_a_quota_of_its_own(tmp_path: Path) -> None:
    settings = load_settings({}, data_dir=tmp_path, num_workers=1, federated_jobs_per_user=2)
    async with running_site(settings) as site:
        dataset = await site.owner.upload()
        await site.owner.set_policy(dataset, **POLICY)
        first = await site.scientist.submit(dataset, **asking("one"))
        await site.scientist.submit(dataset, **asking("two"))
        refused = await site.scientist.try_submit(dataset, **asking("three"))
        assert "PYGRID_FEDERATED_JOBS_PER_USER" in assert_problem(refused, 429, "too_many_federated_jobs")["detail"]
        # Others, and other jobs, are not kept out.
        await site.stranger.submit(dataset, **asking("three"))
        count = {"statistics": [{"kind": "count"}], "privacy": {"epsilon": 0.1, "delta": 1e-6}}
        await site.scientist.submit(dataset, "statistics", **count)
        await site.scientist.call("POST", f"/data-centric/jobs/{first['id']}/cancel")
        await site.scientist.submit(dataset, **asking("three"))


async def test_the_same_part_in_a_training_is_not_taken_twice(tmp_path: Path) -> None:
    settings = load_settings({}, data_dir=tmp_path / "alice", id="alice", num_workers=1)
    async with running_site(settings) as site:
        dataset, other = await site.owner.upload(), await site.owner.upload("others")
        for one in (dataset, other):
            # Both hold the same records.
            await site.owner.set_policy(one, **POLICY, fresh_budget=True)
        answers = await asyncio.gather(*(site.scientist.try_submit(dataset, **asking("one")) for _ in range(4)))
        (taken,) = (answer.json() for answer in answers if answer.status_code == 201)
        for answer in answers:
            if answer.status_code != 201:
                problem = assert_problem(answer, 409, "federation_exists")
                assert problem["job_id"] == taken["id"]
        await site.scientist.wait(taken["id"], "running")
        # Another dataset, another version, another account: another part.
        await site.scientist.submit(other, **asking("one"))
        await site.scientist.submit(dataset, **asking("one", version="2"))
        strangers = await site.stranger.submit(dataset, **asking("one"))
        await site.stranger.wait(strangers["id"], "running")
        for job in (await site.scientist.call("GET", "/data-centric/jobs")).json()["jobs"]:
            await site.scientist.call("POST", f"/data-centric/jobs/{job['id']}/cancel")
        again = await site.scientist.submit(dataset, **asking("one"))
        await site.scientist.wait(again["id"], "running")
    assert sorted(state for state, _ in charges_of(tmp_path, "alice") if state != "refunded") == [
        "reserved",
        "reserved",
    ]
