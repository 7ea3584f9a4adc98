"""A Domain that is told to stop while clients send requests as fast as they can.

Should happen: each request that was sent while the Domain listened gets an answer.
Should not: a reset connection, or one that ends without an answer.
"""

from __future__ import annotations

import signal
import socket
import threading
from pathlib import Path

import httpx
import pytest
from test_start import started

from support.eventually import eventually_blocking

REQUEST = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


class Hammer(threading.Thread):
    """Sends requests, each on a new connection or on a kept one, until it is refused a connection."""

    def __init__(self, port: int, *, keeps: bool) -> None:
        super().__init__()
        self._port, self._keeps = port, keeps
        self.num_answers = 0
        self.num_last_answers = 0
        self.trouble = ""

    def run(self) -> None:
        try:
            while True:
                try:
                    connection = socket.create_connection(("127.0.0.1", self._port), timeout=180)
                except ConnectionRefusedError:
                    return
                with connection:
                    while self._ask(connection) and self._keeps:
                        pass
        except OSError as error:
            self.trouble = repr(error)

    def _ask(self, connection: socket.socket) -> bool:
        """Whether the connection stays open after the answer."""
        connection.sendall(REQUEST)
        answer = b""
        while not answer.endswith(b'{"status":"ok"}'):
            piece = connection.recv(4096)
            if not piece:
                raise ConnectionError(f"no answer but {answer!r}")
            answer += piece
        assert answer.startswith(b"HTTP/1.1 200 ")
        self.num_answers += 1
        is_last = b"connection: close" in answer.lower()
        self.num_last_answers += is_last
        return not is_last


@pytest.mark.slow
def test_requests_that_were_sent_before_the_stop_are_answered(tmp_path: Path) -> None:
    with started(tmp_path) as domain:
        port = int(domain.wait_ready().rpartition(":")[2])
        hammers = [Hammer(port, keeps=bool(number % 2)) for number in range(16)]
        for hammer in hammers:
            hammer.start()
        eventually_blocking(lambda: all(hammer.num_answers > 20 for hammer in hammers), within_s=180)
        # Stopped for a moment, so that connections and requests pile up in the kernel.
        domain.process.send_signal(signal.SIGSTOP)
        late = [socket.create_connection(("127.0.0.1", port), timeout=180) for _ in range(20)]
        for connection in late:
            connection.sendall(REQUEST)
        domain.process.send_signal(signal.SIGTERM)
        domain.process.send_signal(signal.SIGCONT)
        for connection in late:
            with connection:
                answer = b""
                while piece := connection.recv(4096):
                    answer += piece
                assert answer.startswith(b"HTTP/1.1 200 ")
                assert b"connection: close" in answer.lower()
        for hammer in hammers:
            hammer.join(180)
        assert [hammer.trouble for hammer in hammers if hammer.trouble] == []
        assert domain.process.wait(180) == 0


@pytest.mark.slow
def test_a_domain_that_drains_is_not_ready_and_still_serves(tmp_path: Path) -> None:
    with started(tmp_path, env={"PYGRID_DRAIN_S": "600"}) as domain:
        address = domain.wait_ready()
        assert httpx.get(f"{address}/readyz").status_code == 200
        domain.process.send_signal(signal.SIGTERM)
        eventually_blocking(lambda: httpx.get(f"{address}/readyz").status_code == 503)
        assert httpx.get(f"{address}/readyz").json()["code"] == "shutting_down"
        assert httpx.get(f"{address}/readyz", headers={"pygrid-draining": "404"}).status_code == 404
        assert httpx.get(f"{address}/healthz").status_code == 200, "it still serves"
        domain.process.send_signal(signal.SIGTERM)
        assert domain.process.wait(120) == 0, "a second signal ends it at once"
