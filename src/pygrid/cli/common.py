"""What the commands share: options, errors of files, ``key=value`` settings."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec, TypeVar

import typer

from pygrid import codes
from pygrid.errors import InvalidInput

if TYPE_CHECKING:
    from pygrid.client import DomainClient, NetworkClient

P = ParamSpec("P")
R = TypeVar("R")

INTERRUPTED = 130
"""Exit code after Ctrl-C, by convention 128 + SIGINT."""

UrlOption = Annotated[
    str | None,
    typer.Option(
        "--url", envvar="PYGRID_URL", metavar="URL", help="Address of the Domain; default: that of the last login."
    ),
]
AppOption = Annotated[
    str | None,
    typer.Option(
        "--url",
        envvar="PYGRID_URL",
        metavar="URL",
        help="Address of the Domain or the Network; default: the Domain of the last login.",
    ),
]
NetworkOption = Annotated[
    str | None,
    typer.Option(
        "--network",
        envvar="PYGRID_NETWORK_URL",
        metavar="URL",
        help="Address of the Network; default: that of the last login.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]


def handle_errors(command: Callable[P, R]) -> Callable[P, R]:
    """A decorator: an error of a file becomes a message, and Ctrl-C an exit code.

    `pygrid.cli.main` does the same for a `PygridError`.
    """

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except BrokenPipeError:
            raise  # `pygrid.cli.main` ends the program
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            raise InvalidInput(f"{where}{error.strerror or error}", code=codes.FILE_ERROR) from error
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None

    return run


def connect(url: str | None) -> DomainClient:
    """A client of the Domain at an address, or of the last login. It imports the SDK only when a command runs."""
    from pygrid import client

    return client.connect(url)


def connect_network(url: str | None) -> NetworkClient:
    """A client of the Network at an address, or of the last login."""
    from pygrid import client

    return client.connect_network(url)


def confirm(question: str) -> None:
    """Ask before a change that cannot be undone; another answer than yes ends the command.

    Raises:
        InvalidInput: there is no terminal.
    """
    try:
        typer.confirm(question, abort=True)
    except typer.Abort:
        if sys.stdin.isatty():
            raise
        raise InvalidInput("nothing is changed, because the answer is not yes; in a script, pass --yes") from None


def read_password(prompt: str, from_stdin: bool) -> str:
    """A new password: a line of standard input, or what the user types twice."""
    if from_stdin:
        return sys.stdin.readline().rstrip("\r\n")
    return str(typer.prompt(prompt, hide_input=True, confirmation_prompt=True))


def read_settings(given: Sequence[str]) -> dict[str, Any]:
    """A configuration from the command line: each item is ``key=value`` or the path of a JSON file; later ones win.

    A value is read as JSON if it is JSON (``3``, ``0.5``, ``true``, ``null``, ``{"secret": "..."}``), else as text.

    Raises:
        InvalidInput: names the item that is neither.
    """
    settings: dict[str, Any] = {}
    for item in given:
        key, is_pair, value = item.partition("=")
        if is_pair and key.isidentifier():
            settings[key] = _value(value)
        else:
            settings |= _file(item)
    return settings


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _file(name: str) -> dict[str, Any]:
    path = Path(name)
    if not path.is_file():
        raise InvalidInput(f"{name!r} is neither key=value nor the path of a JSON file")
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise InvalidInput(f"{name} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise InvalidInput(f"{name} holds no JSON object, like {{'num_cycles': 5}}")
    return content
