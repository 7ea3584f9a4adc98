"""Lists that a prompt shows as a table of text, and a notebook as one of HTML."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import ClassVar, TypeVar

from pygrid.plans.text import printable

T = TypeVar("T")

_MAX_ROWS = 30
_MAX_CELL = 60
"""An identity fits."""

Row = tuple[object, ...]


class Table(list[T]):
    """A list with a heading for each column, and a row for each item; subclasses say which."""

    heads: ClassVar[tuple[str, ...]] = ()

    def row(self, item: T) -> Row:
        """What the table says of one item, a value for each column."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return text_table(self.heads, [self.row(item) for item in self])

    def _repr_html_(self) -> str:
        return html_table(self.heads, [self.row(item) for item in self])


def text_table(heads: Sequence[str], rows: Sequence[Row]) -> str:
    """The rows in columns; long values are cut, and only the first rows are shown.

    Strangers' texts are made harmless.
    """
    if not rows:
        return "(none)"
    shown = [tuple(_cell(value) for value in row) for row in rows[:_MAX_ROWS]]
    widths = [max(len(row[column]) for row in (tuple(heads), *shown)) for column in range(len(heads))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (heads, *shown)
    ]
    if len(rows) > _MAX_ROWS:
        lines.append(f"and {len(rows) - _MAX_ROWS} more")
    return "\n".join(lines)


def html_table(heads: Sequence[str], rows: Sequence[Row]) -> str:
    """The rows as an HTML table, escaped."""
    head = "".join(f"<th style='text-align:left'>{html.escape(name)}</th>" for name in heads)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _cell(value: object) -> str:
    text = " ".join(printable(str(value)).split())
    return text if len(text) <= _MAX_CELL else text[: _MAX_CELL - 1] + "\N{HORIZONTAL ELLIPSIS}"
