"""``pygrid process``: show, watch, finish and restore hosted processes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from pygrid.cli.common import JsonOption, UrlOption, handle_errors
from pygrid.cli.help import App
from pygrid.cli.output import say, say_facts, say_json, say_table

if TYPE_CHECKING:
    from pygrid.messages.processes import ProcessInfo

app = App("Show, watch, finish and restore hosted processes.\n\nExample: pygrid process list")

Name = Annotated[str, typer.Argument(help="Name of the process.")]
Version = Annotated[str | None, typer.Option(metavar="TEXT", help="Version of the process; default: the newest.")]


@app.command("list")
@handle_errors
def list_processes(url: UrlOption = None, as_json: JsonOption = False) -> None:
    """List the processes of a Domain, newest first.

    Example: pygrid process list
    """

    from pygrid.client import connect

    with connect(url) as domain:
        found = domain.processes()
        empty = f"{domain.url} has no process; to host one, see: pygrid host --help"
    say_json(found) if as_json else say_table(found, empty)


@app.command("show")
@handle_errors
def show(name: Name, version: Version = None, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Show a process with its configuration, plans and cycles.

    Example: pygrid process show digits
    """
    from pygrid.client import connect

    with connect(url) as domain:
        process = domain.process(name, version)
        info = process.info()
        if as_json:
            say_json(info)
            return
        say_facts(_facts(info))
        if cycles := process.cycles():
            say()
            say_table(cycles)


@app.command("watch")
@handle_errors
def watch(
    name: Name,
    version: Version = None,
    url: UrlOption = None,
    plain: Annotated[bool, typer.Option("--plain", help="Print a line for each change, also on a terminal.")] = False,
) -> None:
    """Follow a training until it ends. Ctrl-C stops the display, not the training.

    Example: pygrid process watch digits
    """
    from pygrid.client import connect

    with connect(url) as domain:
        domain.process(name, version).watch(plain=plain or None)


@app.command("finish")
@handle_errors
def finish(name: Name, version: Version = None, url: UrlOption = None) -> None:
    """Finish a training. Its open cycle is completed if it has reports.

    Example: pygrid process finish digits
    """
    from pygrid.client import connect

    with connect(url) as domain:
        info = domain.process(name, version).finish()
        say(f"{info.name} {info.version} is {info.state} after {info.num_checkpoints - 1} cycles")


@app.command("restore")
@handle_errors
def restore(
    name: Name,
    checkpoint: Annotated[int, typer.Option(min=1, metavar="N", help="Number of the checkpoint to continue from.")],
    version: Version = None,
    url: UrlOption = None,
) -> None:
    """Continue from an earlier checkpoint, which is repeated as the newest one.

    Example: pygrid process restore digits --checkpoint 3
    """
    from pygrid.client import connect

    with connect(url) as domain:
        info = domain.process(name, version).restore(checkpoint)
        say(f"{info.name} {info.version} continues from checkpoint {info.num_checkpoints}, which repeats {checkpoint}")


def _facts(info: ProcessInfo) -> Iterator[tuple[str, object]]:
    from pygrid.client.display.process_tables import num_completed
    from pygrid.client.display.units import size

    yield "process", f"{info.name} {info.version}"
    yield "state", info.state
    yield "cycles", num_completed(info)
    yield "parameters", f"{info.num_parameters:,}"
    for plan in info.plans:
        yield "plan", f"{plan.name} ({plan.kind}), {size(plan.size_bytes)}, SHA-256 {plan.plan_hash}"
    yield "client_config", _lines(info.client_config)
    yield "server_config", _lines(info.server_config)


def _lines(config: Mapping[str, object]) -> str:
    """One key a line; values as JSON, as `pygrid host` reads them."""
    return "\n".join(f"{key}={json.dumps(value)}" for key, value in sorted(config.items()))
