"""`pygrid up`: the services of a compose file as processes of this machine.

Should happen: services start in order, find each other, come back when they are killed, and stop in order; whatever can't work
is told before anything starts.
Should not happen: a process left behind, however `pygrid up` ends; a service that the caller's shell sets up; a secret in what
is said.
"""

from __future__ import annotations

import contextlib
import os
import re
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

ROOT = Path(__file__).parents[2]
SECRETS = {"SECRET_KEY": "k" * 64, "PYGRID_INVITATION": "i" * 64}
TIMEOUT_S = 90.0


def free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        port: int = trial.getsockname()[1]
        return port


class Up:
    """A `pygrid up` in a folder with a compose file, and what it says."""

    def __init__(self, folder: Path, text: str, *arguments: str, env: dict[str, str] | None = None) -> None:
        self.folder = folder
        (folder / "docker-compose.yml").write_text(text)
        self._log = folder / "up.log"
        inherited = {name: value for name, value in os.environ.items() if name not in SECRETS}
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pygrid", "up", *arguments],
                cwd=folder,
                env=inherited | (env or {}),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    @property
    def said(self) -> str:
        return self._log.read_text()

    def wait_for(self, words: str, times: int = 1) -> None:
        """Return once the words were said that often."""
        deadline = time.monotonic() + TIMEOUT_S
        while self.said.count(words) < times:
            assert self.process.poll() is None, self.said
            assert time.monotonic() < deadline, self.said
            time.sleep(0.05)

    def services(self) -> dict[str, psutil.Process]:
        """The processes that it started, by service."""
        return {Path(child.cwd()).name: child for child in psutil.Process(self.process.pid).children()}

    def family(self) -> list[psutil.Process]:
        """Everything that came of it, however deep."""
        return psutil.Process(self.process.pid).children(recursive=True)


@contextlib.contextmanager
def started(folder: Path, text: str, *arguments: str, env: dict[str, str] | None = None) -> Iterator[Up]:
    up = Up(folder, text, *arguments, env=env)
    try:
        yield up
    finally:
        if up.process.poll() is None:
            up.process.terminate()
        up.process.wait(TIMEOUT_S)


def two_domains(**terms: str) -> tuple[str, int, int]:
    """A file with bob after alice, and their ports; ``terms``: lines to add to alice's."""
    alice, bob = free_port(), free_port()
    more = "".join(f"    {key}: {value}\n" for key, value in terms.items())
    text = (
        "services:\n"
        f"  bob:\n    image: pygrid-domain\n    ports: ['127.0.0.1:{bob}:5000']\n    environment: {{NODE_ID: bob}}\n"
        "    depends_on: {alice: {condition: service_healthy}}\n"
        f"  alice:\n    image: pygrid-domain\n    ports: ['127.0.0.1:{alice}:5000']\n{more}"
    )
    return text, alice, bob


def are_gone(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=30)
    return not alive


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_all_in_order(tmp_path: Path, how: signal.Signals) -> None:
    text, alice, bob = two_domains()
    with started(tmp_path, text, env={"NODE_ID": "evil", "DATABASE_URL": "mysql://evil", "PORT": "1"}) as up:
        up.wait_for("all 2 are up")
        title = httpx.get(f"http://127.0.0.1:{bob}/schema/openapi.json").json()["info"]["title"]
        assert title == "Domain bob", "the file sets it up, and the shell does not"
        assert httpx.get(f"http://127.0.0.1:{alice}/readyz").status_code == 200
        family = up.family()
        up.process.send_signal(how)
        assert up.process.wait(TIMEOUT_S) == 0
    assert are_gone(family)
    said = up.said
    assert said.index("alice  | Domain") < said.index("bob    | Domain bob is ready")
    assert said.index("bob    | stopping") < said.index("alice  | stopping") < said.index("pygrid | all stopped")
    assert "Traceback" not in said
    assert "by force" not in said.replace("once more, and they are ended by force", "")
    assert (tmp_path / "pygrid-up" / "alice" / "domain.db").exists()
    assert (tmp_path / "pygrid-up" / "bob").stat().st_mode & 0o777 == 0o700


