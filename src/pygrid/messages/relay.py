"""Errors of the relay of a Network, raised before any byte reaches the Domain, and the origin of relayed callers."""

from __future__ import annotations

from pygrid.errors import NotFound, PygridError, TooManyRequests, Unauthenticated, Unavailable

RELAYED = "relayed:"
"""Prefix of the address of a relayed caller. The address is a claim of the Network; the Domain cannot verify it."""

DOMAIN_NOT_FOUND = "domain_not_found"
"""No accepted Domain has this name."""
DOMAIN_OFFLINE = "domain_offline"
"""The Domain is not connected."""
DOMAIN_UNREACHABLE = "domain_unreachable"
"""The Domain did not open the requested connection."""
TOO_MANY_PIPES = "too_many_pipes"
"""The Domain, or the caller, has reached its limit of relayed connections."""
LOGIN_NEEDED = "network_login_needed"
"""The relay requires a session of the Network."""
SESSION_OVER = "network_session_over"
"""The session is not valid or has expired."""
INVALID_TICKET = "invalid_ticket"

REFUSALS: dict[str, type[PygridError]] = {
    DOMAIN_NOT_FOUND: NotFound,
    DOMAIN_OFFLINE: Unavailable,
    DOMAIN_UNREACHABLE: Unavailable,
    TOO_MANY_PIPES: TooManyRequests,
    LOGIN_NEEDED: Unauthenticated,
    SESSION_OVER: Unauthenticated,
    INVALID_TICKET: Unauthenticated,
}
"""The errors that a Network can answer. None is a code of a Domain: a malicious Network could otherwise answer in the
name of the Domain."""
