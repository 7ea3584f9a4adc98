"""HTTP/1.1 with a pool of connections."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx

from pygrid.errors import InvalidInput
from pygrid.transport.base import Request, Response, connection_failed, connection_lost

CONNECT_TIMEOUT_S = 10.0
WRITE_TIMEOUT_S = 60.0
_MAX_CONNECTIONS = 20


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

    ``ssl_context``: for a Domain whose certificate is not signed by a public authority.
    """

    def __init__(self, url: str, *, ssl_context: ssl.SSLContext | None = None) -> None:
        self._url = check_url(url)
        if ssl_context is None and not self._url.startswith("https:"):
            # Never used, but httpx would load the 130 or so public authorities at once: 30 ms and a few MB on a device.
            ssl_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._client = httpx.Client(
            verify=ssl_context if ssl_context is not None else True,
            limits=httpx.Limits(max_connections=_MAX_CONNECTIONS, max_keepalive_connections=_MAX_CONNECTIONS),
            headers={"User-Agent": "pygrid", "Accept-Encoding": "identity"},
        )

    @property
    def url(self) -> str:
        return self._url

    def send(self, request: Request) -> Response:
        headers = dict(request.headers)
        if request.body is not None:
            headers["Content-Length"] = str(request.body.num_bytes)
        timeout = httpx.Timeout(request.timeout_s, connect=CONNECT_TIMEOUT_S, write=WRITE_TIMEOUT_S)
        outgoing = self._client.build_request(
            request.method,
            self._url + request.path,
            params=dict(request.query),
            headers=headers,
            content=iter(request.body) if request.body is not None else None,  # type: ignore[arg-type]  # memoryviews do
            timeout=timeout,
        )
        try:
            answer = self._client.send(outgoing, stream=True)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise connection_failed(self._url, _reason(error)) from error
        except httpx.TransportError as error:
            raise connection_lost(self._url, _reason(error)) from error
        return Response(answer.status_code, dict(answer.headers), self._chunks(answer), answer.close)

    def _chunks(self, answer: httpx.Response) -> Iterator[bytes]:
        try:
            yield from answer.iter_raw()
        except httpx.TransportError as error:
            raise connection_lost(self._url, _reason(error)) from error

    def close(self) -> None:
        self._client.close()


_REASONS: tuple[tuple[type[httpx.TransportError], str], ...] = (
    (httpx.ConnectTimeout, f"no answer within {CONNECT_TIMEOUT_S:.0f} s"),
    (httpx.PoolTimeout, f"all {_MAX_CONNECTIONS} connections are busy"),
    (httpx.ReadTimeout, "the server was silent for too long"),
    (httpx.WriteTimeout, f"the server took no data for {WRITE_TIMEOUT_S:.0f} s"),
)


def _reason(error: httpx.TransportError) -> str:
    for kind, words in _REASONS:
        if isinstance(error, kind):
            return words
    return re.sub(r"^\[Errno -?\d+\] ", "", str(error)) or type(error).__name__
