"""HTTP/1.1 with a pool of connections.

It uses httpcore, the engine below httpx: httpx also imports a command line, which costs 100 ms and 8 MB on a device.
"""

from __future__ import annotations

import contextlib
import re
import ssl
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urlencode, urlsplit

import httpcore

from pygrid.transport.address import check_url
from pygrid.transport.authorities import CaFile, trusting_context
from pygrid.transport.base import MIN_BYTES_PER_S, SLOW_S, Request, Response, connection_failed, connection_lost
from pygrid.transport.dialer import Dialer, HeadClock
from pygrid.transport.proxies import find_proxy, without_credentials

CONNECT_TIMEOUT_S = 10.0
WRITE_TIMEOUT_S = 60.0
MAX_CONNECTIONS = 20
KEEP_ALIVE_S = 30.0


@dataclass(frozen=True, kw_only=True)
class PoolTarget:
    """The server of a pool of connections."""

    url: str
    """Address of the server, for messages."""
    origin: str
    """Scheme, host and port that the pool connects to."""
    host: str
    """Value of the header ``Host``."""
    base_path: str = ""
    """Prefix of each path."""
    proxy: str = ""
    """Address of the proxy of the pool, for messages; empty: there is none."""


class PooledTransport:
    """A `Transport` over a pool of HTTP connections. It follows no redirects: a token must not reach another host.

    Args:
        pool: closed with the transport.
        head: counts the bytes that the connections of the pool read.
    """

    def __init__(self, target: PoolTarget, pool: httpcore.ConnectionPool, head: HeadClock) -> None:
        self._target = target
        self._url = target.url
        self._pool = pool
        self._head = head
        # The queue of the pool assigns connections wrongly if more threads wait than there are connections.
        self._slots = threading.BoundedSemaphore(MAX_CONNECTIONS)
        # In a notebook, nothing calls `close`.
        weakref.finalize(self, self._pool.close)

    @property
    def url(self) -> str:
        return self._url

    def send(self, request: Request) -> Response:
        query = f"?{urlencode(request.query)}" if request.query else ""
        headers = {"Host": self._target.host, "User-Agent": "pygrid", "Accept-Encoding": "identity", **request.headers}
        if request.body is not None:
            headers["Content-Length"] = str(request.body.num_bytes)
        timeout = {
            "connect": CONNECT_TIMEOUT_S,
            "pool": CONNECT_TIMEOUT_S,
            "write": WRITE_TIMEOUT_S,
            "read": request.timeout_s,
        }
        outgoing = httpcore.Request(
            request.method,
            f"{self._target.origin}{self._target.base_path}{request.path}{query}",
            headers=list(headers.items()),
            content=None if request.body is None else iter(request.body),  # type: ignore[arg-type]  # memoryviews do
            extensions={"timeout": timeout},
        )
        if not self._slots.acquire(timeout=CONNECT_TIMEOUT_S):
            raise connection_failed(self._url, f"all {MAX_CONNECTIONS} connections are busy")
        try:
            return self._exchange(outgoing, _Once(self._slots.release), request.is_stream)
        except BaseException:
            self._slots.release()
            raise

    def _exchange(self, outgoing: httpcore.Request, release: _Once, is_stream: bool) -> Response:
        try:
            with self._head.reading():
                answer = self._pool.handle_request(outgoing)
        except (httpcore.ConnectError, httpcore.ConnectTimeout, httpcore.PoolTimeout, httpcore.ProxyError) as error:
            is_trusted = "CERTIFICATE_VERIFY_FAILED" not in str(error)
            raise connection_failed(
                self._url, explain(error), proxy=self._target.proxy, is_trusted=is_trusted
            ) from error
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
            raise connection_lost(self._url, explain(error)) from error
        arrived = {name.decode("latin-1"): value.decode("latin-1") for name, value in answer.headers}

        def close() -> None:
            try:
                answer.close()
            finally:
                release()

        chunks = self._chunks(answer)
        return Response(answer.status, arrived, chunks if is_stream else self._require_rate(chunks), close)

    def _require_rate(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """The same pieces, as long as their average rate is high enough; see `MIN_BYTES_PER_S`."""
        waited_s, num_bytes = 0.0, 0
        while True:
            began = time.monotonic()
            chunk = next(chunks, None)
            if chunk is None:
                return
            waited_s += time.monotonic() - began
            num_bytes += len(chunk)
            if waited_s > SLOW_S and num_bytes < waited_s * MIN_BYTES_PER_S:
                raise connection_lost(self._url, f"its answer comes at less than {MIN_BYTES_PER_S} bytes per second")
            yield chunk

    def _chunks(self, answer: httpcore.Response) -> Iterator[bytes]:
        try:
            yield from answer.iter_stream()
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
            raise connection_lost(self._url, explain(error)) from error

    def close(self) -> None:
        self._pool.close()


class _Once:
    """Calls a function at its own first call, in any thread, and never again."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._todo = [work]

    def __call__(self) -> None:
        with contextlib.suppress(IndexError):
            self._todo.pop()()


class HttpTransport(PooledTransport):
    """A `Transport` over HTTP to the address where the server listens. `close` cuts the requests of other threads.

    The environment can name a proxy (``HTTP_PROXY``, ``HTTPS_PROXY``, ``ALL_PROXY``, ``NO_PROXY``).

    Args:
        ca_file: PEM file of an authority to trust in addition to the public ones; None: that of ``PYGRID_CA_FILE``.
    Raises:
        InvalidInput: ``invalid_url``, ``ca_file_invalid``, ``proxy_unsupported``.
    """

    def __init__(self, url: str, *, ca_file: CaFile = None, dialer: Dialer | None = None) -> None:
        checked = check_url(url)
        parts = urlsplit(checked)
        origin = f"{parts.scheme}://{parts.netloc}"
        self._dialer = dialer or Dialer()
        proxy = None if self._dialer.is_guarded else find_proxy(checked)
        target = PoolTarget(
            url=checked,
            origin=origin,
            host=parts.netloc,
            base_path=parts.path,
            proxy=without_credentials(proxy) if proxy else "",
        )
        super().__init__(target, make_pool(parts, ca_file, self._dialer), self._dialer.head)

    def close(self) -> None:
        self._dialer.cut()
        super().close()


def make_pool(parts: SplitResult, ca_file: CaFile, dialer: Dialer) -> httpcore.ConnectionPool:
    """Connections to the host of an address, through the proxy of the environment.

    A dialer that refuses some addresses gets no proxy, because it would check the address of the proxy instead.
    """
    # A context of authorities costs 30 ms and a few MB on a device, and plain HTTP does not use it.
    is_plain = parts.scheme == "http"
    return httpcore.ConnectionPool(
        ssl_context=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if is_plain else trusting_context(ca_file),
        proxy=None if dialer.is_guarded else _make_proxy(parts),
        network_backend=dialer,
        max_connections=MAX_CONNECTIONS,
        max_keepalive_connections=MAX_CONNECTIONS,
        keepalive_expiry=KEEP_ALIVE_S,
    )


def _make_proxy(parts: SplitResult) -> httpcore.Proxy | None:
    """The proxy for an address, with its credentials. Raises InvalidInput: as `find_proxy`."""
    found = find_proxy(parts.geturl())
    if found is None:
        return None
    there = urlsplit(found)
    auth = (unquote(there.username), unquote(there.password or "")) if there.username else None
    return httpcore.Proxy(without_credentials(found), auth=auth)


_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (httpcore.ConnectTimeout, f"no answer within {CONNECT_TIMEOUT_S:.0f} s"),
    (httpcore.PoolTimeout, f"all {MAX_CONNECTIONS} connections are busy"),
    (httpcore.ReadTimeout, "the server was silent for too long"),
    (httpcore.WriteTimeout, f"the server took no data for {WRITE_TIMEOUT_S:.0f} s"),
)


def explain(error: Exception) -> str:
    """Why a connection could not be opened or was lost, in words."""
    for kind, words in _REASONS:
        if isinstance(error, kind):
            return words
    return re.sub(r"^\[Errno -?\d+\] ", "", str(error)) or type(error).__name__
