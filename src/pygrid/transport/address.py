"""Addresses of Domains, direct and relayed.

http(s)://HOST[:PORT][/PATH]                                      the Domain listens there
grid+http(s)://HOST[:PORT]/DOMAIN[?identity=ed25519:...]          through the relay of the Network that listens there
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from pygrid import codes
from pygrid.errors import InvalidInput
from pygrid.transport.identity import IdentityKey

RELAYED = "grid+"
NETWORK_URL_VARIABLE = "PYGRID_NETWORK_URL"
NETWORK_TOKEN_VARIABLE = "PYGRID_NETWORK_TOKEN"
"""Variable with the token for a Network, used if the caller passes no other token."""
MAX_NAME_CHARS = 100


@dataclass(frozen=True, slots=True)
class RelayedAddress:
    """The address of a Domain behind a Network.

    ``str()`` is the address without the identity; tokens and identities are stored under it.
    """

    network_url: str
    """``http(s)://HOST[:PORT]``."""
    domain: str
    """The Domain's name at that Network."""
    identity: IdentityKey | None = None
    """The identity that must answer; None: the one that answered the first time."""

    def __str__(self) -> str:
        return f"{RELAYED}{self.network_url}/{quote(self.domain, safe='')}"


def parse_address(url: str) -> str | RelayedAddress:
    """The parts of a relayed address, or a direct address without a trailing slash.

    Raises:
        InvalidInput: the address has neither form (``invalid_url``), or its identity is not valid
            (``invalid_identity``).
    """
    return _parse_relayed(url) if url.startswith(RELAYED) else check_url(url)


def plain_address(url: str) -> str:
    """The address under which tokens are stored: without trailing slashes and identity.

    A text that is not an address loses its trailing slashes only.
    """
    try:
        return str(parse_address(url))
    except InvalidInput:
        return url.rstrip("/")


def config_dir() -> Path:
    """The folder of this user's tokens and known identities: ``$XDG_CONFIG_HOME/pygrid``, else ``~/.config/pygrid``."""
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "pygrid"


def network_token_of_environment(network_url: str) -> str | None:
    """``PYGRID_NETWORK_TOKEN``; if ``PYGRID_NETWORK_URL`` is set, only for that Network."""
    home = os.environ.get(NETWORK_URL_VARIABLE)
    if home is not None and home.rstrip("/").lower() != network_url.lower():
        return None
    return os.environ.get(NETWORK_TOKEN_VARIABLE)


def check_url(url: str) -> str:
    """The direct address of a Domain, without a trailing slash. That of its console (``/admin/...``) counts as it.

    Raises:
        InvalidInput: not ``http(s)://HOST[:PORT][/PATH]``; user names, passwords, queries and fragments are refused.
    """
    url = re.sub(r"(?<=[^/])/admin(/.*)?$", "", url.strip())
    try:
        parts = urlsplit(url)
        is_address = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port >= 0)
    except ValueError:  # the port is not a number, or out of range
        is_address = False
    if not is_address:
        raise InvalidInput(
            f"{url!r} is not the address of a Domain; write it like http://127.0.0.1:5000", code=codes.INVALID_URL
        )
    if parts.username or parts.password or parts.query or parts.fragment:
        raise InvalidInput(
            f"the address of a Domain is scheme, host and port only, e.g. {parts.scheme}://{parts.hostname}:5000; pass "
            "credentials as a token",
            code=codes.INVALID_URL,
        )
    return url.rstrip("/")


def _parse_relayed(url: str) -> RelayedAddress:
    try:
        parts = urlsplit(url.removeprefix(RELAYED))
        name = unquote(parts.path.removeprefix("/").removesuffix("/"), errors="strict")
        query = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        has_port = parts.port is not None or not parts.netloc.endswith(":")
    except ValueError:  # the port is not a number, bytes are not UTF-8, or the query is malformed
        raise _not_relayed(url) from None
    is_host_alone = (
        parts.scheme in ("http", "https") and parts.hostname and has_port and not (parts.username or parts.password)
    )
    if not is_host_alone or parts.fragment or [key for key, _ in query if key != "identity"] or len(query) > 1:
        raise _not_relayed(url)
    if not name or len(name) > MAX_NAME_CHARS or "/" in name or not name.isprintable():
        raise _not_relayed(url)
    identity = IdentityKey.parse(query[0][1]) if query else None
    return RelayedAddress(f"{parts.scheme}://{parts.netloc.lower()}", name, identity)


def _not_relayed(url: str) -> InvalidInput:
    return InvalidInput(
        f"{url[:300]!r} is not the address of a Domain behind a Network; write it like "
        "grid+http://127.0.0.1:7000/hospital-a; add ?identity=ed25519:... to name the identity that must answer",
        code=codes.INVALID_URL,
    )