def domains_online(network: int) -> dict[str, str]:
    """The Domains that the Network says are online, and the direct address of each."""
    found = httpx.get(f"http://127.0.0.1:{network}/domains").json()["domains"]
    return {one["name"]: one["address"] for one in found if one["state"] == "online"}


def wait_online(network: int, wanted: dict[str, str]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while (online := domains_online(network)) != wanted:
        assert time.monotonic() < deadline, online
        time.sleep(0.1)


@pytest.mark.slow
def test_the_shipped_grid_comes_up_and_stays_up(tmp_path: Path) -> None:
    """docker-compose.yml as it is, but for the ports that it publishes."""
    ports: dict[str, int] = {}

    def elsewhere(match: re.Match[str]) -> str:
        ports[match[1]] = free_port()
        return f":{ports[match[1]]}:{match[1]}"

    text = re.sub(r":(\d{4}):\1", elsewhere, (ROOT / "docker-compose.yml").read_text())
    (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in SECRETS.items()))
    network, alice, bob = ports["7000"], ports["5000"], ports["5001"]
    expected = {"alice": f"http://127.0.0.1:{alice}", "bob": f"http://127.0.0.1:{bob}"}
    with started(tmp_path, text, "network", "alice", "bob") as up:
        up.wait_for("all 3 are up")
        wait_online(network, expected)
        killed = up.services()["alice"]
        killed.kill()
        up.wait_for("alice   | is ready again")
        assert up.services()["alice"].pid != killed.pid
        up.wait_for("domain=alice state=accepted", times=2)
        wait_online(network, expected)
        family = up.family()
        up.process.terminate()
        assert up.process.wait(TIMEOUT_S) == 0
    assert are_gone(family)
    said = up.said
    assert said.rindex("alice   | stopping") < said.rindex("network | stopping")
    assert not [secret for secret in SECRETS.values() if secret in said]
    assert "Traceback" not in said
    assert sorted(path.name for path in (tmp_path / "pygrid-up").iterdir()) == ["alice", "bob", "network"]


def test_a_domain_with_another_invitation_is_turned_away(tmp_path: Path) -> None:
    network, alice = free_port(), free_port()
    text = (
        "services:\n"
        f"  network: {{image: pygrid-network, ports: ['{network}:7000'], environment: {{PYGRID_INVITATION: {'i' * 64}}}}}\n"
        f"  alice:\n    image: pygrid-domain\n    ports: ['{alice}:5000']\n"
        f"    environment: {{NODE_ID: alice, NETWORK: 'http://network:7000', PYGRID_INVITATION: {'j' * 64}}}\n"
    )
    with started(tmp_path, text) as up:
        up.wait_for("domain turned away")
        assert "domain=alice why=invalid_invitation" in up.said
        assert domains_online(network) == {}


def test_nothing_is_left_behind_when_it_is_killed(tmp_path: Path) -> None:
    text, _, _ = two_domains()
    with started(tmp_path, text) as up:
        up.wait_for("all 2 are up")
        family = up.family()
        up.process.kill()
        up.process.wait(TIMEOUT_S)
        assert len(family) >= 2
        assert are_gone(family)


def test_a_killed_service_comes_back_and_one_that_may_not_does_not(tmp_path: Path) -> None:
    text, alice, _ = two_domains(restart="on-failure:1")
    with started(tmp_path, text) as up:
        up.wait_for("all 2 are up")
        up.services()["alice"].kill()
        up.wait_for("alice  | is ready again")
        assert "alice  | was ended by SIGKILL\nalice  | is started again in 0.5 s" in up.said
        assert httpx.get(f"http://127.0.0.1:{alice}/readyz").status_code == 200
        up.services()["alice"].kill()
        up.wait_for("was ended by SIGKILL; it is not started again")
        up.services()["bob"].kill()
        assert up.process.wait(TIMEOUT_S) == 1
    assert "pygrid | stops, because alice, bob ended" in up.said.replace("bob, alice", "alice, bob")


