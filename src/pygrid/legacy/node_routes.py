"""The published routes of nodes at a Network: of 2020 (``/join`` ...) and of 2021 (``/association-requests``).

Answers have the published bodies. Refusals are problem documents with the published text as their member ``message``.
"""

from __future__ import annotations

from typing import Any

from litestar import Router, delete, get, post
from litestar.datastructures import State
from litestar.enums import MediaType
from litestar.params import JSONBody

from pygrid import codes
from pygrid.core.access import Permission
from pygrid.core.associations import Act, DomainHealth
from pygrid.errors import InvalidInput, NotFound
from pygrid.features.associations.network.service import NetworkAssociations
from pygrid.legacy.messages import (
    INVITATION_HEADER,
    AssociationAnswer,
    AssociationMessage,
    AssociationRequest,
    NodeAnswer,
    NodeList,
    NodeRequest,
)
from pygrid.legacy.nodes import LegacyNodes
from pygrid.storage.associations import KnownDomain
from pygrid.web.auth import SESSION, anyone, find_principal, require
from pygrid.web.idempotency import repeatable
from pygrid.web.parameters import PathId
from pygrid.web.problems import describe_problems
from pygrid.web.published import Area, exception_handlers
from pygrid.web.requests import AppRequest
from pygrid.web.services import service

_may = require(Permission.MANAGE_NODES)


_ONE = describe_problems(400, 401, 403, 404)


@get("/", media_type=MediaType.TEXT, sync_to_thread=False)
def welcome() -> str:
    """Show the name of the app."""
    return "Open Grid Network"


@post("/join", status_code=200, guards=[anyone], responses=describe_problems(400, 401, 403, 408, 409, 413, 503))
@repeatable(shape=lambda _request, _known: NodeAnswer("Successfully Connected!"))
async def join(request: AppRequest, state: State, data: JSONBody[NodeRequest]) -> NodeAnswer:
    """Add a node of 2020, with ``can_manage_nodes`` or an invitation.

    The invitation is in the body or in the header ``PyGrid-Invitation``.
    """
    nodes = service(state, LegacyNodes)
    invitation = data.invitation or request.headers.get(INVITATION_HEADER)
    await nodes.join(find_principal(request), data.node_id, data.node_address, invitation)
    return NodeAnswer("Successfully Connected!")


@get("/connected-nodes", sync_to_thread=False)
def list_connected(state: State) -> NodeList:
    """List the names of the connected Domains, and of the nodes of 2020, which report no state."""
    associations = service(state, NetworkAssociations)
    return NodeList([member.name for member in associations.domains if member.state is not DomainHealth.OFFLINE])


@delete("/delete-node", status_code=200, guards=[anyone], responses=describe_problems(400, 401, 403, 409, 413))
async def delete_node(request: AppRequest, state: State, data: JSONBody[NodeRequest]) -> NodeAnswer:
    """Delete a node of 2020, with ``can_manage_nodes``. A Domain with a key is not deleted here, but revoked."""
    nodes = service(state, LegacyNodes)
    await nodes.leave(find_principal(request), data.node_id, data.node_address)
    return NodeAnswer("Successfully Deleted!")


# Routes of 2021


@get("/association-requests", guards=[_may], security=SESSION, responses=describe_problems(401, 403))
async def list_requests(request: AppRequest, state: State) -> list[AssociationRequest]:
    """List all Domains that asked to join, with any decision."""
    associations = service(state, NetworkAssociations)
    return [_request(known) for known in await associations.list_domains(request.user, None)]


@get("/association-requests/{request_id:int}", guards=[_may], security=SESSION, responses=_ONE)
async def get_request(request: AppRequest, state: State, request_id: PathId) -> AssociationRequest:
    """Show the request of a Domain."""
    return _request(await _find(request, state, request_id))


@post(
    "/association-requests/respond",
    status_code=200,
    guards=[_may],
    security=SESSION,
    responses=describe_problems(400, 401, 403, 404, 409, 413),
)
@repeatable(shape=lambda _request, _known: AssociationMessage("Association request was answered!"))
async def respond(request: AppRequest, state: State, data: JSONBody[AssociationAnswer]) -> AssociationMessage:
    """Accept or deny the Domain of this name, or else of this address."""
    associations = service(state, NetworkAssociations)
    name, identity = data.name, None
    if name is None:
        if data.address is None:
            raise InvalidInput("the name or the address of the Domain is required", code=codes.MISSING_FIELD)
        address = data.address.rstrip("/")
        found = [
            known
            for known in await associations.list_domains(request.user, None)
            if (known.claimed_address or "").rstrip("/") == address
        ]
        if len(found) != 1:
            raise NotFound(
                f"{len(found)} Domains have this address; name the Domain instead", code=codes.DOMAIN_NOT_FOUND
            )
        name, identity = found[0].name, found[0].identity
    await associations.decide(request.user, name, Act(data.value), identity=identity)
    return AssociationMessage("Association request was answered!")


@delete("/association-requests/{request_id:int}", status_code=200, guards=[_may], security=SESSION, responses=_ONE)
async def delete_request(request: AppRequest, state: State, request_id: PathId) -> AssociationMessage:
    """Delete a Domain and the decision about it."""
    associations = service(state, NetworkAssociations)
    found = await _find(request, state, request_id)
    await associations.forget(request.user, found.name, found.identity)
    return AssociationMessage("Association request deleted!")


async def _find(request: AppRequest, state: State, request_id: int) -> KnownDomain:
    associations = service(state, NetworkAssociations)
    for known in await associations.list_domains(request.user, None):
        if known.id == request_id:
            return known
    raise NotFound(f"there is no association request {request_id}", code=codes.ASSOCIATION_NOT_FOUND, id=request_id)


def _request(known: KnownDomain) -> AssociationRequest:
    return AssociationRequest(
        known.id, known.name, known.claimed_address or "", str(known.state), known.created_at, known.decided_at
    )


published_node_routes: list[Any] = [
    Router(
        "/",
        route_handlers=[welcome, join, list_connected, delete_node],
        tags=["nodes"],
        exception_handlers=exception_handlers(Area.NODES),
    ),
    Router("/", route_handlers=[list_requests, get_request, respond, delete_request], tags=["association-requests"]),
]
"""The app's state needs ``associations`` and ``nodes``."""
