"""One-time links that a command makes to open the console."""

from __future__ import annotations

import msgspec
from litestar import Response, get, post
from litestar.datastructures import State

from pygrid.features.accounts.browser_login import BrowserLogins
from pygrid.features.accounts.invitations import code_not_valid
from pygrid.ui.access import START, check_confidential, maybe_signed_in, session_cookie
from pygrid.ui.console import console_of, see_other
from pygrid.ui.forms import MAX_FORM_BYTES, PathText
from pygrid.web.addresses import client_address, client_agent
from pygrid.web.requests import AppRequest
from pygrid.web.services import service


class EntryView(msgspec.Struct, frozen=True):
    code: str
    email: str


@get("/enter/{code:str}", guards=[maybe_signed_in])
async def entry_page(request: AppRequest, state: State, code: PathText) -> Response[bytes]:
    """Show whom the link signs in. The link stays valid, because programs that look at links open them too."""
    email = await service(state, BrowserLogins).find_link(code)
    if email is None:
        raise code_not_valid()
    return await console_of(request).page(request, "enter.html", "Open the console", EntryView(code, email))


@post("/enter/{code:str}", guards=[maybe_signed_in], request_max_body_size=MAX_FORM_BYTES)
async def enter(request: AppRequest, state: State, code: PathText) -> Response[bytes]:
    """Begin the session."""
    check_confidential(request)
    request.scope["user"] = None
    session = await service(state, BrowserLogins).enter(code, client_address(request), client_agent(request))
    return see_other(START, [session_cookie(request, session.token)])