def test_who_waits_in_vain_is_not_waited_for(tmp_path: Path) -> None:
    text, _, _ = two_domains(environment="{DATABASE_URL: 'mysql://x'}")
    with started(tmp_path, text) as up:
        assert up.process.wait(TIMEOUT_S) == 1
    assert "alice  | pygrid: DATABASE_URL must begin with" in up.said
    assert "alice  | ended with exit code 1; it is not started again" in up.said
    assert "pygrid | stops, because alice ended" in up.said
    assert "bob    |" not in up.said


def test_a_service_that_does_not_stop_in_its_time_is_ended_by_force(tmp_path: Path) -> None:
    text, alice, _ = two_domains(stop_grace_period="1s", environment="{PYGRID_SHUTDOWN_S: 600}")
    with started(tmp_path, text) as up, socket.socket() as half:
        up.wait_for("all 2 are up")
        half.connect(("127.0.0.1", alice))
        half.sendall(b"POST /users HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        time.sleep(0.2)
        family = up.family()
        up.process.terminate()
        assert up.process.wait(TIMEOUT_S) == 0
    assert are_gone(family)
    assert "alice  | has not ended in 1 s, and is ended by force" in up.said


def test_a_second_signal_ends_all_by_force(tmp_path: Path) -> None:
    text, alice, _ = two_domains(stop_grace_period="10m", environment="{PYGRID_SHUTDOWN_S: 600}")
    with started(tmp_path, text) as up, socket.socket() as half:
        up.wait_for("all 2 are up")
        half.connect(("127.0.0.1", alice))
        half.sendall(b"POST /users HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        time.sleep(0.2)
        up.process.send_signal(signal.SIGINT)
        up.wait_for("alice  | stopping")
        up.process.send_signal(signal.SIGINT)
        assert up.process.wait(TIMEOUT_S) == 0


def run(folder: Path, text: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    (folder / "docker-compose.yml").write_text(text)
    inherited = {name: value for name, value in os.environ.items() if name not in SECRETS}
    command = [sys.executable, "-m", "pygrid", "up", *arguments]
    return subprocess.run(
        command, cwd=folder, env=inherited | env, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )


def test_a_taken_port_is_told_before_anything_starts(tmp_path: Path) -> None:
    text, _, bob = two_domains()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", bob))
        taken.listen()
        result = run(tmp_path, text)
    assert result.returncode == 1
    assert "nothing was started" in result.stderr
    assert f"bob cannot have 127.0.0.1 port {bob}: Address already in use" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "pygrid-up").exists()


def test_what_cannot_work_is_told_in_words(tmp_path: Path) -> None:
    secret = "services: {a: {image: pygrid-domain, environment: {SECRET_KEY: '${SECRET_KEY:?make one}'}}}"
    assert "needs the variable SECRET_KEY, which is not set: make one" in run(tmp_path, secret).stderr
    (tmp_path / ".env").write_text("SECRET_KEY='hunter2 hunter2")
    assert ".env line 1: the quotes of SECRET_KEY do not match" in run(tmp_path, secret).stderr
    assert "there is no file other.yml" in run(tmp_path, secret, "-f", "other.yml").stderr
    (tmp_path / ".env").unlink()
    foreign = "services: {a: {image: pygrid-domain, gpus: all}}"
    assert "services.a.gpus is not understood" in run(tmp_path, foreign).stderr


def test_a_dry_run_shows_what_would_be_started(tmp_path: Path) -> None:
    text = "services: {a: {image: pygrid-domain, ports: ['5009:5000'], tmpfs: [/tmp], environment: {NODE_ID: '${NAME}${ID}'}}}"
    (tmp_path / ".env").write_text("NAME=x\n")
    result = run(tmp_path, text, "--dry-run")
    assert result.returncode == 0
    assert result.stdout == "a: pygrid domain  http://127.0.0.1:5009\n"
    assert "ignored, being about containers only: tmpfs" in result.stderr
    assert "not set, and so taken as empty: ID" in result.stderr
    assert not (tmp_path / "pygrid-up").exists()


def test_help_comes_with_an_example(tmp_path: Path) -> None:
    result = run(tmp_path, "", "--help")
    assert "pygrid up network alice bob" in result.stdout
