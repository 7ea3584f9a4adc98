"""The command ``pygrid``. Each subcommand is a module, which is imported only to run it, so that help is fast."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import typer

import pygrid
from pygrid.cli.help import App, HelpCommand, HelpGroup
from pygrid.cli.output import say, say_lines
from pygrid.errors import PygridError

BROKEN_PIPE = 141
"""Exit code when the reader of the output is gone, by convention 128 + SIGPIPE."""

COMMANDS: dict[str, tuple[str, str]] = {
    "domain": ("pygrid.cli.domain", "Start a Domain, which hosts models and data and runs training."),
    "network": ("pygrid.cli.network", "Start a Network, through which Domains are searched and reached."),
    "login": ("pygrid.cli.login", "Sign up at a Domain or a Network, log in or log out."),
    "account": (
        "pygrid.cli.account",
        "Log in by browser, open the console, accept an invitation, change your password.",
    ),
    "token": ("pygrid.cli.token", "Make, list and revoke API tokens for scripts."),
    "user": ("pygrid.cli.user", "Show, invite, change and remove users."),
    "role": ("pygrid.cli.role", "Show, create and delete roles, which hold permissions."),
    "search": ("pygrid.cli.search", "Find datasets, models and processes on all Domains of a Network."),
    "plan": ("pygrid.cli.plan", "Build, inspect and test plans."),
    "host": ("pygrid.cli.host", "Host a model and its plans on a Domain, for devices to train."),
    "process": ("pygrid.cli.process", "Show, watch, change, export and serve hosted processes."),
    "dataset": ("pygrid.cli.dataset", "Upload, find, show and change datasets."),
    "job": ("pygrid.cli.job", "Submit jobs on data that you cannot see, follow them, download results."),
    "federate": ("pygrid.cli.federate", "Train a model across the data of several owners."),
    "request": ("pygrid.cli.request", "Decide on jobs that others submitted for your datasets."),
    "budget": ("pygrid.cli.budget", "Show and set the privacy budgets of datasets."),
    "audit": ("pygrid.cli.audit", "Verify and show the audit log of a Domain."),
    "model": ("pygrid.cli.model", "Download checkpoints; serve models and predict with them."),
    "worker": ("pygrid.cli.worker", "Run jobs of a Domain on this machine; check its sandbox."),
    "association": ("pygrid.cli.association", "Join and leave Networks with a Domain."),
    "domains": ("pygrid.cli.domains", "Show the Domains of a Network; accept, deny and invite Domains."),
    "store": ("pygrid.cli.store", "Move the files of a Domain to a bucket; migrate its database."),
    "doctor": ("pygrid.cli.doctor", "Try what a Domain needs from other services."),
    "up": ("pygrid.cli.up", "Start a Network and Domains as processes of this machine."),
    "edge": ("pygrid.cli.edge", "Train as a device, on local data."),
}
"""Module and help by name of the subcommand; the module's ``app`` is an `App`."""


SECTIONS: dict[str, tuple[str, ...]] = {
    "Apps": ("domain", "network", "up", "worker", "store", "doctor"),
    "Training on devices": ("plan", "host", "process", "model", "edge"),
    "Private data": ("dataset", "job", "request", "budget", "federate", "audit"),
    "Users": ("login", "account", "token", "user", "role"),
    "Networks": ("search", "association", "domains"),
}
"""The subcommands by subject, as the help page lists them."""


class _LazyGroup(HelpGroup):
    """Lists subcommands by the table above, and imports one only to run it."""

    def list_commands(self, ctx: Any) -> list[str]:
        grouped = [name for names in SECTIONS.values() for name in names]
        return [*grouped, *(name for name in COMMANDS if name not in grouped)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        return HelpCommand(cmd_name, help=COMMANDS[cmd_name][1])

    def section_of(self, name: str) -> str:
        return next((title for title, names in SECTIONS.items() if name in names), super().section_of(name))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        self.commands = {name: self.get_command(ctx, name) for name in COMMANDS}
        name, found, rest = super().resolve_command(ctx, args)
        if name is None or found is None:
            return name, found, rest
        module = importlib.import_module(COMMANDS[name][0])
        command = typer.main.get_command(module.app)
        command.name = name
        return name, command, rest


app = App("Train models together without moving private data.\n\nExample: pygrid up alice bob", cls=_LazyGroup)


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

    The process exits with 1 and a message for an error that a user can correct, and with 141 (128 + SIGPIPE) and no
    message if the reader of its output is gone. A traceback is a bug of pygrid.
    """
    try:
        app()
    except PygridError as error:
        say_lines(f"pygrid: {error.detail}", hanging="  ", err=True)
        sys.exit(1)
    except SystemExit as ended:
        # Typer and Rich exit with 1 when the reader of the output is gone, and flush nothing more.
        if isinstance(ended.__context__, BrokenPipeError):
            sys.exit(BROKEN_PIPE)
        raise
