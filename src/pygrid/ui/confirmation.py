"""A password before acts that are hard to take back: asked for if the session began over 15 minutes ago."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from litestar import Response
from litestar.datastructures import Cookie, State

from pygrid.errors import PygridError
from pygrid.features.accounts.sessions import SessionsService
from pygrid.ui.access import check_confidential, find_cookie, session_cookie
from pygrid.ui.console import console_of
from pygrid.web.addresses import client_address, client_agent
from pygrid.web.requests import AppRequest
from pygrid.web.services import service

FIELD = "confirm_password"


class PasswordView(msgspec.Struct, frozen=True):
    """The form that asks for the password and repeats what was sent."""

    problem: dict[str, Any] | None
    act: str
    action: str
    fields: list[tuple[str, str]]


class Confirmation(msgspec.Struct, frozen=True):
    """The answer to "was the password typed recently?"."""

    page: Response[bytes] | None = None
    """The form that asks for it; None: yes."""
    cookies: list[Cookie] = msgspec.field(default_factory=list)
    """The cookie of the session that the password began."""


async def confirm_password(request: AppRequest, state: State, fields: Mapping[str, str], act: str) -> Confirmation:
    """Return a form that asks for the password, unless it was typed within 15 minutes or is among the fields.

    Args:
        fields: of the form that the browser has sent; the form that asks sends them again.
        act: what the user wants to do, for example "delete the dataset patients".
    """
    sessions, token = service(state, SessionsService), find_cookie(request)
    assert token is not None, "a guard has checked it"
    if await sessions.is_confirmed(request.user, token):
        return Confirmation()
    error: PygridError | None = None
    if password := fields.get(FIELD):
        check_confidential(request)
        try:
            address, agent = client_address(request), client_agent(request)
            session = await sessions.confirm(request.user, token, password, address, agent)
        except PygridError as failed:
            error = failed
        else:
            return Confirmation(cookies=[session_cookie(request, session.token)])
    sent = [(name, value) for name, value in fields.items() if name != FIELD]
    view = PasswordView(None if error is None else error.to_problem(), act, request.url.path, sent)
    page = await console_of(request).page(request, "password.html", "Confirm your password", view, status=401)
    return Confirmation(page)
