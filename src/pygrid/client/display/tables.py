"""Lists as tables: text for a terminal, HTML for a notebook, tab-separated values for a pipe."""

from __future__ import annotations

import html
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, Literal, Protocol, TypeVar

from rich.cells import cell_len

from pygrid.errors import PygridError
from pygrid.plans.text import printable

T = TypeVar("T")

_REPR_ROWS = 30
_MAX_CELL = 200
_MAX_WORD = 64
"""Characters of a word; a SHA-256 fits."""
_MIN_ID = 8
_GAP = "  "
_ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"


@dataclass(frozen=True)
class TableColumn(Generic[T]):
    """One column of a table.

    Args:
        value: returns what the cell of an item shows; None shows nothing.
        min: characters that folding leaves at least; a word is never broken, so that a long one keeps a column wider.
        weight: where the table is too wide, columns of the least weight are left out first.
        is_id: show the shortest prefix, of 8 characters or more, that is unique in the table.
    """

    head: str
    value: Callable[[T], object]
    min: int = 12
    weight: int = 1
    align: Literal["left", "right"] = "left"
    is_id: bool = False


class Table(list[T]):
    """A list that a prompt and a notebook show as a table; subclasses define the columns."""

    def columns(self) -> Sequence[TableColumn[T]]:
        """The columns, from left to right."""
        raise NotImplementedError

    def text(self, width: int = 80, *, max_rows: int | None = None) -> str:
        """The table as lines of at most ``width`` characters, safe to print; ``(none)`` for an empty list.

        Long texts are folded between words. Columns that still do not fit are left out, and named in the last line.

        Args:
            max_rows: show only that many items, and count the others.
        """
        if not self:
            return "(none)"
        items = self[:max_rows]
        columns = [_TextColumn(column, map(_text, self._values(column, items))) for column in self.columns()]
        shown, left_out = _fit(columns, width)
        lines = _lines(shown)
        if len(items) < len(self):
            lines.append(f"and {len(self) - len(items):,} more")
        if left_out:
            lines += _fold(f"not shown: {', '.join(column.head for column in left_out)}", width)
        return "\n".join(lines)

    def html(self) -> str:
        """The table as HTML, escaped; the whole of a short id is its title."""
        columns = self.columns()
        heads = "".join(f"<th style='text-align:{column.align}'>{html.escape(column.head)}</th>" for column in columns)
        cells = [self._html_cells(column) for column in columns]
        rows = "".join(f"<tr>{''.join(row)}</tr>" for row in zip(*cells, strict=True))
        return f"<table><tr>{heads}</tr>{rows}</table>"

    def tsv(self) -> str:
        """Whole values, separated by tabs: a line of heads, and a line for each item."""
        columns = self.columns()
        rows = [[_whole(column.value(item)) for column in columns] for item in self]
        return "\n".join("\t".join(row) for row in [[column.head for column in columns], *rows])

    def _values(self, column: TableColumn[T], items: Sequence[T]) -> list[str]:
        whole = [_whole(column.value(item)) for item in items]
        if not column.is_id:
            return whole
        num_chars = _id_length({_whole(column.value(item)) for item in self})
        return [value[:num_chars] for value in whole]

    def _html_cells(self, column: TableColumn[T]) -> list[str]:
        found = []
        for shown, item in zip(self._values(column, self), self, strict=True):
            whole = _whole(column.value(item))
            title = f" title='{html.escape(whole)}'" if shown != whole else ""
            found.append(f"<td style='text-align:{column.align}'{title}>{html.escape(shown)}</td>")
        return found

    def __repr__(self) -> str:
        return self.text(shutil.get_terminal_size().columns, max_rows=_REPR_ROWS)

    def _repr_html_(self) -> str:
        return self.html()


class _HasMetrics(Protocol):
    @property
    def metrics(self) -> Mapping[str, float]: ...


M = TypeVar("M", bound=_HasMetrics)


def metric_columns(items: Iterable[M], *, weight: int) -> list[TableColumn[M]]:
    """A column for each metric that an item has, by name."""

    def value(name: str, item: M) -> str:
        return f"{item.metrics[name]:.4g}" if name in item.metrics else ""

    names = sorted({name for item in items for name in item.metrics})
    return [TableColumn(name, partial(value, name), weight=weight, align="right") for name in names]


