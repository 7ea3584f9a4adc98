"""A small HTTP proxy on loopback, as a machine may have to go through: CONNECT, and plain http with whatever
follows it.
"""

from __future__ import annotations

import base64
import contextlib
import http.server
import socket
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


class ForwardProxy:
    """`running_proxy` gives one.

    Args:
        credentials: ``USER:PASSWORD`` that it asks for.
        refuses: whether it answers each request with 403.
    """

    def __init__(self, credentials: str | None, *, refuses: bool) -> None:
        self.asked: list[tuple[str, str]] = []
        """Method and ``HOST:PORT`` of each request."""
        self._refuses = refuses
        self._wanted = None if credentials is None else "Basic " + base64.b64encode(credentials.encode()).decode()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._ends: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._listening.getsockname()[1]}"

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads[1:]:
            thread.join()
        for end in (*self._ends, self._listening):
            end.close()

    def _accept(self) -> None:
        while True:
            try:
                ours = self._listening.accept()[0]
            except OSError:
                return
            self._ends.append(ours)
            self._start(self._serve, ours)

    def _start(self, work: object, *arguments: socket.socket) -> None:
        assert callable(work)
        thread = threading.Thread(target=work, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _serve(self, ours: socket.socket) -> None:
        with contextlib.suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                data = ours.recv(65536)
                if not data:
                    return
                head += data
            head, _, rest = head.partition(b"\r\n\r\n")
            line, *fields = head.decode("latin-1").split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
            method, target, _ = line.split(" ")
            where = urlsplit(f"//{target}" if method == "CONNECT" else target)
            self.asked.append((method, where.netloc))
            if self._refuses or (self._wanted is not None and headers.get("proxy-authorization") != self._wanted):
                status = "403 Forbidden" if self._refuses else "407 Proxy Authentication Required"
                ours.sendall(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
                ours.shutdown(socket.SHUT_WR)
                return
            assert where.hostname is not None
            assert where.port is not None
            theirs = socket.create_connection((where.hostname, where.port))
            self._ends.append(theirs)
            if method == "CONNECT":
                ours.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                theirs.sendall(rest)
            else:
                path = where.path + (f"?{where.query}" if where.query else "")
                passed = [
                    f"{method} {path} HTTP/1.1",
                    *(field for field in fields if not field.lower().startswith("proxy-")),
                ]
                theirs.sendall("\r\n".join(passed).encode("latin-1") + b"\r\n\r\n" + rest)
            self._start(self._copy, theirs, ours)
            self._copy(ours, theirs)

    @staticmethod
    def _copy(source: socket.socket, into: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                into.sendall(data)
            into.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def running_proxy(credentials: str | None = None, *, refuses: bool = False) -> Iterator[ForwardProxy]:
    """A proxy that is not in the environment yet."""
    proxy = ForwardProxy(credentials, refuses=refuses)
    try:
        yield proxy
    finally:
        proxy.close()


@contextlib.contextmanager
def running_redirect(location: str) -> Iterator[tuple[str, list[str]]]:
    """A server that leads everybody on, but for ``/inside`` at itself; gives its ``HOST:PORT`` and the paths it was
    asked for.

    Args:
        location: may have ``{}`` for the ``HOST:PORT``.
    """
    asked: list[str] = []

    class Door(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(404 if self.path == "/inside" else 307)
            self.send_header("Location", location.format(f"127.0.0.1:{self.server.server_address[1]}"))
            self.send_header("Content-Length", "0")
            self.send_header("Connection", "close")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Door) as door:
        thread = threading.Thread(target=door.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{door.server_address[1]}", asked
        finally:
            door.shutdown()
            thread.join()
