"""All that a command prints goes through here, where text of others loses what a terminal would obey.

Names, descriptions, error texts of servers and contents of files come from people who need not mean well: control
characters and escape sequences, which move the cursor or write to the clipboard; marks that reverse the direction of
text; line breaks that fake lines of this program. `pygrid.plans.text.printable` replaces them. Rich gets `Text`, so
that brackets are no markup.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from pygrid.client.display.tables import Table


def say(text: object = "", *, err: bool = False, label: str = "") -> None:
    """Print one line, to standard error if ``err``; a line break in it is replaced.

    Args:
        label: a text of pygrid's own before the line, which may hold colors.
    """
    print(label + line(text), file=sys.stderr if err else sys.stdout, flush=True)


def say_lines(text: object, *, indent: str = "", hanging: str = "", err: bool = False) -> None:
    """Print a text of several lines.

    Args:
        indent: before each line. Text of others gets one, or ``hanging``, so that it fakes no line of this program.
        hanging: before each line but the first.
    """
    for number, part in enumerate(str(text).split("\n")):
        say(f"{hanging if number else indent}{line(part)}", err=err)


def say_columns(rows: Sequence[Sequence[str]]) -> None:
    """Print rows of text, each column as wide as its longest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def say_json(value: Any) -> None:
    """Print a message, or several, as JSON for scripts; what a terminal would obey is escaped, so the value is the
    same.
    """
    import msgspec

    text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    say_lines(_UNSAFE.sub(lambda match: _escaped(match[0]), text))


def line(text: object) -> str:
    """The text as one line that is safe to print."""
    from pygrid.plans.text import printable  # here, so that help comes at once

    return printable(str(text)).replace("\n", "\N{REPLACEMENT CHARACTER}")


_UNSAFE = re.compile(r"[^\x20-\x7e\n]")


def _escaped(character: str) -> str:
    if character.isprintable():
        return character
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


_WIDE = 240


def print_table(table: Table[Any], empty: str) -> None:
    """Print a table, or what to say if there is nothing in it."""
    open_screen().print(rich_table(table) if table else line(empty), markup=False)


def open_screen() -> Console:
    """Where tables are printed. In a file or a pipe they are wide, as nothing need fit beside anything there."""
    from rich.console import Console

    screen = Console()
    return screen if screen.is_terminal else Console(width=_WIDE)


def rich_table(table: Table[Any]) -> Any:
    """A table as Rich draws it."""
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    drawn = RichTable(box=box.SIMPLE_HEAD)
    columns = table.columns()
    for place, column in enumerate(columns):
        # What it is called, and the next beside it, stay whole.
        drawn.add_column(column.head, overflow="fold", no_wrap=place < 2)
    for item in table:
        # As `Text`, so that a stranger's brackets are no markup.
        values = (column.value(item) for column in columns)
        drawn.add_row(*(Text(line("" if value is None else value)) for value in values))
    return drawn
