"""A Network, a Domain behind it and a caller, as processes: what passes, what the Network can know of it, and what
crashes do.

Should happen: commands and the SDK work with a ``grid+`` address as with a direct one; large bodies pass in flat
memory; after
    ``kill -9`` of Network or Domain a call that may be repeated is answered in the end.
Should not: anything of a call in the clear in what the Network process receives, sends, or keeps.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import resource
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from test_network_start import PASSWORD, App, running
from test_network_start import pygrid as pygrid  # a fixture
from websockets.frames import Frame
from websockets.protocol import SERVER, Protocol, Side

from pygrid.client import DomainClient, connect, connect_network
from pygrid.edge import EdgeClient
from pygrid.errors import InvalidCredentials, NotFound, Unavailable
from pygrid.transport import NO_RETRIES, Api, Request, RetryPolicy, open_transport
from pygrid.transport.base import BytesBody
from support.eventually import eventually_blocking
from support.sdk import host

INVITATION = "i" * 40
MB = 1024 * 1024


class Recorder:
    """Stands before a port and keeps all bytes that pass, by connection and direction."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self.up: list[bytearray] = []
        self.down: list[bytearray] = []
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def _start(self, work: Callable[..., None], *arguments: Any) -> None:
        self._threads.append(threading.Thread(target=work, args=arguments))
        self._threads[-1].start()

    def _accept(self) -> None:
        while True:
            try:
                ours = self._listening.accept()[0]
            except OSError:
                return
            self._start(self._pass, ours)

    def _pass(self, ours: socket.socket) -> None:
        with ours, contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port)) as theirs:
            self._open |= {ours, theirs}
            up, down = bytearray(), bytearray()
            self.up.append(up)
            self.down.append(down)
            sending = threading.Thread(target=self._copy, args=(ours, theirs, up))
            sending.start()
            self._copy(theirs, ours, down)
            sending.join()
            self._open -= {ours, theirs}

    @staticmethod
    def _copy(source: socket.socket, into: socket.socket, kept: bytearray) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(256 * 1024):
                kept += data
                into.sendall(data)
        for end in (source, into):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for end in (self._listening, *self._open):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._listening.close()

    def everything(self) -> Iterator[bytes]:
        """The bytes of each direction of each connection as they passed; and, unmasked, what the frames of it said."""
        for kept, side in ((self.up, SERVER), (self.down, Side.CLIENT)):
            for recorded in kept:
                raw = bytes(recorded)
                yield raw
                yield b"".join(payloads(raw, side))


def payloads(raw: bytes, side: Side) -> Iterator[bytes]:
    """The payloads of the WebSocket frames after the head of a request or answer, if there are any."""
    _head, _, frames = raw.partition(b"\r\n\r\n")
    if b"pgrade: websocket" not in _head:
        return
    protocol = Protocol(side, state=1, max_size=None)  # type: ignore[arg-type]
    protocol.receive_data(frames)
    for event in protocol.events_received():
        assert isinstance(event, Frame)
        yield bytes(event.data)


class Net:
    """A Network and the Domain ``hospital-a`` behind it."""

    def __init__(self, folder: Path) -> None:
        self.network = App("network", folder / "net", "--heartbeat-s", "1", "--id", "net", PYGRID_INVITATION=INVITATION)
        self.url = self.network.start()
        self.seen_by_domain = Recorder(int(self.network.port))
        self.seen_by_caller = Recorder(int(self.network.port))
        arguments = ("--id", "hospital-a", "--network", self.seen_by_domain.url)
        self.domain = App("domain", folder / "dom", *arguments, PYGRID_INVITATION=INVITATION)
        self.domain.start()
        self.address = f"grid+{self.url}/hospital-a"
        self.recorded_address = f"grid+{self.seen_by_caller.url}/hospital-a"
        self.wait()

    def wait(self) -> None:
        """Return once the Domain can be reached."""

        def is_there() -> bool:
            with contextlib.suppress(Unavailable, NotFound):
                self.call("/healthz")
                return True
            return False

        eventually_blocking(is_there)

    def call(self, path: str) -> Any:
        with contextlib.closing(open_transport(self.address)) as transport:
            return Api(transport, retries=NO_RETRIES).get(path, dict)


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Net]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    with contextlib.ExitStack() as stack:
        made = Net(tmp_path)
        stack.enter_context(contextlib.closing(made.seen_by_domain))
        stack.enter_context(contextlib.closing(made.seen_by_caller))
        stack.enter_context(running(made.network, made.domain))
        yield made


