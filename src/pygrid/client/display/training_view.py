"""A training on the screen: a live table where there is a terminal or a notebook, else a line per change."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pygrid.messages.processes import CycleInfo, ProcessInfo
from pygrid.plans.text import printable

if TYPE_CHECKING:
    from pygrid.client.process import Process

_POLL_S = 1.0
_MAX_ROWS = 15
_BAR_WIDTH = 40


def watch(process: Process, *, plain: bool | None = None, console: Console | None = None) -> None:
    """Show a process until its training is over or the user interrupts. See `Process.watch`."""
    screen = console or Console()
    live = (screen.is_terminal or screen.is_jupyter) if plain is None else not plain
    try:
        if live:
            _watch_live(process, screen)
        else:
            _watch_plain(process, screen)
    except KeyboardInterrupt:
        screen.print(printable(f"{process.name} goes on training; it is only not watched any more"), markup=False)


@dataclass
class _History:
    """The completed cycles so far."""

    process: Process
    completed: list[CycleInfo] = field(default_factory=list)

    def update(self, info: ProcessInfo) -> list[CycleInfo]:
        """Fetch the cycles that were completed since the last call."""
        last = self.completed[-1].sequence if self.completed else 0
        if info.num_checkpoints - 1 <= last and info.state != "finished":
            return []
        new = [cycle for cycle in self.process.cycles(after=last) if cycle.state == "completed"]
        self.completed += new
        return new


def _watch_plain(process: Process, screen: Console) -> None:
    history = _History(process)
    shown = ""
    while True:
        info = process.info()
        for cycle in history.update(info):
            screen.print(printable(describe(cycle)), highlight=False, soft_wrap=True, markup=False)
        if info.state == "finished":
            screen.print(f"training is over after {counted(len(history.completed), 'cycle')}", highlight=False)
            return
        if info.cycle is not None and (now := f"cycle {info.cycle.sequence} {info.cycle.state}") != shown:
            shown = now
            if info.cycle.state != "completed":
                screen.print(printable(now), highlight=False, markup=False)
        time.sleep(_POLL_S)


def _watch_live(process: Process, screen: Console) -> None:
    history = _History(process)
    with Live(console=screen, auto_refresh=False, transient=False) as live:
        while True:
            info = process.info()
            history.update(info)
            live.update(picture(info, history.completed), refresh=True)
            if info.state == "finished":
                return
            time.sleep(_POLL_S)


def describe(cycle: CycleInfo) -> str:
    """One cycle in one line."""
    took = seconds(cycle)
    parts = [
        f"{counted(cycle.num_reports, 'report')} of {counted(cycle.num_assigned, 'device')}",
        counted(cycle.num_examples, "example"),
        size(cycle.bytes_received),
        *([f"{took:.1f} s"] if took is not None else []),
        *(f"{name} {value:.4g}" for name, value in sorted(cycle.metrics.items())),
    ]
    return f"cycle {cycle.sequence} {cycle.state}: {', '.join(parts)}"


def seconds(cycle: CycleInfo) -> float | None:
    """How long a completed cycle took, from its opening; None while it is not completed."""
    if cycle.completed_at is None or cycle.opened_at is None:
        return None
    return (cycle.completed_at - cycle.opened_at).total_seconds()


def counted(number: int, noun: str) -> str:
    """A number with its noun: ``1 report``, ``1,437 examples``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def size(num_bytes: int) -> str:
    """Bytes for people, with three digits: ``812 B``, ``15.2 kB``, ``1.24 GB``."""
    value, units = float(num_bytes), ["B", "kB", "MB", "GB", "TB"]
    while value >= 999.5 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.3g} {units[0]}"


def picture(info: ProcessInfo, completed: list[CycleInfo]) -> Group:
    """What the live view shows: how far the training and the open cycle are, and a table of the newest cycles."""
    num_cycles = info.server_config.get("num_cycles")
    done = info.num_checkpoints - 1
    title = Text.assemble(
        (f"{info.name} {info.version}", "bold"), f"  {info.state}, {info.num_parameters:,} parameters"
    )
    bars = Table.grid(padding=(0, 1))
    bars.add_row(
        "cycles", _bar(done, num_cycles), f"{done} of {num_cycles}" if num_cycles else f"{done}, without an end"
    )
    cycle = info.cycle
    if cycle is not None and cycle.state != "completed":
        target = info.server_config.get("max_diffs") or info.server_config.get("min_diffs") or cycle.num_assigned
        wanted = f"{cycle.num_reports} of {target}, {counted(cycle.num_assigned, 'device')} at work"
        bars.add_row(f"cycle {cycle.sequence}", _bar(cycle.num_reports, target), f"{cycle.state}: reports {wanted}")
    return Group(title, bars, _table(completed[-_MAX_ROWS:], len(completed)))


def _bar(done: int, total: int | None) -> ProgressBar:
    return ProgressBar(total=total or max(done, 1), completed=done, width=_BAR_WIDTH)


def _table(cycles: list[CycleInfo], num_all: int) -> Table:
    metrics = sorted({name for cycle in cycles for name in cycle.metrics})
    hidden = num_all - len(cycles)
    table = Table(title=f"{hidden} earlier cycles not shown" if hidden else None)
    for heading in ("cycle", "reports", "devices", "examples", *metrics, "received", "s"):
        table.add_column(heading, justify="right")
    for cycle in cycles:
        took = seconds(cycle)
        table.add_row(
            str(cycle.sequence),
            str(cycle.num_reports),
            str(cycle.num_assigned),
            f"{cycle.num_examples:,}",
            *(f"{cycle.metrics[name]:.4g}" if name in cycle.metrics else "" for name in metrics),
            size(cycle.bytes_received),
            "" if took is None else f"{took:.1f}",
        )
    return table
