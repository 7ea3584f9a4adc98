"""Tables of the SDK, drawn for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pygrid.cli.output import line

if TYPE_CHECKING:
    from rich.console import Console

    from pygrid.client.tables import Table

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
    for place, head in enumerate(table.heads):
        # What it is called, and the next beside it, stay whole.
        drawn.add_column(head, overflow="fold", no_wrap=place < 2)
    for item in table:
        # As `Text`, so that a stranger's brackets are no markup.
        drawn.add_row(*(Text(line(value)) for value in table.row(item)))
    return drawn
