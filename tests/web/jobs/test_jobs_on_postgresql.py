"""Jobs on PostgreSQL over HTTP: the same walks, on the other engine.

Should happen: exact and private jobs come to their end, charges and the audit log with them.
Should not happen: a cap that is overspent by jobs at once.
"""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

from pygrid.settings import DomainSettings
from pygrid.storage import audit
from pygrid.storage.sql.database import Database
from support.jobs import running_site
from support.web import assert_problem

COUNT: dict[str, Any] = {"statistics": [{"kind": "count"}]}


async def test_jobs_on_postgresql(settings: DomainSettings, postgres_url: str) -> None:
    settings = dataclasses.replace(settings, database_url=postgres_url)
    async with running_site(settings) as site:
        dataset = await site.owner.upload()
        await site.owner.set_policy(dataset, epsilon_per_user=2.0)
        exact = await site.scientist.submit(dataset)
        await site.owner.approve(await site.owner.wait(exact["id"], "waiting"))
        await site.owner.approve(await site.owner.wait(exact["id"], "held"))
        assert (await site.scientist.result(exact["id"])).status_code == 200
        asked = {**COUNT, "privacy": {"epsilon": 0.9, "delta": 1e-6}}
        answers = await asyncio.gather(*(site.scientist.try_submit(dataset, "statistics", **asked) for _ in range(8)))
        jobs = [answer.json()["id"] for answer in answers if answer.status_code == 201]
        for answer in answers:
            if answer.status_code != 201:
                assert_problem(answer, 409, "budget_exhausted")
        ended = [await site.scientist.wait(job_id, "released", "waiting", "failed") for job_id in jobs]
        for job in ended:
            # It fitted when it was submitted, and others were faster.
            if job["state"] == "waiting":
                assert "budget_exhausted" in job["detail"]
                assert_problem(await site.owner.decide("approve", job), 409, "budget_exhausted")
        assert 0 < [job["state"] for job in ended].count("released") < 8
        assert (await site.scientist.budget(dataset))["yours"] <= 2.0
    database = Database(postgres_url)
    try:
        known = audit.read_head(settings.data_dir / audit.HEAD_FILE)
        assert database.read_now(lambda connection: audit.verify(connection, known)) is None
    finally:
        database.close()
