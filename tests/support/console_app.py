"""An app in a process of its own, people who use its web console, and data for them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pygrid.client
from support.processes import port_of
from support.web import PASSWORD

if TYPE_CHECKING:
    from support.browser import Person

ROOT = Path(__file__).parents[2]
PLAN, MODEL = ROOT / "examples/plans/digits.plan", ROOT / "examples/plans/digits.safetensors"
ANN = "ann@example.org"


class App:
    """A Domain, or a Network, in a process, which can be killed and started again at its address."""

    def __init__(
        self, folder: Path, *options: str, kind: str = "domain", port: int = 0, python: str = sys.executable
    ) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self._command, self._options = [python, "-m", "pygrid", kind], options
        self._port = port
        self.process = self._start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def _start(self) -> subprocess.Popen[bytes]:
        port_file = self.folder / "port"
        port_file.unlink(missing_ok=True)
        command = [*self._command, "--port", str(self._port), "--port-file", str(port_file)]
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(
                [*command, "--data-dir", str(self.folder / "data"), *self._options], stdout=log, stderr=log
            )
        self._port = port_of(process, port_file, (self.folder / "log").read_text)
        return process

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def start_again(self) -> None:
        self.process = self._start()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


def sign_in(person: Person, email: str) -> None:
    """Sign in by the form of the console."""
    person.page.goto("/admin/login")
    person.page.get_by_label("E-mail").fill(email)
    person.page.get_by_label("Password").fill(PASSWORD)
    person.page.get_by_role("button", name="Sign in").click()
    person.page.get_by_role("heading", name="Dashboard").wait_for()


def owner(app: App) -> pygrid.client.DomainClient:
    """The first account of a Domain, which this makes."""
    domain = pygrid.client.connect(app.url)
    domain.sign_up(ANN, PASSWORD)
    return domain
