"""Coordinators that mean ill, and Domains that are made to call where they must not.

Should happen: what makes no sense ends the job, before anything was trained if it can be told before; what was approved
is all that it gets, however often it asks; the owner's revocation works while it keeps silent.
Should not happen: a model of other arrays, or with NaN, in a Worker; a disk that fills; anything said to it but what
the protocol says; a call to a private address without a person.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_federated_jobs import charges_of, parts_of

from pygrid.domain import DomainTimings
from pygrid.errors import InvalidInput
from pygrid.features.jobs.federated.participation import ParticipationTimings
from pygrid.features.jobs.service import JobsService
from pygrid.settings import load_settings
from pygrid.tensors import decode, encode
from pygrid.transport import HttpTransport, Request
from pygrid.transport.dialer import Dialer
from pygrid.transport.untrusted import find_fault
from pygrid.web.services import service
from support.eventually import eventually, turns
from support.federation import LONG, PRIVATE, serving, until_doing
from support.jobs import MODEL, POLICY, Site, running_site
from support.plans.handmade import logistic_params

Answer = tuple[int, bytes]

IMPATIENT = ParticipationTimings(connect_patience_s=0.1, max_backoff_s=0.05)


def accepted(model: bytes = MODEL, **changes: Any) -> dict[str, Any]:
    answer = {
        "status": "accepted",
        "request_key": "a" * 64,
        "version": "1",
        "model": "shared",
        "plans": {"training_plan": 1},
        "protocols": {},
        "client_config": {},
        "model_id": 1,
        "cycle": 1,
        "checkpoint": 1,
        "model_hash": hashlib.sha256(model).hexdigest(),
        "plan_hashes": {"training_plan": "0" * 64},
        "deadline_s": 60.0,
        "max_report_bytes": 10**6,
    }
    return {**answer, **changes}


@dataclass
class Enemy:
    """An ASGI app that answers as it is told to, and notes what it is told."""

    admission: Any = field(default_factory=accepted)
    model: bytes = MODEL
    report: Answer = (200, b'{"status":"success"}')
    client_id: str = "client"
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    heard: list[tuple[str, bytes]] = field(default_factory=list)
    before: Callable[[str], Awaitable[None]] | None = None
    is_endless: bool = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for phase in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{phase}.complete"})
            return
        what, body = scope["path"].rpartition("/")[2], b""
        while (message := await receive()).get("more_body"):
            body += message["body"]
        self.heard.append((what, body + message.get("body", b"")))
        if self.before is not None:
            await self.before(what)
        status, answer = self._answer(what)
        headers = [(b"content-type", b"application/json"), *self.headers]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        if what == "get-model" and self.is_endless:
            for _ in range(1000):  # 64 MB of a model that has 60 bytes
                await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
                await turns()
        await send({"type": "http.response.body", "body": answer})

    def _answer(self, what: str) -> Answer:
        if what == "authenticate":
            told = {"status": "success", "worker_id": self.client_id, "requires_speed_test": False}
            return 200, json.dumps(told).encode()
        if what == "cycle-request":
            said = self.admission if isinstance(self.admission, bytes) else json.dumps(self.admission).encode()
            return 200, said
        return {"get-model": (200, self.model), "report": self.report}.get(what, (404, b"{}"))

    def said(self, what: str) -> list[bytes]:
        return [body for name, body in self.heard if name == what]


@asynccontextmanager
async def facing(
    enemy: Enemy, folder: Path, cycles: int = 3, timings: ParticipationTimings = IMPATIENT, **request: Any
) -> AsyncIterator[tuple[Site, dict[str, Any]]]:
    """A Domain whose private job takes part in the enemy's process."""
    settings = load_settings({}, data_dir=folder / "alice", id="alice", num_workers=1)
    async with serving(enemy) as url, running_site(settings, DomainTimings(timings)) as site:
        dataset = await site.owner.upload()
        await site.owner.set_policy(dataset, **POLICY)
        federation = {"coordinator": url, "process": "shared", "version": "1", "cycles": cycles}
        yield site, await site.scientist.submit(dataset, federation=federation, **{**PRIVATE, **request})


def other_arrays() -> bytes:
    return encode({"weight": np.zeros((3, 5), np.float32), "bias": np.zeros(3, np.float32)})


def not_a_number() -> bytes:
    params = {name: np.array(array) for name, array in logistic_params().items()}
    params["bias"][1] = np.nan
    return encode(params)


def one_too_many() -> bytes:
    return encode({**logistic_params(), "more": np.zeros(2, np.float32)})


@pytest.mark.parametrize("make", [other_arrays, not_a_number, one_too_many, lambda: b"nonsense", lambda: b""])
async def test_a_model_that_was_not_approved_is_not_trained(make: Callable[[], bytes], tmp_path: Path) -> None:
    model = make()
    async with facing(Enemy(accepted(model), model), tmp_path) as (site, job):
        failed = await site.owner.wait(job["id"], "failed")
        assert failed["code"] == "coordinator_misbehaves"
        assert failed["federation"]["num_begun"] == 0
        budget = await site.scientist.budget(job["dataset"])
        assert budget["yours"] == 0, "nothing was trained, so nothing is kept"
    assert [state for state, _ in charges_of(tmp_path, "alice")] == ["refunded"]


