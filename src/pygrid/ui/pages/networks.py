"""The Networks of a Domain: join, leave, and how each link is."""

from __future__ import annotations

import msgspec
from litestar import Response, get, post
from litestar.datastructures import State

from pygrid.core.access import Permission
from pygrid.errors import PygridError
from pygrid.features.associations.domain.service import DomainAssociations
from pygrid.messages.associations import AssociationInfo
from pygrid.ui.access import signed_in
from pygrid.ui.console import console_of, see_other
from pygrid.ui.forms import MAX_FORM_BYTES, PathId, read_fields
from pygrid.web.requests import AppRequest
from pygrid.web.services import service

ASSOCIATION_STATES = {
    "joining": ("asks to join", "busy"),
    "pending": ("waits for a decision of the Network", "warn"),
    "accepted": ("belongs to it", "good"),
    "denied": ("denied", "bad"),
    "revoked": ("revoked", "bad"),
    "refused": ("refused", "bad"),
    "leaving": ("is leaving", "busy"),
    "left": ("left", "off"),
}


class NetworksView(msgspec.Struct, frozen=True):
    networks: list[AssociationInfo]
    states: dict[str, tuple[str, str]]
    address: str
    identity: str
    python: str


@get("/networks", guards=[signed_in(Permission.MANAGE_INFRASTRUCTURE)])
async def networks_page(request: AppRequest, state: State) -> Response[bytes]:
    """Show the Networks of this Domain."""
    return await _page(request, state)


@post("/networks", guards=[signed_in(Permission.MANAGE_INFRASTRUCTURE)], request_max_body_size=MAX_FORM_BYTES)
async def join(request: AppRequest, state: State) -> Response[bytes]:
    """Ask a Network to accept this Domain."""
    fields = await read_fields(request)
    address, invitation = fields.get("address", "").strip(), fields.get("invitation", "").strip()
    try:
        await service(state, DomainAssociations).join(request.user, address, invitation or None)
    except PygridError as error:
        return await _page(request, state, error, address)
    return see_other("/admin/networks")


@post("/networks/{network_id:int}/leave", guards=[signed_in(Permission.MANAGE_INFRASTRUCTURE)])
async def leave(request: AppRequest, state: State, network_id: PathId) -> Response[bytes]:
    """Leave a Network; one that was left is removed from the list."""
    try:
        await service(state, DomainAssociations).leave(request.user, network_id)
    except PygridError as error:
        return await _page(request, state, error)
    return see_other("/admin/networks")


async def _page(
    request: AppRequest, state: State, error: PygridError | None = None, address: str = ""
) -> Response[bytes]:
    view = NetworksView(
        await service(state, DomainAssociations).list_networks(request.user),
        ASSOCIATION_STATES,
        address,
        console_of(request).identity,
        'domain.associations.join("https://network.example")\nprint(domain.associations())',
    )
    return await console_of(request).page(request, "networks.html", "Networks", view, error=error)
