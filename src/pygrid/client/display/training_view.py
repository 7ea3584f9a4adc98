"""A training on the screen: a live table on a terminal or in a notebook, else a line for each change."""

from __future__ import annotations

import html
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pygrid.client.display.live import NotebookOutput, html_bar
from pygrid.client.display.process_tables import CyclesTable, seconds
from pygrid.messages.processes import CycleInfo, ProcessInfo
from pygrid.plans.text import printable
from pygrid.units import counted, size

_MAX_ROWS = 15
_BAR_WIDTH = 40


class WatchedProcess(Protocol):
    """What is watched: a `Process`."""

    @property
    def name(self) -> str: ...

    def info(self) -> ProcessInfo: ...

    def cycles(self, after: int = 0) -> Sequence[CycleInfo]: ...


class CheckpointEvaluator(Protocol):
    """What evaluates new checkpoints while a process is watched."""

    def update(self, completed: Sequence[CycleInfo]) -> None: ...

    def summary(self) -> str: ...


def watch(
    process: WatchedProcess,
    *,
    plain: bool | None = None,
    console: Console | None = None,
    evaluator: CheckpointEvaluator | None = None,
    poll_s: float = 1.0,
) -> None:
    """Show a process until its training is over or the user interrupts. See `Process.watch`.

    Args:
        poll_s: pause between two requests.
    """
    screen = console or Console()
    is_live = (screen.is_terminal or screen.is_jupyter) if plain is None else not plain
    history = _History(process, evaluator, poll_s)
    try:
        if not is_live:
            _watch_plain(history, screen)
        elif screen.is_jupyter:
            _watch_notebook(history)
        else:
            _watch_terminal(history, screen)
    except KeyboardInterrupt:
        screen.print(printable(f"the view of {process.name} is closed; training continues"), markup=False)


@dataclass
class _History:
    """The completed cycles so far."""

    process: WatchedProcess
    evaluator: CheckpointEvaluator | None
    poll_s: float
    completed: list[CycleInfo] = field(default_factory=list)

    @property
    def summary(self) -> str:
        """The evaluations in one line; empty if there are none."""
        return "" if self.evaluator is None else self.evaluator.summary()

    def update(self, info: ProcessInfo) -> list[CycleInfo]:
        """Fetch the cycles that were completed since the last call."""
        last = self.completed[-1].sequence if self.completed else 0
        if info.num_checkpoints - 1 <= last and info.state != "finished":
            return []
        new = [cycle for cycle in self.process.cycles(after=last) if cycle.state == "completed"]
        self.completed += new
        if self.evaluator is not None and new:
            self.evaluator.update(new)
        return new


def _watch_plain(history: _History, screen: Console) -> None:
    process, shown = history.process, ""
    while True:
        info = process.info()
        new = history.update(info)
        for cycle in new:
            screen.print(printable(describe(cycle)), highlight=False, soft_wrap=True, markup=False)
        if new and history.summary:
            screen.print(printable(history.summary), highlight=False, soft_wrap=True, markup=False)
        if info.state == "finished":
            screen.print(f"training is over after {counted(len(history.completed), 'cycle')}", highlight=False)
            return
        if info.cycle is not None and (now := f"cycle {info.cycle.sequence} {info.cycle.state}") != shown:
            shown = now
            if info.cycle.state != "completed":
                screen.print(printable(now), highlight=False, markup=False)
        time.sleep(history.poll_s)


def _watch_terminal(history: _History, screen: Console) -> None:
    with Live(console=screen, auto_refresh=False, transient=False) as live:
        for info, completed in _states(history):
            live.update(picture(info, completed, screen.width, history.summary), refresh=True)


def _watch_notebook(history: _History) -> None:
    output = NotebookOutput()
    for info, completed in _states(history):
        output.show(html_picture(info, completed, history.summary))


def _states(history: _History) -> Iterator[tuple[ProcessInfo, Sequence[CycleInfo]]]:
    """The process and its completed cycles, again and again until its training is over."""
    while True:
        info = history.process.info()
        history.update(info)
        yield info, history.completed
        if info.state == "finished":
            return
        time.sleep(history.poll_s)


def describe(cycle: CycleInfo) -> str:
    """One cycle in one line."""
    took = seconds(cycle)
    parts = [
        f"{counted(cycle.num_reports, 'report')} of {counted(cycle.num_assigned, 'device')}",
        *([f"{cycle.num_late} late"] if cycle.num_late else []),
        counted(cycle.num_examples, "example"),
        size(cycle.bytes_received),
        *([f"{took:.1f} s"] if took is not None else []),
        *(f"{name} {value:.4g}" for name, value in sorted(cycle.metrics.items())),
    ]
    return f"cycle {cycle.sequence} {cycle.state}: {', '.join(parts)}"


def picture(info: ProcessInfo, completed: Sequence[CycleInfo], width: int, summary: str = "") -> Group:
    """What a terminal shows: how far the training and the open cycle are, a table of the newest cycles, and a line."""
    bars = Table.grid(padding=(0, 1))
    for name, done, total, text in _progress(info):
        bars.add_row(name, ProgressBar(total=total or max(done, 1), completed=done, width=_BAR_WIDTH), text)
    title = Text.assemble(
        (f"{info.name} {info.version}", "bold"), f"  {info.state}, {info.num_parameters:,} parameters"
    )
    lines = [Text(printable(summary))] if summary else []
    return Group(title, bars, *map(Text, _hidden(completed)), Text(_newest(completed).text(width)), *lines)


def html_picture(info: ProcessInfo, completed: Sequence[CycleInfo], summary: str = "") -> str:
    """As `picture`, for a notebook."""
    title = f"<b>{html.escape(f'{info.name} {info.version}')}</b> {info.state}, {info.num_parameters:,} parameters"
    rows = "".join(
        f"<tr><td>{name}</td><td>{html_bar(done, total)}</td><td style='text-align:left'>{html.escape(text)}</td></tr>"
        for name, done, total, text in _progress(info)
    )
    hidden = "".join(f"<div>{text}</div>" for text in _hidden(completed))
    return (
        f"<div>{title}</div><table>{rows}</table>{hidden}{_newest(completed).html()}<div>{html.escape(summary)}</div>"
    )


def _progress(info: ProcessInfo) -> Iterator[tuple[str, int, int | None, str]]:
    """What progresses: its name, how far it is of how much, and in words."""
    num_cycles = info.server_config.get("num_cycles")
    done = info.num_checkpoints - 1
    yield "cycles", done, num_cycles or None, f"{done} of {num_cycles}" if num_cycles else f"{done}, without an end"
    cycle = info.cycle
    if cycle is not None and cycle.state != "completed":
        target = info.server_config.get("max_diffs") or info.server_config.get("min_diffs") or cycle.num_assigned
        reports = f"{cycle.num_reports} of {target}, {counted(cycle.num_assigned, 'device')} at work"
        state = cycle.state if cycle.grace_until is None else f"{cycle.state}, grace period"
        yield f"cycle {cycle.sequence}", cycle.num_reports, target or None, f"{state}: reports {reports}"


def _newest(completed: Sequence[CycleInfo]) -> CyclesTable:
    return CyclesTable(completed[-_MAX_ROWS:])


def _hidden(completed: Sequence[CycleInfo]) -> list[str]:
    hidden = len(completed) - _MAX_ROWS
    return [f"{hidden} earlier cycles not shown"] if hidden > 0 else []
