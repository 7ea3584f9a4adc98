"""``pygrid edge``: train a hosted model on local data."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from pygrid.cli.common import INTERRUPTED
from pygrid.cli.help import App
from pygrid.cli.output import line, say
from pygrid.units import counted

if TYPE_CHECKING:
    from pygrid.edge import Callbacks, EdgeClient
    from pygrid.errors import PygridError
    from pygrid.messages.cycles import CycleAccepted
    from pygrid.plans import TrainResult


class _Stop(BaseException):
    """Ends the wait for work when a signal arrives; not an error."""


app = App()


@app.command()
def edge(
    url: Annotated[str, typer.Argument(metavar="URL", help="Address of the Domain.")],
    model: Annotated[str, typer.Option(metavar="NAME", help="Name of the process.")],
    data: Annotated[
        Path, typer.Option(metavar="PATH", help="NPZ or safetensors file with an array for each input of the plan.")
    ],
    version: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Version of the process; default: the newest.")
    ] = None,
    auth_token: Annotated[
        str | None,
        typer.Option(envvar="PYGRID_AUTH_TOKEN", metavar="TOKEN", help="Token, if the process requires one."),
    ] = None,
    cycles: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Number of reports to send; default: until training ends.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Exit when there is no work, too.")] = False,
    wait_s: Annotated[
        float, typer.Option(min=0, max=120, metavar="SECONDS", help="Time that one request waits for work.")
    ] = 30.0,
    wait_for_process: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="Time to wait for a process that is not hosted.")
    ] = 0.0,
    threads: Annotated[int, typer.Option(min=1, metavar="N", help="Threads for training.")] = 1,
    cache_dir: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Cache for models and plans, can be shared; default: your cache folder."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> None:
    """Train a hosted model on data that stays on this machine, until training ends.

    SIGTERM and Ctrl-C stop it between two batches, or after the current report is sent.

    Example: pygrid edge http://127.0.0.1:5000 --model digits --data my_digits.npz
    """
    from pygrid.client.credentials import find_network_token
    from pygrid.edge import EdgeClient, load_data
    from pygrid.edge.participation import take_part
    from pygrid.transport import open_transport

    arrays = load_data(data)
    stop = threading.Event()
    received: list[int] = []
    with (
        closing(open_transport(url, relay_token=find_network_token)) as transport,
        EdgeClient(
            url, model, version, auth_token=auth_token, cache_dir=cache_dir, num_threads=threads, transport=transport
        ) as client,
        _ending_on_signals(client, stop, received),
        _shown(quiet) as callbacks,
    ):
        try:
            done = take_part(
                client,
                arrays,
                cycles=cycles,
                until_finished=not once,
                callbacks=callbacks,
                cancel=stop,
                wait_s=wait_s,
                process_wait_s=wait_for_process,
            )
            ending = f"{'stopped' if done.cancelled else 'done'}: {counted(done.num_reports, 'report')}"
        except _Stop:
            ending = "stopped while waiting for work"
    if not quiet:
        say(ending)
    if signal.SIGINT in received:
        raise typer.Exit(INTERRUPTED)


@contextmanager
def _ending_on_signals(client: EdgeClient, stop: threading.Event, received: list[int]) -> Iterator[None]:
    """The first SIGTERM or SIGINT sets ``stop`` and ends a wait; a second one ends the process at once."""

    def handle(signum: int, frame: FrameType | None) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        received.append(signum)
        stop.set()
        if client.is_waiting:
            raise _Stop

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _shown(quiet: bool) -> Iterator[Callbacks]:
    """Callbacks that show nothing, or lines, or on a terminal lines and a progress bar."""
    from pygrid.edge import Callbacks

    if quiet:
        yield Callbacks()
    elif sys.stdout.isatty():
        with _Bar() as bar:
            yield bar.callbacks()
    else:
        yield _Lines().callbacks()


class _Lines:
    """Prints a line for each event."""

    def __init__(self) -> None:
        self._reason = ""

    def callbacks(self) -> Callbacks:
        from pygrid.edge import Callbacks

        return Callbacks(
            on_accepted=self.accepted,
            on_report=self.reported,
            on_rejected=self.rejected,
            on_error=self.lost,
            on_retry=self.retrying,
            on_missing=self.missing,
        )

    def say(self, text: str) -> None:
        say(text)

    def accepted(self, accepted: CycleAccepted) -> None:
        self._reason = ""
        self.say(f"cycle {accepted.cycle}: training {accepted.model} {accepted.version}")

    def reported(self, accepted: CycleAccepted, result: TrainResult) -> None:
        values = ", ".join(f"{name} {value:.4g}" for name, value in sorted(result.metrics.items()))
        self.say(f"cycle {accepted.cycle}: reported, {counted(result.num_examples, 'example')}, {values}")

    def rejected(self, reason: str, timeout_s: int | None) -> None:
        if timeout_s is None:
            self.say("training is over")
        elif reason != self._reason:  # shown once, not for each request
            self._reason = reason
            self.say(f"waiting: {reason.replace('_', ' ') or 'no work for now'}")

    def retrying(self, error: PygridError, delay_s: float) -> None:
        if error.code != self._reason:
            self._reason = error.code
            self.say(f"trying again: {error.detail}")

    def missing(self, waited_s: float, left_s: float) -> None:
        if self._reason != "missing":
            self._reason = "missing"
            self.say(f"the process is not hosted; waiting up to {waited_s + left_s:.0f} s for it")

    def lost(self, error: PygridError) -> None:
        self.say(f"cycle lost ({error.detail}); going on with the next")


class _Bar(_Lines):
    """Lines, with a progress bar below them while training."""

    def __enter__(self) -> _Bar:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, transient=True)
        self._task = self._progress.add_task("training", visible=False)
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def callbacks(self) -> Callbacks:
        from dataclasses import replace

        return replace(super().callbacks(), on_progress=self.progress)

    def say(self, text: str) -> None:
        self._progress.update(self._task, visible=False)
        self._progress.console.print(line(text), highlight=False, markup=False)

    def progress(self, epoch: int, num_updates: int, total: int | None, metrics: dict[str, float]) -> None:
        self._progress.update(self._task, completed=num_updates, total=total, visible=True)
