"""TCP connections that can be cut from another thread, and that are made only where they may be."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import ssl
import threading
import weakref
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import httpcore

from pygrid import codes
from pygrid.errors import InvalidInput

IpAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
FindFault = Callable[[IpAddress], str | None]
"""Why an IP address must not be called, in words; None: it may."""


class Dialer(httpcore.SyncBackend):
    """Opens the connections of one transport.

    Args:
        find_fault: asked of every IP address that a host stands for, and the connection is made to one of those, so
            that a name which leads elsewhere a moment later changes nothing; None: any address will do.
    """

    def __init__(self, find_fault: FindFault | None = None) -> None:
        self._find_fault = find_fault
        self._streams: weakref.WeakSet[_CuttableStream] = weakref.WeakSet()
        self._is_closed = False
        self._lock = threading.Lock()

    @property
    def is_guarded(self) -> bool:
        """Whether not every address will do."""
        return self._find_fault is not None

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Raises InvalidInput: ``address_refused``. httpcore.ConnectError, ConnectTimeout."""
        self._check_open()
        where = host if self._find_fault is None else _checked(host, port, self._find_fault)
        inner = super().connect_tcp(where, port, timeout, local_address, socket_options)
        try:
            with self._lock:
                self._check_open()
                return _CuttableStream(inner, self._streams)
        except httpcore.ConnectError:
            inner.close()
            raise

    def _check_open(self) -> None:
        if self._is_closed:
            raise httpcore.ConnectError("the transport was closed")

    def cut(self) -> None:
        """End every connection, also those that are being made, and make no more.

        Threads that read from a connection or write to it get an error of a lost connection.
        """
        with self._lock:
            self._is_closed = True
            streams = list(self._streams)
        for stream in streams:
            stream.cut()


class _CuttableStream(httpcore.NetworkStream):
    def __init__(self, inner: httpcore.NetworkStream, streams: weakref.WeakSet[_CuttableStream]) -> None:
        self._inner = inner
        self._streams = streams
        self._is_used = False
        """Something was written and nothing of the answer read, or somebody is reading."""
        streams.add(self)

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        self._is_used = True
        try:
            return self._inner.read(max_bytes, timeout)
        finally:
            self._is_used = False

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._is_used = True
        self._inner.write(buffer, timeout)

    def close(self) -> None:
        self._streams.discard(self)
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        self._streams.discard(self)
        return _CuttableStream(self._inner.start_tls(ssl_context, server_hostname, timeout), self._streams)

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable" and self._is_used:
            # A pool takes an idle connection that brings something for a dead one. Between its looking whether one is
            # idle and asking here, another thread may have sent a request on it, and this would be the answer.
            return False
        return self._inner.get_extra_info(info)

    def cut(self) -> None:
        """Closing a socket wakes nobody who waits for it; shutting the connection down does."""
        connection = self._inner.get_extra_info("socket")
        with contextlib.suppress(OSError):  # it has ended by itself
            socket.socket.shutdown(connection, socket.SHUT_RDWR)


def _checked(host: str, port: int, find_fault: FindFault) -> str:
    """One of the IP addresses of a host, all of which were found good."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise httpcore.ConnectError(str(error)) from error
    addresses = [str(entry[4][0]) for entry in found]
    for text in addresses:
        # The zone of a link-local address is no part of it.
        fault = find_fault(ipaddress.ip_address(text.partition("%")[0]))
        if fault is not None:
            raise InvalidInput(f"{host} leads to {text}, which is {fault}", code=codes.ADDRESS_REFUSED)
    if not addresses:
        raise httpcore.ConnectError(f"{host} has no address")
    return addresses[0]
