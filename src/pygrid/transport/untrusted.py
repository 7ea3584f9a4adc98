"""Requests to untrusted addresses, made so that nobody can use this server to reach machines that they cannot reach.

The host of the address is resolved once, each of its IP addresses is checked, and the connection goes to one of these.
So a name that resolves to another address a moment later changes nothing. Redirects are not followed, proxies of the
environment are not used, and time and size are bounded.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import httpcore
import msgspec

from pygrid import codes
from pygrid.errors import InvalidInput, PayloadTooLarge, TooSlow, Unavailable
from pygrid.transport.authorities import trusting_context

TIMEOUT_S = 3.0
MAX_BYTES = 64 * 1024
MAX_URL = 300

IpAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_LOCAL_NAT64 = ipaddress.IPv6Network("64:ff9b:1::/48")


@dataclass(frozen=True, slots=True)
class UntrustedAnswer:
    """The answer of an untrusted address; its content is arbitrary."""

    status: int
    body: bytes


@dataclass(frozen=True, slots=True)
class _Target:
    scheme: str
    host: str
    port: int
    path: str


async def fetch_untrusted(
    url: str, *, json: Any = None, allow_private: bool = False, timeout_s: float = TIMEOUT_S, max_bytes: int = MAX_BYTES
) -> UntrustedAnswer:
    """GET an untrusted address, or POST ``json`` to it.

    Args:
        allow_private: allow addresses in a private network or on this machine; link-local and multicast addresses are
            refused in any case.
        timeout_s: time limit of the whole call.
    Raises:
        InvalidInput: the address is not http(s), or not allowed (``address_refused``); nothing was sent.
        TooSlow: ``stranger_too_slow``. PayloadTooLarge: ``stranger_too_large``.
        Unavailable: there is no connection, no HTTP, or a redirect (``stranger_unreachable``).
    """
    target = _parse(url)
    try:
        async with asyncio.timeout(timeout_s):
            address = await _resolve(target, allow_private)
            return await _exchange(target, address, json, max_bytes)
    except TimeoutError:
        raise TooSlow(
            f"{url} did not answer within {timeout_s:g} s", code=codes.STRANGER_TOO_SLOW, limit_s=timeout_s
        ) from None
    except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, OSError) as error:
        raise _unreachable(url, str(error) or type(error).__name__) from error


async def check_untrusted_address(url: str, *, allow_private: bool = False, timeout_s: float = TIMEOUT_S) -> str:
    """The address without a trailing slash, if `fetch_untrusted` would call it now; nothing is sent.

    Raises:
        InvalidInput, TooSlow, Unavailable: as `fetch_untrusted`.
    """
    target = _parse(url)
    try:
        async with asyncio.timeout(timeout_s):
            await _resolve(target, allow_private)
    except TimeoutError:
        raise TooSlow(
            f"the name in {url} was not resolved within {timeout_s:g} s", code=codes.STRANGER_TOO_SLOW
        ) from None
    except OSError as error:
        raise _unreachable(url, str(error)) from error
    return url.rstrip("/")


def find_fault(address: IpAddress, allow_private: bool) -> str | None:
    """Why this IP address is not allowed; None: it is allowed."""
    if isinstance(address, ipaddress.IPv6Address):
        # Packets to these forms go to the embedded IPv4 address.
        for inside in _embedded(address):
            if fault := find_fault(inside, allow_private):
                return fault
        if address.ipv4_mapped is not None or address in _NAT64:
            return None
    if address.is_multicast:
        return "multicast"
    if address.is_link_local or (isinstance(address, ipaddress.IPv6Address) and address.is_site_local):
        return "link-local"
    if address.is_loopback:
        return None if allow_private else "on this machine"
    if address.is_unspecified:
        return "unspecified"
    if address.is_global and not address.is_reserved:
        return None
    if address.is_private and not address.is_reserved:
        return None if allow_private else "in a private network"
    return "reserved"


def _embedded(address: ipaddress.IPv6Address) -> Iterable[ipaddress.IPv4Address]:
    if address.ipv4_mapped is not None:
        yield address.ipv4_mapped
    if address.sixtofour is not None:
        yield address.sixtofour
    if address.teredo is not None:
        yield from address.teredo
    if address in _NAT64 or address in _LOCAL_NAT64:
        yield ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)


def _parse(url: str) -> _Target:
    if len(url) > MAX_URL or not url.isascii() or not url.isprintable() or any(c in url for c in ' \\"<>^`{|}'):
        raise _refused(url, f"an address has at most {MAX_URL} plain characters")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise _refused(url, str(error)) from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise _refused(url, "it must begin with http:// or https:// and name a host")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise _refused(url, "it has no user name, password or fragment")
    if port == 0:
        raise _refused(url, "port 0 is not valid")
    path = parts.path or "/"
    return _Target(
        parts.scheme,
        parts.hostname,
        port or {"http": 80, "https": 443}[parts.scheme],
        f"{path}?{parts.query}" if parts.query else path,
    )


async def _resolve(target: _Target, allow_private: bool) -> str:
    """One of the IP addresses of the host, after a check of all."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except UnicodeError:
        raise _refused(target.host, "its host is not a valid name") from None
    addresses = [str(entry[4][0]) for entry in found]
    for text in addresses:
        # Without the zone of a link-local address.
        fault = find_fault(ipaddress.ip_address(text.partition("%")[0]), allow_private)
        if fault is not None:
            raise _refused(target.host, f"it leads to {text}, which is {fault}")
    if not addresses:
        raise OSError(f"{target.host} has no address")
    return addresses[0]


