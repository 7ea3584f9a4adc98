"""Routes by which the operators of a Domain join and leave Networks."""

from __future__ import annotations

from litestar import Router, delete, get, post
from litestar.datastructures import State
from litestar.params import JSONBody

from pygrid.core.access import Permission
from pygrid.features.associations.domain.service import DomainAssociations
from pygrid.messages.associations import AssociationInfo, AssociationList, JoinRequest
from pygrid.web.auth import SESSION, require
from pygrid.web.idempotency import repeatable
from pygrid.web.parameters import PathId
from pygrid.web.problems import describe_problems
from pygrid.web.requests import AppRequest
from pygrid.web.services import service

_may = require(Permission.MANAGE_INFRASTRUCTURE)


_ONE = describe_problems(400, 401, 403, 404)


@get("/associations", guards=[_may], security=SESSION, responses=describe_problems(401, 403))
async def list_associations(request: AppRequest, state: State) -> AssociationList:
    """List the Networks of this Domain, with the state of each association."""
    return AssociationList(await service(state, DomainAssociations).list_networks(request.user))


@get("/associations/{association_id:int}", guards=[_may], security=SESSION, responses=_ONE)
async def get_association(request: AppRequest, state: State, association_id: PathId) -> AssociationInfo:
    """Show the association with one Network."""
    return await service(state, DomainAssociations).get_network(request.user, association_id)


@post(
    "/associations",
    status_code=202,
    guards=[_may],
    security=SESSION,
    responses=describe_problems(400, 401, 403, 409, 413),
)
@repeatable()
async def join_network(request: AppRequest, state: State, data: JSONBody[JoinRequest]) -> AssociationInfo:
    """Ask a Network to accept this Domain. The answer does not wait for the Network; ``state`` shows the progress."""
    return await service(state, DomainAssociations).join(request.user, data.network, data.invitation)


@delete("/associations/{association_id:int}", status_code=200, guards=[_may], security=SESSION, responses=_ONE)
async def leave_network(request: AppRequest, state: State, association_id: PathId) -> AssociationInfo:
    """Leave a Network: ``left`` if the Network was notified, else ``leaving`` until it can be.

    A second call deletes the association.
    """
    return await service(state, DomainAssociations).leave(request.user, association_id)


association_routes = [
    Router("/", route_handlers=[list_associations, get_association, join_network, leave_network], tags=["associations"])
]
"""They need the service `DomainAssociations`."""
