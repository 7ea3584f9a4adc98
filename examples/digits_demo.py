"""Ten devices learn to read digits together; a model learns from records that its author never sees; three hospitals
train one model through a Network.

    scripts/demo                     or: python examples/digits_demo.py
    scripts/demo --devices 4 --only devices --keep-running

All on this machine. The second part is `private_demo.py`, on the same Domain; the third, with its own apps,
`network_demo.py`.

Starts a Domain and one process per device. Each device gets images of its own, skewed by digit, and keeps them: what it
sends are the differences that training made to the model. After each cycle the new model is tried on images that no
device has.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import signal
import sys
import time
import webbrowser
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.live import Live
from rich.table import Table

import digits_data
import network_demo
import private_demo
from digits_data import Digits
from learning_curve import Curve, draw
from local_processes import LocalProcesses, ProcessFailed
from pygrid import client
from pygrid.edge import load_data
from pygrid.errors import PygridError
from pygrid.plans import Plan, Runner
from pygrid.tensors import Params

PLANS = Path(__file__).parent / "plans"
MARKER = ".pygrid-demo"
"""Marks a folder as made by this program, so that it only ever empties its own."""
MIN_ACCURACY = 0.93
OWNER = "owner@example.org"
CLIENT_CONFIG = {"epochs": 5, "batch_size": 8, "lr": 0.3}
"""What each device does in a cycle."""
STALL_S = 60.0


class DemoFailed(Exception):
    """The demo can't go on, or did not learn enough; the text says why and what to do."""


FAILURES = (DemoFailed, private_demo.PrivateDemoFailed, network_demo.NetworkDemoFailed)


@dataclass(frozen=True)
class Options:
    devices: int
    cycles: int
    seed: int
    output: Path
    keep_running: bool
    open_console: bool = False
    """Open the web console of the Domain, signed in as its Owner."""
    only: str | None = None
    """Of the three parts: ``devices``, ``records`` or ``network``; None: all."""


@dataclass(frozen=True)
class Row:
    """One completed cycle."""

    cycle: int
    num_devices: int
    loss: float
    """Mean training loss that the devices reported."""
    accuracy: float
    """On the held-out images, of the model that the cycle made."""
    num_bytes: int
    seconds: float
    """Since the first device was started."""


