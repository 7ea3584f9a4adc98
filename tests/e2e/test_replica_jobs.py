"""Jobs that run at the leader of three replicas when it is killed or paused.

Should happen: the next leader ends a private job, whose charge stands, and starts an exact job once more, which is
released once; a Worker of another machine keeps its job, and brings the result to the next leader; followers refuse
what only the leader serves.
Should not: a private job that is begun twice, charged twice or released by a leader that wakes up.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
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

WORKERS = "/data-centric/workers"
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


@pytest.mark.slow
def test_a_worker_of_another_machine_keeps_its_job_when_the_leader_changes(tmp_path: Path) -> None:
    asyncio.run(_keep_jobs(tmp_path))


async def _keep_jobs(folder: Path) -> None:
    async with running_cluster(folder, PYGRID_PREFER_REMOTE_WORKERS="1") as cluster:
        token = await sign_up(cluster.address, "owner@example.org", "correct horse battery staple")
        base, owner = "http://{}:{}".format(*cluster.address), {"Authorization": f"Bearer {token}"}
        async with httpx.AsyncClient(transport=Repeating(Counter()), base_url=base, timeout=60) as web:
            jobs = JobFleet(web, owner, random.Random(1))
            await jobs.prepare(allow_remote_workers=True)
            worker = (await web.post(WORKERS, json={"name": "gpu-1"}, headers=owner)).json()["token"]
            database = Database(cluster.postgres.url)
            process = await _start_worker(folder, base, worker)
            try:
                for number in (signal.SIGKILL, signal.SIGSTOP):
                    await eventually(lambda: _is_waiting(web, owner), 120)
                    await _lose_leader(cluster, jobs, database, number)
                assert await asyncio.to_thread(jobs.find_problems, database) == []
                assert await asyncio.to_thread(charges_of, database) == dict.fromkeys(jobs.private, "released")
                assert (folder / "worker.log").read_text().count("job starts") == 2
            finally:
                process.kill()
                await process.wait()
                await asyncio.to_thread(database.close)


async def _lose_leader(cluster: Cluster, jobs: JobFleet, database: Database, number: signal.Signals) -> None:
    """End or stop the leader while a Worker has a private job."""
    private = await jobs.submit(is_private=True)
    await jobs.wait_begun(private, database)
    leader = await cluster.find_leader()
    assert leader is not None
    num_ended = len(leader.exit_codes)
    leader.signal(number)
    done = await jobs.follow(private)
    assert (done["state"], done["facts"]["worker"]) == ("released", "gpu-1"), done
    leader.signal(signal.SIGCONT)
    await eventually(lambda: len(leader.exit_codes) > num_ended, 120)
    await cluster.wait_ready()


async def _start_worker(folder: Path, domain: str, token: str) -> asyncio.subprocess.Process:
    command = [sys.executable, "-m", "pygrid", "worker", "--domain", domain, "--cache-dir", str(folder / "kept")]
    with (folder / "worker.log").open("ab") as log:
        environment = {**os.environ, "PYGRID_WORKER_TOKEN": token}
        return await asyncio.create_subprocess_exec(*command, env=environment, stdout=log, stderr=log)


async def _is_waiting(web: httpx.AsyncClient, owner: dict[str, str]) -> bool:
    answer = await web.get(f"{WORKERS}/authorized", headers=owner)
    return bool(answer.json()["workers"][0]["num_waiting"])


def _assert_refuses(follower: Address) -> None:
    for method, path in (("POST", "/model-centric/host-training"), ("GET", "/jobs"), ("POST", "/users")):
        answer = httpx.request(method, f"http://{follower[0]}:{follower[1]}{path}", timeout=20)
        assert (answer.status_code, answer.json()["code"]) == (503, "not_leader")
        assert answer.headers["retry-after"] == "1"
    for path in FOLLOWER_PATHS - {"/metrics"}:
        assert status(follower, path) not in (0, 503), path
