"""Jobs on engines: a real Slurm, a real Ray, an emulated Kubernetes, beside this machine and a leased Worker.

Should happen: the same private job gives the same kind of answer everywhere, for one charge each; a cancelled job is
cancelled at its engine; an exact job whose Worker is killed runs once more; a job whose engine is away stays approved.
Should not happen: a private job that runs twice on one charge; a start token that is left on a disk.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from support.engines import COUNT, LONG, PROGRAM, TERMS, WORKERS, EngineSite, engine_site
from support.eventually import eventually_blocking
from support.kubernetes_cluster import Kubelet, kubernetes_cluster
from support.ray_cluster import ray_cluster
from support.slurm import free_port, slurm_cluster

pytestmark = pytest.mark.slow
ALL = ("local", "leased", "hpc", "ray", "cluster", "away")


@dataclass
class Everywhere:
    """A Domain with a pool of each kind."""

    site: EngineSite
    ray: str
    kubelet: Kubelet
    conf: Path

    def squeue(self, name: str) -> str:
        """The state of a Worker at Slurm."""
        command = ["squeue", "--noheader", "--states=all", f"--name={name}", "--format=%T"]
        environment = {**os.environ, "SLURM_CONF": str(self.conf)}
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Everywhere]:
    folder = tmp_path_factory.mktemp("engines")
    shared = folder / "shared"
    shared.mkdir(mode=0o700)
    with ExitStack() as stack:
        conf = stack.enter_context(slurm_cluster())
        ray = stack.enter_context(ray_cluster())
        kubelet = stack.enter_context(kubernetes_cluster())
        pools = [
            {"name": "hpc", "driver": "slurm", "folder": str(shared)},
            {"name": "ray", "driver": "ray", "address": ray},
            {"name": "cluster", "driver": "kubernetes", "address": kubelet.address, "namespace": "g", "image": "i"},
            {"name": "away", "driver": "ray", "address": f"http://127.0.0.1:{free_port()}"},
        ]
        environment = {"SLURM_CONF": str(conf)}
        site = stack.enter_context(engine_site(folder, lambda _: pools, environment))
        site.allow(*ALL)
        yield Everywhere(site, ray, kubelet, conf)


@pytest.fixture
def leased_worker(there: Everywhere) -> Iterator[None]:
    token = there.site.call("POST", WORKERS, there.site.owner, json={"name": "other-machine"})["token"]
    command = [PROGRAM, "worker", "--domain", there.site.address, "--cache-dir", str(there.site.folder / "kept")]
    with (there.site.folder / "worker.log").open("wb") as log:
        process = subprocess.Popen(command, env={**os.environ, "PYGRID_WORKER_TOKEN": token}, stdout=log, stderr=log)
    try:
        eventually_blocking(
            lambda: there.site.call("GET", f"{WORKERS}/authorized", there.site.owner)["workers"][0]["num_waiting"], 60
        )
        yield
    finally:
        process.terminate()
        process.wait()


@pytest.mark.usefixtures("leased_worker")
def test_a_private_job_gives_the_same_kind_of_answer_everywhere_for_one_charge(there: Everywhere) -> None:
    site, costs = there.site, []
    jobs = {pool: site.submit(**COUNT, privacy=TERMS, pool=pool) for pool in ALL[:-1]}
    for pool, job_id in jobs.items():
        done = site.wait_state(job_id, "released", seconds=120)
        assert done["facts"]["worker"] == {"local": "", "leased": "other-machine"}.get(pool, pool)
        (answer,) = json.loads(site.result(job_id))["answers"]
        assert abs(answer["value"] - 300) < 200, "noise of a standard deviation of about 18"
        actions = [entry.action for entry in site.audited(job_id)]
        for action in ("budget_reserved", "job_started", "charge_running", "charge_released", "job_released"):
            assert actions.count(action) == 1, actions
        started = next(entry for entry in site.audited(job_id) if entry.action == "job_started")
        assert started.data["pool"] == pool
        costs.append(done["cost"]["epsilon"])
    assert len(set(costs)) == 1
    assert not list((site.folder / "shared").glob("*.token")), "a Worker left its start token"
    eventually_blocking(lambda: not site.open_starts(), 60)


def test_a_cancelled_job_is_cancelled_at_its_engine(there: Everywhere) -> None:
    site, jobs = there.site, {}
    for pool in ("hpc", "ray"):
        jobs[pool] = site.submit(**LONG, pool=pool)
        site.approve(jobs[pool])
    for job_id in jobs.values():
        site.wait(job_id, lambda job: job["state"] == "running" and job["progress"] > 0, 120)
        site.call("POST", f"/data-centric/jobs/{job_id}/cancel", site.scientist)
    eventually_blocking(lambda: there.squeue(f"pygrid-{jobs['hpc']}-1") == "CANCELLED", 60)
    ray_job = f"{there.ray}/api/jobs/pygrid-{jobs['ray']}-1"
    eventually_blocking(lambda: httpx.get(ray_job, trust_env=False).json()["status"] in ("STOPPED", "FAILED"), 60)
    eventually_blocking(lambda: not site.open_starts(), 60)


def test_an_exact_job_whose_worker_is_killed_runs_once_more_and_a_private_one_fails(there: Everywhere) -> None:
    site = there.site
    exact = site.submit(**LONG, pool="hpc")
    site.approve(exact)
    site.wait(exact, lambda job: job["state"] == "running" and job["progress"] > 0, 120)
    private = site.submit(**LONG | {"epochs": 1500, "batch_size": 10, "privacy": TERMS}, pool="hpc")
    site.wait(private, lambda job: any(one.action == "charge_running" for one in site.audited(private)), 120)
    for job_id in (exact, private):
        kill_worker(f"pygrid-{job_id}-1")
    failed = site.wait_state(private, "failed")
    assert failed["code"] == "job_failed"
    site.wait(exact, lambda job: job["state"] == "running" and worker_of(f"pygrid-{exact}-2") is not None, 120)
    site.call("POST", f"/data-centric/jobs/{exact}/cancel", site.scientist)
    actions = [entry.action for entry in site.audited(private)]
    assert actions.count("charge_running") == actions.count("charge_failed") == 1
    assert actions.count("job_started") == 1


def test_workers_of_engines_keep_their_jobs_when_the_domain_is_killed(there: Everywhere) -> None:
    site = there.site
    pools = ("hpc", "ray", "cluster")
    jobs = [site.submit(**LONG | {"epochs": 150, "batch_size": 10, "privacy": TERMS}, pool=pool) for pool in pools]
    for job_id in jobs:
        eventually_blocking(lambda: any(one.action == "charge_running" for one in site.audited(job_id)), 120)  # noqa: B023
    assert [site.job(job_id)["state"] for job_id in jobs] == ["running"] * 3, "too short for this test"
    site.kill_and_start()
    for pool, job_id in zip(pools, jobs, strict=True):
        done = site.wait_state(job_id, "released", "failed", seconds=300)
        assert (done["state"], done["facts"]["worker"]) == ("released", pool), done
        actions = [entry.action for entry in site.audited(job_id)]
        for action in ("budget_reserved", "job_started", "charge_running", "charge_released", "job_released"):
            assert actions.count(action) == 1, actions
    eventually_blocking(lambda: not site.open_starts(), 60)
    eventually_blocking(lambda: there.squeue(f"pygrid-{jobs[0]}-1") in ("COMPLETED", ""), 60)
    assert worker_of(f"pygrid-{jobs[0]}-2") is None


def test_a_job_whose_engine_is_away_stays_approved(there: Everywhere) -> None:
    site, before = there.site, there.site.spent()
    job_id = site.submit(**COUNT, privacy=TERMS, pool="away")
    waiting = site.wait(job_id, lambda job: job["state"] == "approved" and job["code"] == "engine_unavailable")
    assert "cannot be reached" in waiting["detail"]
    site.call("POST", f"/data-centric/jobs/{job_id}/cancel", site.scientist)
    assert site.spent() == pytest.approx(before), "nothing was charged"


def test_a_worker_without_a_job_ends_with_4(there: Everywhere, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("0" * 64)
    command = [PROGRAM, "worker", "--once", "--domain", there.site.address, "--token-file", str(token)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 4, done.stderr
    assert not token.exists()


def worker_of(handle: str) -> psutil.Process | None:
    """The Worker that Slurm runs under this name."""
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "worker" in words and any(f"{handle}.token" in word for word in words):
            return process
    return None


def kill_worker(handle: str) -> None:
    process = worker_of(handle)
    assert process is not None
    process.kill()
