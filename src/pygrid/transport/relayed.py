"""Requests to a Domain through the relay of a Network, which carries them but cannot read them.

RelayedTransport       HTTP/1.1 with a pool of connections, as if the Domain were there
  └── PinnedStream     TLS 1.3 to the Domain, known by its identity
        └── PipeStream     the binary messages of a WebSocket to the Network, one for each connection
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable
from typing import Annotated, Any
from urllib.parse import quote, urlsplit

import httpcore
import msgspec

from pygrid.errors import PygridError
from pygrid.messages.media import PROBLEM
from pygrid.messages.relay import REFUSALS
from pygrid.transport.address import RelayedAddress, network_token_of_environment
from pygrid.transport.authorities import CaFile
from pygrid.transport.certificates import client_context
from pygrid.transport.dialer import Dialer, HeadClock
from pygrid.transport.http import KEEP_ALIVE_S, MAX_CONNECTIONS, PooledTransport, PoolTarget, explain, make_pool
from pygrid.transport.identity import IdentityKey
from pygrid.transport.known_domains import KnownDomains
from pygrid.transport.pinned_tls import PinnedStream
from pygrid.transport.pipes import PipeStream, is_upgraded, upgrade_headers

_MAX_PROBLEM_BYTES = 64 * 1024
_MAX_WAIT_S = 60.0

RelayToken = Callable[[str], str | None]
"""Address of a Network -> token, sent as ``Authorization: Bearer``; called for each new connection."""


class RelayedTransport(PooledTransport):
    """A `Transport` through the relay of a Network.

    The environment can name a proxy to the Network, as for `HttpTransport`; for plain http it must support WebSockets.

    Args:
        address: address of the Domain.
        relay_token: returns the token of a session of the Network, or a ticket; None: ``PYGRID_NETWORK_TOKEN``.
        known: the store of identities.
        dialer: makes the connections to the Network.
    """

    def __init__(
        self,
        address: RelayedAddress,
        *,
        relay_token: RelayToken | None = None,
        known: KnownDomains | None = None,
        dialer: Dialer | None = None,
        ca_file: CaFile = None,
    ) -> None:
        dialer = dialer or Dialer()
        pool_of_network = make_pool(urlsplit(address.network_url), ca_file, dialer)
        backend = RelayBackend(
            address, relay_token or network_token_of_environment, known or KnownDomains(), dialer, pool_of_network
        )
        pool = httpcore.ConnectionPool(
            # Not used: for httpcore the origin is plain http, and the backend encrypts.
            ssl_context=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
            network_backend=backend,
            max_connections=MAX_CONNECTIONS,
            max_keepalive_connections=MAX_CONNECTIONS,
            keepalive_expiry=KEEP_ALIVE_S,
        )
        super().__init__(PoolTarget(url=str(address), origin="http://domain", host="domain"), pool, backend.head)
        self._backend = backend

    def close(self) -> None:
        self._backend.cut()
        super().close()
        self._backend.close()


class RelayBackend(httpcore.NetworkBackend):
    """Opens connections to one Domain; it ignores the requested host and port."""

    def __init__(
        self,
        address: RelayedAddress,
        relay_token: RelayToken,
        known: KnownDomains,
        dialer: Dialer,
        pool: httpcore.ConnectionPool,
    ) -> None:
        self._address = address
        self._relay_token = relay_token
        self._known = known
        self._tls = client_context()
        self._dialer = dialer
        self.head = HeadClock()
        self._pool = pool

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """An encrypted stream to the Domain.

        Raises:
            httpcore.ConnectError, ConnectTimeout: the Network cannot be reached, or the connection to the Domain broke.
            PygridError: the Network refused, or the identity is not the expected one (``identity_changed``,
                ``wrong_identity``). Nothing was sent to the Domain.
        """
        pipe = self._open_pipe(timeout)
        return PinnedStream(pipe, self._tls, self._check, timeout, self.head)

    def cut(self) -> None:
        """End all connections, including those in use, and refuse new ones."""
        self._dialer.cut()

    def close(self) -> None:
        self._pool.close()

    def _check(self, seen: IdentityKey) -> None:
        self._known.check(self._address, seen)

    def _open_pipe(self, timeout: float | None) -> PipeStream:
        upgrade, accept = upgrade_headers()
        network = self._address.network_url
        headers = {"Host": urlsplit(network).netloc, "User-Agent": "pygrid", **upgrade}
        if token := self._relay_token(network):
            headers["Authorization"] = f"Bearer {token}"
        request = httpcore.Request(
            "GET",
            f"{network}/relay/{quote(self._address.domain, safe='')}",
            headers=list(headers.items()),
            extensions={"timeout": dict.fromkeys(("connect", "pool", "write", "read"), timeout)},
        )
        try:
            answer = self._pool.handle_request(request)
        except httpcore.TimeoutException as error:
            raise httpcore.ConnectTimeout(f"the Network {network}: {explain(error)}") from error
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.ProxyError) as error:
            raise httpcore.ConnectError(f"the Network {network}: {explain(error)}") from error
        arrived = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in answer.headers}
        if not is_upgraded(answer.status, arrived, accept):
            raise self._refusal(answer, arrived)
        return PipeStream(answer.extensions["network_stream"], answer.close)

    def _refusal(self, answer: httpcore.Response, headers: dict[str, str]) -> PygridError | httpcore.ConnectError:
        network = self._address.network_url
        try:
            if headers.get("content-type", "").startswith(PROBLEM) and answer.status >= 400:
                problem = msgspec.json.decode(_read(answer), type=_Problem)
                # Only refusals of a Network are accepted: it must not refuse in the name of the Domain.
                if (cls := REFUSALS.get(problem.code)) is not None:
                    wait = (
                        {}
                        if problem.retry_after_s is None
                        else {"retry_after_s": min(problem.retry_after_s, _MAX_WAIT_S)}
                    )
                    detail = f"{problem.detail[:500]} (from the Network {network})"
                    return cls(detail, code=problem.code, network=network, domain=self._address.domain, **wait)
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, msgspec.DecodeError) as error:
            return httpcore.ConnectError(f"the answer of the Network {network} cannot be read ({error})")
        finally:
            answer.close()
        return httpcore.ConnectError(
            f"{network} answered status {answer.status} instead of a WebSocket. Is it a pygrid Network, or is a proxy "
            "in between that does not support WebSockets?"
        )


class _Problem(msgspec.Struct):
    code: str
    detail: str = ""
    retry_after_s: Annotated[float, msgspec.Meta(ge=0)] | None = None


def _read(answer: httpcore.Response) -> bytes:
    data = b""
    for piece in answer.iter_stream():
        data += piece
        if len(data) > _MAX_PROBLEM_BYTES:
            break
    return data
