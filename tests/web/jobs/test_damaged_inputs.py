"""Inputs of jobs whose bytes changed on the disk of a Domain: plans, models, columns, mocks, diffs that wait to be
reported.

Should happen: the job ends, and the owner of the data reads which file it was; nothing is charged for a job that had
not begun; a diff that is damaged is made again.
Should not: damaged bytes are computed with, given to another machine, or reported; a job that is tried for ever.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from test_federated_faults import again as domain_again
from test_federated_faults import until_doing
from test_federated_jobs import parts_of
from test_job_faults import charge_states, columns_of
from test_job_restart import again, never
from test_remote_leases import machine

from pygrid.core.datasets import column_file
from pygrid.edge import EdgeClient
from pygrid.errors import Unavailable
from pygrid.features.jobs.running.dry_run import DryRun
from pygrid.features.jobs.running.queue import JobQueue
from pygrid.features.jobs.running.runs import JobTrainer
from pygrid.settings import DomainSettings, load_settings
from pygrid.storage.columns import map_columns
from pygrid.storage.job_files import REPORT
from support.federation import LONG, QUICK, running_hub, running_town
from support.federation import PRIVATE as PRIVATE_CYCLES
from support.jobs import DATASETS, MODEL, Site, npz, records, running_site
from support.plans.models import linear
from support.training import gate_in_process
from support.web import flip

PRIVATE: dict[str, Any] = {"epochs": 1, "batch_size": 30, "privacy": {"epsilon": 1.0, "delta": 1e-6}}
PREDICT: dict[str, Any] = {"binding": {"x": "features"}, "plan": None, "model": linear()}


def inputs(settings: DomainSettings, job: dict[str, Any]) -> Path:
    return settings.data_dir / "jobs" / "inputs" / str(job["id"])


def blob(settings: DomainSettings, job: dict[str, Any], part: str) -> Path:
    """The file of a job's plan or model."""
    return inputs(settings, job) / (job["plan_id"] if part == "plan" else hashlib.sha256(MODEL).hexdigest())


@pytest.mark.parametrize("part", ["plan", "model"])
async def test_an_exact_job_does_not_run_on_damaged_files(site: Site, settings: DomainSettings, part: str) -> None:
    dataset = await site.owner.upload()
    job = await site.owner.wait((await site.scientist.submit(dataset))["id"], "waiting")
    damaged = blob(settings, job, part)
    flip(damaged)
    await site.owner.approve(job)
    failed = await site.owner.wait(job["id"], "failed")
    assert "damaged" in failed["detail"]
    assert damaged.name in failed["detail"]
    assert (await site.owner.result(job["id"])).status_code == 404


