"""Refuses requests that a page of another site made a browser send. Pure ASGI.

A page that a user of this app visits can make the user's browser send requests here, also to the user's own machine.
Two headers that no page can set identify such requests:

- `Host` names the server that the browser connects to. A name of another site (DNS rebinding) is not one of this app's
  names.
- `Origin` names the site of the page. It must be this app's, on every request that changes something and every
  WebSocket.

The devices' routes are open to pages of any origin (`Headers`): no credential that browsers add by themselves is valid
there. A WebSocket can be open to them too; its handler then learns that a page of another site opened it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

import msgspec
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send

from pygrid import codes
from pygrid.errors import Forbidden, PygridError, WrongHost
from pygrid.messages import media
from pygrid.messages.relay import RELAYED

_HARMLESS = frozenset({"GET", "HEAD", "OPTIONS"})
_OTHER_SITES = frozenset({b"cross-site", b"same-site"})
_FOREIGN = "pygrid_foreign"
"""Key in the ``state`` of a scope: a page of another site opened this WebSocket."""
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


@dataclass(frozen=True)
class Site:
    """Host names and address of the app.

    Attributes:
        names: host names in lower case, in addition to loopback names and IP addresses.
        address: URL for other machines, possibly of a proxy; empty: unknown.
    """

    names: frozenset[str] = frozenset()
    address: str = ""

    def is_known(self, host: str) -> bool:
        """Return whether the value of a header ``Host`` names this app.

        Every IP address does: a page that reaches the app by an IP address has that origin, so rebinding needs a name.
        """
        name = _host_name(host)
        if name is None:
            return False
        return name in self.names or name == "localhost" or name.endswith(".localhost") or _is_address(name)

    def is_own(self, origin: str, host: str) -> bool:
        """Return whether a page of this origin was served at ``host``, or at the app's address."""
        try:
            parts, own = urlsplit(origin.lower()), urlsplit(self.address.lower())
        except ValueError:
            return False
        if parts.scheme not in _DEFAULT_PORTS or not parts.netloc:
            return False
        if (parts.scheme, parts.netloc) == (own.scheme, own.netloc):
            return True
        default = _DEFAULT_PORTS[parts.scheme]
        return parts.netloc.removesuffix(default) == host.lower().removesuffix(default)


class RefuseOtherSites:
    """Refuses requests for another host (421 ``unknown_host``) and from pages of other sites (403
    ``cross_site_refused``).

    Args:
        open_paths: devices' routes, which pages of any origin may call.
        open_sockets: paths of WebSockets that pages of any origin may open; see `is_of_other_site`.
    """

    def __init__(
        self, app: ASGIApp, site: Site, open_paths: Collection[str] = (), open_sockets: Collection[str] = ()
    ) -> None:
        self._app = app
        self._site = site
        self._open_paths = frozenset(open_paths)
        self._open_sockets = frozenset(open_sockets)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        error = self._find_fault(scope) if scope["type"] in (ScopeType.HTTP, ScopeType.WEBSOCKET) else None
        is_open_socket = scope["type"] == ScopeType.WEBSOCKET and scope["path"] in self._open_sockets
        if is_open_socket and error is not None and error.code == codes.CROSS_SITE_REFUSED:
            scope.setdefault("state", {})[_FOREIGN] = True
            error = None
        if error is None:
            await self._app(scope, receive, send)
        else:
            await _refuse(scope, receive, send, error)

    def _find_fault(self, scope: Scope) -> PygridError | None:
        headers: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.lower(), []).append(value)
        hosts = [value.decode("latin-1") for value in headers.get(b"host", [])]
        if len(hosts) > 1 or (hosts and not _is_relayed(scope) and not self._site.is_known(hosts[0])):
            shown = hosts[0][:100]
            return WrongHost(
                f"{shown!r} is not a known name of this server: if it is one, add it to PYGRID_HOSTS (--hosts)",
                host=shown,
            )
        if scope["path"] in self._open_paths or (scope["type"] == ScopeType.HTTP and scope["method"] in _HARMLESS):
            return None
        origins = headers.get(b"origin", [])
        if origins:
            is_own = len(origins) == 1 and self._site.is_own(origins[0].decode("latin-1"), hosts[0] if hosts else "")
        else:
            is_own = not _OTHER_SITES.intersection(headers.get(b"sec-fetch-site", []))
        if is_own:
            return None
        return Forbidden("a page of another site may not change anything here", code=codes.CROSS_SITE_REFUSED)


def is_of_other_site(scope: Scope) -> bool:
    """Return whether a page of another site opened this WebSocket."""
    return bool(scope.get("state", {}).get(_FOREIGN))


async def _refuse(scope: Scope, receive: Receive, send: Send, error: PygridError) -> None:
    body = msgspec.json.encode(error.to_problem())
    headers = [(b"content-type", media.PROBLEM.encode()), (b"content-length", str(len(body)).encode())]
    start: Any = {"type": "http.response.start", "status": error.status, "headers": headers}
    if scope["type"] == ScopeType.WEBSOCKET:
        await receive()  # the message that requests the WebSocket
        if "websocket.http.response" not in (scope.get("extensions") or {}):
            await send({"type": "websocket.close", "code": 1008, "reason": error.code})
            return
        begun, content = (
            {**start, "type": "websocket.http.response.start"},
            {"type": "websocket.http.response.body", "body": body},
        )
        await send(cast("Any", begun))
        await send(cast("Any", content))
        return
    await send(start)
    await send({"type": "http.response.body", "body": body, "more_body": False})


def _is_relayed(scope: Scope) -> bool:
    """Return whether the connection came through a pipe, which no browser can open: ``Host`` means nothing there."""
    client = scope.get("client")
    return client is not None and client[0].startswith(RELAYED)


def _host_name(host: str) -> str | None:
    """Return the name in a header ``Host``, in lower case and without port; None: the header is malformed."""
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port  # raises for what is not a number
    except ValueError:
        return None
    if parts.netloc != host or "@" in host or not parts.hostname:
        return None
    return parts.hostname.rstrip(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
