"""The progress of a job on the screen, while the user waits for it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console

from pygrid.client.display.live import ProgressView
from pygrid.messages.jobs import JobInfo
from pygrid.plans.text import one_line

_WORDS = {
    "checking": "running on the mock dataset",
    "waiting": "waiting for the data owner",
    "approved": "approved, waiting for a Worker",
    "running": "running",
    "held": "done; the result is held until its release is approved",
}


def in_words(info: JobInfo) -> str:
    """The state of a job in words, with the reason if there is one."""
    if info.state in ("checking", "running", "approved"):
        share = f", {info.progress:.0%}" if info.state == "running" and info.progress > 0 else ""
        if info.federation is not None and info.federation.doing:
            return f"{info.federation.doing}{share}"
        return f"{_WORDS[info.state]}{share}"
    words = _WORDS.get(info.state, info.state)
    return f"{words}: {one_line(info.detail)}" if info.detail else words


@contextlib.contextmanager
def shown(name: str, progress: bool | None, console: Console | None = None) -> Iterator[Callable[[JobInfo], None]]:
    """A function that shows a job; call it at each change."""
    with ProgressView(name, progress, console) as view:

        def show(info: JobInfo) -> None:
            # A private job does not report how far it is; a bar without a total moves all the same.
            is_done = info.state in ("released", "held")
            total = 1.0 if info.progress > 0 or is_done else None
            view.show(in_words(info), 1.0 if is_done else info.progress, total)

        yield show
