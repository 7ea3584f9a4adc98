"""Jobs that a scientist submits through the balancer of a cluster, and what the database says of them at the end."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections import Counter, defaultdict
from typing import Any

import httpx

from pygrid.storage import audit, charges
from pygrid.storage.sql.database import Database
from replicas import AWAY
from support.eventually import eventually
from support.jobs import ENDED, Person
from support.web import People

PRIVATE: dict[str, Any] = {"privacy": {"epsilon": 1.0, "delta": 1e-7}}
LONG: dict[str, Any] = {"batch_size": 10, "epochs": 300}
"""Some seconds of work."""
POLICY = {"epsilon": 20.0, "delta": 1e-5, "epsilon_per_user": 20.0}
REPEAT_S = 0.3
PATIENCE_S = 300.0


class Repeating(httpx.AsyncBaseTransport):
    """Sends a request again while a replica is away. All requests of this module can be sent twice."""

    def __init__(self, repeated: Counter[int]) -> None:
        self._transport = httpx.AsyncHTTPTransport()
        self._repeated = repeated

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    answer = await self._transport.handle_async_request(request)
                    in_progress = answer.status_code == 409 and b"idempotency_in_progress" in await answer.aread()
                    if answer.status_code not in AWAY and not in_progress:
                        return answer
                    await answer.aclose()
                    self._repeated[answer.status_code] += 1
                except httpx.TransportError:
                    self._repeated[0] += 1
                await asyncio.sleep(REPEAT_S)  # a client's pause

    async def aclose(self) -> None:
        await self._transport.aclose()


class JobFleet:
    """Submits one job after the other, private ones and exact ones.

    Args:
        web: a client with the transport `Repeating`.
        owner: headers of the owner of the Domain.
    """

    def __init__(self, web: httpx.AsyncClient, owner: dict[str, str], rng: random.Random) -> None:
        self._web, self._owner, self._rng = web, Person(web, owner), rng
        self.private: list[str] = []
        self.exact: list[str] = []
        self.states: Counter[str] = Counter()

    async def prepare(self, **policy: Any) -> None:
        """Upload the dataset, and make the account of the scientist."""
        self.dataset = await self._owner.upload()
        await self._owner.set_policy(self.dataset, **POLICY | policy)
        self._scientist = await People(self._web).with_role(1, self._owner.headers, "scientist@example.org")

    async def submit(self, *, is_private: bool, **changes: Any) -> str:
        """The id of a new job."""
        key = {"Idempotency-Key": str(uuid.uuid4())}
        terms = LONG | (PRIVATE if is_private else {}) | changes
        job = await Person(self._web, self._scientist | key).submit(self.dataset, **terms)
        (self.private if is_private else self.exact).append(job["id"])
        return str(job["id"])

    async def run(self, stop: asyncio.Event) -> None:
        """Submit a job and wait for its end, until told to stop."""
        while not stop.is_set():
            await self.follow(await self.submit(is_private=self._rng.random() < 0.6))

    async def follow(self, job_id: str) -> dict[str, Any]:
        """Approve what waits for that, until the job has ended; returns the job."""

        async def has_ended() -> dict[str, Any] | None:
            job = await self._owner.job(job_id)
            if job["state"] in ("waiting", "held"):
                answer = await self._owner.decide("approve", job)
                assert answer.status_code in (200, 409), answer.text  # it was approved, and the answer was lost
            return job if job["state"] in ENDED else None

        job: dict[str, Any] = await eventually(has_ended, PATIENCE_S)
        self.states[f"{'private' if job_id in self.private else 'exact'} {job['state']}"] += 1
        if job["state"] == "released":
            result = await Person(self._web, self._scientist).result(job_id)
            assert result.status_code == 200, result.text
        return job

    async def is_running(self, job_id: str) -> bool:
        """Whether a Worker runs an exact job."""
        job = await self._owner.job(job_id)
        return bool(job["state"] == "running" and job["progress"] > 0)

    async def wait_begun(self, job_id: str, database: Database) -> None:
        """Wait until a Worker was given a private job."""
        await eventually(lambda: charges_of(database).get(job_id) == "running", PATIENCE_S)

    def find_problems(self, database: Database) -> list[str]:
        """Every way in which the database contradicts the promises about jobs and budgets."""
        problems = []
        if (fault := database.read_now(audit.verify)) is not None:
            problems.append(f"the audit log is damaged: {fault}")
        actions: dict[str, Counter[str]] = defaultdict(Counter)
        for entry in _entries(database):
            actions[str(entry.data.get("job_id"))][entry.action] += 1
        states = charges_of(database)
        for job_id in self.private:
            done, charge = actions[job_id], states.get(job_id)
            if (num := done["job_started"] - done["job_put_back"]) > 1:
                problems.append(f"private job {job_id} was begun {num} times")
            if done["job_released"] > 1:
                problems.append(f"private job {job_id} was released {done['job_released']} times")
            if done["job_released"] and charge != "released":
                problems.append(f"private job {job_id} was released, and its charge is {charge}")
            if done["job_started"] and charge is None:
                problems.append(f"private job {job_id} was started without a charge")
        for job_id in self.exact:
            done = actions[job_id]
            if done["job_started"] > 2 or done["job_held"] > 1 or done["job_released"] > 1:
                problems.append(f"exact job {job_id}: {dict(done)}")
        return problems

    async def find_overspending(self) -> list[str]:
        """Whether more was spent than the policy allows, as the Domain tells."""
        budget = await self._owner.budget(self.dataset)
        return [] if budget["spent"] <= POLICY["epsilon"] * (1 + 1e-9) else [f"overspent: {budget}"]


def charges_of(database: Database) -> dict[str, str]:
    """The states of all charges, by job; the table allows one charge for each job."""
    query = charges.charges.select()
    return {row.job_id: row.state for row in database.read_now(lambda connection: connection.execute(query).all())}


def _entries(database: Database) -> list[audit.AuditEntry]:
    return database.read_now(lambda connection: audit.list_entries(connection, limit=100_000))
