"""The one call that trains across Domains, from the data scientist's side, against real Domains of this machine.

Should happen: owners who refuse, budgets without room and Domains that are away are left out and named, and the rest
train; a notebook that is closed while owners decide goes on in another; exact jobs wait for their owners.
Should not happen: a training with fewer Domains than wanted; jobs left behind if there is none; a secret that others
can read.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from local_processes import LocalProcesses
from pygrid.client import DomainClient, FederatedRun, connect, federate, resume_federated
from pygrid.client.federation import records, requests
from pygrid.client.federation import run as run_module
from pygrid.client.federation.records import Record
from pygrid.errors import Conflict, InvalidInput, NotFound, PygridError, Unauthenticated
from support.plans.handmade import logistic_data, logistic_params, logistic_plan

PASSWORD = "correct horse battery"
NAMES = ("alice", "bob", "carol")
POLICY = {"epsilon": 8.0, "delta": 1e-6, "epsilon_per_user": 8.0, "auto_approve": True, "use": "training"}
TERMS = {"epsilon": 2.0, "delta": 1e-6}
TRAINING: dict[str, Any] = {
    "batch_size": 50,
    "hyper": {"lr": 0.1},
    "reason": "a test",
    "progress": False,
    "cycle_s": 30,
}


class World:
    """A coordinator, three Domains with data, their owners, and a scientist with an account at each."""

    def __init__(self, processes: LocalProcesses, folder: Path) -> None:
        urls = {name: processes.start_domain(folder / name, name) for name in ("hub", *NAMES)}
        self.hub = self._sign_up(urls["hub"], "scientist")
        self.owners, self.science = {}, {}
        for number, name in enumerate(NAMES, 1):
            self.owners[name] = self._sign_up(urls[name], "owner")
            self.science[name] = self._sign_up(urls[name], "scientist")
            self.upload(name, "points", 100 * number)
        self.budgets = 0

    def _sign_up(self, url: str, who: str) -> DomainClient:
        domain = connect(url)
        domain.sign_up(f"{who}@example.org", PASSWORD)
        return domain

    def upload(self, name: str, dataset: str, size: int, **policy: Any) -> None:
        columns = {"x": {"meaning": "features"}, "y": "label 0..2"}
        data = logistic_data(size, seed=size)
        made = self.owners[name].datasets.upload(dataset, data, visibility="listed", columns=columns, progress=False)
        # Each test has a dataset of its own, with the same records.
        made.policy(**{**POLICY, "fresh_budget": True, **policy})

    def fresh(self, dataset: str, **policies: dict[str, Any]) -> None:
        """A dataset of this name at each Domain, with a budget of its own."""
        for number, name in enumerate(NAMES, 1):
            self.upload(name, dataset, 100 * number, **policies.get(name, {}))

    def datasets(self, dataset: str) -> dict[str, Any]:
        return {name: domain.datasets[dataset] for name, domain in self.science.items()}

    def train(self, dataset: str, **changes: Any) -> FederatedRun:
        given = {"coordinator": self.hub, "rounds": 2, **TRAINING, **TERMS, **changes}
        return federate(logistic_plan(), logistic_params(), self.datasets(dataset), **given)

    def num_open(self) -> int:
        ended = {"released", "rejected", "denied", "revoked", "cancelled", "failed"}
        return sum(info.state not in ended for domain in self.science.values() for info in domain.jobs(mine=True).infos)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("federated")
    with LocalProcesses(folder / "logs") as processes:
        yield World(processes, folder)


@pytest.fixture(autouse=True)
def _own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def in_thread(work: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(work())
        except PygridError as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, outcome


def decide(owner: DomainClient, decision: str) -> None:
    """Decide on the one request that waits at a Domain, as soon as there is one."""
    while not (waiting := owner.requests()):
        threading.Event().wait(0.05)
    getattr(waiting[0], decision)()


@pytest.mark.slow
def test_all_agree_and_the_history_tells_who_did_what(world: World, tmp_path: Path) -> None:
    held_out = logistic_data(200, seed=99)
    run = world.train("points", evaluate=held_out, name="all", server_optimizer={"name": "adam", "learning_rate": 0.1})
    assert run.wait(timeout_s=180, progress=False) is run
    assert [(cycle.cycle, cycle.state) for cycle in run.history] == [(1, "completed"), (2, "completed")]
    for cycle in run.history:
        assert [(one.client, one.num_examples) for one in cycle.contributions] == list(
            zip(NAMES, (100, 200, 300), strict=True)
        )
        assert set(cycle.metrics) == {"loss", "accuracy"}
    assert {domain.num_reported for domain in run.domains} == {2}
    assert run.domains["bob"].dataset == "points"
    assert run.process.info().server_config["server_optimizer"]["name"] == "adam"
    model = run.model(path=tmp_path / "model.safetensors")
    assert any(not np.array_equal(model[name], array) for name, array in logistic_params().items())
    shown = run._repr_html_()
    assert all(text in shown for text in ("all", *NAMES, "completed"))
    assert "alice" in repr(run.domains)
    assert "100, norm" in repr(run.history)
    assert not (tmp_path / "config").exists(), "nothing of it is on this machine"
    with pytest.raises(Conflict, match="choose another name"):
        world.train("points", name="all")
    job = world.science["alice"].job(run.domains["alice"].job_id)
    with pytest.raises(Conflict, match="which has the model"):
        job.result()


@pytest.mark.slow
def test_who_refuses_or_cannot_pay_is_left_out_and_named(world: World) -> None:
    world.fresh("some", alice={"auto_approve": False}, bob={"epsilon_per_user": 1.0})
    denying = threading.Thread(target=decide, args=(world.owners["alice"], "deny"))
    denying.start()
    # Beyond the scientist's part of bob's budget: his Domain refuses it at once.
    run = world.train("some", min_domains=1)
    denying.join()
    run.wait(timeout_s=180, progress=False)
    states = {domain.name: domain.state for domain in run.domains}
    assert states["alice"] == "denied"
    assert states["bob"] == "refused"
    assert "privacy budget" in run.domains["bob"].detail
    assert [[one.client for one in cycle.contributions] for cycle in run.history] == [["carol"], ["carol"]]


@pytest.mark.slow
def test_too_few_train_nothing_and_leave_nothing_behind(world: World) -> None:
    world.fresh("few", alice={"auto_approve": False})
    before = {name: domain.datasets["few"].budget().yours for name, domain in world.science.items()}
    denying = threading.Thread(target=decide, args=(world.owners["alice"], "deny"))
    denying.start()
    with pytest.raises(Conflict, match="2 of 3 Domains take part, and 3 are needed") as refused:
        world.train("few", min_domains=3, name="few")
    denying.join()
    assert refused.value.code == "too_few_domains"
    assert "alice" in str(refused.value)
    assert world.num_open() == 0
    after = {name: domain.datasets["few"].budget().yours for name, domain in world.science.items()}
    assert after == before, "nothing was trained, so nothing is paid"
    assert not world.hub.processes("few")


@pytest.mark.slow
def test_who_does_not_decide_in_time_is_left_out(world: World) -> None:
    world.fresh("late", bob={"auto_approve": False})
    run = world.train("late", decide_within_s=6)
    run.wait(timeout_s=180, progress=False)
    bob = run.domains["bob"]
    assert (bob.state, bob.detail) == ("cancelled", "no decision in time")
    assert [len(cycle.contributions) for cycle in run.history] == [2, 2]


@pytest.mark.slow
def test_another_notebook_goes_on_while_owners_of_exact_jobs_decide(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.fresh("exact")

    class NotebookClosed(Exception):
        pass

    def close(_seconds: float) -> None:
        raise NotebookClosed

    with monkeypatch.context() as patch:
        patch.setattr(run_module.time, "sleep", close)
        with pytest.raises(NotebookClosed):
            world.train("exact", name="exact", epsilon=None, delta=None)
    with pytest.raises(NotFound, match=r"your trainings there: .*exact") as unknown:
        resume_federated(world.hub, "unknown")
    assert unknown.value.code == "federation_not_found"
    resuming, outcome = in_thread(
        lambda: resume_federated(world.hub, "exact", domains=world.science, evaluate=logistic_data(50), progress=False)
    )
    for name in NAMES:
        decide(world.owners[name], "approve")
    resuming.join(60)
    (run,) = outcome
    run.wait(timeout_s=180, progress=False)
    assert [len(cycle.contributions) for cycle in run.history] == [3, 3]
    assert all(set(one.metrics) == {"loss", "accuracy"} for cycle in run.history for one in cycle.contributions)


@pytest.mark.slow
def test_another_machine_goes_on_where_the_first_one_died_and_nobody_pays_twice(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It died while it asked: alice was asked and noted, bob was asked but not noted, carol was not asked."""
    world.fresh("died", alice={"auto_approve": False})

    class Died(Exception):
        pass

    asked, submit = [], requests.submit_job

    def dies(*args: Any, **more: Any) -> Any:
        job = submit(*args, **more)
        asked.append(job)
        if len(asked) == 2:
            raise Died
        return job

    with monkeypatch.context() as patch:
        patch.setattr(requests, "submit_job", dies)
        with pytest.raises(Died):
            world.train("died", name="died", server_optimizer={"name": "adam", "learning_rate": 0.1})
    # Another machine, a new session at each Domain, in which nobody but the name of the training is known.
    hub = connect(world.hub.url)
    with pytest.raises(Unauthenticated):
        resume_federated(hub, "died")
    hub.login("scientist@example.org", PASSWORD)
    with pytest.raises(Unauthenticated, match="pygrid login") as refused:
        resume_federated(hub, "died")
    assert refused.value.code == "not_logged_in"
    with pytest.raises(Conflict, match=r"resume_federated\(coordinator, 'died'\)"):
        world.train("died", name="died")
    stranger = connect(world.hub.url)
    stranger.sign_up("stranger@example.org", PASSWORD)
    with pytest.raises(PygridError):
        resume_federated(stranger, "died", domains=world.science)
    domains = {
        name: connect(domain.url).login("scientist@example.org", PASSWORD) for name, domain in world.science.items()
    }
    # Two of them at once, even.
    both = [in_thread(lambda: resume_federated(hub, "died", domains=domains, progress=False)) for _ in range(2)]
    decide(world.owners["alice"], "approve")
    for thread, _ in both:
        thread.join(60)
    (first,), (second,) = (outcome for _, outcome in both)
    assert first.process.id == second.process.id
    first.wait(timeout_s=180, progress=False)
    assert [[one.client for one in cycle.contributions] for cycle in first.history] == [list(NAMES)] * 2
    assert first.process.info().server_config["server_optimizer"]["name"] == "adam"
    for name, domain in domains.items():
        (job,) = [info for info in domain.jobs(mine=True).infos if info.dataset_name == "died"]
        assert job.id == first.domains[name].job_id == second.domains[name].job_id
        # Epsilon 2 takes about 0.68 of a budget of 8; a second payment would make it 1.36.
        assert 0.5 < domain.datasets["died"].budget().yours < 1.0, "paid once"
    # And when all is over, it can still be looked at, from anywhere.
    later = resume_federated(hub, "died", domains=domains)
    assert later.wait(timeout_s=180, progress=False).domains["bob"].num_reported == 2


