"""A training across two Domains, whose coordinator is reached through the relay of a Network: all of them processes,
and each is killed (``kill -9``) while a Domain waits for a cycle, while it trains, and while it reports.

Should happen: the training ends; what was reported before is in its checkpoint; every debit stands, whole.
Should not happen: a diff that counts twice in a cycle; a private training more than was paid for; a process that stays
away.
"""

from __future__ import annotations

import contextlib
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from test_network_start import PASSWORD, App, running

from pygrid.client import DomainClient, FederatedRun, connect, federate, resume_federated
from pygrid.errors import NotFound, PygridError
from pygrid.privacy.events import PoissonSampledGaussian, decode_events
from pygrid.storage import audit
from pygrid.storage.charges import charges, curves
from pygrid.storage.federated import federated_cycles
from pygrid.storage.sql.database import Database
from support.eventually import eventually_blocking
from support.plans.handmade import logistic_data, logistic_params, logistic_plan

INVITATION = "i" * 40
ROUNDS = 6
POLICY = {"epsilon": 40.0, "delta": 1e-5, "epsilon_per_user": 40.0, "auto_approve": True, "use": "training"}
TRAINING: dict[str, Any] = {"epochs": 60, "batch_size": 10, "hyper": {"lr": 0.05}, "epsilon": 4.0, "delta": 1e-6}
"""A second or so in each cycle; bob, who has more records, takes longer, so that alice waits."""