class _PinnedBackend(httpcore.AsyncNetworkBackend):
    """Connects to the checked IP address, independent of what the name resolves to now."""

    def __init__(self, address: str) -> None:
        self._inner = httpcore.AnyIOBackend()
        self._address = address

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the interface of httpcore
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        return await self._inner.connect_tcp(self._address, port, timeout, local_address, socket_options)

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)


async def _exchange(target: _Target, address: str, json: Any, max_bytes: int) -> UntrustedAnswer:
    host = f"[{target.host}]" if ":" in target.host else target.host
    headers = {
        "Host": f"{host}:{target.port}",
        "User-Agent": "pygrid",
        "Accept-Encoding": "identity",
        "Connection": "close",
    }
    content = None
    if json is not None:
        content = msgspec.json.encode(json)
        headers |= {"Content-Type": "application/json", "Content-Length": str(len(content))}
    request = httpcore.Request(
        "GET" if json is None else "POST",
        httpcore.URL(
            scheme=target.scheme.encode(), host=target.host.encode(), port=target.port, target=target.path.encode()
        ),
        headers=list(headers.items()),
        content=content,
    )
    async with httpcore.AsyncConnectionPool(
        ssl_context=trusting_context() if target.scheme == "https" else None,
        network_backend=_PinnedBackend(address),
        max_connections=1,
    ) as pool:
        answer = await pool.handle_async_request(request)
        try:
            if 300 <= answer.status < 400:
                raise _unreachable(target.host, "it answers with a redirect")
            if any(
                name.lower() == b"content-encoding" and value.lower() != b"identity" for name, value in answer.headers
            ):
                raise _unreachable(target.host, "its answer is compressed, which was not asked for")
            body = bytearray()
            async for chunk in answer.aiter_stream():
                body += chunk
                if len(body) > max_bytes:
                    raise PayloadTooLarge(
                        f"{target.host} answers with more than {max_bytes:,} bytes",
                        code=codes.STRANGER_TOO_LARGE,
                        max_bytes=max_bytes,
                    )
            return UntrustedAnswer(answer.status, bytes(body))
        finally:
            await answer.aclose()


def _refused(url: str, why: str) -> InvalidInput:
    return InvalidInput(f"the address {url[:MAX_URL]!r} is refused: {why}", code=codes.ADDRESS_REFUSED, why=why)


def _unreachable(url: str, why: str) -> Unavailable:
    return Unavailable(f"{url[:MAX_URL]} can't be reached: {why}", code=codes.STRANGER_UNREACHABLE)
