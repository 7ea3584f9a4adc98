"""Jobs on PostgreSQL over HTTP: the same walks, on the other engine.

Should happen: exact and private jobs come to their end, charges and the audit log with them.
Should not happen: a cap that is overspent by jobs at once.
"""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

from jobs_support import running_site

from pygrid.settings import DomainSettings
from pygrid.storage import audit
from pygrid.storage.database import Database

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
        jobs = await asyncio.gather(*(site.scientist.submit(dataset, "statistics", **asked) for _ in range(8)))
        ended = [await site.scientist.wait(job["id"], "released", "waiting", "failed") for job in jobs]
        for job in ended:
            if job["state"] == "waiting":
                await site.owner.approve(await site.owner.job(job["id"]))
        states = [(await site.scientist.wait(job["id"], "released", "failed"))["state"] for job in jobs]
        assert 0 < states.count("released") < 8
        assert (await site.scientist.budget(dataset))["yours"] <= 2.0
    database = Database(postgres_url)
    try:
        known = audit.read_head(settings.data_dir / audit.HEAD_FILE)
        assert database.read_now(lambda connection: audit.verify(connection, known)) is None
    finally:
        database.close()
