"""A job on the screen while one waits for it: a bar where there is a terminal or a notebook, else a line per change."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from pygrid.messages.jobs import JobInfo
from pygrid.plans.text import one_line, printable

if TYPE_CHECKING:
    from pygrid.client.jobs import Job

_WORDS = {
    "checking": "being tried on the mock",
    "waiting": "waiting for somebody who holds the data",
    "approved": "approved, waiting for a Worker",
    "running": "running",
    "held": "done; the result is held until it is signed off",
}


def in_words(info: JobInfo) -> str:
    """Where a job is, and why if that is told."""
    if info.state in ("checking", "running", "approved"):
        share = f", {info.progress:.0%}" if info.state == "running" and info.progress > 0 else ""
        if info.federation is not None and info.federation.doing:
            return f"{info.federation.doing}{share}"
        return f"{_WORDS[info.state]}{share}"
    words = _WORDS.get(info.state, info.state)
    return f"{words}: {one_line(info.detail)}" if info.detail else words


@contextlib.contextmanager
def shown(job: Job, progress: bool | None, console: Console | None = None) -> Iterator[Callable[[JobInfo], None]]:
    """A function to call with the job at each change."""
    screen = console or Console(stderr=True)
    has_bar = screen.is_terminal or screen.is_jupyter
    if progress is False or (progress is None and not has_bar):
        yield lambda info: None
    elif has_bar:
        # Without markup: details may quote the words of strangers.
        name, words = (TextColumn(text, markup=False) for text in ("{task.fields[name]}", "{task.description}"))
        columns = (name, BarColumn(), words, TimeElapsedColumn())
        with Progress(*columns, console=screen) as bar:
            task = bar.add_task("", name=f"{job.kind} on {job.dataset}", total=None)

            def show(info: JobInfo) -> None:
                # A private job does not tell how far it is; a bar without a total moves all the same.
                total = 1.0 if info.progress > 0 or info.state in ("released", "held") else None
                done = 1.0 if info.state in ("released", "held") else info.progress
                bar.update(task, description=in_words(info), total=total, completed=done)

            yield show
    else:
        yield _lines(screen)


def _lines(screen: Console) -> Callable[[JobInfo], None]:
    last = ""

    def show(info: JobInfo) -> None:
        nonlocal last
        if (now := in_words(info)) != last:
            last = now
            screen.print(printable(now), highlight=False, soft_wrap=True, markup=False)

    return show
