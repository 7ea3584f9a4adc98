"""Help pages in plain text: at most 80 columns, options by subject, an example at the end."""

from __future__ import annotations

import functools
import inspect
import os
import re
import textwrap
from collections.abc import Callable
from typing import Annotated, Any, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup
from typer.models import Default

from pygrid.cli.common import handle_errors

_MAX_FIRST_COLUMN = 26
"""Options that are longer have their help on the next line."""
_FIRST_SENTENCE = re.compile(r".*?[.](?=\s|$)", re.DOTALL)

CA_FILE_VARIABLE = "PYGRID_CA_FILE"
"""As in `pygrid.transport.authorities`, which takes long to import."""
CaFileOption = Annotated[
    str | None,
    typer.Option(
        "--ca-file", metavar="PATH", help=f"PEM file of a certificate authority to trust. [{CA_FILE_VARIABLE}]"
    ),
]
_SERVERS = frozenset({"url", "network", "domain", "coordinator"})
"""Names of the parameters of commands that are addresses of servers."""


class HelpCommand(TyperCommand):
    """A command whose docstring ends with ``Example:`` and lines to copy."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        _write_page(self, ctx, formatter)


class HelpGroup(TyperGroup):
    """A group of commands; its help page lists the first sentence of each."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        _write_page(self, ctx, formatter)

    def section_of(self, name: str) -> str:
        """The title under which the help page lists a command."""
        return "Commands"


class App(typer.Typer):
    """The commands of a module.

    Args:
        help: for a group of commands, what they do, and an example. The help page of a command is its docstring.
    """

    def __init__(self, help: str | None = None, *, cls: type[TyperGroup] = HelpGroup) -> None:
        super().__init__(
            cls=cls,
            help=help or Default(None),  # a callback's docstring wins over `Default` only
            no_args_is_help=help is not None,
            add_completion=False,
            pretty_exceptions_enable=False,
            rich_markup_mode=None,
            context_settings={"help_option_names": ["-h", "--help"]},
        )

    def command(
        self,
        name: str | None = None,
        *,
        cls: type[TyperCommand] | None = None,
        is_server: bool = False,
        **settings: Any,
    ) -> Callable[[Any], Any]:
        """A decorator that adds a command.

        Args:
            is_server: it runs until a signal stops it. The decorator does not change how it reports errors.
        """
        add = super().command(name, **{"cls": HelpCommand} | settings)
        return lambda command: add(_with_ca_file(command if is_server else handle_errors(command)))

    def callback(self, **settings: Any) -> Callable[[Any], Any]:
        add = super().callback(**settings)
        return lambda command: add(_with_ca_file(handle_errors(command)))


def _with_ca_file(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command, with the option ``--ca-file`` if it connects to a server."""
    hints = get_type_hints(command, include_extras=True)
    infos = [info for name in _SERVERS for info in getattr(hints.get(name), "__metadata__", ())]
    if "ca_file" in hints or not any(info.metavar == "URL" for info in infos):
        return command

    @functools.wraps(command)
    def run(*args: Any, ca_file: str | None = None, **kwargs: Any) -> Any:
        if ca_file:
            os.environ[CA_FILE_VARIABLE] = ca_file
        return command(*args, **kwargs)

    known = [given.replace(annotation=hints[given.name]) for given in inspect.signature(command).parameters.values()]
    option = inspect.Parameter("ca_file", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=CaFileOption)
    run.__signature__ = inspect.Signature([*known, option])  # type: ignore[attr-defined]
    run.__annotations__ = {**hints, "ca_file": CaFileOption}
    return run


def _write_page(command: Any, ctx: Any, formatter: Any) -> None:
    text, _, example = inspect.cleandoc(command.help or "").partition("Example:")
    formatter.write_usage(ctx.command_path, _usage(command, ctx))
    formatter.write_paragraph()
    with formatter.indentation():
        formatter.write_text(text.strip())
    sections = _sections(command, ctx)
    width = min(_MAX_FIRST_COLUMN, max((len(name) for rows in sections.values() for name, _ in rows), default=0))
    for title, rows in sections.items():
        with formatter.section(title):
            formatter.write_dl([(name.ljust(width), help) for name, help in rows], col_max=_MAX_FIRST_COLUMN)
    if example:
        with formatter.section("Example"):
            formatter.write(textwrap.indent(textwrap.dedent(example.strip("\n")).strip(), " " * 2) + "\n")


def _usage(command: Any, ctx: Any) -> str:
    pieces = ["[OPTIONS]"]
    for parameter in command.get_params(ctx):
        if parameter.param_type_name == "argument":
            name = _argument(parameter) if parameter.required else f"[{_argument(parameter)}]"
            pieces.append(name if parameter.nargs == 1 else f"{name}...")
    return " ".join([*pieces, "COMMAND [ARGS]..."] if isinstance(command, TyperGroup) else pieces)


def _argument(parameter: Any) -> str:
    return str(parameter.metavar or parameter.name.upper())


def _sections(command: Any, ctx: Any) -> dict[str, list[tuple[str, str]]]:
    """Rows of name and help by the title of their section."""
    found: dict[str, list[tuple[str, str]]] = {}
    for parameter in sorted(command.get_params(ctx), key=lambda parameter: parameter.param_type_name != "argument"):
        if (record := parameter.get_help_record(ctx)) is None:
            continue
        if parameter.param_type_name == "argument":
            found.setdefault("Arguments", []).append((_argument(parameter), record[1]))
        else:
            found.setdefault(getattr(parameter, "rich_help_panel", None) or "Options", []).append(record)
    if isinstance(command, TyperGroup):
        for name in command.list_commands(ctx):
            help = inspect.cleandoc(getattr(command.get_command(ctx, name), "help", None) or "")
            first = _FIRST_SENTENCE.match(help)
            title = command.section_of(name) if isinstance(command, HelpGroup) else "Commands"
            found.setdefault(title, []).append((name, first[0] if first else help))
    return found
