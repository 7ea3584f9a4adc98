"""Invitations of Domains to a Network: make one, list them, withdraw one."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping

import msgspec
from litestar import Response, get, post
from litestar.datastructures import State

from pygrid import codes
from pygrid.core.access import Permission
from pygrid.errors import InvalidInput, PygridError
from pygrid.features.associations.network.service import NetworkAssociations
from pygrid.messages.associations import InvitationRequest
from pygrid.ui.access import own_origin, signed_in
from pygrid.ui.console import console_of, see_other
from pygrid.ui.forms import MAX_FORM_BYTES, PathId, read_fields
from pygrid.web.requests import AppRequest
from pygrid.web.services import service

_MANAGES = signed_in(Permission.MANAGE_NODES)
DAY_S = 86_400


class DomainInvitationLine(msgspec.Struct, frozen=True):
    id: int
    domain: str
    max_uses: int
    num_uses: int
    created_at: dt.datetime
    expires_at: dt.datetime
    words: str
    tone: str


class NewToken(msgspec.Struct, frozen=True):
    """The token of an invitation, which is shown once."""

    token: str
    domain: str
    expires_at: dt.datetime
    url: str


class InvitationsView(msgspec.Struct, frozen=True):
    invitations: list[DomainInvitationLine]
    new: NewToken | None
    fields: Mapping[str, str]
    python: str


@get("/invitations", guards=[_MANAGES])
async def invitations_page(request: AppRequest, state: State) -> Response[bytes]:
    """Show the invitations that were not withdrawn."""
    return await _page(request, state)


@post("/invitations", guards=[_MANAGES], request_max_body_size=MAX_FORM_BYTES)
async def invite_domain(request: AppRequest, state: State) -> Response[bytes]:
    """Make an invitation; the page shows its token once."""
    fields = await read_fields(request)
    try:
        wanted = read_invitation(fields)
        made, token = await service(state, NetworkAssociations).invite(
            request.user, wanted.domain, wanted.max_uses, wanted.expires_in_s
        )
    except PygridError as error:
        return await _page(request, state, error, fields=fields)
    new = NewToken(token, made.domain or "", made.expires_at, own_origin(request))
    return await _page(request, state, new=new)


@post("/invitations/{invitation_id:int}/withdraw", guards=[_MANAGES])
async def withdraw_domain_invitation(request: AppRequest, state: State, invitation_id: PathId) -> Response[bytes]:
    """Withdraw an invitation; Domains that used it stay."""
    try:
        await service(state, NetworkAssociations).take_back(request.user, invitation_id)
    except PygridError as error:
        return await _page(request, state, error)
    return see_other("/admin/invitations")


def read_invitation(fields: Mapping[str, str]) -> InvitationRequest:
    """Return the invitation that a form describes. Raises InvalidInput: ``invalid_form``, with ``field``."""
    uses, days = _count(fields, "max_uses", 1000), _count(fields, "days", 366)
    sent = {"domain": fields.get("domain", "").strip() or None, "max_uses": uses, "expires_in_s": days * DAY_S}
    try:
        return msgspec.convert(sent, InvitationRequest)
    except msgspec.ValidationError as error:
        raise InvalidInput(str(error), code=codes.INVALID_FORM, field="domain") from error


def _count(fields: Mapping[str, str], name: str, highest: int) -> int:
    text = fields.get(name, "").strip()
    if not (text.isascii() and text.isdecimal() and len(text) < 7 and 1 <= int(text) <= highest):
        detail = f"{name} is {text[:40]!r}: write a whole number from 1 to {highest:,}"
        raise InvalidInput(detail, code=codes.INVALID_FORM, field=name)
    return int(text)


async def _page(
    request: AppRequest,
    state: State,
    error: PygridError | None = None,
    *,
    new: NewToken | None = None,
    fields: Mapping[str, str] | None = None,
) -> Response[bytes]:
    found = await service(state, NetworkAssociations).list_invitations(request.user)
    now = dt.datetime.now(dt.UTC)
    lines = []
    for one in found:
        words, tone = ("open", "good") if one.num_uses < one.max_uses else ("used", "off")
        if one.expires_at <= now:
            words, tone = "expired", "off"
        lines.append(
            DomainInvitationLine(
                one.id, one.domain or "", one.max_uses, one.num_uses, one.created_at, one.expires_at, words, tone
            )
        )
    view = InvitationsView(lines, new, fields or {}, "network.invite(domain=None, max_uses=1)")
    return await console_of(request).page(request, "invitations.html", "Invitations", view, error=error)
