"""Messages of associations: what a Domain and a Network say to each other, and to the people who run them.

    Network   {"type": "challenge", "nonce", "network", "identity"}
    Domain    {"type": "hello", ...}                                     `Hello`
    Network   {"type": "welcome", ...} or {"type": "refused", ...}       `Welcome`, `Turned`
    Domain    {"type": "heartbeat", "id", ...}, again and again          `Heartbeat` -> `Heard`

Signatures are of the purpose ``control`` (the Domain: nonce, identity of the Network, name, SHA-256 of the entry in
canonical JSON), ``entry`` (the Domain: the entry in canonical JSON; anybody can check it later) and ``welcome`` (the
Network: nonce and identity of the Domain, name of the Network). Bytes are spelled in base64url.
"""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

CONTROL_PATH = "/network/control"

_Key = Annotated[str, Meta(max_length=100)]
_Name = Annotated[str, Meta(max_length=100)]
_Signature = Annotated[str, Meta(max_length=100)]
_Token = Annotated[str, Meta(min_length=1, max_length=200)]
_Count = Annotated[int, Meta(ge=0, le=2**53)]
Address = Annotated[str, Meta(max_length=300)]


class Challenge(msgspec.Struct, frozen=True, tag="challenge"):
    """What a Domain must sign to come in. It makes sure of the Network by the signature of the welcome."""

    nonce: str
    network: _Name
    identity: _Key


class Entry(msgspec.Struct, frozen=True):
    """What a Domain says of itself on its Network, signed; everybody may read it."""

    name: _Name
    version: Annotated[str, Meta(max_length=50)]
    """Of pygrid."""
    address: Address | None = None
    """Where others may call it directly."""


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    name: _Name
    identity: _Key
    nonce: str
    """What the Network must sign."""
    signature: _Signature
    entry: dict[str, Any]
    """`Entry`; as it was signed, whatever else a later version says in it."""
    entry_signature: _Signature
    invitation: _Token | None = None


class Welcome(msgspec.Struct, frozen=True, tag="welcome"):
    state: Literal["pending", "accepted"]
    heartbeat_s: Annotated[float, Meta(gt=0)]
    signature: _Signature


class Turned(msgspec.Struct, frozen=True, tag="refused"):
    """The Domain is not let in; the Network closes."""

    code: Annotated[str, Meta(max_length=100)]
    detail: Annotated[str, Meta(max_length=500)]
    signature: str | None = None
    """As in `Welcome`; there is none if the hello could not be read."""


class Heartbeat(msgspec.Struct, frozen=True):
    """A sign of life."""

    load: Annotated[float, Meta(ge=0, le=10_000)] | None = None
    """Of the machine: processes that want to run, for each of its cores. Only those who run the Network see it."""
    degraded: bool = False
    counts: Annotated[dict[Annotated[str, Meta(max_length=20)], _Count], Meta(max_length=20)] = {}
    """Of what the owner chose to publish."""
    catalog: Annotated[str, Meta(max_length=100)] = ""
    """Version of what it publishes."""


class Heard(msgspec.Struct, frozen=True):
    """The Network has noted a heartbeat."""

    state: Literal["pending", "accepted"]


class StateChange(msgspec.Struct, frozen=True):
    """Told to a Domain when it is decided about."""

    state: Literal["pending", "accepted", "denied", "revoked"]
    reason: Annotated[str, Meta(max_length=500)] = ""


# People at the Network


class DomainInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """A Domain of a Network, as everybody may see it."""

    name: str
    state: Literal["online", "degraded", "offline", "unknown"]
    """``unknown``: a node of 2020, which gives no sign of life."""
    identity: str | None
    version: str | None
    address: str | None
    """Where it can be called directly; the Network has checked that this Domain answers there."""
    counts: dict[str, int]
    last_seen_at: dt.datetime | None
    joined_at: dt.datetime
    connected: bool
    association: str = "accepted"
    """Others than accepted ones are shown to those who manage the Network."""
    reason: str = ""
    claimed_address: str | None = None
    """Shown to them: what the Domain says, checked or not."""
    load: float | None = None
    """Shown to them."""


class DomainList(msgspec.Struct, frozen=True):
    domains: list[DomainInfo]


class DomainDetail(msgspec.Struct, frozen=True):
    """A Domain, and what it has signed."""

    domain: DomainInfo
    entry: dict[str, Any]
    """Empty as long as it has an address that was not checked."""
    entry_signature: str | None
    """By the Domain, for the purpose ``entry``, over the entry in canonical JSON; base64url."""


class Decision(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """On a Domain."""

    reason: Annotated[str, Meta(max_length=500)] = ""
    """The Domain is told."""
    identity: _Key | None = None
    """Whom it is about: the one of this name that was looked at. None: whoever has the name, or alone asks for it."""


class InvitationRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    domain: _Name | None = None
    """Only a Domain of this name may use it."""
    max_uses: Annotated[int, Meta(ge=1, le=1000)] = 1
    expires_in_s: Annotated[int, Meta(ge=60, le=366 * 86400)] = 7 * 86400


class InvitationInfo(msgspec.Struct, frozen=True):
    """An invitation, without its token."""

    id: int
    domain: str | None
    max_uses: int
    num_uses: int
    expires_at: dt.datetime
    created_at: dt.datetime


class NewInvitation(msgspec.Struct, frozen=True):
    """``token`` is in this answer and never again."""

    invitation: InvitationInfo
    token: str


class InvitationList(msgspec.Struct, frozen=True):
    invitations: list[InvitationInfo]


class InvitationRemoved(msgspec.Struct, frozen=True):
    id: int


class DomainRemoved(msgspec.Struct, frozen=True):
    name: str


# People at the Domain


class JoinRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    network: Annotated[str, Meta(min_length=1, max_length=300)]
    """Address of the Network."""
    invitation: _Token | None = None


class AssociationInfo(msgspec.Struct, frozen=True):
    """One of a Domain's Networks."""

    id: int
    network: str
    """Its address."""
    name: str | None
    """What the Network calls itself; None: it was not reached yet."""
    identity: str | None
    state: str
    reason: str
    connected: bool
    created_at: dt.datetime
    updated_at: dt.datetime


class AssociationList(msgspec.Struct, frozen=True):
    associations: list[AssociationInfo]


def canonical(entry: dict[str, Any]) -> bytes:
    """The one way to write an entry in JSON: keys sorted, no blanks. Numbers in an entry are whole ones."""
    return msgspec.json.encode(entry, order="sorted")
