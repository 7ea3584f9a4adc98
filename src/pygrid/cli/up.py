"""``pygrid up``: a Network and some Domains as processes of this machine.

The processes start one after the other and are stopped in reverse order. Each has a session of its own, so Ctrl-C in
the terminal reaches `pygrid up` only. On Linux, the kernel sends SIGTERM to each when `pygrid up` dies, so none keeps
running.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Annotated

import typer

from pygrid import codes
from pygrid.cli.help import App
from pygrid.cli.local_apps import check_names, check_ports, die_with_parent, read_or_make_invitation
from pygrid.cli.output import say
from pygrid.errors import InvalidConfig

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 15.0
_POLL_S = 0.05
_MAX_LINE_BYTES = 16 * 1024
_COLORS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)
_INHERITED = re.compile(
    r"PATH|HOME|USER|LOGNAME|LANG|LC_\w+|TZ|TMPDIR|PYTHON\w*|VIRTUAL_ENV|LD_LIBRARY_PATH|SSL_CERT_\w+"
    r"|(OMP|OPENBLAS|MKL)_\w+|COVERAGE_\w+|(?i:(https?|no|all)_proxy)|PYGRID_LOG_\w+"
)
"""Environment variables that the apps get. No other setting of an app comes from the caller's shell."""

app = App()


@app.command()
def up(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME", help="Names of the Domains; default: alice.")
    ] = None,
    no_network: Annotated[bool, typer.Option("--no-network", help="Start no Network.")] = False,
    port: Annotated[
        int, typer.Option(metavar="N", help="Port of the first Domain; others follow. 0 picks free ports.")
    ] = 5000,
    network_port: Annotated[int, typer.Option(metavar="N", help="Port of the Network; 0 picks a free one.")] = 7000,
    data_dir: Annotated[Path, typer.Option(metavar="PATH", help="Folder for the data folders of the apps.")] = Path(
        "pygrid-up"
    ),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the commands without running them.")] = False,
    file: Annotated[str | None, typer.Option("--file", "-f", hidden=True)] = None,
    profile: Annotated[list[str] | None, typer.Option(hidden=True)] = None,
) -> None:
    """Start a Network and its Domains as processes of this machine, until Ctrl-C.

    The apps listen on 127.0.0.1 only. For containers, use: docker compose up.

    Example: pygrid up alice bob
    """
    if file is not None or profile:
        raise InvalidConfig(
            "pygrid up reads no compose file; use `docker compose up`, or `pygrid up NAME...` for processes",
            code=codes.COMPOSE_NOT_READ,
        )
    chosen = names or ["alice"]
    check_names(chosen, has_network=not no_network)
    width = max(len(name) for name in (*chosen, "network"))
    folder = data_dir.absolute()
    apps = [] if no_network else [AppProcess("network", "network", network_port, folder / "network", 0, width)]
    for index, name in enumerate(chosen):
        apps.append(AppProcess("domain", name, port and port + index, folder / name, len(apps), width))
    if dry_run:
        network = "" if no_network else f"http://127.0.0.1:{network_port}"
        for one in apps:
            say(f"{one.name}: pygrid {' '.join(one.arguments(network))}")
        return
    check_ports({one.name: one.port for one in apps})
    if not _run(apps, "" if no_network else read_or_make_invitation(data_dir)):
        raise typer.Exit(1)


class AppProcess:
    """A process of `pygrid network` or `pygrid domain`."""

    def __init__(self, kind: str, name: str, port: int, folder: Path, index: int, width: int) -> None:
        self.kind, self.name, self.port = kind, name, port
        self.address = ""
        self.running: subprocess.Popen[bytes] | None = None
        self._folder = folder
        self._label = f"{name:{width}} |"
        if sys.stdout.isatty() and not os.environ.get("NO_COLOR"):
            self._label = f"\x1b[{_COLORS[index % len(_COLORS)]}m{self._label}\x1b[0m"

    def arguments(self, network: str) -> list[str]:
        """The arguments after ``pygrid`` on the command line."""
        joined = ["--network", network] if network and self.kind == "domain" else []
        return [self.kind, "--id", self.name, "--host", "127.0.0.1", "--port", str(self.port), *joined]

    def start(self, network: str, invitation: str, is_stopping: Callable[[], bool]) -> bool:
        """Start the process and wait until it is ready; False if it ended, was too slow, or is not needed."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        port_file = self._folder / "port"
        port_file.unlink(missing_ok=True)
        inherited = {name: value for name, value in os.environ.items() if _INHERITED.fullmatch(name)}
        command = [sys.executable, "-m", "pygrid", *self.arguments(network)]
        self.running = subprocess.Popen(
            [*command, "--data-dir", str(self._folder), "--port-file", str(port_file)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=inherited | {"PYTHONUNBUFFERED": "1"} | ({"PYGRID_INVITATION": invitation} if invitation else {}),
            start_new_session=True,
            preexec_fn=die_with_parent(os.getpid()),
        )
        assert self.running.stdout is not None
        threading.Thread(target=self._print_lines, args=(self.running.stdout,), daemon=True).start()
        deadline = time.monotonic() + START_TIMEOUT_S
        while not port_file.exists():
            if (status := self.exit_status()) is not None:
                self.log(f"ended with exit status {status}")
                return False
            if is_stopping():
                return False
            if time.monotonic() > deadline:
                self.log(f"is not ready after {START_TIMEOUT_S:.0f} s")
                return False
            time.sleep(_POLL_S)
        self.address = f"http://127.0.0.1:{port_file.read_text().strip()}"
        return True

    def exit_status(self) -> int | None:
        """The exit status of the process; None while it runs."""
        return None if self.running is None else self.running.poll()

    def stop(self, is_forced: Callable[[], bool]) -> None:
        """Send SIGTERM; kill the process and its children if it does not end in time, or after a second signal."""
        if self.running is None:
            return
        if self.running.poll() is None:
            self.log("stopping")
            self.running.terminate()
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while self.running.poll() is None:
            if time.monotonic() > deadline or is_forced():
                self.log("killed")
                break
            time.sleep(_POLL_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.running.pid, signal.SIGKILL)  # its children, too
        self.running.wait()

    def log(self, text: str) -> None:
        """Print a line with the name of the app before it."""
        say(text, label=f"{self._label} ")

    def _print_lines(self, output: IO[bytes]) -> None:
        with output:
            while part := output.readline(_MAX_LINE_BYTES):
                self.log(part.decode(errors="replace").rstrip("\r\n"))


def _run(apps: list[AppProcess], invitation: str) -> bool:
    """Run the apps until a signal; False if one of them ended or did not start."""
    signals: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _frame: signals.append(number))
    network = ""
    try:
        for one in apps:
            if not one.start(network, invitation, lambda: bool(signals)):
                return bool(signals)
            one.log(f"is ready: {one.address}")
            network = one.address if one.kind == "network" else network
        say(f"pygrid up: {len(apps)} apps are ready; Ctrl-C stops them")
        while not signals and all(one.exit_status() is None for one in apps):
            time.sleep(_POLL_S)
        for one in apps:
            if (status := one.exit_status()) is not None and not signals:
                say(f"pygrid up: {one.name} ended with exit status {status}, so all apps are stopped")
        return bool(signals)
    finally:
        for one in reversed(apps):
            one.stop(lambda: len(signals) > 1)
        say("pygrid up: all apps are stopped")
