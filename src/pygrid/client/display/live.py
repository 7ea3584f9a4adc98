"""Progress, shown in place: a bar on a terminal, HTML in a notebook, else a line for each change.

A notebook needs no ipywidgets: its cell has one output, which each change replaces. The last state stays in the saved
notebook.
"""

from __future__ import annotations

import html
import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from pygrid.plans.text import printable

_NOTEBOOK_UPDATE_S = 0.1


class NotebookOutput:
    """One output of a notebook's cell, which is replaced in place."""

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, content: str) -> None:
        """Replace the output with this HTML."""
        from IPython.display import HTML, display

        if self._handle is None:
            self._handle = display(HTML(content), display_id=True)
        else:
            self._handle.update(HTML(content))


class ProgressView:
    """The progress of one task, as a context manager.

    Args:
        name: text before the bar.
        progress: None: a bar on a terminal or in a notebook, nothing elsewhere; True: a bar or lines; False: nothing.
    """

    def __init__(self, name: str, progress: bool | None, console: Console | None = None) -> None:
        screen = console or Console(stderr=True)
        self._view: _TerminalBar | _NotebookBar | _ChangedLines | None = None
        if progress is not False and screen.is_jupyter:
            self._view = _NotebookBar(name)
        elif progress is not False and screen.is_terminal:
            self._view = _TerminalBar(name, screen)
        elif progress:
            self._view = _ChangedLines(screen)

    @property
    def is_shown(self) -> bool:
        return self._view is not None

    def show(self, text: str, done: float = 0.0, total: float | None = None) -> None:
        """Show what the task does, and how far it is; ``total`` None: unknown. The text is made safe to print."""
        if self._view is not None:
            self._view.show(printable(text), done, total)

    def __enter__(self) -> ProgressView:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._view is not None:
            self._view.close()


class _TerminalBar:
    """A bar on a terminal. Without markup, because texts can hold brackets of others."""

    def __init__(self, name: str, screen: Console) -> None:
        before, after = (TextColumn(text, markup=False) for text in ("{task.fields[name]}", "{task.description}"))
        self._bar = Progress(before, BarColumn(), after, TimeElapsedColumn(), console=screen)
        self._task = self._bar.add_task("", name=printable(name), total=None)
        self._bar.start()

    def show(self, text: str, done: float, total: float | None) -> None:
        self._bar.update(self._task, description=text, total=total, completed=done)

    def close(self) -> None:
        self._bar.stop()


class _NotebookBar:
    """A bar of HTML. Changes of ``done`` alone are shown at most ten times a second."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._output = NotebookOutput()
        self._text = ""
        self._latest = self._shown = ""
        self._shown_at = 0.0

    def show(self, text: str, done: float, total: float | None) -> None:
        self._latest = f"<div><b>{html.escape(self._name)}</b> {html_bar(done, total)} {html.escape(text)}</div>"
        if text != self._text or time.monotonic() - self._shown_at >= _NOTEBOOK_UPDATE_S:
            self._text = text
            self._update()

    def close(self) -> None:
        self._update()

    def _update(self) -> None:
        if self._latest != self._shown:
            self._shown, self._shown_at = self._latest, time.monotonic()
            self._output.show(self._latest)


class _ChangedLines:
    """A line for each change of the text."""

    def __init__(self, screen: Console) -> None:
        self._screen = screen
        self._last = ""

    def show(self, text: str, done: float, total: float | None) -> None:
        if text != self._last:
            self._last = text
            self._screen.print(text, highlight=False, soft_wrap=True, markup=False)

    def close(self) -> None:
        """Nothing is open."""


def html_bar(done: float, total: float | None) -> str:
    """A bar as HTML; nothing without a total, because such a bar would move in a saved notebook."""
    return f"<progress value='{done:g}' max='{total:g}'></progress>" if total else ""
