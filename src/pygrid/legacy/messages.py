"""Messages of nodes of 2020 that join a Network, and association requests of 2021, with their published names."""

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
    """The header ``PyGrid-Invitation`` can contain it instead."""


class NodeAnswer(msgspec.Struct, frozen=True):
    message: str


class NodeList(msgspec.Struct, frozen=True, rename={"grid_nodes": "grid-nodes"}):
    """Names of the connected Domains, and of the nodes of 2020."""

    grid_nodes: list[str]


class AssociationRequest(msgspec.Struct, frozen=True):
    """A request to join: at the Network, that of a Domain; at the Domain, that to a Network."""

    id: int
    name: str
    address: str
    status: str
    requested_date: dt.datetime
    accepted_date: dt.datetime | None = None


class AssociationAnswer(msgspec.Struct, frozen=True):
    """A decision about a Domain, by its name or its address."""

    value: Literal["accept", "deny"]
    name: Annotated[str, Meta(max_length=100)] | None = None
    address: Annotated[str, Meta(max_length=300)] | None = None


class AssociationAsk(msgspec.Struct, frozen=True):
    """Join the Network at this address."""

    address: _Text
    name: Annotated[str, Meta(max_length=100)] | None = None
    """Name of the Network; not used, because the Network reports its own."""


class AssociationMessage(msgspec.Struct, frozen=True):
    message: str
