"""``pygrid up``: the services of a compose file as processes of this machine."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pygrid.cli.friendly import friendly
from pygrid.cli.output import say
from pygrid.errors import InvalidConfig

if TYPE_CHECKING:
    from pygrid.deploy.compose import ComposeFile
    from pygrid.deploy.plan import Launch

app = typer.Typer(add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})


@app.command()
@friendly
def up(
    services: Annotated[
        list[str] | None, typer.Argument(metavar="[SERVICE]...", help="Which ones; default: all that are in no profile.")
    ] = None,
    file: Annotated[Path, typer.Option("--file", "-f", help="The compose file.")] = Path("docker-compose.yml"),
    data_dir: Annotated[Path, typer.Option(help="Folder that gets a folder for each service.")] = Path("pygrid-up"),
    profile: Annotated[list[str] | None, typer.Option(help="Start the services of this profile too; may be repeated.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be started, and start nothing.")] = False,
) -> None:
    """Start the services of a compose file as processes of this machine, without containers, until Ctrl-C or SIGTERM.

    The variables of the file come from the environment, and from the file .env beside it. A port is offered on this machine
    only, unless the file names another address for it.

    Example: pygrid up network alice bob
    """
    from pygrid.deploy.plan import passed_on, plan_processes

    compose = _read(file)
    launches = plan_processes(
        compose,
        tuple(services or ()),
        tuple(profile or _profiles_of_environment()),
        folder=file.absolute().parent,
        data_dir=data_dir.absolute(),
        free_port=_free_port,
    )
    for line in _remarks(compose):
        say(line, err=True)
    if dry_run:
        for launch in launches:
            say(f"{launch.name}: pygrid {' '.join(launch.arguments)}  {launch.address or ''}".rstrip())
        return
    _refuse_taken_ports(launches)

    import asyncio

    from pygrid.cli.processes import Processes
    from pygrid.cli.terminal import Terminal

    terminal = Terminal([launch.name for launch in launches], sys.stdout)
    code = asyncio.run(Processes(launches, passed_on(os.environ), terminal).run())
    if code:
        raise typer.Exit(code)


def _read(file: Path) -> ComposeFile:
    from pygrid.deploy.compose import parse_compose
    from pygrid.deploy.interpolation import read_env_file

    if not file.is_file():
        raise InvalidConfig(f"there is no file {file}; name the compose file with -f FILE", code="compose_file_missing")
    beside = file.parent / ".env"
    kept = read_env_file(beside.read_text(), str(beside)) if beside.is_file() else {}
    return parse_compose(file.read_text(), str(file), kept | dict(os.environ))


def _profiles_of_environment() -> list[str]:
    """As engines do."""
    return [name for name in os.environ.get("COMPOSE_PROFILES", "").split(",") if name]


def _remarks(compose: ComposeFile) -> list[str]:
    remarks = []
    if compose.ignored:
        remarks.append(f"ignored, being about containers only: {', '.join(sorted(compose.ignored))}")
    if compose.unset:
        remarks.append(f"not set, and so taken as empty: {', '.join(sorted(compose.unset))}")
    return remarks


def _refuse_taken_ports(launches: Sequence[Launch]) -> None:
    """Before anything starts, so that nothing has to be stopped again."""
    taken = []
    for launch in launches:
        if launch.port is None:
            continue
        family = socket.AF_INET6 if ":" in launch.host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind((launch.host, launch.port))
            except OSError as error:
                taken.append(f"{launch.name} cannot have {launch.host} port {launch.port}: {error.strerror}")
    if taken:
        raise InvalidConfig(
            "nothing was started, because of these ports:\n  " + "\n  ".join(taken) + "\n"
            "Stop what listens there, or publish another port in the compose file.",
            code="address_in_use",
        )


def _free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        port: int = trial.getsockname()[1]
        return port
