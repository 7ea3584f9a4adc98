"""Let three replicas behind HAProxy fail in every way, one after the other, while devices report and jobs run.

Every report is a mark (see `crash.py`), so the checkpoints tell which reports were counted, how often and where. The
audit log and the charges tell how often a job was started, charged and released.

    python benchmarks/failover.py --seconds 600 --seed 1

A probe asks the leader for something cheap again and again. The time of a fail-over is the longest time without an
answer after a fault. A fault begins when two replicas are ready, so faults of the store and of PostgreSQL overlap with
those of replicas, and two replicas can be away at once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import httpx
import numpy as np
import sqlalchemy as sa
import uvloop

import crash
from device_fleet import PatientReporter
from job_fleet import JobFleet, Repeating
from loadgen import Process, RequestFailed, checkpoint, host, sign_up
from pygrid.storage.sql.database import Database
from replicas import AWAY, LEADER_PATH, Cluster, Replica, WrongClock, running_cluster
from server_process import extract_commit, leave_nothing_behind
from support.eventually import eventually
from vector_model import model_bytes, plan_bytes

SIZE = 100_000
DRAIN_SIZE = 10_000
"""The same while replicas drain. A late report of this size is read whole, so it does not end its connection, and each
connection that breaks counts."""
NUM_DEVICES = 8
OWNER = ("owner@example.org", "correct horse battery staple")
ASKED_P99_S = 15.0
PAUSE_S = (0.5, 3.0)
"""Bounds of the pause after the leader answers again, until the next fault."""
LONG_S = (2.0, 14.0)
"""Bounds of how long a fault lasts that ends by itself."""
SHORT_S = (1.0, 3.0)
"""The same for planned faults."""
OFF_S = 600
"""How far a wrong clock is off, in seconds."""
_PROBE_S = 0.1
_LONG_PAUSE_S = 0.2


@dataclass
class Probe:
    """Requests for the leader, one after the other: when each was sent and answered, and its status."""

    answers: list[tuple[float, float, int]] = field(default_factory=list)

    async def run(self, address: tuple[str, int], token: str) -> None:
        """Ask until cancelled. Each answer needs the database."""
        headers = {"Authorization": f"Bearer {token}"}
        async with httpx.AsyncClient(base_url=f"http://{address[0]}:{address[1]}", headers=headers, timeout=60) as web:
            while True:
                sent = time.monotonic()
                try:
                    status = (await web.get(LEADER_PATH)).status_code
                except httpx.TransportError:
                    status = 0
                self.answers.append((sent, time.monotonic(), status))
                await asyncio.sleep(_PROBE_S)  # the pace of the probe

    def is_answered_since(self, moment: float) -> bool:
        """Whether a request that was sent after the moment was answered."""
        return bool(self.answers) and self.answers[-1][0] > moment and self.answers[-1][2] not in (0, *AWAY)

    def outage_s(self, begin: float, end: float) -> float:
        """The longest time between two answers in a time span."""
        answered = [done for _, done, status in self.answers if status not in (0, *AWAY) and begin <= done <= end]
        return float(max(np.diff([begin, *answered, end]), default=0.0))

    def num_failed(self, begin: float, end: float) -> int:
        """The requests sent in a time span that failed."""
        return sum(status in (0, *AWAY) for sent, _, status in self.answers if begin <= sent <= end)


@dataclass
class LongRequests:
    """Requests for the leader that a balancer cannot keep, one after the other: attempts to host a process again."""

    num_answered: int = 0
    most_repeats: int = 0
    """The most often that a request was repeated, as SDKs do after a refusal that says when."""
    failed: list[str] = field(default_factory=list)
    """What SDKs do not repeat."""

    async def run(self, address: tuple[str, int], token: str) -> None:
        """Ask until cancelled."""
        model, plan = model_bytes(DRAIN_SIZE), plan_bytes(DRAIN_SIZE)
        num_repeats = 0
        while True:
            try:
                await host(address, token, "marks", model, plan, crash.SERVER_CONFIG)
            except RequestFailed as failure:
                if failure.status == 503 and "retry_after_s" in str(failure):
                    num_repeats += 1
                    self.most_repeats = max(self.most_repeats, num_repeats)
                    await asyncio.sleep(1)  # what the refusal asks for
                    continue
                if failure.status != 409:
                    self.failed.append(str(failure))
            except OSError as failure:
                self.failed.append(repr(failure))
            num_repeats, self.num_answered = 0, self.num_answered + 1
            await asyncio.sleep(_LONG_PAUSE_S)  # the pace of the requests


@dataclass(frozen=True)
class Fault:
    """A fault that was made, and what the probe saw of it."""

    kind: str
    at_s: float
    outage_s: float
    num_failed: int


class Faults:
    """Makes faults. Those that last are ended by tasks of their own."""

    def __init__(
        self, cluster: Cluster, rng: random.Random, ending: asyncio.TaskGroup, length_s: tuple[float, float]
    ) -> None:
        self._cluster, self._rng, self._ending, self._length_s = cluster, rng, ending, length_s
        self.kinds: dict[str, Callable[[], Awaitable[None]]] = {
            "kill -9 of the leader": lambda: self._signal_leader(signal.SIGKILL),
            "SIGSTOP of the leader": self._pause_leader,
            "SIGTERM of the leader": lambda: self._signal_leader(signal.SIGTERM),
            "kill -9 of a replica": self._kill_any,
            "restart of PostgreSQL": self._restart_postgres,
            "kill of the store": self._kill_store,
            "slow store": self._slow_store,
            "leader cut off from PostgreSQL": lambda: self._cut("database", is_leader=True),
            "replica cut off from PostgreSQL": lambda: self._cut("database", is_leader=False),
            "replica cut off from the store": lambda: self._cut("store", is_leader=False),
            "wrong clock of the leader": lambda: self._change_clock(is_leader=True),
            "wrong clock of a replica": lambda: self._change_clock(is_leader=False),
        }
        self.drawn = list(self.kinds)
        """The kinds of a run without a plan."""
        self.kinds["rolling restart"] = self._restart_all
        self.kinds["rolling restart on newer tables"] = lambda: self._restart_all(migrates=True)
        self.kinds["upgrade"] = lambda: self._restart_all(package="")
        before = cluster.replicas[0].environment.get("PYTHONPATH", "")
        self.kinds["return to the version before"] = lambda: self._restart_all(package=before)

    def _later(self, end: Callable[[], Awaitable[Any]]) -> None:
        seconds = self._rng.uniform(*self._length_s)

        async def run() -> None:
            await asyncio.sleep(seconds)  # the length of the fault
            await end()

        self._ending.create_task(run())

    async def _leader(self) -> Replica:
        leader: Replica = await eventually(self._cluster.find_leader, 120)
        return leader

    async def _signal_leader(self, number: signal.Signals) -> None:
        (await self._leader()).signal(number)

    async def _pause_leader(self) -> None:
        leader = await self._leader()
        leader.signal(signal.SIGSTOP)

        async def wake() -> None:
            await eventually(self._cluster.find_leader, 120)  # it wakes up when another one leads
            leader.signal(signal.SIGCONT)

        self._later(wake)

    async def _restart_all(self, *, migrates: bool = False, package: str | None = None) -> None:
        """As for an upgrade: one replica after the other, the leader among them.

        Args:
            migrates: a later version migrates the database before the second restart.
            package: the folder of the version that they are from now on; empty: this one; None: they stay the same.
        """
        await eventually(self._cluster.is_complete, 120)
        for number, replica in enumerate(self._cluster.replicas):
            if package is not None:
                replica.environment["PYTHONPATH"] = package
            if migrates and number == 1:
                await asyncio.to_thread(_migrate_as_later_version, self._cluster.postgres.url)
            num_ended = len(replica.exit_codes)
            replica.signal(signal.SIGTERM)
            await eventually(lambda replica=replica, num=num_ended: len(replica.exit_codes) > num, 120)  # type: ignore[misc]
            await eventually(self._cluster.is_complete, 120)

    async def _kill_any(self) -> None:
        self._rng.choice(self._cluster.replicas).signal(signal.SIGKILL)

    async def _change_clock(self, *, is_leader: bool) -> None:
        """Kill a replica that starts again with a clock that is ten minutes off, and jumps to the other side later.

        A bucket refuses requests of a machine that is a quarter of an hour off.
        """
        replica = await self._leader() if is_leader else self._rng.choice(self._cluster.replicas)
        clock, sign = WrongClock(replica.folder.with_suffix(".clock")), self._rng.choice((1, -1))
        clock.set(sign * OFF_S)
        replica.environment.update(clock.environment)
        replica.signal(signal.SIGKILL)

        async def jump() -> None:
            clock.set(-sign * OFF_S)
            await asyncio.sleep(self._length_s[0])  # devices report to it
            for name in clock.environment:
                replica.environment.pop(name, None)

        self._later(jump)

    async def _restart_postgres(self) -> None:
        await asyncio.to_thread(self._cluster.postgres.stop, signal.SIGQUIT)
        await asyncio.to_thread(self._cluster.postgres.start)

    async def _kill_store(self) -> None:
        await asyncio.to_thread(self._cluster.store.kill)

        async def start() -> None:
            await asyncio.to_thread(self._cluster.store.start)

        self._later(start)

    async def _slow_store(self) -> None:
        links = [replica.store for replica in self._cluster.replicas]
        for link in links:
            link.delay_s = self._rng.uniform(0.1, 1.0)

        async def end() -> None:
            for link in links:
                link.delay_s = 0.0

        self._later(end)

    async def _cut(self, which: str, *, is_leader: bool) -> None:
        replica = await self._leader() if is_leader else self._rng.choice(self._cluster.replicas)
        link = replica.database if which == "database" else replica.store
        link.cut()
        is_reset = self._rng.random() < 0.5

        async def mend() -> None:
            link.mend(is_reset=is_reset)

        self._later(mend)


@dataclass(frozen=True)
class Result:
    """What a run found; ``problems`` is empty if every promise was kept."""

    faults: list[Fault]
    crash: crash.CrashResult
    jobs: Counter[str]
    repeated: Counter[int]
    """Requests that devices and scientists repeated, by status; 0: a broken connection."""
    exit_codes: Counter[int]
    long: LongRequests
    """Nothing was asked, unless replicas drain."""
    problems: list[str]

    def outages(self, kind: str = "") -> list[float]:
        """Seconds without an answer, of the faults of a kind; of all faults of the leader by default."""
        return [fault.outage_s for fault in self.faults if kind == fault.kind or (not kind and "leader" in fault.kind)]


async def run(
    folder: Path,
    *,
    seconds: float,
    seed: int,
    kinds: list[str] | None = None,
    with_jobs: bool,
    drain_s: int = 0,
    before: str = "",
) -> Result:
    """Make faults for some time, or each of ``kinds`` once; then let all end, and check.

    Args:
        drain_s: ``PYGRID_DRAIN_S`` of the replicas.
        before: the commit whose version the replicas are at first; by default they are this version.

    Raises:
        RequestFailed: a device got an answer that the protocol does not allow here.
        AssertionError: the cluster did not recover, or a job did not end.
    """
    repeated: Counter[int] = Counter()
    async with (
        running_cluster(folder, PYGRID_DRAIN_S=str(drain_s), **_version(before, folder)) as cluster,
        httpx.AsyncClient(
            transport=Repeating(repeated), base_url="http://{}:{}".format(*cluster.address), timeout=60
        ) as web,
    ):
        run = _Run(cluster, web, repeated, random.Random(seed), with_jobs, with_long=drain_s > 0)
        return await run.run(seconds, kinds)


def _version(commit: str, folder: Path) -> dict[str, str]:
    return {"PYTHONPATH": str(extract_commit(commit, folder / "before"))} if commit else {}


class _Run:
    def __init__(
        self,
        cluster: Cluster,
        web: httpx.AsyncClient,
        repeated: Counter[int],
        rng: random.Random,
        with_jobs: bool,
        *,
        with_long: bool,
    ) -> None:
        self._cluster, self._web, self._rng, self._repeated = cluster, web, rng, repeated
        self._with_jobs, self._with_long = with_jobs, with_long
        self._size = DRAIN_SIZE if with_long else SIZE
        self._probe, self._long, self._faults = Probe(), LongRequests(), list[Fault]()
        self._marks = crash.Marks(self._size)

    async def run(self, seconds: float, kinds: list[str] | None) -> Result:
        address = self._cluster.address
        token = await sign_up(address, *OWNER)
        process = await host(
            address, token, "marks", model_bytes(self._size), plan_bytes(self._size), crash.SERVER_CONFIG
        )
        jobs = JobFleet(self._web, {"Authorization": f"Bearer {token}"}, self._rng)
        if self._with_jobs:
            await jobs.prepare()
        stop = asyncio.Event()
        probing = [asyncio.create_task(self._probe.run(address, token))]
        if self._with_long:
            probing.append(asyncio.create_task(self._long.run(address, token)))
        async with asyncio.TaskGroup() as group:
            for _ in range(NUM_DEVICES):
                group.create_task(PatientReporter(address, process, self._marks, stop, self._repeated).run())
            if self._with_jobs:
                group.create_task(jobs.run(stop))
            async with asyncio.TaskGroup() as ending:
                length_s = SHORT_S if kinds else LONG_S
                await self._make_faults(Faults(self._cluster, self._rng, ending, length_s), seconds, kinds)
            await self._cluster.wait_ready()
            stop.set()
        for asking in probing:
            asking.cancel()
        return await self._check(process, jobs)

    async def _make_faults(self, faults: Faults, seconds: float, kinds: list[str] | None) -> None:
        end = time.monotonic() + seconds
        planned = iter(kinds or ())
        while True:
            await asyncio.sleep(self._rng.uniform(*PAUSE_S))  # devices report between two faults
            kind = next(planned, None) if kinds else self._rng.choice(faults.drawn)
            if kind is None or (kinds is None and time.monotonic() > end):
                return
            await eventually(self._has_spare, 240)
            at = time.monotonic()
            await faults.kinds[kind]()
            made = time.monotonic()
            # A request that was sent before the fault was noticed can still be answered.
            await asyncio.sleep(1)  # the fault shows
            await eventually(lambda made=made: self._probe.is_answered_since(made + 1), 120)  # type: ignore[misc]
            now = time.monotonic()
            fault = Fault(kind, at, self._probe.outage_s(at, now), self._probe.num_failed(at, now))
            self._faults.append(fault)
            print(f"{kind}: {fault.outage_s:.1f} s, {fault.num_failed} failed", file=sys.stderr, flush=True)

    async def _has_spare(self) -> bool:
        """Whether a replica is ready besides one that is about to fail."""
        return await self._cluster.has_ready(2)

    async def _check(self, process: Process, jobs: JobFleet) -> Result:
        address = self._cluster.address
        await eventually(lambda: _finished(self._web, process), 120)
        found = await crash._verify(address, process, self._marks, [])
        problems = list(found.problems)
        try:
            await checkpoint(address, process, found.num_checkpoints + 1)
            problems.append(f"there are more checkpoints than the {found.num_checkpoints} of completed cycles")
        except RequestFailed as failure:
            if failure.status != 404:
                raise
        if self._with_jobs:
            database = Database(self._cluster.postgres.url)
            try:
                problems += await asyncio.to_thread(jobs.find_problems, database)
            finally:
                await asyncio.to_thread(database.close)
            problems += await jobs.find_overspending()
        codes = Counter(code for replica in self._cluster.replicas for code in replica.exit_codes)
        return Result(self._faults, found, jobs.states, self._repeated, codes, self._long, problems)


def _migrate_as_later_version(url: str) -> None:
    """Migrate a database as a later version does whose tables this one can use."""
    database = Database(url)

    def step(connection: sa.Connection) -> None:
        for table in ("cycles", "assignments", "reports", "jobs", "users"):
            connection.execute(sa.text(f"ALTER TABLE {table} ADD COLUMN later INTEGER NOT NULL DEFAULT 0"))
        connection.execute(sa.text("CREATE TABLE later (id INTEGER PRIMARY KEY)"))
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))

    try:
        database.write_apart(step)
    finally:
        database.close()


async def _finished(web: httpx.AsyncClient, process: Process) -> bool:
    """End the process, which completes its open cycle; returns whether that is done."""
    headers, path = {"Authorization": f"Bearer {process.token}"}, f"/model-centric/processes/{process.id}"
    await web.post(f"{path}/finish", headers=headers)
    info = (await web.get(path, headers=headers)).json()
    return info["state"] == "finished" and (info["cycle"] is None or info["cycle"]["state"] != "closing")


def _report(result: Result) -> None:
    found = result.crash
    print("| fault | times | p50 | p99 | longest | failed requests |\n|---|---|---|---|---|---|")
    for kind in sorted({fault.kind for fault in result.faults}):
        print(_row(kind, result.outages(kind), [fault.num_failed for fault in result.faults if fault.kind == kind]))
    print(
        _row(
            "all of the leader",
            result.outages(),
            [fault.num_failed for fault in result.faults if "leader" in fault.kind],
        )
    )
    print(
        f"\n{len(result.faults)} faults; {found.num_acknowledged} reports acknowledged, {found.num_refused} refused, "
        f"{found.num_unanswered} without an answer; {found.num_checkpoints} checkpoints; "
        f"jobs {dict(result.jobs)}; requests repeated {dict(result.repeated)}; exit codes {dict(result.exit_codes)}"
    )
    if result.long.num_answered:
        print(f"long requests: {vars(result.long)}")
    for problem in result.problems:
        print(f"  {problem}")
    print("every promise was kept" if not result.problems else "PROMISE BROKEN, see above")


def _row(name: str, outages: list[float], failed: list[int]) -> str:
    if not outages:
        return f"| {name} | 0 | | | | |"
    p50, p99 = np.percentile(outages, (50, 99))
    return f"| {name} | {len(outages)} | {p50:.1f} s | {p99:.1f} s | {max(outages):.1f} s | {sum(failed)} |"


def main() -> int:
    parser = argparse.ArgumentParser(description="Let replicas of a Domain fail while devices report, then count.")
    parser.add_argument("--seconds", type=float, default=600, help="how long (default 600)")
    parser.add_argument("--seed", type=int, default=0, help="draws the faults and the moments")
    parser.add_argument("--history", type=Path, help="file for the faults and the requests of the probe, as JSON")
    parser.add_argument("--folder", type=Path, help="keeps the logs of the replicas (default: a temporary one)")
    parser.add_argument("--without-jobs", action="store_true", help="only devices")
    parser.add_argument("--drain-s", type=int, default=0, help="PYGRID_DRAIN_S of the replicas (default 0)")
    parser.add_argument("--kind", action="append", help="make this fault once; repeat for several, in this order")
    parser.add_argument("--before", default="", help='commit of the version to start with, for the kind "upgrade"')
    options = parser.parse_args()
    leave_nothing_behind()
    with tempfile.TemporaryDirectory(prefix="pygrid-failover-") as folder:
        result = uvloop.run(
            run(
                options.folder or Path(folder),
                seconds=options.seconds,
                seed=options.seed,
                kinds=options.kind,
                with_jobs=not options.without_jobs,
                drain_s=options.drain_s,
                before=options.before,
            )
        )
    if options.history:
        options.history.write_text(json.dumps([vars(fault) for fault in result.faults], indent=1))
    _report(result)
    p99 = float(np.percentile(result.outages() or [0.0], 99))
    print(f"fail-over of the leader: p99 {p99:.1f} s, asked < {ASKED_P99_S:g} s")
    return 1 if result.problems or p99 >= ASKED_P99_S else 0


if __name__ == "__main__":
    sys.exit(main())
