"""Jobs that run at the leader of three replicas when it is killed or paused.

Should happen: the next leader ends a private job, whose charge stands, and starts an exact job once more, which is
released once; followers refuse what only the leader serves.
Should not: a private job that is begun twice, charged twice or released by a leader that wakes up.
"""

from __future__ import annotations

import asyncio
import random
import signal
from collections import Counter
from pathlib import Path

import httpx
import pytest

from job_fleet import JobFleet, Repeating, charges_of
from loadgen import Address, sign_up
from pygrid.storage.sql.database import Database
from pygrid.web.leadership import FOLLOWER_PATHS
from replicas import Cluster, running_cluster, status
from support.eventually import eventually

LONG = {"epochs": 1500}
"""More work than the time until another replica leads."""


@pytest.mark.slow
def test_jobs_survive_their_leader_as_their_kind_allows(tmp_path: Path) -> None:
    asyncio.run(_lose_leaders(tmp_path))


async def _lose_leaders(folder: Path) -> None:
    async with running_cluster(folder) as cluster:
        leader = await cluster.find_leader()
        for replica in cluster.replicas:
            if replica is not leader:
                await asyncio.to_thread(_assert_refuses, replica.address)
        token = await sign_up(cluster.address, "owner@example.org", "correct horse battery staple")
        base = "http://{}:{}".format(*cluster.address)
        async with httpx.AsyncClient(transport=Repeating(Counter()), base_url=base, timeout=60) as web:
            jobs = JobFleet(web, {"Authorization": f"Bearer {token}"}, random.Random(1))
            await jobs.prepare()
            database = Database(cluster.postgres.url)
            try:
                await _pause(cluster, jobs, database)
                await _kill(cluster, jobs)
                assert await asyncio.to_thread(jobs.find_problems, database) == []
                assert await asyncio.to_thread(charges_of, database) == dict.fromkeys(jobs.private, "failed")
                assert await jobs.find_overspending() == []
            finally:
                await asyncio.to_thread(database.close)


async def _pause(cluster: Cluster, jobs: JobFleet, database: Database) -> None:
    private = await jobs.submit(is_private=True, **LONG)
    await jobs.wait_begun(private, database)
    paused = await cluster.find_leader()
    assert paused is not None
    paused.signal(signal.SIGSTOP)
    failed = await jobs.follow(private)
    assert (failed["state"], failed["code"]) == ("failed", "job_failed")
    paused.signal(signal.SIGCONT)
    await eventually(lambda: paused.exit_codes == [3], 120)
    await cluster.wait_ready()


async def _kill(cluster: Cluster, jobs: JobFleet) -> None:
    exact = await jobs.submit(is_private=False, epochs=1000)
    following = asyncio.create_task(jobs.follow(exact))
    await eventually(lambda: jobs.is_running(exact), 120)
    leader = await cluster.find_leader()
    assert leader is not None
    leader.signal(signal.SIGKILL)
    assert (await following)["state"] == "released"


def _assert_refuses(follower: Address) -> None:
    for method, path in (("POST", "/model-centric/host-training"), ("GET", "/jobs"), ("POST", "/users")):
        answer = httpx.request(method, f"http://{follower[0]}:{follower[1]}{path}", timeout=20)
        assert (answer.status_code, answer.json()["code"]) == (503, "not_leader")
        assert answer.headers["retry-after"] == "1"
    for path in FOLLOWER_PATHS - {"/metrics"}:
        assert status(follower, path) not in (0, 503), path
