"""A Domain on PostgreSQL and a bucket, in process.

Should happen: everything that was stored is there after its disk was lost: models, a cycle in the middle, datasets,
jobs, results, the identity, the audit log. Should not happen: a Domain uses the store of another one, or its data
folder although its files are in a store.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pygrid.clock import ManualClock
from pygrid.domain import build_domain
from pygrid.errors import InvalidConfig, PygridError
from pygrid.settings import DomainSettings, load_settings
from pygrid.storage import audit
from pygrid.storage.blobs.audit_object import HeadObject
from pygrid.storage.blobs.remote_store import open_objects
from pygrid.storage.start import prepare_store
from pygrid.storage.store import Store
from pygrid.web.services import service
from support import jobs, stores
from support.plans.models import SERVE, linear
from support.plans.models import form as model_form
from support.training import Site, assert_values, gate_in_process, running_site
from support.web import People, running


@contextlib.asynccontextmanager
async def training(settings: DomainSettings, owner: dict[str, str] | None = None) -> AsyncIterator[Site]:
    clock = ManualClock()
    async with running_site(build_domain(settings, clock=clock), clock, settings.data_dir, owner or {}) as site:
        site.owner = site.owner or await People(site.web).owner()
        yield site


def lose_disk(settings: DomainSettings) -> None:
    shutil.rmtree(settings.data_dir)


async def test_a_cycle_goes_on_without_its_disk(settings: DomainSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pygrid.features.processes.hosting.check_async", gate_in_process)
    async with training(settings) as site:
        process = await site.host(max_diffs=3, max_workers=3, server_optimizer={"name": "momentum"})
        devices = await site.devices(process, 3)
        await devices[0].report(0.25)
        owner, identity = site.owner, (await site.web.get("/identity")).json()
    lose_disk(settings)
    async with training(settings, owner) as site:
        assert (await site.web.get("/identity")).json() == identity
        for device in devices:
            device._site = site
        await devices[1].report(0.5)
    lose_disk(settings)
    async with training(settings, owner) as site:
        devices[2]._site = site
        await devices[2].report(0.75)
        completed = await site.until_completed(process)
        assert completed["num_reports"] == 3
        assert_values(await site.checkpoint(process), 0.5)
        store = service(site.app.state, Store)
        assert len(list(open_objects(settings).list("diffs/"))) == 3
        assert store.remote is not None
        site.clock.advance(601)
        store.remote.garbage.collect()
        assert list(open_objects(settings).list("diffs/")) == []


async def test_jobs_and_models_without_their_disk(settings: DomainSettings) -> None:
    async with jobs.running_site(settings) as site:
        dataset = await site.owner.upload()
        job = await site.scientist.submit(dataset)
        await site.owner.approve(await site.owner.wait(job["id"], "waiting"))
        await site.owner.approve(await site.owner.wait(job["id"], "held"))
        result = await site.scientist.result(job["id"])
        assert result.status_code == 200
        waiting = await site.scientist.submit(dataset)
        await site.owner.wait(waiting["id"], "waiting")
        served = await site.web.post(SERVE, files=model_form(linear(), "scores"), headers=site.owner.headers)
        assert served.status_code == 200
        people = site.owner, site.scientist
    known = HeadObject(open_objects(settings)).find()
    assert known is not None
    lose_disk(settings)
    async with running(build_domain(settings)) as web:
        owner, scientist = (jobs.Person(web, one.headers) for one in people)
        assert audit.read_head(settings.data_dir / audit.HEAD_FILE).number == known.number + 1  # the start
        assert (await scientist.result(job["id"])).content == result.content
        await owner.approve(await owner.wait(waiting["id"], "waiting"))
        await owner.approve(await owner.wait(waiting["id"], "held"))
        assert (await scientist.result(waiting["id"])).status_code == 200
        download = await web.get("/data-centric/models/scores/download", headers=owner.headers)
        assert download.content == linear()
        assert (await web.get("/readyz")).json() == {"status": "ready"}


async def test_an_old_database_is_noticed_by_the_head_in_the_store(settings: DomainSettings) -> None:
    async with jobs.running_site(settings) as site:
        await site.owner.upload()
        headers = site.owner.headers
    HeadObject(open_objects(settings)).raise_to(audit.Head(10_000, "0" * 64))
    lose_disk(settings)
    async with running(build_domain(settings)) as web:
        dataset = await jobs.Person(web, headers).upload("others")
        answer = await jobs.Person(web, headers).set_policy(dataset, epsilon_per_user=2.0)
        assert answer
        private = await jobs.Person(web, headers).try_submit(
            dataset, "statistics", statistics=[{"kind": "count"}], privacy={"epsilon": 0.9, "delta": 1e-6}
        )
        assert private.json()["code"] == "ledger_rolled_back"


# -- What does not belong together -------------------------------------------------------------------------------------


def refusal(settings: DomainSettings) -> str:
    with pytest.raises(PygridError) as refused:
        build_domain(settings)
    return refused.value.code


async def test_stores_that_do_not_fit(settings: DomainSettings, moto: str, tmp_path: Path) -> None:
    async with running(build_domain(settings)) as web:
        await People(web).owner()
        await jobs.Person(web, await People(web).log_in("owner@example.org")).upload()
    other = dataclasses.replace(settings, store=stores.new_address(moto).url)
    assert refusal(other) == "wrong_store", "the files are in another store"
    open_objects(other).put("store.json", b'{"id": "another"}')
    assert refusal(other) == "wrong_store", "it belongs to another database"
    open_objects(other).put("store.json", b"{")
    assert refusal(other) == "wrong_store"
    assert refusal(dataclasses.replace(settings, store="s3://absent-bucket")) == "store_unfit"
    assert refusal(dataclasses.replace(settings, secret_key="x" * 32)) == "identity_damaged"
    with pytest.raises(InvalidConfig, match="PYGRID_STORE") as refused:
        prepare_store(dataclasses.replace(settings, store="", data_dir=tmp_path / "other"))
    assert refused.value.code == "wrong_store"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"store": "s3:/bucket"}, "use s3://BUCKET"),
        ({"store": "s3://bucket/../x"}, "use s3://BUCKET"),
        ({"database_url": "sqlite:////tmp/x.db"}, "PostgreSQL"),
        ({"database_url": None}, "PostgreSQL"),
        ({"secret_key": None}, "SECRET_KEY"),
        ({"s3_endpoint": "ftp://x"}, "PYGRID_S3_ENDPOINT"),
        ({"s3_endpoint": "https://user:word@x"}, "PYGRID_S3_ENDPOINT"),
        ({"s3_sse": "rot13"}, "PYGRID_S3_SSE"),
    ],
)
def test_settings_that_do_not_fit(given: dict[str, str | None], words: str) -> None:
    good = {"store": "s3://bucket/pre/fix", "database_url": "postgresql://u@h/d", "secret_key": "k" * 32}
    assert load_settings({}, **good).is_replicated
    with pytest.raises(InvalidConfig, match=words) as refused:
        load_settings({}, **{**good, **given})
    assert refused.value.code == "invalid_store"