@pytest.mark.parametrize("part", ["plan", "model", "column"])
async def test_a_private_job_does_not_run_on_damaged_files_and_costs_nothing(
    settings: DomainSettings, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing_now(_queue: JobQueue, **_which: bool) -> None:
        return None

    with monkeypatch.context() as patch:
        patch.setattr(JobQueue, "take_next", nothing_now)
        async with running_site(settings) as site:
            dataset = await site.owner.upload()
            await site.owner.set_policy(dataset)
            job = await site.scientist.submit(dataset, **PRIVATE)
            job = await site.owner.wait(job["id"], "approved")
            damaged = (
                sorted((await columns_of(site, settings)).glob("*.bin"))[0]
                if part == "column"
                else blob(settings, job, part)
            )
    flip(damaged)
    async with again(settings) as site:
        failed = await site.owner.wait(job["id"], "failed")
        assert damaged.name in failed["detail"]
        assert (await site.scientist.budget(dataset))["yours"] == 0
        assert await charge_states(site) == ["refunded"]


async def test_a_column_that_a_job_does_not_use_may_be_damaged(site: Site, settings: DomainSettings) -> None:
    dataset = await site.owner.upload()
    folder = await columns_of(site, settings)
    flip(folder / column_file([column.name for column in map_columns(folder)[0].columns].index("age")))
    job = await site.owner.wait((await site.scientist.submit(dataset))["id"], "waiting")
    await site.owner.approve(job)
    await site.owner.wait(job["id"], "held")


async def test_a_model_whose_report_is_damaged_predicts_nothing(site: Site, settings: DomainSettings) -> None:
    dataset = await site.owner.upload()
    job = await site.owner.wait((await site.scientist.submit(dataset, "predict", **PREDICT))["id"], "waiting")
    report = inputs(settings, job) / REPORT
    flip(report, report.read_bytes().index(b'"num_nodes":') + len(b'"num_nodes":'))
    await site.owner.approve(job)
    failed = await site.owner.wait(job["id"], "failed")
    assert "damaged" in failed["detail"]
    assert REPORT in failed["detail"]


@pytest.mark.parametrize("part", ["plan", "model", "mock"])
async def test_a_job_is_rejected_if_what_it_is_tried_with_is_damaged(
    settings: DomainSettings, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(DryRun, "run", never)
        async with running_site(settings) as site:
            sent = {"name": "points", "visibility": "listed", "columns": [{"name": "label", "meaning": "label 0..2"}]}
            files = {"config": json.dumps(sent).encode(), "data": npz(records()), "mock": npz(records(50, seed=4))}
            dataset = (await site.owner.call("POST", DATASETS, files=files)).json()["id"]
            real = await columns_of(site, settings)
            job = await site.scientist.submit(dataset)
            job = await site.owner.job(job["id"])
    if part == "mock":
        (mock,) = (path for path in (settings.data_dir / "datasets").iterdir() if path != real)
        damaged = sorted(mock.glob("*.bin"))[0]
    else:
        damaged = blob(settings, job, part)
    flip(damaged)
    async with again(settings) as site:
        rejected = await site.owner.wait(job["id"], "rejected", seconds=10)
        assert rejected["code"] == "blob_damaged"
        assert damaged.name in rejected["detail"]


async def test_a_damaged_column_does_not_go_to_another_machine(tmp_path: Path) -> None:
    settings = load_settings({}, data_dir=tmp_path / "data", id="test", prefer_remote_workers=True, num_workers=1)
    async with running_site(settings) as site:
        dataset = await site.owner.upload()
        await site.owner.set_policy(dataset, allow_remote_workers=True)
        worker = await machine(site)
        lease, job = await worker.take(site.scientist.submit(dataset, **PRIVATE))
        await worker.renew(lease)
        await worker.call("DELETE", f"/leases/{lease['id']}")
        await site.owner.wait(job["id"], "failed")
        flip(sorted((await columns_of(site, settings)).glob("*.bin"))[0])
        asking = asyncio.create_task(worker.ask(wait_s=60))
        await worker.until_asking()
        job = await site.scientist.submit(dataset, **PRIVATE)
        failed = await site.owner.wait(job["id"], "failed")
        assert "damaged" in failed["detail"]
        assert not asking.done()
        asking.cancel()


@pytest.fixture
def _quick_federation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pygrid.features.processes.hosting.check_async", gate_in_process)


@pytest.mark.usefixtures("_quick_federation")
@pytest.mark.parametrize("terms", [QUICK, PRIVATE_CYCLES], ids=["exact", "private"])
async def test_a_damaged_diff_is_not_reported_and_the_cycle_is_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, terms: dict[str, Any]
) -> None:
    def lost(self: EdgeClient, body: Any) -> None:
        raise Unavailable("the test cut the line", code="connection_lost")

    async with running_hub(tmp_path / "hub") as hub:
        process = await hub.host(min_workers=1, min_diffs=1, max_diffs=1, num_cycles=1)
        with monkeypatch.context() as patch:
            patch.setattr(EdgeClient, "send_report", lost)
            async with running_town(tmp_path, "alice", hub=hub) as town:
                job = await town.submit("alice", 2, **terms)
                if "privacy" not in terms:
                    await town.sites["alice"].owner.approve(await town.wait("alice", job, "waiting"))
                await until_doing(town.sites["alice"], job, "tries again")
        (kept,) = (tmp_path / "alice" / "jobs" / "inputs" / job["id"] / "cycles" / "reports").iterdir()
        flip(kept)
        async with domain_again(tmp_path, "alice") as site:
            ended = await site.owner.wait(job["id"], "released")
            assert ended["federation"]["num_reported"] == 1
            assert ended["federation"]["num_spent"] == (2 if "privacy" in terms else 1)
        assert await hub.contributions(process) == [(1, "alice")]
    assert parts_of(tmp_path, "alice") == [(1, "lost"), (1, "reported")]


@pytest.mark.usefixtures("_quick_federation")
async def test_a_model_that_is_damaged_while_its_job_waits_for_a_worker_is_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[bytes] = []
    train = JobTrainer.train

    async def watched(self: JobTrainer, job: Any, model: Path, number: int, **more: Any) -> Any:
        trained.append(await asyncio.to_thread(model.read_bytes))
        return await train(self, job, model, number, **more)

    monkeypatch.setattr(JobTrainer, "train", watched)
    async with running_town(tmp_path, "alice", epsilon=16.0, epsilon_per_user=16.0) as town:
        site = town.sites["alice"]
        busy = await site.scientist.submit(town.datasets["alice"], **LONG)
        await site.scientist.wait(busy["id"], "running")
        process = await town.hub.host(min_workers=1, min_diffs=1, max_diffs=1, num_cycles=1)
        job = await town.submit("alice", 1, **PRIVATE_CYCLES)
        await until_doing(site, job, "waits for a Worker")
        (fetched,) = (tmp_path / "alice" / "jobs" / "inputs" / job["id"] / "cycles" / "models").iterdir()
        flip(fetched)
        await site.scientist.call("POST", f"/data-centric/jobs/{busy['id']}/cancel")
        await town.wait("alice", job, "released")
        assert await town.hub.contributions(process) == [(1, "alice")]
        assert trained == [MODEL]
    assert parts_of(tmp_path, "alice") == [(1, "reported")]
