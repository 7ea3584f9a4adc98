"""What a Network says to who calls a Domain through it, before any byte goes to the Domain; and of them, to the
Domain.
"""

from __future__ import annotations

from pygrid.errors import NotFound, PygridError, TooManyRequests, Unauthenticated, Unavailable

RELAYED = "relayed:"
"""Before the address of a caller that came through a Network: what the Network says of them, which is no more than
hearsay.
"""

DOMAIN_NOT_FOUND = "domain_not_found"
"""No accepted Domain has this name."""
DOMAIN_OFFLINE = "domain_offline"
"""It is not connected now."""
DOMAIN_UNREACHABLE = "domain_unreachable"
"""It was asked for a pipe and brought none."""
TOO_MANY_PIPES = "too_many_pipes"
"""It, or who calls, has as many as there may be."""
LOGIN_NEEDED = "network_login_needed"
"""The relay carries nothing for strangers."""
SESSION_OVER = "network_session_over"
"""The session that was shown is not, or no longer, good."""
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
"""All that a Network may refuse with. None is a code of a Domain, or a Network that lies could answer in its name."""