def text_facts(facts: Iterable[tuple[str, object]], width: int | None = None) -> str:
    """Names and values as lines, safe to print; further lines of a value are indented.

    Args:
        width: fold values between words, so that no line is longer; None: only at their line breaks.
    """
    rows = [(name, printable("" if value is None else str(value))) for name, value in facts]
    indent = max((len(name) for name, _ in rows), default=0) + len(_GAP)
    lines = []
    for name, value in rows:
        parts = value.split("\n")
        if width is not None:
            parts = [line for part in parts for line in _fold(part, max(1, width - indent))]
        lines += [f"{name:<{indent}}{parts[0]}".rstrip(), *((" " * indent + part).rstrip() for part in parts[1:])]
    return "\n".join(lines)


def html_facts(facts: Iterable[tuple[str, object]]) -> str:
    """Names and values as an HTML table, escaped."""
    rows = "".join(
        f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
        f"<td style='text-align:left'>{html.escape('' if value is None else str(value))}</td></tr>"
        for name, value in facts
    )
    return f"<table>{rows}</table>"


def html_or_error(subject: object, draw: Callable[[], str]) -> str:
    """What ``draw`` returns; where the app refuses or can't be reached, the subject in one line, and why."""
    try:
        return draw()
    except PygridError as error:
        return html.escape(f"{subject!r}: {error.detail}")


class _TextColumn:
    """A column with the texts of its cells, as wide as they are until it is folded."""

    def __init__(self, column: TableColumn[T], cells: Iterable[str]) -> None:
        self.head = column.head
        self.weight = column.weight
        self.is_right = column.align == "right"
        self.cells = [column.head, *cells]
        self.natural = max(map(cell_len, self.cells))
        longest_word = max(cell_len(word) for cell in self.cells for word in cell.split() or [""])
        self.least = min(self.natural, max(column.min, longest_word))
        self.width = self.natural

    def lines(self, row: int) -> list[str]:
        return [self._pad(line) for line in _fold(self.cells[row], self.width)]

    def trim(self) -> None:
        """Narrow the column to its longest line."""
        self.width = max(cell_len(line) for cell in self.cells for line in _fold(cell, self.width))

    def _pad(self, line: str) -> str:
        padding = " " * (self.width - cell_len(line))
        return padding + line if self.is_right else line + padding


def _fit(columns: Sequence[_TextColumn], width: int) -> tuple[list[_TextColumn], list[_TextColumn]]:
    """The columns that fit, folded where they must be, and those that are left out. One always stays."""
    shown = list(columns)
    while True:
        for column in shown:
            column.width = column.natural
        excess = sum(column.width for column in shown) + len(_GAP) * (len(shown) - 1) - width
        while excess > 0 and (wide := [column for column in shown if column.width > column.least]):
            max(wide, key=lambda column: column.width).width -= 1
            excess -= 1
        if excess <= 0 or len(shown) == 1:
            for column in shown:
                column.trim()
            return shown, [column for column in columns if column not in shown]
        shown.remove(min(reversed(shown), key=lambda column: column.weight))


def _lines(columns: Sequence[_TextColumn]) -> list[str]:
    lines = []
    for row in range(len(columns[0].cells)):
        parts = [column.lines(row) for column in columns]
        for number in range(max(map(len, parts))):
            cells = (
                part[number] if number < len(part) else " " * column.width
                for column, part in zip(columns, parts, strict=True)
            )
            lines.append(_GAP.join(cells).rstrip())
    return lines


def _fold(text: str, width: int) -> list[str]:
    """The text in lines of at most ``width`` characters; a longer word has a line of its own."""
    if cell_len(text) <= width:
        return [text]
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}" if lines[-1] else word
        if lines[-1] and cell_len(joined) > width:
            lines.append(word)
        else:
            lines[-1] = joined
    return lines


def _whole(value: object) -> str:
    """A value in one line, without what a terminal would obey."""
    return "" if value is None else " ".join(printable(str(value)).split())


def _text(value: str) -> str:
    """A value as a terminal shows it: the first words of a long one."""
    words = [word if len(word) <= _MAX_WORD else word[: _MAX_WORD - 1] + _ELLIPSIS for word in value.split()]
    text = " ".join(words)
    return text if len(text) <= _MAX_CELL else text[:_MAX_CELL].rpartition(" ")[0] + f" {_ELLIPSIS}"


def _id_length(ids: set[str]) -> int:
    """Characters that tell the ids apart."""
    longest = max(map(len, ids), default=0)
    return next((count for count in range(_MIN_ID, longest) if len({one[:count] for one in ids}) == len(ids)), longest)
