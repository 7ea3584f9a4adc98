"""``pygrid process``: show, watch, finish and restore hosted processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pygrid.cli.common import JsonOption, UrlOption, handle_errors
from pygrid.cli.help import App
from pygrid.cli.output import say, say_columns, say_json

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
        infos = domain.processes()
        if as_json:
            say_json(infos)
            return
        if not infos:
            say(f"{domain.url} has no process; to host one, see: pygrid host --help")
            return
    rows: list[tuple[str, ...]] = [("NAME", "VERSION", "STATE", "CYCLES", "PARAMETERS", "NEWEST CYCLE")]
    rows += [
        (i.name, i.version, i.state, _progress(i), f"{i.num_parameters:,}", i.cycle.state if i.cycle else "-")
        for i in infos
    ]
    say_columns(rows)


@app.command("show")
@handle_errors
def show(name: Name, version: Version = None, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Show a process with its configuration, plans and cycles.

    Example: pygrid process show digits
    """
    import msgspec

    from pygrid.client import connect
    from pygrid.client.display.training_view import describe

    with connect(url) as domain:
        process = domain.process(name, version)
        info = process.info()
        if as_json:
            say_json(info)
            return
        say(f"{info.name} {info.version}: {info.state}, {_progress(info)} cycles, {info.num_parameters:,} parameters")
        for plan in info.plans:
            say(f"  plan {plan.name} ({plan.kind}): {plan.size_bytes / 1000:.1f} kB, SHA-256 {plan.plan_hash}")
        say(f"  client_config {msgspec.json.encode(info.client_config).decode()}")
        say(f"  server_config {msgspec.json.encode(info.server_config).decode()}")
        for cycle in process.cycles():
            say(f"  {describe(cycle)}")


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


def _progress(info: ProcessInfo) -> str:
    total = info.server_config.get("num_cycles")
    return f"{info.num_checkpoints - 1} of {total}" if total else f"{info.num_checkpoints - 1}"
