"""A password before acts that are hard to take back: asked for if the session began over 15 minutes ago."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from litestar import Response
from litestar.datastructures import State
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from pygrid.errors import PygridError
from pygrid.features.accounts.sessions import SessionsService
from pygrid.ui.access import check_confidential, find_cookie, session_cookie
from pygrid.ui.console import console_of
from pygrid.web.addresses import client_address, client_agent
from pygrid.web.requests import AppRequest
from pygrid.web.services import service

FIELD = "confirm_password"
_COOKIE = "pygrid_session_cookie"
"""Key of the state of a request."""


class PasswordView(msgspec.Struct, frozen=True):
    """The form that asks for the password and repeats what was sent."""

    problem: dict[str, Any] | None
    act: str
    action: str
    fields: list[tuple[str, str]]


class PasswordNeeded(Exception):
    """The password was not typed recently; ``page`` asks for it."""

    def __init__(self, page: Response[bytes]) -> None:
        super().__init__("the password is needed")
        self.page = page


def keep_session(app: ASGIApp) -> ASGIApp:
    """Return the app with the cookie of a session that a typed password began in each answer, also in a refusal."""

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_cookie(message: Message) -> None:
            if message["type"] == "http.response.start" and (cookie := scope["state"].get(_COOKIE)):
                message["headers"] = [*message["headers"], (b"set-cookie", cookie)]
            await send(message)

        await app(scope, receive, send_with_cookie)

    return handle


async def confirm_password(request: AppRequest, state: State, fields: Mapping[str, str], act: str) -> None:
    """Check that the password was typed within 15 minutes, or is among the fields; then a new session begins.

    Args:
        fields: of the form that the browser has sent; the form that asks sends them again.
        act: what the user wants to do, for example "delete the dataset patients".
    Raises:
        PasswordNeeded: neither; the page of the error repeats the form.
    """
    sessions, token = service(state, SessionsService), find_cookie(request)
    assert token is not None, "a guard has checked it"
    if await sessions.is_confirmed(request.user, token):
        return
    error: PygridError | None = None
    if password := fields.get(FIELD):
        check_confidential(request)
        try:
            address, agent = client_address(request), client_agent(request)
            session = await sessions.confirm(request.user, token, password, address, agent)
        except PygridError as failed:
            error = failed
        else:
            cookie = session_cookie(request, session.token)
            request.scope["state"][_COOKIE] = cookie.to_header(header="").encode()
            return
    sent = [(name, value) for name, value in fields.items() if name != FIELD]
    view = PasswordView(None if error is None else error.to_problem(), act, request.url.path, sent)
    page = await console_of(request).page(request, "password.html", "Confirm your password", view, status=401)
    raise PasswordNeeded(page)