@pytest.mark.slow
def test_whom_an_owner_denied_is_not_asked_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.fresh("denied", alice={"auto_approve": False})

    def die(*args: Any, **more: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Record, "save", die)
        with pytest.raises(KeyboardInterrupt):
            world.train("denied", name="denied")
    decide(world.owners["alice"], "deny")
    run = resume_federated(world.hub, "denied", domains=world.science, progress=False)
    assert {domain.name: domain.state for domain in run.domains if domain.state != "running"}["alice"] == "denied"
    run.wait(timeout_s=180, progress=False)
    assert len([info for info in world.science["alice"].jobs(mine=True).infos if info.dataset_name == "denied"]) == 1


@pytest.mark.slow
def test_a_training_that_is_given_up_before_it_begins_frees_its_name(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.fresh("given-up", alice={"auto_approve": False})

    def die(_seconds: float) -> None:
        raise KeyboardInterrupt

    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(run_module.time, "sleep", die)
            with pytest.raises(KeyboardInterrupt):
                world.train("given-up", name="given-up")
        record = records.load_record(world.hub._api, "given-up")
        FederatedRun(world.hub, record, {name: domain._api for name, domain in world.science.items()}).cancel()
    assert world.num_open() == 0
    assert not world.hub.processes("given-up")


@pytest.mark.slow
def test_an_owner_who_revokes_is_not_waited_for_and_too_few_end_it(world: World) -> None:
    world.fresh("revoked")
    run = world.train("revoked", min_domains=2, rounds=3, epochs=500, batch_size=10)
    for name in ("alice", "bob"):
        world.owners[name].job(run.domains[name].job_id).revoke()
    with pytest.raises(Conflict, match="1 Domains are left, and 2 are needed") as refused:
        run.wait(timeout_s=180, progress=False)
    assert "revoked" in str(refused.value)
    assert run.process.info().state == "finished"
    run.cancel()
    assert {domain.state for domain in run.domains} <= {"revoked", "cancelled", "released"}
    assert world.num_open() == 0


def test_columns_with_other_names_are_bound_by_domain(world: World) -> None:
    """At bob, only he knows which of two numbers is the label."""
    data = logistic_data(200, seed=200)
    renamed = {"features": data["x"], "ward": data["y"] * 0, "diagnosis": data["y"]}
    made = world.owners["bob"].datasets.upload("renamed", renamed, visibility="listed", progress=False)
    made.policy(**POLICY)
    datasets = {"alice": world.science["alice"].datasets["points"], "bob": world.science["bob"].datasets["renamed"]}
    given: dict[str, Any] = {"coordinator": world.hub, "rounds": 1, **TRAINING, **TERMS}

    def train(binding: dict[str, Any]) -> FederatedRun:
        return federate(logistic_plan(), logistic_params(), datasets, binding=binding, **given)

    before = world.num_open()
    for binding, refusal in (
        ({}, "^bob: which column is the plan's 'y'"),
        ({"bob": {"y": "diagnoses"}}, "^bob: the dataset has no column 'diagnoses'"),
        ({"bobb": {"y": "diagnosis"}}, "binding names 'bobb', .* did you mean 'bob'"),
        ({"y": "diagnosis"}, "^alice: the dataset has no column 'diagnosis'"),
    ):
        with pytest.raises(InvalidInput, match=refusal):
            train(binding)
    assert world.num_open() == before
    run = train({"x": "x", "bob": {"x": "features", "y": "diagnosis"}})
    run.wait()
    assert [member.state for member in run.domains] == ["released"] * 2
    assert [one.client for one in run.history[0].contributions] == ["alice", "bob"]


@pytest.mark.slow
def test_what_makes_no_sense_is_refused_before_anything_is_asked(world: World) -> None:
    before = sum(len(domain.jobs(mine=True)) for domain in world.science.values())
    wrong: list[dict[str, Any]] = [
        {"rounds": 0},
        {"min_domains": 4},
        {"min_domains": 0},
        {"cycle_s": 0},
        {"delta": None},
    ]
    for changes in wrong:
        with pytest.raises(InvalidInput):
            world.train("points", **changes)
    same = [world.science["alice"].datasets["points"]] * 2
    with pytest.raises(InvalidInput, match="named twice"):
        federate(logistic_plan(), logistic_params(), same, coordinator=world.hub, rounds=1, **TRAINING)
    assert sum(len(domain.jobs(mine=True)) for domain in world.science.values()) == before