def peak_bytes(app: App) -> int:
    """The most memory that a process ever had."""
    assert app.process is not None
    status = Path(f"/proc/{app.process.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


def reset_peak(app: App) -> None:
    assert app.process is not None
    Path(f"/proc/{app.process.pid}/clear_refs").write_text("5")


def owner(net: Net, address: str | None = None) -> DomainClient:
    domain = connect(address or net.address)
    domain.sign_up("owner@example.org", PASSWORD)
    return domain


@pytest.mark.slow
def test_commands_take_a_relayed_address(net: Net, pygrid: Callable[..., str], tmp_path: Path) -> None:
    told = pygrid("login", net.address, "--sign-up", "--email", "owner@example.org", "--password-stdin")
    assert f"logged in to {net.address}" in told
    config = json.loads((tmp_path / "config" / "pygrid" / "known_domains.json").read_text())
    banner = net.domain.log.read_text()
    assert config["domains"][net.address] in banner
    assert "has no dataset" in pygrid("dataset", "list")  # of the Domain logged in to last
    # The rest of what takes an address.
    domain = connect(net.address)
    process = host(domain)
    np.savez(tmp_path / "data.npz", x=np.ones((32, 4), np.float32), y=np.zeros(32, np.int64))
    told = pygrid("edge", net.address, "--model", process.name, "--data", str(tmp_path / "data.npz"), "--cycles", "1")
    assert "1 report" in told
    assert process.name in pygrid("process", "list")
    with EdgeClient(net.address, process.name) as device:
        assert device.authenticate()
    # Another Domain takes the name, or pretends to: nobody talks to it by accident.
    (tmp_path / "config" / "pygrid" / "known_domains.json").write_text(
        json.dumps({"domains": {net.address: "ed25519:" + "a" * 51 + "q"}})
    )
    told = pygrid("dataset", "list", fails=True)
    assert "has changed" in told
    assert config["domains"][net.address] in told
    assert f"{net.address}?identity={config['domains'][net.address]}" in told
    assert "has no dataset" in pygrid(
        "dataset", "list", "--url", f"{net.address}?identity={config['domains'][net.address]}"
    )
    assert "has no dataset" in pygrid("dataset", "list")


@pytest.mark.slow
def test_a_domain_leaves_by_a_command_through_the_relay(net: Net, pygrid: Callable[..., str]) -> None:
    pygrid("login", net.address, "--sign-up", "--email", "owner@example.org", "--password-stdin")
    (found,) = connect(net.address).associations()
    assert f"the Domain has left {found.network}" in pygrid("association", "leave", found.network)
    with pytest.raises(NotFound) as gone:
        net.call("/healthz")
    assert gone.value.code == "domain_not_found"


@pytest.mark.slow
@pytest.mark.fresh_processes
def test_large_bodies_pass_in_flat_memory(net: Net, tmp_path: Path) -> None:
    domain = owner(net)
    process = host(domain)
    device = EdgeClient(net.address, process.name)
    query = {"worker_id": device.authenticate(), "random": "1"}
    block = secrets.token_bytes(60 * MB)
    transport = open_transport(net.address)

    def move() -> None:
        for _ in range(2):  # 120 MB up, 128 MB down
            with transport.send(Request("POST", "/model-centric/speed-test", query, body=BytesBody(block))) as response:
                assert response.status == 200
            with transport.send(Request("GET", "/model-centric/speed-test", query)) as response:
                assert sum(len(chunk) for chunk in response.chunks()) == 64 * MB

    with transport.send(Request("GET", "/model-centric/speed-test", {**query, "size_bytes": str(MB)})) as response:
        response.read(2 * MB)
    before = {}
    for app in (net.network, net.domain):
        reset_peak(app)
        before[app.kind] = peak_bytes(app)
    move()
    for app in (net.network, net.domain):
        assert peak_bytes(app) - before[app.kind] < 24 * MB, app.kind
    # And a dataset of 100 MB, which arrives byte for byte.
    values = np.random.default_rng(0).normal(size=(100 * MB // 8 // 10, 10))
    np.savez(tmp_path / "large.npz", **{f"c{i}": values[:, i] for i in range(10)})
    reset_peak(net.network)
    before["network"] = peak_bytes(net.network)
    info = domain.datasets.upload("large", tmp_path / "large.npz")
    assert info is not None
    assert peak_bytes(net.network) - before["network"] < 24 * MB
    transport.close()
    device.close()


@pytest.mark.slow
def test_the_network_sees_nothing_of_a_call(net: Net, tmp_path: Path) -> None:
    marker = secrets.token_hex(16)
    domain = owner(net, net.recorded_address)
    assert domain.token is not None
    process = host(domain, name=f"process-{marker}")
    (tmp_path / "private.csv").write_text("age,word\n" + "".join(f"{n},{marker}{n}\n" for n in range(2000)))
    domain.datasets.upload(f"dataset-{marker}", tmp_path / "private.csv", description=f"about {marker}")
    with contextlib.closing(open_transport(net.recorded_address)) as transport:
        api = Api(transport, token=domain.token, retries=NO_RETRIES)
        model = api.exchange(
            Request("GET", f"/model-centric/processes/{process.id}", {"marker": marker}, {"X-Marker": marker}),
            lambda response: response.read(MB),
        )
        assert marker.encode() in model
    wrong = connect(net.recorded_address)
    with pytest.raises(InvalidCredentials):
        wrong.login(f"{marker}@example.org", f"wrong-{marker}")

    def spellings(secret: str | bytes) -> Iterator[bytes]:
        data = secret if isinstance(secret, bytes) else secret.encode()
        yield data
        yield data.hex().encode()
        yield base64.b64encode(data)[:-3]
        yield base64.urlsafe_b64encode(data)[:-3]
        yield data.upper()

    known = [marker, domain.token, PASSWORD, "owner@example.org", "/users/login", "/model-centric", "x-marker"]
    num_bytes = 0
    for recorder in (net.seen_by_caller, net.seen_by_domain):
        recorded = list(recorder.everything())
        num_bytes += sum(len(data) for data in recorded)
        for data in recorded:
            folded = data.lower()
            for secret in known:
                for spelt in spellings(secret):
                    assert spelt not in data, secret
                    assert spelt.lower() not in folded, secret
    assert num_bytes > 100_000  # it did record what passed
    # The frames were read, too: what the Network may know, and the recorder finds, is that a way was asked for and
    # opened.
    by_caller = b"".join(net.seen_by_caller.everything())
    assert b"GET /relay/hospital-a HTTP/1.1" in by_caller
    by_domain = b"".join(net.seen_by_domain.everything())
    assert b'"type":"open_pipe"' in by_domain
    assert b"GET /pipes/" in by_domain
    # Nor does it keep anything of it.
    for file in net.network.folder.rglob("*"):
        if file.is_file() and file.name != "log":
            content = file.read_bytes()
            assert not [secret for secret in (marker, domain.token, PASSWORD) if secret.encode() in content], file
    log = net.network.log.read_text()
    assert not [secret for secret in known if secret in log]


@pytest.mark.slow
def test_calls_outlast_a_network_and_a_domain_that_are_killed(net: Net, tmp_path: Path) -> None:
    domain = owner(net)
    process = host(domain)
    retries = RetryPolicy(base_s=0.05, max_delay_s=0.5, max_elapsed_s=60)
    transport = open_transport(net.address)
    api = Api(transport, token=domain.token, retries=retries)
    stop = threading.Event()
    num_answers = 0

    def call() -> int:
        nonlocal num_answers
        while not stop.is_set():
            assert api.get(f"/model-centric/processes/{process.id}", dict)["name"] == process.name
            num_answers += 1
        return num_answers

    def goes_on() -> None:
        before = num_answers
        eventually_blocking(
            lambda: num_answers > before + 20 or any(done.done() for done in running_calls), within_s=60
        )

    with ThreadPoolExecutor(4) as threads:
        running_calls = [threads.submit(call) for _ in range(4)]
        try:
            goes_on()
            for app in (net.network, net.domain, net.network):
                app.kill()
                app.start()
                goes_on()
        finally:
            stop.set()
        assert all(done.result(90) for done in running_calls)
    # A call in the middle of its answer is told, not left hanging, when the Domain is killed.
    device = EdgeClient(net.address, process.name)
    query = {"worker_id": device.authenticate(), "random": "1"}
    for app in (net.domain, net.network):
        with transport.send(Request("GET", "/model-centric/speed-test", query)) as response:
            chunks = response.chunks()
            next(chunks)
            app.kill()
            with pytest.raises(Unavailable) as lost:
                for _ in chunks:
                    pass
            assert lost.value.code == "connection_lost"
        app.start()
        net.wait()
    transport.close()
    device.close()


@pytest.mark.slow
def test_a_domain_that_lost_its_identity_is_not_taken_for_itself(net: Net) -> None:
    net.call("/healthz")
    net.domain.kill()
    (net.domain.folder / "pygrid-data" / "identity.pem").unlink()
    net.domain.start()
    # The Network knows it by its identity, too, and lets no stranger in under a member's name.
    eventually_blocking(lambda: "refused this domain" in net.domain.log.read_text())
    with pytest.raises(Unavailable) as offline:
        net.call("/healthz")
    assert offline.value.code == "domain_offline"


def num_open_requests(net: Net) -> float:
    """Requests that the Domain is answering, this one included."""
    metrics = httpx.get(f"http://127.0.0.1:{net.domain.port}/metrics").text
    return float(re.search(r"^pygrid_http_open_requests (\S+)$", metrics, re.MULTILINE)[1])  # type: ignore[index]


@pytest.mark.slow
def test_a_domain_that_is_stopped_answers_calls_that_wait(net: Net) -> None:
    domain = owner(net)
    process = host(domain, min_workers=2, max_workers=2)
    with ThreadPoolExecutor(1) as thread, EdgeClient(net.address, process.name, retries=NO_RETRIES) as device:
        device.authenticate()
        waiting = thread.submit(device.request_cycle, 60)
        eventually_blocking(lambda: num_open_requests(net) > 1)
        assert net.domain.stop() == 0
        assert waiting.result(20).status == "rejected"
    assert "Traceback" not in net.domain.log.read_text()


@pytest.mark.slow
def test_more_connections_than_the_usual_bound_of_open_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Started by a shell that allows 64 files, a Network and a Domain accept the 24 pipes of one address all
    the same.
    """
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))  # which the processes inherit
    try:
        net = Net(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with (
        contextlib.closing(net.seen_by_domain),
        contextlib.closing(net.seen_by_caller),
        running(net.network, net.domain),
        contextlib.ExitStack() as stack,
    ):
        for _ in range(24):
            transport = stack.enter_context(contextlib.closing(open_transport(net.address)))
            Api(transport, retries=NO_RETRIES).get("/healthz", dict)


@pytest.mark.slow
def test_a_domain_that_is_revoked_is_cut_off_at_once(net: Net) -> None:
    domain = owner(net)
    process = host(domain, min_workers=2, max_workers=2)
    network = connect_network(net.url)
    network.sign_up("owner@example.org", PASSWORD)
    with ThreadPoolExecutor(1) as thread, EdgeClient(net.address, process.name, retries=NO_RETRIES) as device:
        device.authenticate()
        waiting = thread.submit(device.request_cycle, 60)
        eventually_blocking(lambda: num_open_requests(net) > 1)
        network.revoke("hospital-a")
        with pytest.raises(Unavailable) as cut:
            waiting.result(20)
        assert cut.value.code == "connection_lost"
    with pytest.raises(NotFound) as gone:
        net.call("/healthz")
    assert gone.value.code == "domain_not_found"
    network.close()
