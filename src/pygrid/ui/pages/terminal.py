"""The page that shows a one-time code for a command or a notebook."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Response, get, post
from litestar.datastructures import State
from litestar.params import FromQuery

from pygrid.errors import PygridError
from pygrid.features.accounts.browser_login import BrowserLogins, check_challenge
from pygrid.ui.access import check_confidential, find_cookie, signed_in
from pygrid.ui.console import console_of
from pygrid.ui.forms import MAX_FORM_BYTES, read_form
from pygrid.web.requests import AppRequest
from pygrid.web.services import service


class ChallengeForm(msgspec.Struct):
    challenge: str = ""


class TerminalView(msgspec.Struct, frozen=True):
    problem: dict[str, Any] | None
    challenge: str
    code: str


@get("/terminal", guards=[signed_in()])
async def terminal_page(request: AppRequest, challenge: FromQuery[str] = "") -> Response[bytes]:
    """Ask the user whether a command may act for them."""
    check_challenge(challenge)
    return await console_of(request).page(
        request, "terminal.html", "Log in a command", TerminalView(None, challenge, "")
    )


@post("/terminal", guards=[signed_in()], request_max_body_size=MAX_FORM_BYTES)
async def show_code(request: AppRequest, state: State) -> Response[bytes]:
    """Show the code."""
    check_confidential(request)
    form, token = await read_form(request, ChallengeForm), find_cookie(request)
    assert token is not None, "a guard has checked it"
    problem, code, status = None, "", 200
    try:
        code = service(state, BrowserLogins).offer(request.user, token, form.challenge)
    except PygridError as error:
        problem, status = error.to_problem(), error.status
    view = TerminalView(problem, form.challenge, code)
    return await console_of(request).page(request, "terminal.html", "Log in a command", view, status=status)
