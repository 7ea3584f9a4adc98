"""TCP connections that another thread can cut, and that go to allowed addresses only."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

import httpcore

from pygrid import codes
from pygrid.errors import InvalidInput
from pygrid.transport.base import MIN_BYTES_PER_S, SLOW_S

IpAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
FindFault = Callable[[IpAddress], str | None]
"""Returns why an IP address is not allowed, in words; None: it is allowed."""


class HeadClock(threading.local):
    """Bounds the time of an answer's head in each thread: the server may be silent first, but not send byte by byte.

    Args:
        slow_s: seconds from the first byte after which the rate must be at least `MIN_BYTES_PER_S`.
    """

    def __init__(self, slow_s: float = SLOW_S) -> None:
        self._slow_s = slow_s
        self._is_reading = False
        self.reset()

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Count in this block, which sends a request and reads the head of its answer."""
        self.reset()
        self._is_reading = True
        try:
            yield
        finally:
            self._is_reading = False

    def reset(self) -> None:
        """Start again with the next byte: something was sent, which the server answers when it is ready."""
        self._began: float | None = None
        self._num_bytes = 0

    def count(self, num_bytes: int) -> None:
        """Count bytes that arrived. Raises httpcore.ReadError: the head is too slow."""
        if not self._is_reading:
            return
        now = time.monotonic()
        self._began = now if self._began is None else self._began
        self._num_bytes += num_bytes
        waited_s = now - self._began
        if waited_s > self._slow_s and self._num_bytes < waited_s * MIN_BYTES_PER_S:
            raise httpcore.ReadError(f"its answer comes at less than {MIN_BYTES_PER_S} bytes per second")


class Dialer(httpcore.SyncBackend):
    """Opens the connections of one transport.

    Args:
        find_fault: called with each IP address of a host. The connection goes to one of these addresses, so a name
            that resolves to another address a moment later changes nothing. None: any address is allowed.
        head: counts the bytes that the connections read.
    """

    def __init__(self, find_fault: FindFault | None = None, head: HeadClock | None = None) -> None:
        self._find_fault = find_fault
        self.head = head or HeadClock()
        self._streams: weakref.WeakSet[_CuttableStream] = weakref.WeakSet()
        self._is_closed = False
        self._lock = threading.Lock()

    @property
    def is_guarded(self) -> bool:
        """Whether some addresses are refused."""
        return self._find_fault is not None

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """A connection to the host.

        Raises:
            InvalidInput: an address of the host is not allowed (``address_refused``).
            httpcore.ConnectError, ConnectTimeout: there is no connection.
        """
        self._check_open()
        where = host if self._find_fault is None else _checked(host, port, self._find_fault)
        inner = super().connect_tcp(where, port, timeout, local_address, socket_options)
        try:
            with self._lock:
                self._check_open()
                return _CuttableStream(inner, self._streams, self.head)
        except httpcore.ConnectError:
            inner.close()
            raise

    def _check_open(self) -> None:
        if self._is_closed:
            raise httpcore.ConnectError("the transport was closed")

    def cut(self) -> None:
        """End all connections, including those that are being made, and refuse new ones.

        Threads that read from a connection or write to it get the error of a lost connection.
        """
        with self._lock:
            self._is_closed = True
            streams = list(self._streams)
        for stream in streams:
            stream.cut()


class _CuttableStream(httpcore.NetworkStream):
    def __init__(
        self, inner: httpcore.NetworkStream, streams: weakref.WeakSet[_CuttableStream], head: HeadClock
    ) -> None:
        self._inner = inner
        self._streams = streams
        self._head = head
        self._is_used = False
        """Something was written and nothing of the answer read, or a thread is reading."""
        streams.add(self)

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        self._is_used = True
        try:
            data = self._inner.read(max_bytes, timeout)
        finally:
            self._is_used = False
        self._head.count(len(data))
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._is_used = True
        self._head.reset()
        self._inner.write(buffer, timeout)

    def close(self) -> None:
        self._streams.discard(self)
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        self._streams.discard(self)
        inner = self._inner.start_tls(ssl_context, server_hostname, timeout)
        return _CuttableStream(inner, self._streams, self._head)

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable" and self._is_used:
            # A pool counts an idle connection with unread data as dead. Between its check for idleness and this call,
            # another thread may have sent a request, and the data would be the answer to that.
            return False
        return self._inner.get_extra_info(info)

    def cut(self) -> None:
        """Shut the connection down; unlike closing the socket, this wakes the threads that wait for it."""
        connection = self._inner.get_extra_info("socket")
        with contextlib.suppress(OSError):  # it has already ended
            socket.socket.shutdown(connection, socket.SHUT_RDWR)


def _checked(host: str, port: int, find_fault: FindFault) -> str:
    """One of the IP addresses of a host, after a check of all."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise httpcore.ConnectError(str(error)) from error
    addresses = [str(entry[4][0]) for entry in found]
    for text in addresses:
        # Without the zone of a link-local address.
        fault = find_fault(ipaddress.ip_address(text.partition("%")[0]))
        if fault is not None:
            raise InvalidInput(f"{host} leads to {text}, which is {fault}", code=codes.ADDRESS_REFUSED)
    if not addresses:
        raise httpcore.ConnectError(f"{host} has no address")
    return addresses[0]
