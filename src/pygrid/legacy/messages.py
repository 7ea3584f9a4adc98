"""Messages by which nodes of 2020 join a Network, and the requests that owners of 2021 see, under their published
names.
"""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

INVITATION_HEADER = "pygrid-invitation"

_Text = Annotated[str, Meta(min_length=1, max_length=300)]


class NodeRequest(msgspec.Struct, frozen=True, rename={"node_id": "node-id", "node_address": "node-address"}):
    """A node of 2020."""

    node_id: _Text
    node_address: _Text
    invitation: Annotated[str, Meta(max_length=200)] | None = None
    """May be sent in the header ``PyGrid-Invitation`` too."""


class NodeAnswer(msgspec.Struct, frozen=True):
    message: str


class NodeList(msgspec.Struct, frozen=True, rename={"grid_nodes": "grid-nodes"}):
    """Names of those that are there, or say nothing of it."""

    grid_nodes: list[str]


class AssociationRequest(msgspec.Struct, frozen=True):
    """A Domain that asked to join, at the Network; a Network that was asked, at the Domain."""

    id: int
    name: str
    address: str
    status: str
    requested_date: dt.datetime
    accepted_date: dt.datetime | None = None


class AssociationAnswer(msgspec.Struct, frozen=True):
    """A decision; of name and address one is enough."""

    value: Literal["accept", "deny"]
    name: Annotated[str, Meta(max_length=100)] | None = None
    address: Annotated[str, Meta(max_length=300)] | None = None


class AssociationAsk(msgspec.Struct, frozen=True):
    """Join the Network at this address."""

    address: _Text
    name: Annotated[str, Meta(max_length=100)] | None = None
    """Of the Network, for people; it says its own."""


class AssociationMessage(msgspec.Struct, frozen=True):
    message: str
