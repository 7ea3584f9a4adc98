"""Pages of errors: what is wrong, and what to do next."""

from __future__ import annotations

import http
import math
from typing import Any

import msgspec
from litestar import Request, Response, get
from litestar.exceptions import HTTPException
from litestar.types import ExceptionHandlersMap

from pygrid import codes
from pygrid.errors import NotFound, PygridError, Unauthenticated
from pygrid.lifecycle import ClientGone
from pygrid.ui.access import maybe_signed_in, sign_in_path
from pygrid.ui.confirmation import PasswordNeeded
from pygrid.ui.console import Console, Frame, see_other
from pygrid.ui.forms import PathText
from pygrid.web.problems import answer_client_gone, answer_unexpected, to_problem
from pygrid.web.services import service


def answer_error(request: Request[Any, Any, Any], error: PygridError) -> Response[bytes]:
    """Answer an error of pygrid with a page; a page without a session leads to the sign-in, a script gets 401."""
    if error.status == 500:
        return answer_unexpected_page(request, error)
    is_script = request.headers.get("hx-request") or request.headers.get("accept") == "text/event-stream"
    if isinstance(error, Unauthenticated) and request.method == "GET" and not is_script:
        return see_other(sign_in_path(request))
    return _page(request, error.to_problem())


def answer_framework_error(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    return _page(request, to_problem(request, error))


def answer_unexpected_page(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Answer a full or faulty disk in words, and an unexpected error by a log id."""
    return _page(request, msgspec.json.decode(answer_unexpected(request, error).content))


def _page(request: Request[Any, Any, Any], problem: dict[str, Any]) -> Response[bytes]:
    """Return a page that needs no database, so that it can also say that there is none."""
    console = service(request.app.state, Console)
    status = int(problem["status"])
    title = http.HTTPStatus(status).phrase
    frame = Frame(console.name, console.kind, console.identity, title, request.url.path, (), "", "")
    view = {"detail": str(problem["detail"]), "code": str(problem["code"]), "status": status}
    headers = (
        {"Retry-After": str(max(1, math.ceil(problem["retry_after_s"])))} if problem.get("retry_after_s") else None
    )
    part = "problem" if request.headers.get("hx-request") else ""
    return console.answer(
        request,  # type: ignore[arg-type]
        console.renderer.render("error.html", part, frame=frame, view=view),
        status,
        headers,
    )


@get("/{path:path}", guards=[maybe_signed_in])
async def unknown_page(path: PathText) -> None:
    """Answer for every other address of the console."""
    raise NotFound("the console has no such page", code=codes.PAGE_NOT_FOUND)


def answer_unconfirmed(_request: Request[Any, Any, Any], error: PasswordNeeded) -> Response[bytes]:
    return error.page


PAGE_EXCEPTION_HANDLERS: ExceptionHandlersMap = {
    PasswordNeeded: answer_unconfirmed,
    PygridError: answer_error,
    HTTPException: answer_framework_error,
    ClientGone: answer_client_gone,
    Exception: answer_unexpected_page,
}
