"""Association requests of 2021: routes by which the operators of a Domain join and leave Networks."""

from __future__ import annotations

from litestar import Router, delete, get, post
from litestar.datastructures import State
from litestar.params import JSONBody

from pygrid.core.access import Permission
from pygrid.features.associations.domain.service import DomainAssociations
from pygrid.legacy.messages import AssociationAsk, AssociationMessage, AssociationRequest
from pygrid.messages.associations import AssociationInfo
from pygrid.web.auth import SESSION, require
from pygrid.web.idempotency import repeatable
from pygrid.web.parameters import PathId
from pygrid.web.problems import describe_problems
from pygrid.web.requests import AppRequest
from pygrid.web.services import service

_may = require(Permission.MANAGE_INFRASTRUCTURE)


_ONE = describe_problems(400, 401, 403, 404)


@get("/association-requests", guards=[_may], security=SESSION, responses=describe_problems(401, 403))
async def list_requests(request: AppRequest, state: State) -> list[AssociationRequest]:
    """List the Networks that this Domain asked to join."""
    return [_request(info) for info in await service(state, DomainAssociations).list_networks(request.user)]


@get("/association-requests/{association_id:int}", guards=[_may], security=SESSION, responses=_ONE)
async def get_request(request: AppRequest, state: State, association_id: PathId) -> AssociationRequest:
    """Show the association with a Network."""
    return _request(await service(state, DomainAssociations).get_network(request.user, association_id))


@post(
    "/association-requests/request",
    status_code=200,
    guards=[_may],
    security=SESSION,
    responses=describe_problems(400, 401, 403, 409, 413),
)
@repeatable(shape=lambda _request, _info: AssociationMessage("Association request sent!"))
async def request_association(request: AppRequest, state: State, data: JSONBody[AssociationAsk]) -> AssociationMessage:
    """Ask the Network at this address to accept this Domain."""
    await service(state, DomainAssociations).join(request.user, data.address, None)
    return AssociationMessage("Association request sent!")


@delete("/association-requests/{association_id:int}", status_code=200, guards=[_may], security=SESSION, responses=_ONE)
async def delete_request(request: AppRequest, state: State, association_id: PathId) -> AssociationMessage:
    """Leave a Network."""
    await service(state, DomainAssociations).leave(request.user, association_id)
    return AssociationMessage("Association request deleted!")


def _request(info: AssociationInfo) -> AssociationRequest:
    accepted = info.updated_at if info.state == "accepted" else None
    return AssociationRequest(info.id, info.name or "", info.network, info.state, info.created_at, accepted)


association_request_routes = [
    Router(
        "/",
        route_handlers=[list_requests, get_request, request_association, delete_request],
        tags=["association-requests"],
    )
]
"""The app's state needs ``associations``, a `DomainAssociations`."""
