"""Requests, answers, and their bytes as streams: what a transport carries."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

from pygrid import codes
from pygrid.errors import PygridError, Unavailable

CHUNK_BYTES = 256 * 1024
"""Size of the pieces of a sent body: large enough for few calls, small enough to copy quickly."""

MIN_BYTES_PER_S = 256
"""Smallest average rate of an answer's body after `SLOW_S` seconds of waiting.

A slower connection counts as lost.
"""
SLOW_S = 60.0

CONNECT_FAILED = "connection_failed"
"""Code of the error if no connection could be opened: the server has seen nothing of the request."""
CONNECTION_LOST = "connection_lost"
"""Code of the error if the connection ended, or was silent for too long, before the answer was complete."""


class Closing:
    """What `with` closes at its end."""

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Body(Protocol):
    """The bytes of a request, in pieces, of a known length. A retry iterates again and gets the same bytes."""

    @property
    def num_bytes(self) -> int: ...

    def __iter__(self) -> Iterator[bytes | memoryview]: ...


class BytesBody:
    """Bytes in memory as a body; iteration does not copy them."""

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self._view = memoryview(data).cast("B")

    @property
    def num_bytes(self) -> int:
        return len(self._view)

    def __iter__(self) -> Iterator[memoryview]:
        return slices(self._view)


def slices(view: memoryview) -> Iterator[memoryview]:
    """The view in pieces of `CHUNK_BYTES`, without copying."""
    for begin in range(0, len(view), CHUNK_BYTES):
        yield view[begin : begin + CHUNK_BYTES]


@dataclass(frozen=True)
class Request:
    """One request. ``path`` begins with a slash and is relative to the transport's address."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Body | None = None
    timeout_s: float = 60.0
    """Longest silence of the server: before its answer, and between two pieces of it."""
    is_stream: bool = False
    """The answer is a stream of events, which may come as slowly as they happen."""


class Response(Closing):
    """An answer whose head has arrived; its body is read as it arrives. Close it, or use a ``with`` statement."""

    def __init__(
        self, status: int, headers: Mapping[str, str], chunks: Iterable[bytes], close: Callable[[], None]
    ) -> None:
        self.status = status
        self.headers = {name.lower(): value for name, value in headers.items()}
        self._chunks = iter(chunks)
        self._close = close

    def chunks(self) -> Iterator[bytes]:
        """The body in pieces, as they arrive. It can be iterated once.

        Raises:
            Unavailable: the connection ended before the body was complete (``connection_lost``).
        """
        return self._chunks

    def read(self, max_bytes: int) -> bytes:
        """The whole body.

        Raises:
            Unavailable: as `chunks`.
            PygridError: the body is longer than ``max_bytes`` (``answer_too_large``).
        """
        return bytes(self.collect(max_bytes))

    def collect(self, max_bytes: int) -> bytearray:
        """The whole body, as `read`, but without a copy at the end."""
        data = bytearray()
        for chunk in self._chunks:
            if len(data) + len(chunk) > max_bytes:
                raise PygridError(f"the answer is longer than {max_bytes:,} bytes", code=codes.ANSWER_TOO_LARGE)
            data += chunk
        return data

    def close(self) -> None:
        """Release the connection; it is reused if the body was read to its end."""
        self._close()


class Transport(Protocol):
    """Sends one request to a server and returns its answer. Several threads can use it at once."""

    @property
    def url(self) -> str:
        """The server's address without credentials, for messages."""
        ...

    def send(self, request: Request) -> Response:
        """Send the request, and return the answer of any status as soon as its head has arrived.

        The server can refuse before the whole body was sent; that answer is returned if it can still be read.

        Raises:
            Unavailable: ``connection_failed`` if nothing was sent, ``connection_lost`` if the server may have seen the
                request.
        """
        ...

    def close(self) -> None:
        """Close all connections."""
        ...


def connection_failed(url: str, reason: str, *, proxy: str = "", is_trusted: bool = True) -> Unavailable:
    """The error of a connection that could not be opened.

    Args:
        proxy: address of the proxy of the connection, without credentials; it, or the server behind it, is at fault.
        is_trusted: False: the certificate of the server is the reason.
    """
    detail = f"no connection to {url}: {reason}. Is the Domain running there, and is the address right?"
    if proxy:
        detail = (
            f"no connection to {url} through the proxy {proxy} of HTTP_PROXY, HTTPS_PROXY or ALL_PROXY: {reason}. "
            "Is the proxy running there? If the host needs no proxy, name it in NO_PROXY"
        )
    if not is_trusted:
        detail = (
            f"no connection to {url}: {reason}. If its certificate is signed by an authority of your own, name a "
            "PEM file with the certificate of that authority: --ca-file, PYGRID_CA_FILE or SSL_CERT_FILE"
        )
    elif "WRONG_VERSION_NUMBER" in reason:
        detail = f"no connection to {url}: the server there does not answer with TLS. Try http:// instead of https://"
    return Unavailable(detail, code=CONNECT_FAILED, url=url)


def connection_lost(url: str, reason: str) -> Unavailable:
    detail = f"the connection to {url} was lost before the answer was complete: {reason}"
    return Unavailable(detail, code=CONNECTION_LOST, url=url)
