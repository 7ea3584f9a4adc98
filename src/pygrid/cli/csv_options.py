"""Options of `pygrid dataset add` for CSV files, and the question whether the first line holds names."""

from __future__ import annotations

import ast
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from pygrid import codes
from pygrid.cli.output import say
from pygrid.errors import InvalidInput

T = TypeVar("T")

_PANEL = "CSV files"
_ARGUMENT = re.compile(
    r"\b(header|names|index|delimiter|decimal|thousands|missing|skip_lines|encoding)="
    r"""(True|False|\[[\d, ]+\]|\['(?:[^'\\]|\\.)*'\]|\["[^"]*"\]|'(?:[^'\\]|\\.)*'|"[^"]*"|(?![^\s,)]))"""
)
"""An argument of Python for a CSV file, in the text of a refusal or a note."""
Header = Annotated[
    bool | None,
    typer.Option(
        "--header/--no-header",
        help="Whether the first line holds the names of the columns; default: found.",
        rich_help_panel=_PANEL,
    ),
]
Names = Annotated[
    str | None,
    typer.Option(metavar="A,B", help="Names of all columns; they replace those of the file.", rich_help_panel=_PANEL),
]
Index = Annotated[
    str | None, typer.Option(metavar="NAME", help="Name of a first column without a name.", rich_help_panel=_PANEL)
]
Delimiter = Annotated[
    str | None,
    typer.Option(
        metavar="CHAR",
        help="Character between fields, or tab; default: found among , ; | and tab.",
        rich_help_panel=_PANEL,
    ),
]
Decimal = Annotated[
    str | None, typer.Option(metavar="CHAR", help="Decimal mark of numbers; default: a point.", rich_help_panel=_PANEL)
]
Thousands = Annotated[
    str | None, typer.Option(metavar="CHAR", help="Mark between groups of three digits.", rich_help_panel=_PANEL)
]
Missing = Annotated[
    list[str] | None,
    typer.Option(metavar="MARK", help="Mark of a missing value, for example ?; repeatable.", rich_help_panel=_PANEL),
]
SkipLine = Annotated[
    list[str] | None,
    typer.Option(
        metavar="N", help="Line of the file that is not read, or lines such as 1-3; repeatable.", rich_help_panel=_PANEL
    ),
]
Encoding = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Encoding: utf-8 (default), latin-1, windows-1252 or utf-16.", rich_help_panel=_PANEL
    ),
]


def read(
    header: bool | None,
    names: str | None,
    words: dict[str, str | None],
    missing: Sequence[str] | None,
    skip_lines: Sequence[str] | None,
) -> dict[str, Any]:
    """The options as fields of `pygrid.messages.datasets.CsvOptions`; only those that were passed.

    Args:
        words: delimiter, decimal, thousands, encoding and index.
    Raises:
        InvalidInput: a number of a line is not valid.
    """
    given: dict[str, Any] = {field: word for field, word in words.items() if word is not None}
    if given.get("delimiter") in ("tab", "\\t"):
        given["delimiter"] = "\t"
    if header is not None:
        given["header"] = header
    if names is not None:
        given["names"] = tuple(name.strip() for name in names.split(","))
    if missing:
        given["missing"] = tuple(missing)
    if skip_lines:
        given["skip_lines"] = tuple(number for text in skip_lines for number in _line_numbers(text))
    return given


def _line_numbers(text: str) -> range:
    first, _, last = text.partition("-")
    if not first.isdecimal() or not (last or first).isdecimal():
        raise InvalidInput(f"--skip-line {text!r} is not valid; write a number such as 1, or numbers such as 1-3")
    return range(int(first), int(last or first) + 1)


def as_options(text: str) -> str:
    """The text with arguments of Python, such as ``missing=['?']``, as options, such as ``--missing '?'``."""
    return _ARGUMENT.sub(lambda found: _option(found[1], found[2]), text)


def _option(name: str, value: str) -> str:
    if name == "header":
        return "--header" if value == "True" else "--no-header"
    flag = "--skip-line" if name == "skip_lines" else f"--{name}"
    read = ast.literal_eval(value) if value else None
    words = read if isinstance(read, list) else [] if read is None else [read]
    return " ".join(f"{flag} {shlex.quote(str(word))}" for word in words) or flag


def send_or_ask(send: Callable[..., T], file: Path | None) -> T:
    """Call ``send``; if the first line can be names or a record, ask on a terminal and call it again.

    Args:
        file: the CSV file; None: the table does not come from a file.
    Raises:
        InvalidInput: the file is refused; the message names options.
    """
    try:
        return send()
    except InvalidInput as error:
        told = as_options(error.detail)
        is_unclear = error.code == str(codes.DATASET_HEADER_UNCLEAR) and "--skip-line" not in told
        if file is None or not is_unclear or not (sys.stdin.isatty() and sys.stdout.isatty()):
            raise type(error)(told, code=error.code, **error.fields) from error
        say(told)
        with file.open("rb") as opened:
            say(f"first line: {opened.readline(500).decode('utf-8', 'replace').strip()}")
    has_names = typer.confirm("Does the first line hold the names of the columns?", default=None)
    if not has_names:
        say("The first line is stored as a record; the columns are column1, column2 and so on.")
    return send(header=has_names)
