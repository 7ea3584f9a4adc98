"""A Domain as a process, started as documented.

Should happen: one command starts it, and again; it tells where it is; a signal stops it soon, whatever is open; what
was made is there after a restart, also after ``kill -9``.
Should not happen: a start that others can reach without a secret; a traceback for what an operator can put right; torch
or ONNX in the memory of an idle Domain.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from support.processes import port_of

pytestmark = pytest.mark.fresh_processes

ROOT = Path(__file__).parents[2]
RUN_SH = ROOT / "apps" / "domain" / "run.sh"


class DomainProcess:
    """A Domain started by ``apps/domain/run.sh`` in a folder of its own."""

    def __init__(self, folder: Path, *arguments: str, script: Path = RUN_SH, env: dict[str, str] | None = None) -> None:
        self.port_file = folder / "port"
        self.port_file.unlink(missing_ok=True)
        self.log = folder / "domain.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [str(script), "--port", "0", "--port-file", str(self.port_file), *arguments],
                cwd=folder,
                env=_environment() | (env or {}),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def wait_ready(self) -> str:
        """The address, once the Domain is ready."""
        return f"http://127.0.0.1:{port_of(self.process, self.port_file, self.log.read_text)}"


def _environment() -> dict[str, str]:
    ours = ("PYGRID_", "GRID_NODE_", "NODE_ID", "NUM_REPLICAS", "DATABASE_URL", "SECRET_KEY", "NETWORK")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


@contextlib.contextmanager
def started(
    folder: Path, *arguments: str, script: Path = RUN_SH, env: dict[str, str] | None = None
) -> Iterator[DomainProcess]:
    domain = DomainProcess(folder, *arguments, script=script, env=env)
    try:
        yield domain
    finally:
        if domain.process.poll() is None:
            domain.process.kill()
        domain.process.wait()


def _sign_up(address: str) -> httpx.Response:
    return httpx.post(f"{address}/users", json={"email": "owner@example.org", "password": "correct horse"})


def test_the_published_script_is_the_server_and_a_signal_stops_it(tmp_path: Path) -> None:
    with started(
        tmp_path, "--id", "bob", "--start_local_db", "--num_replicas", "1", script=ROOT / "apps/node/run.sh"
    ) as domain:
        address = domain.wait_ready()
        assert httpx.get(f"{address}/readyz").json() == {"status": "ready"}
        assert psutil.Process(domain.process.pid).cmdline()[1].endswith("/pygrid"), "the script gave way to the server"
        assert httpx.get(f"{address}/schema/openapi.json").json()["info"]["title"] == "Domain bob"
        domain.process.terminate()
        assert domain.process.wait(180) == 0
    told = domain.log.read_text()
    assert "Domain bob is ready." in told
    assert address in told
    assert "Traceback" not in told
    assert (tmp_path / "pygrid-data" / "domain.db").exists()


def test_published_variables_set_it_up(tmp_path: Path) -> None:
    env = {"NODE_ID": "alice", "GRID_NODE_HOST": "localhost", "DATABASE_URL": f"sqlite:///{tmp_path / 'mine.db'}"}
    with started(tmp_path, "--data-dir", "data", env=env) as domain:
        address = domain.wait_ready()
        assert httpx.get(f"{address}/schema/openapi.json").json()["info"]["title"] == "Domain alice"
    assert (tmp_path / "mine.db").exists()
    assert (tmp_path / "data").is_dir()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_accounts_and_sessions_survive_a_restart(tmp_path: Path, how: signal.Signals) -> None:
    with started(tmp_path) as domain:
        address = domain.wait_ready()
        assert _sign_up(address).status_code == 200
        login = {"email": "owner@example.org", "password": "correct horse"}
        token = httpx.post(f"{address}/users/login", json=login).json()["token"]
        domain.process.send_signal(how)
        domain.process.wait(180)
    with started(tmp_path) as domain:
        me = httpx.get(f"{domain.wait_ready()}/users/me", headers={"Authorization": f"Bearer {token}"})
        assert me.json()["user"]["role"]["name"] == "Owner"
        assert "the first account" not in domain.log.read_text().split("is ready.")[-1].lower()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_open_connections_do_not_hold_it_up(tmp_path: Path, how: signal.Signals) -> None:
    """One connection idle after an answer, one in the middle of a request that never comes to an end."""
    with started(tmp_path, "--shutdown-s", "1") as domain, httpx.Client() as idle, socket.socket() as half:
        address = domain.wait_ready()
        idle.get(f"{address}/healthz")
        half.connect(("127.0.0.1", int(address.rpartition(":")[2])))
        half.sendall(b"POST /users HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        idle.get(f"{address}/healthz")  # the server has read the other request by now
        begun = time.monotonic()
        domain.process.send_signal(how)
        assert domain.process.wait(180) == 0
        assert time.monotonic() - begun < 30, "the grace of one second, and what stopping takes"


def test_a_second_domain_on_the_same_port_says_what_to_do(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        result = _run(tmp_path, "--port", str(taken.getsockname()[1]))
    assert result.returncode == 1
    assert "cannot listen on 127.0.0.1 port" in result.stderr
    assert "--port 0" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--host", "0.0.0.0"], "SECRET_KEY is not set"),
        (["--host", "192.0.2.1"], "cannot listen on 192.0.2.1"),
        (["--database-url", "mysql://x/y"], "DATABASE_URL must begin with"),
        (["--database-url", "postgresql://u:hidden@127.0.0.1:1/x"], "cannot be used"),
        (["--data-dir", "/proc/nothing"], "data folder /proc/nothing cannot be made"),
        (["--num-replicas", "0"], "NUM_REPLICAS"),
    ],
)
def test_what_an_operator_can_put_right_is_told_in_words(tmp_path: Path, arguments: list[str], told: str) -> None:
    env = {"SECRET_KEY": "0123456789abcdef0123456789abcdef"} if "192.0.2.1" in arguments else {}
    result = _run(tmp_path, "--port", "0", *arguments, env=env)
    assert result.returncode == 1
    assert told in result.stderr
    assert "Traceback" not in result.stderr
    assert "hidden" not in result.stderr


def _run(folder: Path, *arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pygrid", "domain", *arguments]
    return subprocess.run(
        command, cwd=folder, env=_environment() | (env or {}), capture_output=True, text=True, timeout=180, check=False
    )


def test_help_comes_without_loading_a_server() -> None:
    program = (
        "import sys\n"
        "sys.argv = ['pygrid', '--help']\n"
        "import pygrid.cli\n"
        "try:\n    pygrid.cli.main()\n"
        "except SystemExit:\n    pass\n"
        "print('LOADED', [name for name in ('litestar', 'sqlalchemy', 'numpy', 'httpx', 'onnx') if name in "
        "sys.modules])\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=180, check=True)
    assert "LOADED []" in result.stdout
    for command in ("domain", "login", "plan", "host", "process", "model", "edge"):
        assert f" {command} " in result.stdout


def test_an_idle_domain_holds_no_machine_learning_library(tmp_path: Path) -> None:
    program = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from pygrid.domain import build_domain\n"
        "from pygrid.settings import load_settings\n"
        "app = build_domain(load_settings({}, data_dir=Path('data')))\n"
        "async def main():\n"
        "    async with app.lifespan():\n"
        "        print([name for name in ('torch', 'onnx', 'onnxruntime') if name in sys.modules])\n"
        "asyncio.run(main())\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=180, check=True
    )
    assert result.stdout.strip() == "[]"
