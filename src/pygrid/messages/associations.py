"""Messages of associations: between a Domain and a Network, and to the people who run them.

    Network   {"type": "challenge", "nonce", "network", "identity"}
    Domain    {"type": "hello", ...}                                     `Hello`
    Network   {"type": "welcome", ...} or {"type": "refused", ...}       `Welcome`, `Turned`
    Domain    {"type": "heartbeat", "id", ...}, every ``heartbeat_s``    `Heartbeat` -> `Heard`

Each signature has a purpose:

- ``control``: the Domain signs the nonce, the identity of the Network, its own name, and the SHA-256 of the entry in
  canonical JSON.
- ``entry``: the Domain signs the entry in canonical JSON. Anybody can check it later.
- ``welcome``: the Network signs the nonce and identity of the Domain, and its own name.

Bytes are written in base64url.
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
    """What a Domain must sign to be accepted. The Domain verifies the Network by the signature in `Welcome`."""

    nonce: str
    network: _Name
    identity: _Key


class Entry(msgspec.Struct, frozen=True):
    """The signed description of a Domain on its Network. It is public."""

    name: _Name
    version: Annotated[str, Meta(max_length=50)]
    """Version of pygrid."""
    address: Address | None = None
    """Address at which others can call the Domain directly."""


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    name: _Name
    identity: _Key
    nonce: str
    """The nonce that the Network must sign."""
    signature: _Signature
    entry: dict[str, Any]
    """The `Entry` as it was signed, with the fields that a later version may add."""
    entry_signature: _Signature
    invitation: _Token | None = None


class Welcome(msgspec.Struct, frozen=True, tag="welcome"):
    state: Literal["pending", "accepted"]
    heartbeat_s: Annotated[float, Meta(gt=0)]
    signature: _Signature


class Turned(msgspec.Struct, frozen=True, tag="refused"):
    """The Network refuses the Domain and closes the connection."""

    code: Annotated[str, Meta(max_length=100)]
    detail: Annotated[str, Meta(max_length=500)]
    signature: str | None = None
    """As in `Welcome`; None if the hello could not be read."""


class Heartbeat(msgspec.Struct, frozen=True):
    """Shows that the Domain is running."""

    load: Annotated[float, Meta(ge=0, le=10_000)] | None = None
    """Runnable processes per core of the machine. Only the operators of the Network see it."""
    degraded: bool = False
    counts: Annotated[dict[Annotated[str, Meta(max_length=20)], _Count], Meta(max_length=20)] = {}
    """Counts of the things that the owner chose to publish, by kind."""
    catalog: Annotated[str, Meta(max_length=100)] = ""
    """Version of the published content."""


class Heard(msgspec.Struct, frozen=True):
    """The answer to a heartbeat."""

    state: Literal["pending", "accepted"]


class StateChange(msgspec.Struct, frozen=True):
    """Sent to a Domain when the Network decides on it."""

    state: Literal["pending", "accepted", "denied", "revoked"]
    reason: Annotated[str, Meta(max_length=500)] = ""


# People at the Network


class DomainInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """A Domain of a Network. Fields for operators are absent for other callers."""

    name: str
    state: Literal["online", "degraded", "offline", "unknown"]
    """``unknown``: a node of 2020, which sends no heartbeats."""
    identity: str | None
    version: str | None
    address: str | None
    """Address for direct calls. The Network has checked that this Domain answers there."""
    counts: dict[str, int]
    last_seen_at: dt.datetime | None
    joined_at: dt.datetime
    connected: bool
    association: str = "accepted"
    """Only operators of the Network see Domains in other states than ``accepted``."""
    reason: str = ""
    claimed_address: str | None = None
    """For operators: the address that the Domain claims, checked or not."""
    load: float | None = None
    """For operators: as in `Heartbeat`."""


class DomainList(msgspec.Struct, frozen=True):
    domains: list[DomainInfo]


class DomainDetail(msgspec.Struct, frozen=True):
    """A Domain with its signed entry."""

    domain: DomainInfo
    entry: dict[str, Any]
    """Empty while it has an address that the Network has not checked."""
    entry_signature: str | None
    """By the Domain, for the purpose ``entry``, over the entry in canonical JSON; base64url."""


class Decision(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A decision on a Domain."""

    reason: Annotated[str, Meta(max_length=500)] = ""
    """Sent to the Domain."""
    identity: _Key | None = None
    """Identity of the Domain that the decision is about. None: the Domain that has the name, or the only one that
    requests it."""


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
    """A new invitation. ``token`` is in this answer only."""

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
    """Address of the Network."""
    name: str | None
    """Name of the Network. None: it was not reached so far."""
    identity: str | None
    state: str
    reason: str
    connected: bool
    created_at: dt.datetime
    updated_at: dt.datetime


class AssociationList(msgspec.Struct, frozen=True):
    associations: list[AssociationInfo]


def canonical(entry: dict[str, Any]) -> bytes:
    """The canonical JSON of an entry: sorted keys and no spaces. Numbers in an entry are integers."""
    return msgspec.json.encode(entry, order="sorted")
