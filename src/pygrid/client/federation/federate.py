"""Training across Domains: one call that trains a model on the data of several owners, none of whom lets it out.

run = pygrid.client.federate(
    plan, params, [alice.datasets["cells"], bob.datasets["cells"]],
    coordinator=domain, rounds=20, epsilon=4.0, delta=1e-6, reason="...",
)
run.wait()
params = run.model()

Each owner's Domain is asked for a federated job. Those that agree take part, as clients, in a process that is then
hosted at the coordinating Domain: in each cycle their Workers train on the data where it lies, and the diffs meet at
the coordinator.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from pygrid import codes
from pygrid.client.datasets import Dataset
from pygrid.client.domain import DomainClient, connect
from pygrid.client.federation.records import FederationMember, Notes, load_record, make_record
from pygrid.client.federation.run import FederatedRun
from pygrid.client.hosting import ModelSource, PlanSource, load_plan, model_body
from pygrid.client.jobs import privacy_terms
from pygrid.client.session import identity_of
from pygrid.errors import InvalidInput, Unauthenticated
from pygrid.messages.jobs import Unit
from pygrid.plans.batches import Data
from pygrid.transport.address import RELAYED

Source = Dataset | tuple[DomainClient, str]
"""A dataset; or a Domain, and the name of a dataset on it."""


def federate(
    plan: PlanSource,
    model: ModelSource,
    datasets: Mapping[str, Source] | Sequence[Source],
    *,
    coordinator: DomainClient,
    rounds: int,
    reason: str,
    name: str | None = None,
    min_domains: int = 2,
    cycle_s: float = 600.0,
    epochs: int = 1,
    batch_size: int = 32,
    hyper: Mapping[str, float] | None = None,
    optimizer: Mapping[str, Any] | None = None,
    seed: int = 0,
    epsilon: float | None = None,
    delta: float | None = None,
    clip: float = 1.0,
    unit: Unit = "record",
    sampling_rate: float | None = None,
    binding: Mapping[str, str] | None = None,
    server_optimizer: Mapping[str, Any] | None = None,
    evaluate: Data | None = None,
    coordinator_url: str | None = None,
    decide_within_s: float | None = None,
    progress: bool | None = None,
) -> FederatedRun:
    """Train a model across the data of several owners. Gives the training once it has begun; `FederatedRun.wait`
    follows it.

    Every Domain is asked first, and this returns when all have decided, which may take as long as people take; if it is
    interrupted, `resume_federated` goes on with it, on any machine. Those that refuse, or whose budget has no room, are
    left out.

    Args:
        plan, model: as for `DomainClient.submit`; the model is what training begins with.
        datasets: one for each Domain, best by a name for it; a Domain's own name is the default.
        coordinator: hosts the process, whose diffs it sees; you may host there. One of the owners' Domains will do.
        rounds: cycles of training.
        reason: what for, for those who decide.
        name: of the process, new to the coordinator; None: the plan's, and something drawn.
        min_domains: fewer do not train, and a cycle needs the diffs of so many.
        cycle_s: how long a cycle waits for Domains that are late. One that all have reported in ends at once.
        epochs, batch_size, hyper, optimizer, seed: of the training at a Domain in one cycle.
        epsilon, delta: the guarantee at each Domain for all cycles together, taken from its budget when it begins.
            Neither: an exact job, of which each cycle's diff leaves as it is once a person has approved it.
        clip, unit, sampling_rate: as for `DomainClient.submit`.
        binding: the plan's data port -> column, the same at each Domain; left out, columns are found by name or
            meaning.
        server_optimizer: what the coordinator does with the mean diff, e.g. ``{"name": "adam", "learning_rate":
            0.01}``.
        evaluate: data of your own by the name of the plan's data port: each cycle's model is evaluated on it, here.
        coordinator_url: how the Domains reach the coordinator, if not as you do.
        decide_within_s: who has not decided by then is left out.
        progress: as for `Job.wait`.
    Raises:
        Conflict: fewer than ``min_domains`` agree (``too_few_domains``); the jobs of those are cancelled. The
            coordinator has a process or a training of that name (``process_exists``); nothing was asked.
        InvalidInput and its subclasses: names what is wrong; nothing was asked.
    """
    loaded = load_plan(plan)
    asked = _named(datasets)
    _check(rounds, min_domains, len(asked), cycle_s)
    training: dict[str, Any] = {"epochs": epochs, "batch_size": batch_size, "hyper": dict(hyper or {}), "seed": seed}
    training |= {"binding": dict(binding or {}), "optimizer": dict(optimizer or {}), "reason": reason}
    notes = Notes(
        secret=secrets.token_hex(32),
        reached_at=coordinator_url or _address_of(coordinator),
        rounds=rounds,
        min_domains=min_domains,
        asked=training | {"privacy": msgspec.to_builtins(privacy_terms(epsilon, delta, clip, unit, sampling_rate))},
        members=[FederationMember(who, dataset._api.url, dataset.name, dataset.id) for who, dataset in asked.items()],
    )
    record = make_record(
        coordinator._api,
        name or draw_name(loaded),
        notes,
        loaded,
        b"".join(model_body(model)),
        client_config={**(hyper or {}), "epochs": epochs, "batch_size": batch_size},
        server_config=_server_config(notes, cycle_s, server_optimizer),
    )
    run = FederatedRun(coordinator, record, {who: dataset._api for who, dataset in asked.items()}, evaluate=evaluate)
    run.decide(within_s=decide_within_s, progress=progress, is_first_try=True)
    return run


def resume_federated(
    coordinator: DomainClient,
    name: str,
    *,
    domains: Mapping[str, DomainClient] | None = None,
    evaluate: Data | None = None,
    decide_within_s: float | None = None,
    progress: bool | None = None,
) -> FederatedRun:
    """A training that the same person has begun, here or on another machine, taken up again: asks who was not asked,
    waits for decisions that are missing, and goes on. No Domain is asked twice.

    Args:
        coordinator: of the training, logged in as who began it.
        domains: sessions at the Domains that take part, by the names they have in the training; left out, `connect`
            finds the one that ``pygrid login`` keeps.
        evaluate, decide_within_s, progress: as for `federate`.
    Raises:
        NotFound: the coordinator knows of no such training of yours (``federation_not_found``).
        Unauthenticated: nobody is logged in at one of the Domains (``not_logged_in``).
        Conflict: as `federate`.
    """
    record = load_record(coordinator._api, name)
    given = domains or {}
    apis = {member.name: (given.get(member.name) or connect(member.url))._api for member in record.members}
    missing = [member.url for member in record.members if apis[member.name].token is None]
    if missing:
        raise Unauthenticated(
            f"nobody is logged in at {', '.join(missing)}; log in with: pygrid login URL, or give the sessions as "
            "domains=",
            code=codes.NOT_LOGGED_IN,
        )
    run = FederatedRun(coordinator, record, apis, evaluate=evaluate)
    run.decide(within_s=decide_within_s, progress=progress)
    return run


def draw_name(plan: PlanSource) -> str:
    """A name for a training with a plan, most likely new to every coordinator."""
    return f"{load_plan(plan).manifest.name}-{secrets.token_hex(3)}"


def _server_config(notes: Notes, cycle_s: float, optimizer: Mapping[str, Any] | None) -> dict[str, Any]:
    """How the process runs its cycles, if all Domains take part."""
    config: dict[str, Any] = {
        "cycle_length": cycle_s,
        "num_cycles": notes.rounds,
        "min_workers": notes.min_domains,
        "min_diffs": notes.min_domains,
        "max_diffs": len(notes.members),
        "max_weight": 1_000_000,
        "named_clients": True,
        "authentication": {"secret": notes.secret},
    }
    return config if optimizer is None else {**config, "server_optimizer": dict(optimizer)}


def _named(datasets: Mapping[str, Source] | Sequence[Source]) -> dict[str, Dataset]:
    """The datasets by the names of their Domains, which differ."""
    given = list(datasets.items()) if isinstance(datasets, Mapping) else [("", source) for source in datasets]
    named: dict[str, Dataset] = {}
    for wanted, source in given:
        dataset = source if isinstance(source, Dataset) else source[0].datasets[source[1]]
        base = name = wanted or _name_of(dataset)
        while name in named:
            if wanted:
                raise InvalidInput(f"two Domains are called {name!r}", code=codes.INVALID_FEDERATION)
            name = f"{base}-{len(named) + 1}"
        named[name] = dataset
    where = [(dataset._api.url, dataset.id) for dataset in named.values()]
    if len(set(where)) < len(where):
        raise InvalidInput(
            "the same dataset is named twice: its records would count twice", code=codes.INVALID_FEDERATION
        )
    return named


def _name_of(dataset: Dataset) -> str:
    return identity_of(dataset._api).name


def _address_of(coordinator: DomainClient) -> str:
    """Where the Domains find the coordinator; behind a Network, with who must answer there."""
    if not coordinator.url.startswith(RELAYED):
        return coordinator.url
    return f"{coordinator.url}?identity={identity_of(coordinator._api).identity}"


def _check(rounds: int, min_domains: int, num_domains: int, cycle_s: float) -> None:
    if rounds < 1:
        raise InvalidInput(f"rounds is {rounds}; it must be at least 1", code=codes.INVALID_FEDERATION)
    if not 1 <= min_domains <= num_domains:
        raise InvalidInput(
            f"min_domains is {min_domains}, and {num_domains} datasets are given: use 1 to {num_domains}",
            code=codes.INVALID_FEDERATION,
        )
    if not 0.1 <= cycle_s <= 366 * 24 * 3600:
        raise InvalidInput(f"cycle_s is {cycle_s}; use 0.1 or more seconds", code=codes.INVALID_FEDERATION)