class World:
    """A Network, a coordinator and two Domains with data that belong to it, and a data scientist."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.apps = {
            "net": App("network", folder / "net", "--heartbeat-s", "1", "--id", "net", PYGRID_INVITATION=INVITATION)
        }

    def start(self) -> None:
        network = self.apps["net"].start()
        for name in ("hub", "alice", "bob"):
            arguments = ("--id", name, "--network", network)
            self.apps[name] = App("domain", self.folder / name, *arguments, PYGRID_INVITATION=INVITATION)
        urls = {name: app.start() for name, app in self.apps.items() if name != "net"}
        self.hub = self._meet(f"grid+{network}/hub")
        self.science: dict[str, DomainClient] = {}
        self.owners: dict[str, DomainClient] = {}
        for number, name in enumerate(("alice", "bob"), 1):
            self.owners[name] = self._sign_up(urls[name], "owner@example.org")
            columns = {"x": {"meaning": "features"}, "y": "label 0..2"}
            data = logistic_data(200 * number, seed=number)
            dataset = self.owners[name].datasets.upload(
                "points", data, visibility="listed", columns=columns, progress=False
            )
            dataset.policy(**POLICY)
            self.science[name] = self._sign_up(urls[name], "scientist@example.org")

    def _sign_up(self, url: str, email: str) -> DomainClient:
        domain = connect(url)
        domain.sign_up(email, PASSWORD)
        return domain

    def _meet(self, address: str) -> DomainClient:
        def meet() -> DomainClient | None:
            with contextlib.suppress(NotFound, PygridError):
                return self._sign_up(address, "owner@example.org")
            return None

        found: DomainClient = eventually_blocking(meet)
        return found

    def train(self, name: str) -> FederatedRun:
        return federate(
            logistic_plan(),
            logistic_params(),
            {name: domain.datasets["points"] for name, domain in self.science.items()},
            coordinator=self.hub,
            rounds=ROUNDS,
            reason="a test",
            name=name,
            min_domains=1,
            cycle_s=20,
            progress=False,
            **TRAINING,
        )

    def kill_and_restart(self, victim: str) -> None:
        self.apps[victim].kill()
        self.apps[victim].start()

    def signal(self, name: str, number: signal.Signals) -> None:
        process = self.apps[name].process
        assert process is not None
        process.send_signal(number)

    def wait_for(self, words: str, job_id: str) -> None:
        """Return once alice's job does this."""

        def is_there() -> bool:
            doing = self.doing("alice", job_id)
            assert not doing.startswith("over"), f"the training was {doing}: too soon for this test"
            return doing.startswith(words)

        eventually_blocking(is_there, within_s=180)

    def doing(self, name: str, job_id: str) -> str:
        """What a job does, in words; empty while nobody tells, or once it has ended."""
        with contextlib.suppress(PygridError):
            info = self.owners[name].job(job_id).info()
            assert info.federation is not None
            return info.federation.doing or ("" if info.state == "running" else f"over, {info.state} ({info.detail})")
        return ""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A world for all trainings: what was killed is started again."""
    folder = tmp_path_factory.mktemp("world")
    made = World(folder)
    with contextlib.ExitStack() as stack:
        stack.enter_context(pytest.MonkeyPatch.context()).setenv("XDG_CONFIG_HOME", str(folder / "config"))
        stack.callback(lambda: [stack.enter_context(running(app)) for app in made.apps.values()])
        made.start()
        yield made


def ledger(folder: Path, name: str, job_id: str) -> tuple[list[str], list[str]]:
    """States of the trainings of a job that has ended at a Domain, and of its charge; the audit log must be whole, and
    the charge be of all cycles.
    """
    data = folder / name / "pygrid-data"
    database = Database(f"sqlite:///{data / 'domain.db'}")
    try:
        known = audit.read_head(data / audit.HEAD_FILE)
        assert database.read_now(lambda connection: audit.verify(connection, known)) is None
        states = sa.select(federated_cycles.c.state).where(federated_cycles.c.job_id == job_id)
        parts = list(database.read_now(lambda connection: connection.execute(states).scalars().all()))
        query = sa.select(charges.c.state, curves.c.events).join(curves, curves.c.id == charges.c.curve_id)
        query = query.where(charges.c.job_id == job_id)
        charged = database.read_now(lambda connection: connection.execute(query).all())
    finally:
        database.close()
    for row in charged:
        (event,) = decode_events(row.events)
        assert isinstance(event, PoissonSampledGaussian)
        assert event.rounds == ROUNDS * round(TRAINING["epochs"] / event.sampling_rate)
    return parts, [row.state for row in charged]


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["net", "hub", "alice"])
def test_it_ends_with_every_diff_once_whoever_is_killed(victim: str, world: World) -> None:
    shared = f"killed-{victim}"
    run = world.train(shared)
    job_id = run.domains["alice"].job_id
    world.wait_for("waits for a cycle", job_id)
    world.kill_and_restart(victim)
    world.wait_for("trains for cycle", job_id)
    world.kill_and_restart(victim)
    world.wait_for("trains for cycle", job_id)
    world.signal("hub", signal.SIGSTOP)  # so that reporting takes a while
    world.wait_for("reports for cycle", job_id)
    world.kill_and_restart(victim)
    world.signal("hub", signal.SIGCONT)
    # As from another notebook.
    run = eventually_blocking(lambda: _taken_up(world, shared))
    run.wait(timeout_s=600, progress=False)
    process = run.process
    assert process.info().state == "finished"
    counted = Counter((one.cycle, one.client) for one in process.contributions())
    assert set(counted.values()) == {1}
    assert len({cycle for cycle, _ in counted}) == ROUNDS
    cycles = process.cycles()
    assert [cycle.num_reports for cycle in cycles] == [sum(n == c.sequence for n, _ in counted) for c in cycles]
    assert all(cycle.state == "completed" for cycle in cycles)
    for name, job_id in {domain.name: domain.job_id for domain in run.domains}.items():
        ended = world.owners[name].job(job_id).wait(timeout_s=180)
        assert ended.state in ("released", "failed"), ended
        parts, charged = ledger(world.folder, name, job_id)
        assert len(parts) <= ROUNDS
        assert parts.count("reported") == sum(client == name for _, client in counted)
        assert charged in (["released"], ["failed"])
    first, last = run.model(1), run.model()
    assert all(np.isfinite(array).all() for array in last.values())
    assert any(not np.array_equal(first[name], last[name]) for name in first)


def _taken_up(world: World, name: str) -> FederatedRun | None:
    with contextlib.suppress(PygridError):
        return resume_federated(world.hub, name, domains=world.science, progress=False)
    return None
