"""The Domains of a Network: which belong to it, which ask to join, and the decision."""

from __future__ import annotations

import datetime as dt
from collections import Counter

import msgspec
from litestar import Response, get, post
from litestar.datastructures import State

from pygrid import codes
from pygrid.core.access import Permission
from pygrid.core.associations import Act, AssociationState
from pygrid.errors import InvalidInput, PygridError
from pygrid.features.associations.network.registry import ConnectedDomain
from pygrid.features.associations.network.service import NetworkAssociations
from pygrid.features.relay.network.service import Relay
from pygrid.storage.associations import KnownDomain
from pygrid.ui.access import signed_in
from pygrid.ui.confirmation import confirm_password
from pygrid.ui.console import MAX_SHOWN, Need, console_of, see_other
from pygrid.ui.forms import MAX_FORM_BYTES, read_fields
from pygrid.ui.pages.paging import Paging, make_paging
from pygrid.ui.render import show_number
from pygrid.ui.tables import answer_rows, find_format
from pygrid.web.requests import AppRequest
from pygrid.web.services import service

_ACTS = {"accept": Act.ACCEPT, "deny": Act.DENY, "revoke": Act.REVOKE}
COLUMNS = ("name", "state", "health", "seen_at", "version", "identity", "address", "counts", "load", "reason")
"""What the list has as a file."""
_TONES = {"online": "good", "degraded": "warn", "offline": "off"}


class NetworkView(msgspec.Struct, frozen=True):
    needs: list[Need]
    states: list[tuple[str, str, int]]
    """States of the Domains with their tone and number; empty for callers who manage none."""
    num_pipes: int = 0
    carried_bytes: int = 0


class WaitingDomain(msgspec.Struct, frozen=True):
    name: str
    identity: str
    since: dt.datetime
    claimed: str


class DomainRow(msgspec.Struct, frozen=True):
    name: str
    state: str
    health: str
    tone: str
    seen_at: dt.datetime | None
    version: str
    identity: str
    address: str
    counts: str
    load: str
    reason: str
    may_revoke: bool


class DomainsView(msgspec.Struct, frozen=True):
    waiting: list[WaitingDomain]
    domains: list[DomainRow]
    paging: Paging


@get("/", guards=[signed_in()])
async def network_dashboard(request: AppRequest, state: State) -> Response[bytes]:
    """Show the start page of a Network."""
    view = NetworkView([], [])
    if request.user.may(Permission.MANAGE_NODES):
        associations = service(state, NetworkAssociations)
        waiting = await associations.list_domains(request.user, {AssociationState.PENDING})
        members = associations.domains.members()
        used = service(state, Relay).usage(request.user, [member.name for member in members]).domains
        counts = Counter(str(member.state) for member in members)
        view = NetworkView(
            [Need("/admin/domains", f"{known.name} asks to join this Network.") for known in waiting[:MAX_SHOWN]],
            [(health, tone, counts[health]) for health, tone in _TONES.items()],
            sum(one.num_pipes for one in used),
            sum(one.carried_bytes for one in used),
        )
    return await console_of(request).page(request, "dashboard.html", "Dashboard", view)


@get("/domains", guards=[signed_in(Permission.MANAGE_NODES)])
async def domains_page(request: AppRequest, state: State) -> Response[bytes]:
    """Show the Domains."""
    return await _page(request, state)


@post("/domains/decide", guards=[signed_in(Permission.MANAGE_NODES)], request_max_body_size=MAX_FORM_BYTES)
async def decide(request: AppRequest, state: State) -> Response[bytes]:
    """Accept, deny or revoke a Domain, bound to the identity that the page showed."""
    fields = await read_fields(request)
    try:
        act = _ACTS.get(fields.get("decision", ""))
        if act is None or not fields.get("identity"):
            raise InvalidInput("choose Accept or Deny", code=codes.INVALID_FORM, field="decision")
        if act is Act.REVOKE:
            await confirm_password(request, state, fields, f"revoke the Domain {fields.get('name', '')[:80]}")
        await service(state, NetworkAssociations).decide(
            request.user, fields.get("name", ""), act, fields.get("reason", ""), fields["identity"]
        )
    except PygridError as error:
        return await _page(request, state, error)
    return see_other("/admin/domains")


@post("/domains/forget", guards=[signed_in(Permission.MANAGE_NODES)], request_max_body_size=MAX_FORM_BYTES)
async def forget(request: AppRequest, state: State) -> Response[bytes]:
    """Delete a Domain and the decisions about it."""
    fields = await read_fields(request)
    try:
        await service(state, NetworkAssociations).forget(
            request.user, fields.get("name", ""), fields.get("identity") or None
        )
    except PygridError as error:
        return await _page(request, state, error)
    return see_other("/admin/domains")


async def _page(request: AppRequest, state: State, error: PygridError | None = None) -> Response[bytes]:
    associations = service(state, NetworkAssociations)
    wanted = find_format(request)
    known = await associations.list_domains(request.user, None)
    rows = [_row(associations, one) for one in known if one.state is not AssociationState.PENDING]
    if wanted:
        return answer_rows(wanted, "domains", rows, COLUMNS)
    view = DomainsView(
        [
            WaitingDomain(one.name, one.identity or "", one.created_at, one.claimed_address or "")
            for one in known
            if one.state is AssociationState.PENDING
        ],
        rows,
        make_paging(request, None, has_files=bool(rows), path="/admin/domains"),
    )
    return await console_of(request).page(request, "domains.html", "Domains", view, error=error)


def _row(associations: NetworkAssociations, known: KnownDomain) -> DomainRow:
    member = associations.domains.find(known.name)
    is_here = member is not None and member.known.id == known.id and known.state is AssociationState.ACCEPTED
    health = str(member.state) if member is not None and is_here else "offline"
    return DomainRow(
        known.name,
        str(known.state),
        health,
        _TONES.get(health, "off"),
        (member.heard_at if member is not None and is_here else None) or known.last_seen_at,
        str(known.entry.get("version", "-")),
        known.identity or "",
        _address(known),
        "" if member is None or not is_here else _counts(member),
        "" if member is None or not is_here else show_number(member.heartbeat.load),
        known.reason,
        known.state is AssociationState.ACCEPTED and known.identity is not None,
    )


def _address(known: KnownDomain) -> str:
    if known.address:
        return known.address
    return "through the relay" + (f" (claims {known.claimed_address})" if known.claimed_address else "")


def _counts(member: ConnectedDomain) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in sorted(member.heartbeat.counts.items()))
