"""Training across Domains: one call that trains a model on the data of several owners, which stays with them.

    run = pygrid.client.federate(
        plan, params, [alice.datasets["cells"], bob.datasets["cells"]],
        coordinator=domain, rounds=20, epsilon=4.0, delta=1e-6, reason="...",
    )
    params = run.wait().model()

It requests a federated job at each owner's Domain. The Domains that agree take part, as clients, in a process that is
then hosted at the coordinator. In each cycle their Workers train on the local data, and the coordinator averages the
diffs.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from pygrid import codes
from pygrid.client.binding import complete_binding
from pygrid.client.datasets import Dataset
from pygrid.client.domain import DomainClient, connect
from pygrid.client.evaluation import check_held_out
from pygrid.client.federation.records import VERSION, FederationMember, Notes, load_record, make_record
from pygrid.client.federation.run import FederatedRun
from pygrid.client.hosting import ModelSource, PlanSource, load_plan, model_body
from pygrid.client.session import identity_of
from pygrid.client.terms import privacy_terms
from pygrid.configs import did_you_mean
from pygrid.errors import InvalidInput, PygridError, Unauthenticated
from pygrid.messages.jobs import PrivacyRequest, Unit
from pygrid.messages.processes import HostRequest
from pygrid.plans import Plan
from pygrid.plans.batches import Data
from pygrid.tensors import decode
from pygrid.transport.address import RELAYED

Source = Dataset | tuple[DomainClient, str]
"""A dataset; or a Domain with the name of a dataset."""


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
    unit: Unit | None = None,
    sampling_rate: float | None = None,
    binding: Mapping[str, str | Mapping[str, str]] | None = None,
    server_optimizer: Mapping[str, Any] | None = None,
    evaluate: Data | None = None,
    coordinator_url: str | None = None,
    decide_within_s: float | None = None,
    progress: bool | None = None,
) -> FederatedRun:
    """Train a model across the data of several owners, and return the training when it has begun.

    This first sends a request to each Domain, and waits until all have decided, for as long as people need. After an
    interrupt, `resume_federated` continues on any machine. Domains that refuse, or whose budget is too small, are left
    out.

    Args:
        plan, model: as for `DomainClient.submit`; training begins with the model.
        datasets: one for each Domain, preferably by a name for the Domain; the default is its own name.
        coordinator: the Domain that hosts the process and sees the diffs; you need the permission to host. It can be
            one of the owners' Domains.
        rounds: number of cycles.
        reason: purpose of the training, shown to the data owners.
        name: name of the process, which the coordinator does not have; None: the plan's name with a random suffix.
        min_domains: smallest number of Domains for the training, and of diffs for a cycle.
        cycle_s: time limit of a cycle for late Domains; a cycle ends as soon as all have reported.
        epochs, batch_size, hyper, optimizer, seed: of the training at a Domain in one cycle.
        epsilon, delta: the guarantee at each Domain for all cycles together, charged to its budget at the start. With
            neither, the job is non-private: after a person's approval, each cycle's diff leaves as it is.
        clip, unit, sampling_rate: as for `DomainClient.submit`.
        binding: data port of the plan -> column; for other ports, the only column that fits by name or meaning. Where
            columns have different names: name of a Domain -> its binding, for example
            ``{"y": "label", "bob": {"y": "diagnosis"}}``.
        server_optimizer: how the coordinator applies the mean diff, for example
            ``{"name": "adam", "learning_rate": 0.01}``.
        evaluate: local data by the name of the plan's data port; each cycle's model is evaluated on it, here. The first
            model is evaluated before any request is sent, so a mistake costs no budget.
        coordinator_url: address of the coordinator for the Domains, if it differs from yours.
        decide_within_s: Domains that have not decided after this time are left out.
        progress: as for `Job.wait`.
    Raises:
        Conflict: fewer than ``min_domains`` agree (``too_few_domains``); their jobs are cancelled. Or the coordinator
            has a process or a training of that name (``process_exists``); no request was sent.
        InvalidInput and its subclasses: an argument is not valid; the message names it. No request was sent.
    """
    loaded, first = load_plan(plan), b"".join(model_body(model))
    if evaluate is not None:
        _try_evaluate(loaded, first, evaluate)
    asked = _named(datasets)
    _check(rounds, min_domains, len(asked), cycle_s)
    training: dict[str, Any] = {"epochs": epochs, "batch_size": batch_size, "hyper": dict(hyper or {}), "seed": seed}
    training |= {"optimizer": dict(optimizer or {}), "reason": reason}
    notes = Notes(
        secret=secrets.token_hex(32),
        reached_at=coordinator_url or _address_of(coordinator),
        rounds=rounds,
        min_domains=min_domains,
        asked=training
        | {"privacy": _privacy(privacy_terms(epsilon, delta, clip, unit or "record", sampling_rate), unit)},
        members=_members(loaded, asked, binding or {}),
    )
    # Domains train by their jobs; this is what devices would do, and the plan bounds it.
    largest = min(batch_size, loaded.manifest.max_batch_size)
    client_config: dict[str, Any] = {**(hyper or {}), "epochs": epochs, "batch_size": largest}
    client_config |= {"name": name or draw_name(loaded), "version": VERSION}
    process = HostRequest(client_config, _server_config(notes, cycle_s, server_optimizer))
    record = make_record(coordinator._api, process, notes, loaded, first)
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
    """Continue a training that the same user has begun, here or on another machine.

    This sends the missing requests, waits for the missing decisions, and starts the training. No Domain gets a second
    request.

    Args:
        coordinator: coordinator of the training, with a session of the user who began it.
        domains: sessions at the Domains, by their names in the training; for other Domains, `connect` uses the token of
            ``pygrid login``.
        evaluate, decide_within_s, progress: as for `federate`.
    Raises:
        NotFound: you have no such training at the coordinator (``federation_not_found``).
        Unauthenticated: you are not logged in at one of the Domains (``not_logged_in``).
        Conflict: as `federate`.
    """
    record = load_record(coordinator._api, name)
    given = domains or {}
    apis = {member.name: (given.get(member.name) or connect(member.url))._api for member in record.members}
    missing = [member.url for member in record.members if apis[member.name].token is None]
    if missing:
        raise Unauthenticated(
            f"you are not logged in at {', '.join(missing)}; log in with: pygrid login URL, or pass the sessions as "
            "domains=",
            code=codes.NOT_LOGGED_IN,
        )
    run = FederatedRun(coordinator, record, apis, evaluate=evaluate)
    if evaluate is not None:
        check_held_out(run.process.plan() if record.is_hosted else record.plan(), evaluate)
    run.decide(within_s=decide_within_s, progress=progress)
    return run


def _members(
    plan: Plan, asked: Mapping[str, Dataset], given: Mapping[str, str | Mapping[str, str]]
) -> list[FederationMember]:
    """The Domains with the given columns of the ports. Raises InvalidInput: they do not fit (``binding_unclear``)."""
    common = {port: column for port, column in given.items() if isinstance(column, str)}
    own = {who: columns for who, columns in given.items() if not isinstance(columns, str)}
    for who in own:
        if who not in asked:
            hint = did_you_mean(who, asked)
            raise InvalidInput(f"binding names {who!r}, which has no dataset here{hint}", code=codes.BINDING_UNCLEAR)
    members = []
    for who, dataset in asked.items():
        binding = {**common, **own.get(who, {})}
        members.append(FederationMember(who, dataset._api.url, dataset.name, dataset.id, binding=binding))
        try:
            schema = dataset.schema
        except PygridError:  # the request to this Domain meets the same error, and the Domain is left out with it
            continue
        try:
            complete_binding(plan.manifest.data, schema, binding)
        except InvalidInput as error:
            raise InvalidInput(f"{who}: {error.detail}", code=error.code) from error
    return members


def _privacy(terms: PrivacyRequest | None, unit: Unit | None) -> dict[str, Any] | None:
    """The privacy terms in the notes; without a unit, each Domain gets that of its dataset."""
    return None if terms is None else msgspec.to_builtins(terms) | {"unit": unit}


def _try_evaluate(plan: Plan, model: bytes, evaluate: Data) -> None:
    """Evaluate the first model. Raises InvalidInput and its subclasses: the data does not fit the plan."""
    from pygrid.plans import Runner

    check_held_out(plan, evaluate)
    Runner(plan).evaluate(decode(model)[0], evaluate)


def draw_name(plan: PlanSource) -> str:
    """A random name for a training with a plan."""
    return f"{load_plan(plan).manifest.name}-{secrets.token_hex(3)}"


def _server_config(notes: Notes, cycle_s: float, optimizer: Mapping[str, Any] | None) -> dict[str, Any]:
    """The configuration of the process if all Domains take part."""
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
    """The datasets by unique names of their Domains."""
    given = list(datasets.items()) if isinstance(datasets, Mapping) else [("", source) for source in datasets]
    named: dict[str, Dataset] = {}
    for wanted, source in given:
        dataset = source if isinstance(source, Dataset) else source[0].datasets[source[1]]
        base = name = wanted or _name_of(dataset)
        while name in named:
            if wanted:
                raise InvalidInput(
                    f"two Domains have the name {name!r}: use one for each", code=codes.INVALID_FEDERATION
                )
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
    """The address of the coordinator for the Domains; behind a Network, with its identity."""
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
