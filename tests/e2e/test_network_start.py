"""A Network and Domains as processes, started as documented, and the commands of those who run them.

Should happen: one command starts a Network; a Domain that is started with ``--network`` asks, is accepted, and is
online; after ``kill -9`` of either both are together again without anybody's help.
Should not happen: a Network that others reach without a secret, or a decision that a crash loses.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.eventually import eventually_blocking
from support.processes import port_of

ROOT = Path(__file__).parents[2]
WAIT_S = 180
PASSWORD = "correct horse battery"


def environment(folder: Path, **more: str) -> dict[str, str]:
    ours = ("PYGRID_", "GRID_", "NODE_ID", "NUM_REPLICAS", "DATABASE_URL", "SECRET_KEY", "NETWORK", "ADDRESS", "PORT")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return kept | {"XDG_CONFIG_HOME": str(folder / "config"), "OMP_NUM_THREADS": "1"} | more


class App:
    """A Network or Domain started by its script, which can be killed and started again on the same port."""

    def __init__(self, kind: str, folder: Path, *arguments: str, **env: str) -> None:
        folder.mkdir(exist_ok=True)
        self.kind, self.folder, self.arguments, self.env = kind, folder, arguments, env
        self.log = folder / "log"
        self.port = "0"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> str:
        """The address, once it is ready."""
        port_file = self.folder / "port"
        port_file.unlink(missing_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    str(ROOT / "apps" / self.kind / "run.sh"),
                    "-p",
                    self.port,
                    "--port-file",
                    str(port_file),
                    *self.arguments,
                ],
                cwd=self.folder,
                env=environment(self.folder, **self.env),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.port = str(port_of(self.process, port_file, self.log.read_text))
        return f"http://127.0.0.1:{self.port}"

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(180)


@contextlib.contextmanager
def running(*apps: App) -> Iterator[None]:
    try:
        yield
    finally:
        for app in apps:
            if app.process is not None and app.process.poll() is None:
                app.process.kill()
                app.process.wait()


@pytest.fixture
def pygrid(tmp_path: Path) -> Callable[..., str]:
    """Runs a command; gives what it printed."""

    def run(*words: str, fails: bool = False, **env: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "pygrid", *words],
            input=PASSWORD + "\n",
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            env=environment(tmp_path, COLUMNS="200", **env),
        )
        assert (done.returncode != 0) == fails, (words, done.stdout, done.stderr)
        return done.stderr if fails else done.stdout

    return run


def domains(network: str) -> dict[str, dict[str, Any]]:
    try:
        return {found["name"]: found for found in httpx.get(f"{network}/domains").json()["domains"]}
    except httpx.TransportError:
        return {}


@pytest.mark.slow
@pytest.mark.fresh_processes
def test_a_domain_joins_and_both_survive_kill_9(tmp_path: Path, pygrid: Callable[..., str]) -> None:
    net = App("network", tmp_path / "net", "--start_local_db", "--heartbeat-s", "1", "--id", "net")
    with running(net):
        network = net.start()
        assert httpx.get(network).text == "Open Grid Network"
        alice = App("domain", tmp_path / "alice", "--id", "alice", "--network", network, "--start_local_db")
        with running(alice):
            domain = alice.start()
            for address in (network, domain):
                pygrid("login", address, "--sign-up", "--email", "owner@example.org", "--password-stdin")
            at_network, at_domain = ("--network", network), ("--url", domain)
            assert "no Domain belongs" in pygrid("domains", "list", *at_network)
            eventually_blocking(lambda: "alice" in pygrid("domains", "list", "pending", *at_network))
            assert "pending" in pygrid("association", "list", *at_domain)
            assert "belongs to the Network now" in pygrid("domains", "accept", "alice", *at_network)
            eventually_blocking(lambda: domains(network)["alice"]["state"] == "online")
            identity = domains(network)["alice"]["identity"]
            assert identity in pygrid("domains", "show", "alice", *at_network)

            net.kill()
            assert net.start() == network
            eventually_blocking(lambda: domains(network).get("alice", {}).get("state") == "online")
            alice.kill()
            eventually_blocking(lambda: domains(network)["alice"]["state"] == "offline")
            assert alice.start() == domain
            eventually_blocking(lambda: domains(network)["alice"]["state"] == "online")
            assert domains(network)["alice"]["identity"] == identity

            assert "has left" in pygrid("association", "leave", network, *at_domain)
            assert domains(network) == {}
            assert alice.stop() == 0
        # A stop with a link open would be no different; none is left hanging.
        assert net.stop() == 0
    for app in (net, alice):
        assert "Traceback" not in app.log.read_text()


@pytest.mark.slow
def test_an_invitation_by_hand(tmp_path: Path, pygrid: Callable[..., str]) -> None:
    net = App("network", tmp_path / "net", "--heartbeat-s", "1")
    bob = App("domain", tmp_path / "bob", "--id", "bob")
    with running(net, bob):
        network, domain = net.start(), bob.start()
        for address in (network, domain):
            pygrid("login", address, "--sign-up", "--email", "owner@example.org", "--password-stdin")
        at_network, at_domain = (), ()  # the Network, and the Domain, logged in to last
        wrong = pygrid("domains", "invite", "--domain", "zoe", *at_network).strip()
        told = pygrid("association", "join", network, "--invited", *at_domain, fails=True, PYGRID_INVITATION=wrong)
        assert "for another name" in told
        good = pygrid("domains", "invite", *at_network).strip()
        told = pygrid("association", "join", network, "--invited", *at_domain, PYGRID_INVITATION=good)
        assert "belongs to network now" in told
        listed = json.loads(pygrid("domains", "invitations", "--json", *at_network))
        assert [(found["domain"], found["num_uses"]) for found in listed] == [("zoe", 0), (None, 1)]
        pygrid("domains", "take-back", str(listed[0]["id"]), *at_network)
        assert "1 of 1" in pygrid("domains", "invitations", *at_network)
        assert "no longer belongs" in pygrid("domains", "revoke", "bob", "--reason", "for a test", *at_network)
        eventually_blocking(lambda: "revoked" in pygrid("association", "list", *at_domain))
        assert "bob" in pygrid("domains", "list", "revoked", *at_network)
        pygrid("domains", "forget", "bob", *at_network)
        assert "the Network knows no Domain" in pygrid("domains", "list", "all", *at_network)
        assert "cannot be reached" in pygrid("association", "join", "http://127.0.0.1:9", *at_domain)
        # With a link open, a signal stops both at once.
        told = pygrid("association", "join", network, *at_domain)
        assert "once an Owner or Administrator of the Network accepts" in told
        assert "is denied" in pygrid("domains", "deny", "bob", *at_network)
        assert bob.stop() == 0
        assert net.stop() == 0


def test_a_network_that_others_reach_needs_a_secret(tmp_path: Path, pygrid: Callable[..., str]) -> None:
    told = pygrid("network", "--host", "0.0.0.0", "--data-dir", str(tmp_path / "data"), fails=True)
    assert "SECRET_KEY is not set" in told
    assert not (tmp_path / "data").exists()
