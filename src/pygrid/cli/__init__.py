"""The command ``pygrid``: one module for each subcommand, loaded when that one is called, so that help comes at
once.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

import pygrid
from pygrid.cli.output import say, say_lines
from pygrid.errors import PygridError

BROKEN_PIPE = 141
"""Exit status when the reader of the output is gone: 128 + SIGPIPE, as of other programs."""

COMMANDS: dict[str, tuple[str, str]] = {
    "domain": ("pygrid.cli.domain", "Start a Domain: hosts models and data, runs their training."),
    "network": ("pygrid.cli.network", "Start a Network: Domains join it, and are searched and reached through it."),
    "login": ("pygrid.cli.login", "Sign up at a Domain or log in to it; the session is kept for the other commands."),
    "account": ("pygrid.cli.account", "Change your password or your private key."),
    "search": ("pygrid.cli.search", "Find datasets, models and processes on all Domains of a Network."),
    "plan": ("pygrid.cli.plan", "Build a plan, look at what it does, try it."),
    "host": ("pygrid.cli.host", "Host a model and its plans on a Domain, ready for devices."),
    "process": ("pygrid.cli.process", "Look at hosted processes and their cycles, watch them, end them."),
    "dataset": ("pygrid.cli.dataset", "Upload datasets, find them, look at them, change them."),
    "job": ("pygrid.cli.job", "Ask for work on data that you do not see, follow it, take the result."),
    "federate": ("pygrid.cli.federate", "Train a model across the data of several owners."),
    "request": ("pygrid.cli.request", "See what is asked of the data that you hold, and decide."),
    "budget": ("pygrid.cli.budget", "See what was spent of the privacy of each dataset; open a budget."),
    "audit": ("pygrid.cli.audit", "Check that nothing in the audit log was changed, and read it."),
    "model": ("pygrid.cli.model", "Download checkpoints; serve models that answer questions, and ask them."),
    "worker": (
        "pygrid.cli.worker",
        "Run jobs of a Domain on this machine; see whether it can lock strangers' plans in.",
    ),
    "association": ("pygrid.cli.association", "Let a Domain join a Network, and leave it."),
    "domains": ("pygrid.cli.domains", "Look at the Domains of a Network; let them in."),
    "up": ("pygrid.cli.up", "Start a Network and Domains as processes of this machine."),
    "edge": ("pygrid.cli.edge", "Train as a device: ask for work, train on local data, report."),
}
"""Name, module and help of each subcommand; the module's ``app`` is a `typer.Typer`."""


class _LazyGroup(TyperGroup):
    """Lists subcommands by the table above, and imports one only to run it."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        return TyperCommand(cmd_name, help=COMMANDS[cmd_name][1], rich_markup_mode=self.rich_markup_mode)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        self.commands = {name: self.get_command(ctx, name) for name in COMMANDS}
        name, found, rest = super().resolve_command(ctx, args)
        if name is None or found is None:
            return name, found, rest
        module = importlib.import_module(COMMANDS[name][0])
        command = typer.main.get_command(module.app)
        command.name = name
        return name, command, rest


app = typer.Typer(
    cls=_LazyGroup,
    help="Train models together without moving private data.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        say(pygrid.__version__)
        raise typer.Exit


@app.callback()
def _options(
    _version: bool = typer.Option(False, "--version", is_eager=True, callback=_print_version, help="Show the version."),
) -> None:
    """Train models together without moving private data."""


def main() -> None:
    """Run the command line.

    The process exits with 1 and an explanation for an error that a user can correct, and with 141 (128 + SIGPIPE)
    without a message if the reader of its output is gone. A traceback is a fault of pygrid.
    """
    try:
        app()
    except PygridError as error:
        say_lines(f"pygrid: {error.detail}", hanging="  ", err=True)
        sys.exit(1)
    except SystemExit as ended:
        # Typer and Rich exit with 1 when the reader of the output is gone. Both see to it that nothing more is flushed.
        if isinstance(ended.__context__, BrokenPipeError):
            sys.exit(BROKEN_PIPE)
        raise