@pytest.mark.parametrize(
    "enemy",
    [
        Enemy(accepted(cycle=2**40)),
        Enemy(accepted(cycle=0)),
        Enemy({key: value for key, value in accepted().items() if key != "cycle"}),
        Enemy(accepted(model_hash="../../../etc/passwd")),
        Enemy(accepted(model_hash="0" * 64)),
        Enemy(accepted(request_key="k" * 5000)),
        Enemy(accepted(request_key="a\nb: c")),
        Enemy(client_id="x\0y"),
        Enemy(client_id="x" * 5000),
        Enemy(b"[" * 10_000),
        Enemy(b'{"status":"accepted"}'),
        Enemy(is_endless=True),
        Enemy(headers=[(b"location", b"http://127.0.0.1:1/")], admission=b""),
    ],
)
async def test_answers_that_make_no_sense_end_the_job_before_anything_is_trained(enemy: Enemy, tmp_path: Path) -> None:
    async with facing(enemy, tmp_path) as (site, job):
        failed = await site.owner.wait(job["id"], "failed")
        assert failed["code"] == "coordinator_misbehaves", failed
        assert failed["federation"]["num_begun"] == 0
        inputs = tmp_path / "alice" / "jobs" / "inputs" / job["id"]
        await eventually(lambda: not inputs.exists())  # it goes when the end is written
    assert [state for state, _ in charges_of(tmp_path, "alice")] == ["refunded"]


async def test_however_often_it_asks_it_gets_what_was_approved(tmp_path: Path) -> None:
    """The same cycle again and again, with models that it likes to see trained."""
    enemy = Enemy()
    async with facing(enemy, tmp_path, cycles=2) as (site, job):
        ended = await site.owner.wait(job["id"], "released")
        assert (ended["federation"]["num_begun"], ended["federation"]["num_reported"]) == (2, 2)
        await eventually(lambda: enemy.said("leave"))  # it comes once the end is written
    first, second = enemy.said("report")
    # The same model twice, and not the same diff: each has noise of its own, which was paid for.
    assert first != second
    for body in (first, second):
        arrays, metadata = decode(body)
        assert metadata == {"num_examples": "300"}
        assert {name: array.shape for name, array in arrays.items()} == {
            name: array.shape for name, array in logistic_params().items()
        }
    assert {what for what, _ in enemy.heard} == {"authenticate", "cycle-request", "get-model", "report", "leave"}
    assert all(set(json.loads(body)) == {"model_name", "model_version"} for body in enemy.said("authenticate"))
    assert all(
        set(json.loads(body)) <= {"worker_id", "model", "version", "wait_s"} for body in enemy.said("cycle-request")
    )
    assert [state for state, _ in charges_of(tmp_path, "alice")] == ["released"]


@pytest.mark.parametrize("status", [400, 409, 410, 413])
async def test_one_that_refuses_every_diff_gets_no_more_of_them(status: int, tmp_path: Path) -> None:
    refusal = json.dumps({"status": status, "code": "because", "detail": "no"}).encode()
    enemy = Enemy(report=(status, refusal), headers=[(b"content-type", b"application/problem+json")])
    async with facing(enemy, tmp_path, cycles=3) as (site, job):

        async def ended() -> dict[str, Any] | None:
            if len(enemy.said("report")) > 20:  # 410: the very same bytes, as for a cycle that was opened again
                await site.owner.call("POST", f"/data-centric/jobs/{job['id']}/revoke")
            found = await site.owner.job(job["id"])
            return found if found["state"] in ("released", "failed", "revoked") else None

        found = await eventually(ended)
        assert found["federation"]["num_begun"] <= 3
    assert len(set(enemy.said("report"))) <= 3
    assert len(parts_of(tmp_path, "alice")) <= 3


def refusing_every_key() -> Enemy:
    return Enemy(report=(410, b'{"code": "cycle_closed"}'), headers=[(b"content-type", b"application/problem+json")])


@pytest.mark.parametrize(
    ("enemy", "what"),
    [(refusing_every_key(), "report"), (Enemy(accepted(deadline_s=-1.0)), "cycle-request")],
    ids=["every key has ended", "every cycle is over"],
)
async def test_one_that_leads_nowhere_is_asked_more_and_more_rarely(enemy: Enemy, what: str, tmp_path: Path) -> None:
    """Each round writes to the database and the audit log, so no coordinator may have the Domain go round and round."""
    rests: list[float] = []

    async def rest(seconds: float) -> None:
        rests.append(seconds)
        await turns()

    timings = ParticipationTimings(connect_patience_s=0.1, sleep=rest)
    async with facing(enemy, tmp_path, timings=timings) as (site, job):
        await eventually(lambda: len(enemy.said(what)) >= 10)
        await site.owner.call("POST", f"/data-centric/jobs/{job['id']}/revoke")
    assert rests[:9] == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0, 10.0]


