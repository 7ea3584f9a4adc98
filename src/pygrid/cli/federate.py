"""``pygrid federate``: train a model across the data of several owners."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pygrid.cli import training_options as options
from pygrid.cli.common import connect, read_settings
from pygrid.cli.help import App
from pygrid.cli.output import say, say_lines
from pygrid.errors import InvalidInput

if TYPE_CHECKING:
    from pygrid.client import FederatedRun
    from pygrid.client.datasets import Dataset

app = App()

DatasetOption = Annotated[
    list[str] | None,
    typer.Option(metavar="[NAME=]URL/DATASET", help="Dataset of a Domain where you are logged in; repeatable."),
]
Coordinator = Annotated[
    str | None, typer.Option(metavar="URL", help="Domain that coordinates; default: that of the last login.")
]
Evaluate = Annotated[
    Path | None, typer.Option(metavar="PATH", help="Your evaluation data for each cycle: NPZ or safetensors.")
]
Bind = Annotated[
    list[str] | None,
    typer.Option(
        "--bind",
        "-b",
        metavar="[NAME:]INPUT=COLUMN",
        help="Column of an input, everywhere or at the Domain of a NAME; default: by name or meaning; repeatable.",
    ),
]
Resume = Annotated[str | None, typer.Option(metavar="NAME", help="Training to continue, started on any machine.")]


@app.command()
def federate(
    plan: Annotated[Path | None, typer.Argument(help="Plan file; left out with --resume.")] = None,
    model: Annotated[Path | None, typer.Option(metavar="PATH", help="Initial model, a safetensors file.")] = None,
    dataset: DatasetOption = None,
    coordinator: Coordinator = None,
    rounds: Annotated[int, typer.Option(metavar="N", help="Cycles of training.")] = 10,
    reason: options.Reason = "",
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the process; default: from the plan.")
    ] = None,
    min_domains: Annotated[int, typer.Option(metavar="N", help="Smallest number of Domains that train.")] = 2,
    cycle_s: Annotated[
        float, typer.Option(metavar="SECONDS", help="Time that a cycle waits for late Domains.")
    ] = 600.0,
    epochs: options.Epochs = 1,
    batch_size: options.BatchSize = 32,
    hyper: options.Hyper = None,
    optimizer: options.Optimizer = None,
    server_optimizer: options.ServerOptimizer = None,
    bind: Bind = None,
    epsilon: options.Epsilon = None,
    delta: options.Delta = None,
    clip: options.Clip = 1.0,
    unit: options.Unit = None,
    evaluate: Evaluate = None,
    resume: Resume = None,
    output: options.Output = None,
) -> None:
    """Train a model across several Domains: submit a job to each, host the process, follow it.

    Ctrl-C stops the display, not the training; --resume continues from any machine that is logged in at the same
    Domains.

    Example:
        pygrid federate risk.plan --model risk.safetensors --rounds 20 \\
            --dataset http://alice.example/patients \\
            --dataset http://bob.example/patients \\
            --epsilon 4 --delta 1e-6 --reason "a study"
    """
    from pygrid.client import federate as start
    from pygrid.client import resume_federated
    from pygrid.client.federation.federate import draw_name
    from pygrid.edge import load_data

    data = None if evaluate is None else load_data(evaluate)
    options: dict[str, Any] = {"epochs": epochs, "batch_size": batch_size, "cycle_s": cycle_s, "evaluate": data}
    options |= {"min_domains": min_domains, "epsilon": epsilon, "delta": delta, "clip": clip, "unit": unit}
    options |= {"hyper": read_settings(hyper or []), "optimizer": read_settings(optimizer or [])}
    options |= {"server_optimizer": read_settings(server_optimizer or []) or None, "binding": _bindings(bind or [])}
    with connect(coordinator) as hub:
        if resume is not None:
            with _resume_hint(resume, hub.url):
                return _follow(resume_federated(hub, resume, evaluate=data, progress=True), output)
        if plan is None or model is None or not dataset:
            raise InvalidInput("a training needs a PLAN, --model, and --dataset for each Domain; or --resume NAME")
        options["name"] = name or draw_name(plan)
        found = _datasets(dataset)
        with _resume_hint(options["name"], hub.url):
            run = start(plan, model, found, coordinator=hub, rounds=rounds, reason=reason, progress=True, **options)
            _follow(run, output)


@contextlib.contextmanager
def _resume_hint(name: str, url: str) -> Iterator[None]:
    """Show after Ctrl-C how to resume."""
    try:
        yield
    except KeyboardInterrupt:
        say(err=True)
        say(f"to continue: pygrid federate --resume {shlex.quote(name)} --coordinator {url}", err=True)
        raise


def _follow(run: FederatedRun, output: Path | None) -> None:
    """Follow a training to its end, print its Domains and cycles, and download the model."""
    say(f"{run.name} is hosted on {run.coordinator.url}")
    try:
        run.wait(progress=True)
    finally:
        say_lines(repr(run.domains))
        say_lines(repr(run.history))
    if output is not None:
        run.model(path=output)
        say(f"{output}: {output.stat().st_size:,} bytes")


def _bindings(given: list[str]) -> dict[str, Any]:
    """The columns of the inputs, in part by Domain."""
    bindings: dict[str, Any] = {}
    for item in given:
        key, is_pair, column = item.partition("=")
        who, _, port = key.rpartition(":")
        where = bindings.setdefault(who, {}) if who else bindings
        if not is_pair or not isinstance(where, dict):
            raise InvalidInput(f"--bind {item!r} is not [NAME:]INPUT=COLUMN, like x=measurements or bob:x=values")
        where[port] = column
    return bindings


def _datasets(given: list[str]) -> dict[str, Dataset] | list[Dataset]:
    """The datasets; by name if all have a name."""
    named: dict[str, Dataset] = {}
    found: list[Dataset] = []
    for text in given:
        head, is_named, rest = text.partition("=")
        is_named = is_named if is_named and "/" not in head else ""
        url, _, dataset = (rest if is_named else text).rpartition("/")
        if not url or not dataset or url.endswith(":/"):
            raise InvalidInput(f"--dataset {text!r} is not URL/DATASET, like http://alice.example:5000/patients")
        source = connect(url).datasets[dataset]
        found.append(source)
        if is_named:
            named[head] = source
    if named and len(named) < len(found):
        raise InvalidInput("some --dataset have no NAME=; use a different NAME= for each, or no names")
    return named or found
