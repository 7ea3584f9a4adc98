"""Tickets: credentials with which a Domain reaches another Domain through the relay of a Network, without a login.

A ticket is the text ``ticket.`` and the base64url of a JSON object. It is signed by the bearer's identity for the
purpose ``ticket``. The signature covers the Network's identity, the bearer's name, the other Domain's name and the end
of its validity (seconds since 1970, 8 bytes).
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
from typing import Annotated

import msgspec

from pygrid.errors import InvalidCredentials, InvalidInput
from pygrid.messages.identity import from_base64url, to_base64url
from pygrid.messages.relay import INVALID_TICKET
from pygrid.transport.identity import Identity, IdentityKey

PREFIX = "ticket."
LIFETIME_S = 60
MAX_LIFETIME_S = 300
"""Largest accepted time until a ticket ends; clocks may differ by the time beyond `LIFETIME_S`."""
_MAX_CHARS = 2000


class Ticket(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A ticket as it was read. Do not trust its content before `check_ticket`."""

    domain: str
    """Name of the Domain that shows it."""
    target: str
    """Name of the Domain that it leads to."""
    expires: Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
    """Seconds since 1970."""
    signature: str


def make_ticket(identity: Identity, network: IdentityKey, domain: str, target: str, now: dt.datetime) -> str:
    """A ticket from the Domain ``domain``, which has ``identity``, to the Domain ``target``, valid for a minute."""
    expires = int(now.timestamp()) + LIFETIME_S
    signature = identity.sign("ticket", *_parts(network, domain, target, expires))
    content = msgspec.json.encode(Ticket(domain, target, expires, to_base64url(signature)))
    return PREFIX + to_base64url(content)


def read_ticket(text: str) -> Ticket:
    """The content of a ticket. Raises InvalidCredentials: the text is not a ticket (``invalid_ticket``)."""
    encoded = text.removeprefix(PREFIX)
    try:
        if encoded == text or len(text) > _MAX_CHARS:
            raise ValueError
        data = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
        return msgspec.json.decode(data, type=Ticket)
    except (ValueError, binascii.Error, msgspec.DecodeError):
        raise _refused("it has another form") from None


def check_ticket(ticket: Ticket, bearer: IdentityKey, network: IdentityKey, target: str, now: dt.datetime) -> None:
    """Return if ``bearer`` made the ticket for this Network and ``target``, and it is valid now.

    Raises:
        InvalidCredentials: the ticket is not valid (``invalid_ticket``); the message has the reason.
    """
    if ticket.target != target:
        raise _refused("it leads to another Domain")
    seconds = now.timestamp()
    if not seconds < ticket.expires <= seconds + MAX_LIFETIME_S:
        raise _refused("it has expired, or the clocks of the Domain and the Network differ by minutes")
    try:
        signature = from_base64url(ticket.signature, 64, "signature")
    except InvalidInput:
        raise _refused("its signature has another form") from None
    if not bearer.verify(signature, "ticket", *_parts(network, ticket.domain, ticket.target, ticket.expires)):
        raise _refused("its signature is not valid")


def _parts(network: IdentityKey, domain: str, target: str, expires: int) -> tuple[bytes, ...]:
    return network.raw, domain.encode(), target.encode(), expires.to_bytes(8, "big")


def _refused(why: str) -> InvalidCredentials:
    return InvalidCredentials(f"this ticket is not valid: {why}", code=INVALID_TICKET)
