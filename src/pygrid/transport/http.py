"""HTTP/1.1 with a pool of connections.

On httpcore, the engine below httpx: httpx itself imports a command line with it, 100 ms and 8 MB that a device can do without.
"""

from __future__ import annotations

import os
import re
import ssl
import weakref
from collections.abc import Iterator
from urllib.parse import SplitResult, urlencode, urlsplit

import httpcore

from pygrid.errors import InvalidInput
from pygrid.transport.base import Request, Response, connection_failed, connection_lost

CONNECT_TIMEOUT_S = 10.0
WRITE_TIMEOUT_S = 60.0
_MAX_CONNECTIONS = 20
_KEEP_ALIVE_S = 30.0


def check_url(url: str) -> str:
    """The address of a Domain without a trailing slash.

    Raises:
        InvalidInput: not ``http(s)://HOST[:PORT][/PATH]``; user names, passwords, queries and fragments are refused.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidInput(f"{url!r} is not the address of a Domain; write it like http://127.0.0.1:5000", code="invalid_url")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise InvalidInput(
            f"the address of a Domain is scheme, host and port only, e.g. {parts.scheme}://{parts.hostname}:5000; pass "
            "credentials as a token",
            code="invalid_url",
        )
    return url.rstrip("/")


class HttpTransport:
    """A `Transport` over HTTP. Redirects are not followed: a token must not wander to another host.

    A proxy is taken from the environment (``HTTP_PROXY``, ``HTTPS_PROXY``, ``ALL_PROXY``, ``NO_PROXY``).

    ``ssl_context``: for a Domain whose certificate is not signed by a public authority.
    """

    def __init__(self, url: str, *, ssl_context: ssl.SSLContext | None = None) -> None:
        self._url = check_url(url)
        parts = urlsplit(self._url)
        self._base_path = parts.path
        self._origin = f"{parts.scheme}://{parts.netloc}"
        self._host = parts.netloc
        self._pool = _pool(parts, ssl_context)
        # In a notebook nobody closes anything.
        weakref.finalize(self, self._pool.close)

    @property
    def url(self) -> str:
        return self._url

    def send(self, request: Request) -> Response:
        query = f"?{urlencode(request.query)}" if request.query else ""
        headers = {"Host": self._host, "User-Agent": "pygrid", "Accept-Encoding": "identity", **request.headers}
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
            f"{self._origin}{self._base_path}{request.path}{query}",
            headers=list(headers.items()),
            content=iter(request.body) if request.body is not None else None,  # type: ignore[arg-type]  # memoryviews do
            extensions={"timeout": timeout},
        )
        try:
            answer = self._pool.handle_request(outgoing)
        except (httpcore.ConnectError, httpcore.ConnectTimeout, httpcore.PoolTimeout, httpcore.ProxyError) as error:
            raise connection_failed(self._url, _reason(error)) from error
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
            raise connection_lost(self._url, _reason(error)) from error
        arrived = {name.decode("latin-1"): value.decode("latin-1") for name, value in answer.headers}
        return Response(answer.status, arrived, self._chunks(answer), answer.close)

    def _chunks(self, answer: httpcore.Response) -> Iterator[bytes]:
        try:
            yield from answer.iter_stream()
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
            raise connection_lost(self._url, _reason(error)) from error

    def close(self) -> None:
        self._pool.close()


def _pool(parts: SplitResult, ssl_context: ssl.SSLContext | None) -> httpcore.ConnectionPool:
    if ssl_context is None and parts.scheme == "http":
        # Never used, but httpcore would load all public authorities at once: 30 ms and a few MB on a device.
        ssl_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return httpcore.ConnectionPool(
        ssl_context=ssl_context or httpcore.default_ssl_context(),
        proxy=_find_proxy(parts),
        max_connections=_MAX_CONNECTIONS,
        max_keepalive_connections=_MAX_CONNECTIONS,
        keepalive_expiry=_KEEP_ALIVE_S,
    )


def _find_proxy(parts: SplitResult) -> httpcore.Proxy | None:
    """The proxy that the environment names for this address.

    Raises:
        InvalidInput: it is not an HTTP proxy.
    """
    if not any(name.lower().endswith("_proxy") for name in os.environ):
        return None
    from urllib.request import getproxies, proxy_bypass  # 15 ms, where it is needed

    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or proxy_bypass(parts.hostname or ""):
        return None
    if "://" not in proxy:
        proxy = f"http://{proxy}"
    there = urlsplit(proxy)
    if there.scheme not in ("http", "https"):
        raise InvalidInput(
            f"the environment names a proxy for {parts.scheme}://{parts.hostname} that is not an HTTP proxy; name one "
            "that is, or the host in NO_PROXY",
            code="proxy_unsupported",
        )
    auth = (there.username, there.password or "") if there.username else None
    return httpcore.Proxy(f"{there.scheme}://{there.netloc.rpartition('@')[2]}", auth=auth)


_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (httpcore.ConnectTimeout, f"no answer within {CONNECT_TIMEOUT_S:.0f} s"),
    (httpcore.PoolTimeout, f"all {_MAX_CONNECTIONS} connections are busy"),
    (httpcore.ReadTimeout, "the server was silent for too long"),
    (httpcore.WriteTimeout, f"the server took no data for {WRITE_TIMEOUT_S:.0f} s"),
)


def _reason(error: Exception) -> str:
    for kind, words in _REASONS:
        if isinstance(error, kind):
            return words
    return re.sub(r"^\[Errno -?\d+\] ", "", str(error)) or type(error).__name__
