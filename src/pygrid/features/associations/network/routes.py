"""Routes of a Network: Domains connect, all callers list Domains, managers decide about them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from litestar import Router, WebSocket, delete, get, post, websocket
from litestar.datastructures import State
from litestar.params import JSONBody, PathParameter, QueryParameter

from pygrid.core.access import Permission, not_permitted
from pygrid.core.associations import Act, AssociationState
from pygrid.features.associations.network.registry import ConnectedDomain
from pygrid.features.associations.network.service import NetworkAssociations
from pygrid.messages.associations import (
    CONTROL_PATH,
    Decision,
    DomainDetail,
    DomainInfo,
    DomainList,
    DomainRemoved,
    InvitationList,
    InvitationRemoved,
    InvitationRequest,
    NewInvitation,
)
from pygrid.settings import PUBLISHABLE_COUNTS
from pygrid.storage.associations import KnownDomain
from pygrid.transport.links import REFUSED
from pygrid.web.auth import SESSION, anyone, find_principal, require
from pygrid.web.idempotency import repeatable
from pygrid.web.parameters import PathId
from pygrid.web.problems import describe_problems
from pygrid.web.requests import AppRequest
from pygrid.web.services import service
from pygrid.web.sockets import AsgiSocket, is_of_a_browser

Name = Annotated[str, PathParameter(min_length=1, max_length=100)]
Identity = Annotated[str | None, QueryParameter(max_length=100)]
Shown = Literal["accepted", "pending", "denied", "revoked", "left", "all"]

_may = require(Permission.MANAGE_NODES)


def _manages(request: AppRequest) -> bool:
    principal = find_principal(request)
    return principal is not None and principal.may(Permission.MANAGE_NODES)


_DECIDED = describe_problems(400, 401, 403, 404, 409, 413)


@websocket(CONTROL_PATH)
async def control(socket: WebSocket[Any, Any, Any], state: State) -> None:
    """The control WebSocket of a Domain (`pygrid.messages.associations`)."""
    if is_of_a_browser(socket):
        await socket.close(REFUSED, "browsers may not connect here")
        return
    await socket.accept()
    await service(state, NetworkAssociations).serve(AsgiSocket(socket))


@get("/domains", guards=[anyone], responses=describe_problems(400, 401, 403))
async def list_domains(
    request: AppRequest, state: State, association: Annotated[Shown, QueryParameter()] = "accepted"
) -> DomainList:
    """List the Domains of the Network by name. Only ``can_manage_nodes`` may list those that are not accepted."""
    associations, manages = service(state, NetworkAssociations), _manages(request)
    if association == "accepted":
        return DomainList([_member_info(member, member.known, manages) for member in associations.domains])
    if not manages:
        raise not_permitted(Permission.MANAGE_NODES)
    states = None if association == "all" else {AssociationState(association)}
    found = await associations.list_domains(request.user, states)
    return DomainList([_info(associations, known, manages) for known in found])


@get("/domains/{name:str}", guards=[anyone], responses=describe_problems(400, 401, 404))
async def get_domain(request: AppRequest, state: State, name: Name, identity: Identity = None) -> DomainDetail:
    """Show a Domain and its signed entry; only managers may see one that is not a member of the Network.

    If several Domains request the name, managers see the first, or the one with ``identity``.
    """
    associations, manages = service(state, NetworkAssociations), _manages(request)
    known = (
        await associations.get_domain(request.user, name, identity) if manages else associations.domains.get(name).known
    )
    info = _info(associations, known, manages)
    if not manages and known.claimed_address != known.address:
        # An unchecked address is not shown, and without it the signed entry cannot be shown either.
        return DomainDetail(info, {}, None)
    return DomainDetail(info, known.entry, known.entry_signature)


def _decided(request: AppRequest, known: KnownDomain) -> DomainInfo:
    return _info(service(request.app.state, NetworkAssociations), known, manages=True)


@post("/domains/{name:str}/accept", status_code=200, guards=[_may], security=SESSION, responses=_DECIDED)
@repeatable(shape=_decided)
async def accept_domain(request: AppRequest, state: State, name: Name, data: JSONBody[Decision]) -> DomainInfo:
    """Accept a Domain; also one that was denied or revoked, or has left."""
    return await _decide(request, state, name, Act.ACCEPT, data)


@post("/domains/{name:str}/deny", status_code=200, guards=[_may], security=SESSION, responses=_DECIDED)
@repeatable(shape=_decided)
async def deny_domain(request: AppRequest, state: State, name: Name, data: JSONBody[Decision]) -> DomainInfo:
    """Deny the request of a Domain to join."""
    return await _decide(request, state, name, Act.DENY, data)


@post("/domains/{name:str}/revoke", status_code=200, guards=[_may], security=SESSION, responses=_DECIDED)
@repeatable(shape=_decided)
async def revoke_domain(request: AppRequest, state: State, name: Name, data: JSONBody[Decision]) -> DomainInfo:
    """Revoke a Domain: it is disconnected, and its key cannot join again, even with an invitation."""
    return await _decide(request, state, name, Act.REVOKE, data)


@delete(
    "/domains/{name:str}",
    status_code=200,
    guards=[_may],
    security=SESSION,
    responses=describe_problems(400, 401, 403, 404, 409),
)
async def forget_domain(request: AppRequest, state: State, name: Name, identity: Identity = None) -> DomainRemoved:
    """Delete all Domains of a name, or the one with this identity, and the decisions about them.

    The name is free, and the Domains may ask to join again.
    """
    return DomainRemoved((await service(state, NetworkAssociations).forget(request.user, name, identity)).name)


async def _decide(request: AppRequest, state: State, name: str, act: Act, data: Decision) -> DomainInfo:
    associations = service(state, NetworkAssociations)
    return _info(
        associations, await associations.decide(request.user, name, act, data.reason, data.identity), manages=True
    )


@post(
    "/invitations",
    status_code=201,
    guards=[_may],
    security=SESSION,
    responses=describe_problems(400, 401, 403, 409, 413),
)
@repeatable(keeps_answer=False, shape=lambda _request, made: NewInvitation(*made))
async def create_invitation(request: AppRequest, state: State, data: JSONBody[InvitationRequest]) -> NewInvitation:
    """Create an invitation: a Domain with its token is accepted at once. Only this answer contains the token."""
    return NewInvitation(
        *await service(state, NetworkAssociations).invite(request.user, data.domain, data.max_uses, data.expires_in_s)
    )


@get("/invitations", guards=[_may], security=SESSION, responses=describe_problems(401, 403))
async def list_invitations(request: AppRequest, state: State) -> InvitationList:
    """List all invitations that were not withdrawn."""
    return InvitationList(await service(state, NetworkAssociations).list_invitations(request.user))


@delete(
    "/invitations/{invitation_id:int}",
    status_code=200,
    guards=[_may],
    security=SESSION,
    responses=describe_problems(400, 401, 403, 404),
)
async def take_invitation_back(request: AppRequest, state: State, invitation_id: PathId) -> InvitationRemoved:
    """Withdraw an invitation; Domains that used it stay."""
    await service(state, NetworkAssociations).take_back(request.user, invitation_id)
    return InvitationRemoved(invitation_id)


def _info(associations: NetworkAssociations, known: KnownDomain, manages: bool) -> DomainInfo:
    member = associations.domains.find(known.name)
    if member is not None and member.known.id == known.id and known.state is AssociationState.ACCEPTED:
        return _member_info(member, known, manages)
    return DomainInfo(
        name=known.name,
        state="offline",
        identity=known.identity,
        version=known.entry.get("version"),
        address=None,
        counts={},
        last_seen_at=known.last_seen_at,
        joined_at=known.created_at,
        association=str(known.state),
        reason=known.reason,
        claimed_address=known.claimed_address,
        connected=associations.is_waiting(known),
    )


def _member_info(member: ConnectedDomain, known: KnownDomain, manages: bool) -> DomainInfo:
    info = DomainInfo(
        name=known.name,
        state="unknown" if known.is_legacy else member.state.value,
        identity=known.identity,
        version=known.entry.get("version"),
        address=known.address,
        counts={name: member.heartbeat.counts[name] for name in PUBLISHABLE_COUNTS if name in member.heartbeat.counts},
        last_seen_at=member.heard_at or known.last_seen_at,
        joined_at=known.decided_at or known.created_at,
        connected=member.link is not None,
    )
    if not manages:
        return info
    return msgspec.structs.replace(
        info, reason=member.address_fault, claimed_address=known.claimed_address, load=member.heartbeat.load
    )


network_routes: list[Any] = [
    control,
    Router(
        "/",
        route_handlers=[list_domains, get_domain, accept_domain, deny_domain, revoke_domain, forget_domain],
        tags=["domains"],
    ),
    Router("/", route_handlers=[create_invitation, list_invitations, take_invitation_back], tags=["invitations"]),
]
"""They need the service `NetworkAssociations`."""