class Demo:
    """One run: its folder, its processes, its data."""

    def __init__(self, options: Options, processes: LocalProcesses, console: Console) -> None:
        self.options = options
        self.processes = processes
        self.console = console
        self.plan = Plan.load(PLANS / "digits.plan")
        self.initial: Params = load_data(PLANS / "digits.safetensors")
        training, self.held_out = digits_data.hold_out(digits_data.load(), seed=options.seed)
        self.shards = digits_data.shards(training, options.devices, seed=options.seed)
        self.runner = Runner(self.plan)
        self.password = secrets.token_urlsafe(12)
        self.url = ""

    def run(self) -> None:
        """All of it, in order.

        Raises:
            DemoFailed, ProcessFailed, PygridError: with what to tell the user.
        """
        only = self.options.only
        if only != "network":
            self.console.print("starting a Domain ...")
            self.url = self.processes.start_domain(self.options.output / "domain")
            with client.connect(self.url) as owner:
                owner.sign_up(OWNER, self.password)
                if only != "records":
                    process = self.host(owner)
                    self.start_devices()
                    rows = self.watch(process)
                    self.processes.wait("device-", timeout_s=STALL_S)
                    self.finish(process, rows)
                if only != "devices":
                    self.console.print("\nNow with records that stay at the Domain, for a model of somebody else's:\n")
                    private_demo.run(self.url, owner, self.say, seed=self.options.seed)
        if only in (None, "network"):
            self.console.print("\nNow with images that stay at three hospitals, which meet in a Network:\n")
            network_demo.run(self.processes, self.options.output / "grid", self.say, seed=self.options.seed)

    @property
    def console_address(self) -> str:
        """The address of the web console of the Domain, or of the Network if there is no Domain."""
        return f"{self.url or network_demo.find_url(self.options.output / 'grid')}/admin/"

    def say(self, text: str) -> None:
        """Show a line of the other parts as it is."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def host(self, owner: client.DomainClient) -> client.Process:
        """Host the model, as a data scientist would."""
        num = self.options.devices
        return owner.host(
            name="digits",
            version="1.0",
            model=self.initial,
            plans={"training_plan": self.plan},
            client_config=CLIENT_CONFIG,
            server_config={
                "num_cycles": self.options.cycles,
                "cycle_length": STALL_S,
                "min_workers": num,
                "max_workers": num,
                "min_diffs": num,
                "max_diffs": num,
            },
        )

    def start_devices(self) -> None:
        """One process for each device, with a file of its own images."""
        folder = self.options.output / "devices"
        folder.mkdir(exist_ok=True)
        self.console.print(f"starting {len(self.shards)} devices with {describe(self.shards)} ...")
        for number, shard in enumerate(self.shards, start=1):
            file = folder / f"device-{number:02d}.npz"
            shard.save(file)
            arguments = [
                "edge",
                self.url,
                "--model",
                "digits",
                "--data",
                str(file),
                "--cache-dir",
                str(folder / "cache"),
            ]
            self.processes.start(f"device-{number:02d}", arguments)

    def watch(self, process: client.Process) -> list[Row]:
        """Show each cycle as it completes: a live table in a terminal, plain lines elsewhere."""
        rows: list[Row] = []
        if self.console.is_terminal:
            with Live(table(rows), console=self.console, refresh_per_second=12) as live:
                for row in self.completed(process):
                    rows.append(row)
                    # What does not fit on the screen can't be redrawn: the last cycles are what one wants to see.
                    live.update(table(rows[-max(5, self.console.height - 4) :]))
        else:
            for row in self.completed(process):
                rows.append(row)
                print(line(row), flush=True)
        return rows

    def completed(self, process: client.Process) -> Iterator[Row]:
        """The cycles as they complete, each with the accuracy of its model."""
        begin = last = time.monotonic()
        done = 0
        while done < self.options.cycles:
            self.processes.check()
            if time.monotonic() - last > 2 * STALL_S:
                raise DemoFailed(
                    f"no cycle was completed for {2 * STALL_S:.0f} s; look into {self.options.output / 'logs'}"
                )
            for cycle in process.cycles(after=done):
                if cycle.state == "completed":
                    done, last = cycle.sequence, time.monotonic()
                    accuracy = self.accuracy(process.download(checkpoint=cycle.checkpoint + 1))
                    loss = cycle.metrics.get("loss", float("nan"))
                    yield Row(done, cycle.num_reports, loss, accuracy, cycle.bytes_received, last - begin)
            time.sleep(0.05)

    def accuracy(self, params: Params) -> float:
        """Share of the held-out images that a model reads right."""
        return self.runner.evaluate(params, self.held_out.arrays())["accuracy"]

    def accuracy_alone(self) -> float:
        """What the devices reach on average if each trains as much as here, but only on its own images."""
        epochs = int(CLIENT_CONFIG["epochs"]) * self.options.cycles
        alone = [
            self.runner.train(
                self.initial,
                shard.arrays(),
                epochs=epochs,
                batch_size=int(CLIENT_CONFIG["batch_size"]),
                hyper={"lr": CLIENT_CONFIG["lr"]},
                seed=self.options.seed,
            ).params
            for shard in self.shards
        ]
        return float(np.mean([self.accuracy(params) for params in alone]))

    def finish(self, process: client.Process, rows: list[Row]) -> None:
        """Write the learning curve and the model, say where they are, and judge."""
        output, final = self.options.output, rows[-1].accuracy
        alone = self.accuracy_alone()
        num_images = sum(len(shard) for shard in self.shards)
        curve = Curve(
            title=f"{len(self.shards)} devices learn to read digits",
            subtitle=(
                f"{num_images:,} images stay on their devices; accuracy on {len(self.held_out)} that no device has"
            ),
            accuracies=[self.accuracy(self.initial), *(row.accuracy for row in rows)],
            baseline=alone,
            baseline_label="a device that learns alone, on average",
        )
        (output / "learning-curve.svg").write_text(draw(curve))
        process.download(checkpoint="latest", path=output / "model.safetensors")
        self.console.print(
            f"\naccuracy on held-out images: [bold]{final:.1%}[/] together, {alone:.1%} on average for a device alone\n"
            f"  learning curve   {output / 'learning-curve.svg'}\n"
            f"  trained model    {output / 'model.safetensors'}\n"
            f"  logs             {output / 'logs'}",
            soft_wrap=True,
            highlight=False,
        )
        if final < MIN_ACCURACY:
            raise DemoFailed(
                f"the model reached {final:.1%} on held-out images, less than the {MIN_ACCURACY:.0%} that it should; "
                f"more cycles help: --cycles {2 * self.options.cycles}"
            )

    def keep_running(self) -> None:
        """Leave everything up, with what one needs to go on by hand, until Ctrl-C."""
        network_url = network_demo.find_url(self.options.output / "grid")
        told = []
        if self.url and self.options.open_console:
            with client.connect(self.url) as owner:
                owner.login(OWNER, self.password)
                link = owner.browser_link()
            self.say(f"This link opens the web console as the Owner, once and within two minutes:\n  {link}")
            webbrowser.open(link)
        if self.url:
            told += [
                f"The Domain is still running at {self.url}; its web console is {self.url}/admin/.",
                "In another terminal:",
                f"  .venv/bin/pygrid login {self.url} --email {OWNER}      password: {self.password}",
                "  .venv/bin/pygrid process list",
                "  .venv/bin/pygrid model download digits --checkpoint 1 -o untrained.safetensors",
                "  .venv/bin/pygrid job list",
                f"  .venv/bin/pygrid budget show {private_demo.NAME}",
            ]
        if network_url:
            told += [
                f"The Network is still running at {network_url}; its web console is {network_url}/admin/.",
                "In another terminal:",
                f"  .venv/bin/pygrid domains list --network {network_url}",
                f"  .venv/bin/pygrid search handwritten --network {network_url}",
            ]
        self.say("\n" + "\n".join([*told, "Ctrl-C ends it."]))
        try:
            while True:
                self.processes.check()
                time.sleep(0.2)
        except KeyboardInterrupt:
            self.console.print("\nended")


def describe(shards: list[Digits]) -> str:
    """The shards in words."""
    sizes = [len(shard) for shard in shards]
    return f"{min(sizes)} to {max(sizes)} images each, skewed by digit"


def table(rows: list[Row]) -> Table:
    """The rows as a table for a terminal."""
    shown = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for heading in ("cycle", "devices", "loss", "accuracy", "received", "time"):
        shown.add_column(heading, justify="right")
    shown.add_column("")
    for row in rows:
        bar = "█" * round(row.accuracy * 24)
        values = (f"{row.loss:.3f}", f"{row.accuracy:.1%}", f"{row.num_bytes / 1000:.0f} kB", f"{row.seconds:.1f} s")
        shown.add_row(str(row.cycle), str(row.num_devices), *values, f"[blue]{bar}[/]")
    return shown


def line(row: Row) -> str:
    """The row as plain text."""
    return (
        f"cycle {row.cycle:3d}  devices {row.num_devices}  loss {row.loss:.3f}  accuracy {row.accuracy:.1%}  "
        f"received {row.num_bytes / 1000:.0f} kB  time {row.seconds:.1f} s"
    )


def prepare(output: Path) -> None:
    """Make the folder, or empty the one that an earlier run made.

    Raises:
        DemoFailed: the folder holds something else.
    """
    if output.exists() and any(output.iterdir()) and not (output / MARKER).exists():
        raise DemoFailed(f"{output} is not empty and was not made by this demo; choose another folder with --output")
    if output.exists():
        shutil.rmtree(output)
    output.mkdir(parents=True)
    (output / MARKER).touch()


def parse(arguments: list[str] | None = None) -> Options:
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        description="Ten devices learn together, a model learns from records that its author never sees, three "
        "hospitals "
        "train "
        "through a Network; on this machine."
    )
    parser.add_argument("--devices", type=int, default=10, help="how many (default 10, at most 35)")
    parser.add_argument("--cycles", type=int, default=20, help="how many training cycles (default 20)")
    parser.add_argument("--seed", type=int, default=0, help="draws which images are held out and who gets the others")
    parser.add_argument(
        "--output", type=Path, default=Path("pygrid-demo"), help="folder for results and logs, emptied first"
    )
    parser.add_argument(
        "--only", choices=("devices", "records", "network"), help="one of the three parts; default: all"
    )
    parser.add_argument(
        "--keep-running", action="store_true", help="leave the apps running to look around, until Ctrl-C"
    )
    parser.add_argument(
        "--open", action="store_true", help="as --keep-running, and open the web console in a browser, signed in"
    )
    options = parser.parse_args(arguments)
    if options.open and options.only == "network":
        parser.error("--open shows the console of the Domain, which --only network does not start")
    if not 1 <= options.devices <= 35:
        parser.error(
            "--devices must be from 1 to 35: there are 1,437 images to share, and each device gets at least 40"
        )
    if not 1 <= options.cycles <= 1000:
        parser.error("--cycles must be from 1 to 1000")
    if options.seed < 0:
        parser.error("--seed must be 0 or more")
    output = options.output.resolve()
    is_kept = options.keep_running or options.open
    return Options(options.devices, options.cycles, options.seed, output, is_kept, options.open, options.only)


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; gives the exit code: 0, 1 if it failed, 130 if it was interrupted."""
    options = parse(arguments)
    console = Console()
    # `kill` ends the demo as Ctrl-C does, so that the processes are ended too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        prepare(options.output)
        # Sessions and identities of apps that are gone in a minute have no business among the user's own.
        os.environ["XDG_CONFIG_HOME"] = str(options.output / "config")
        with LocalProcesses(options.output / "logs") as processes:
            demo = Demo(options, processes, console)
            demo.run()
            if options.keep_running:
                demo.keep_running()
                return 0
            demo.say(f"\nThe web console was at {demo.console_address}: --open keeps the apps running and opens it.")
    except (*FAILURES, ProcessFailed, PygridError, OSError) as error:
        print(f"the demo failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; all processes are ended", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