async def test_one_that_never_has_work_does_not_keep_a_place_for_ever(
    tmp_path: Path,
) -> None:
    enemy, timings = Enemy({"status": "rejected", "timeout": 0}), replace(IMPATIENT, max_idle_s=1.0)
    async with facing(enemy, tmp_path, timings=timings) as (site, job):
        failed = await site.owner.wait(job["id"], "failed")
        assert (failed["code"], failed["federation"]["num_begun"]) == ("coordinator_idle", 0)
        assert (await site.scientist.budget(job["dataset"]))["yours"] == 0
    assert [state for state, _ in charges_of(tmp_path, "alice")] == ["refunded"]


@pytest.mark.parametrize("what", ["cycle-request", "get-model", "report"])
async def test_the_owner_ends_it_while_the_coordinator_keeps_silent(what: str, tmp_path: Path) -> None:
    silent = asyncio.Event()

    async def keep_silent(asked: str) -> None:
        if asked == what:
            silent.set()
            await asyncio.Event().wait()

    async with facing(Enemy(before=keep_silent), tmp_path) as (site, job):
        async with asyncio.timeout(60):
            await silent.wait()
        threads = service(site.app.state, JobsService)  # the service, which still answers
        assert threads is not None
        answer = await site.owner.call("POST", f"/data-centric/jobs/{job['id']}/revoke")
        assert answer.json()["state"] == "revoked"
    expected = "refunded" if what != "report" else "failed"
    assert [state for state, _ in charges_of(tmp_path, "alice")] == [expected]


async def test_a_job_that_is_revoked_while_it_trains_says_nothing_more(tmp_path: Path) -> None:
    enemy = Enemy()
    async with facing(enemy, tmp_path, **LONG) as (site, job):
        await until_doing(site, job, "trains for cycle 1")
        await site.owner.call("POST", f"/data-centric/jobs/{job['id']}/revoke")
        await eventually(lambda: enemy.said("leave"))  # the last that a job says
        assert enemy.said("report") == []


async def test_no_diff_of_a_deleted_dataset_leaves(tmp_path: Path) -> None:
    """It was kept, while the coordinator could not be reached for days, say."""
    enemy = Enemy(report=(503, b"{}"))
    async with facing(enemy, tmp_path) as (site, job):
        await eventually(lambda: enemy.said("report"))
        answer = await site.owner.call("DELETE", f"/data-centric/datasets/{job['dataset']}")
        assert answer.status_code == 204, answer.text
        said = len(enemy.said("report"))
        ended = await site.scientist.wait(job["id"], "failed")
        assert ended["code"] == "dataset_not_found"
        assert len(enemy.said("report")) <= said + 1, "one may have been on its way"
    assert [state for state, _ in charges_of(tmp_path, "alice")] == ["failed"]


async def test_no_stranger_makes_a_domain_call_private_addresses(tmp_path: Path) -> None:
    """A Domain that others can reach asks a person before it calls where a stranger says, unless anybody may call
    there.
    """
    settings = load_settings({}, data_dir=tmp_path / "alice", host="0.0.0.0", secret_key="k" * 32, open_signup=True)
    async with running_site(settings) as site:
        dataset = await site.owner.upload()
        await site.owner.set_policy(dataset, **POLICY)
        for coordinator in (
            "http://127.0.0.1:9",
            "http://localhost:9",
            "http://10.0.0.1",
            "http://169.254.169.254",
            "http://[::1]:9",
            "http://[::ffff:127.0.0.1]:9",
            "http://0.0.0.0:9",
            "http://2130706433:9",
            "grid+http://192.168.1.1:7000/hub",
        ):
            federation = {"coordinator": coordinator, "process": "shared", "version": "1", "cycles": 1}
            job = await site.scientist.submit(dataset, federation=federation, **PRIVATE)
            waiting = await site.owner.wait(job["id"], "waiting")
            assert waiting["request"]["federation"]["coordinator"] == coordinator
            await site.scientist.call("POST", f"/data-centric/jobs/{job['id']}/cancel")
        budget = await site.scientist.budget(dataset)
        assert budget["yours"] == 0


def test_a_guarded_dialer_connects_only_to_what_was_checked() -> None:
    asked: list[str] = []

    def fault(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str | None:
        asked.append(str(address))
        return find_fault(address, allow_private=False)

    transport = HttpTransport("http://localhost:9", dialer=Dialer(fault))
    try:
        with pytest.raises(InvalidInput, match="on this machine") as refused:
            transport.send(Request("GET", "/"))
        assert refused.value.code == "address_refused"
        assert set(asked) <= {"127.0.0.1", "::1"}
    finally:
        transport.close()
