"""``pygrid federate``: train a model across the data of several owners."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pygrid.cli.common import friendly, read_settings
from pygrid.cli.output import say, say_lines
from pygrid.errors import InvalidInput

if TYPE_CHECKING:
    from pygrid.client import FederatedRun
    from pygrid.client.datasets import Dataset

app = typer.Typer(add_completion=False)


@app.command()
@friendly
def federate(
    plan: Annotated[
        Path | None, typer.Argument(help="The plan file; none to go on with a training (--resume).")
    ] = None,
    model: Annotated[Path | None, typer.Option(help="What training begins with: a safetensors file.")] = None,
    dataset: Annotated[
        list[str] | None,
        typer.Option(help="DOMAIN_URL/DATASET, or NAME=DOMAIN_URL/DATASET; once for each Domain. Log in there before."),
    ] = None,
    coordinator: Annotated[
        str | None, typer.Option(help="Address of the Domain that coordinates; default: where you logged in last.")
    ] = None,
    rounds: Annotated[int, typer.Option(help="Cycles of training.")] = 10,
    reason: Annotated[str, typer.Option(help="What for, for those who decide.")] = "",
    name: Annotated[
        str | None, typer.Option(help="Of the process, new to the coordinator; default: the plan's.")
    ] = None,
    min_domains: Annotated[int, typer.Option(help="Fewer do not train.")] = 2,
    cycle_s: Annotated[
        float, typer.Option(help="How long a cycle waits for Domains that are late, in seconds.")
    ] = 600.0,
    epochs: Annotated[int, typer.Option(help="Passes over the data in a cycle.")] = 1,
    batch_size: Annotated[int, typer.Option(help="Records of an update; of a private one on average.")] = 32,
    hyper: Annotated[
        list[str] | None,
        typer.Option("--hyper", "-p", help="A hyperparameter: key=value or a JSON file; several times."),
    ] = None,
    optimizer: Annotated[
        list[str] | None, typer.Option(help="Of private training at a Domain: key=value or a JSON file; several times.")
    ] = None,
    server_optimizer: Annotated[
        list[str] | None,
        typer.Option(help="Of the coordinator: key=value or a JSON file, e.g. name=adam; several times."),
    ] = None,
    epsilon: Annotated[
        float | None, typer.Option(help="The guarantee at each Domain, for all cycles; left out with delta: exact.")
    ] = None,
    delta: Annotated[float | None, typer.Option(help="Its delta, well below one over the number of records.")] = None,
    clip: Annotated[float, typer.Option(help="Bound of each unit's contribution (L2 norm).")] = 1.0,
    unit: Annotated[str, typer.Option(help="What is protected: record, subject or domain.")] = "record",
    evaluate: Annotated[
        Path | None, typer.Option(help="Data of your own, to evaluate each cycle's model on: NPZ or safetensors.")
    ] = None,
    resume: Annotated[
        str | None, typer.Option(help="Go on with your training of this name, begun on any machine.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the trained model there.")] = None,
) -> None:
    """Train a model across several Domains: ask each owner, host the process, follow it to its end.

    Ctrl-C ends the following, not the training; --resume goes on with it, wherever you are logged in at the same
    Domains.

    Example: pygrid federate risk.plan --model risk.safetensors --dataset http://alice.example/patients
    --dataset http://bob.example/patients --coordinator http://hub.example --rounds 20 --epsilon 4 --delta 1e-6
    --reason "a study"
    """
    from pygrid.client import connect, resume_federated
    from pygrid.client import federate as begin
    from pygrid.client.federation.federate import draw_name
    from pygrid.edge import load_data

    data = None if evaluate is None else load_data(evaluate)
    with connect(coordinator) as hub:
        if resume is not None:
            with _saying_how_to_go_on(resume, hub.url):
                return _follow(resume_federated(hub, resume, evaluate=data, progress=True), output)
        if plan is None or model is None or not dataset:
            raise InvalidInput("a training needs a PLAN, --model, and --dataset for each Domain; or --resume NAME")
        chosen = name or draw_name(plan)
        given: dict[str, Any] = {
            "epochs": epochs,
            "batch_size": batch_size,
            "cycle_s": cycle_s,
            "min_domains": min_domains,
        }
        given |= {"hyper": read_settings(hyper or []), "optimizer": read_settings(optimizer or [])}
        given |= {"server_optimizer": read_settings(server_optimizer or []) or None}
        given |= {"epsilon": epsilon, "delta": delta, "clip": clip, "unit": unit, "evaluate": data, "name": chosen}
        found = _datasets(dataset)
        with _saying_how_to_go_on(chosen, hub.url):
            run = begin(plan, model, found, coordinator=hub, rounds=rounds, reason=reason, progress=True, **given)
            _follow(run, output)


@contextlib.contextmanager
def _saying_how_to_go_on(name: str, url: str) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        say(err=True)
        say(f"to go on with it: pygrid federate --resume {shlex.quote(name)} --coordinator {url}", err=True)
        raise


def _follow(run: FederatedRun, output: Path | None) -> None:
    """See a training to its end, say what came of it, and take the model."""
    say(f"{run.name} is hosted on {run.coordinator.url}")
    try:
        run.wait(progress=True)
    finally:
        _show(run)
    if output is not None:
        run.model(path=output)
        say(f"{output}: {output.stat().st_size:,} bytes")


def _datasets(given: list[str]) -> dict[str, Dataset] | list[Dataset]:
    """The datasets, by names if all have one."""
    from pygrid.client import connect

    named: dict[str, Dataset] = {}
    found: list[Dataset] = []
    for text in given:
        head, is_named, rest = text.partition("=")
        is_named = is_named if is_named and "/" not in head else ""
        url, _, dataset = (rest if is_named else text).rpartition("/")
        if not url or not dataset or url.endswith(":/"):
            raise InvalidInput(f"--dataset {text!r} is not DOMAIN_URL/DATASET, e.g. http://alice.example:5000/patients")
        source = connect(url).datasets[dataset]
        found.append(source)
        if is_named:
            named[head] = source
    if named and len(named) < len(found):
        raise InvalidInput("give each --dataset a NAME= of its own, or none of them")
    return named or found


def _show(run: FederatedRun) -> None:
    """Who took part, and what each cycle brought."""
    say_lines(repr(run.domains))
    say_lines(repr(run.history))
