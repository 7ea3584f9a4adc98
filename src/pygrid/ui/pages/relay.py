"""The relay of a Network: connected Domains, their callers, and the bytes that are carried. Never content."""

from __future__ import annotations

import datetime as dt

import msgspec
from litestar import Response, get
from litestar.datastructures import State

from pygrid.core.access import Permission
from pygrid.features.associations.network.service import NetworkAssociations
from pygrid.features.relay.network.service import Relay
from pygrid.ui.access import signed_in
from pygrid.ui.console import console_of
from pygrid.ui.pages.paging import Paging, make_paging
from pygrid.ui.tables import answer_rows, find_format
from pygrid.web.requests import AppRequest
from pygrid.web.services import service

COLUMNS = ("name", "is_connected", "heard_at", "num_pipes", "carried_bytes", "callers")
"""What the list has as a file."""


class RelayLine(msgspec.Struct, frozen=True):
    name: str
    is_connected: bool
    heard_at: dt.datetime | None
    num_pipes: int
    carried_bytes: int
    callers: str
    """Accounts by number, Domains by key, other callers by the network of their address."""


class RelayView(msgspec.Struct, frozen=True):
    lines: list[RelayLine]
    num_connected: int
    num_pipes: int
    carried_bytes: int
    refusals: list[tuple[str, int]]
    limits: list[tuple[str, str]]
    is_open: bool
    paging: Paging


@get("/relay", guards=[signed_in(Permission.MANAGE_NODES)])
async def relay_page(request: AppRequest, state: State) -> Response[bytes]:
    """Show the use of the relay since the start of the app."""
    members = service(state, NetworkAssociations).domains.members()
    usage = service(state, Relay).usage(request.user, [member.name for member in members])
    lines = [
        RelayLine(
            member.name,
            member.link is not None,
            member.heard_at,
            used.num_pipes,
            used.carried_bytes,
            ", ".join(f"{caller} ({count:,})" for caller, count in used.callers),
        )
        for member, used in zip(members, usage.domains, strict=True)
    ]
    if wanted := find_format(request):
        return answer_rows(wanted, "relay", lines, COLUMNS)
    limits = usage.limits
    view = RelayView(
        lines,
        sum(line.is_connected for line in lines),
        sum(line.num_pipes for line in lines),
        sum(line.carried_bytes for line in lines),
        sorted(usage.refusals.items(), key=lambda one: (-one[1], one[0])),
        [
            ("Connections to one Domain", f"{limits.max_pipes_per_domain:,}"),
            ("Connections of one account or Domain", f"{limits.max_pipes_per_caller:,}"),
            ("Connections of one network address without an account", f"{limits.max_pipes_per_address:,}"),
            ("A Domain must answer within", f"{limits.open_s:g} s"),
            ("A connection without data ends after", f"{limits.idle_s:g} s"),
        ],
        usage.is_open,
        make_paging(request, None, has_files=bool(lines), path="/admin/relay"),
    )
    return await console_of(request).page(request, "relay.html", "Relay", view)
