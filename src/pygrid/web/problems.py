"""Answers to errors: problem documents (RFC 9457) with a stable ``code``; tracebacks stay in the log."""

from __future__ import annotations

import http
import logging
import math
import re
import secrets
from collections.abc import Mapping
from typing import Any

import msgspec
from litestar import Response
from litestar.connection import Request
from litestar.exceptions import HTTPException, ValidationException
from litestar.openapi.datastructures import ResponseSpec
from litestar.types import ExceptionHandlersMap

from pygrid.core.access import Authenticator, Permission, Principal
from pygrid.errors import PygridError, explain_os_error
from pygrid.lifecycle import ClientGone
from pygrid.messages import media
from pygrid.messages.plain_words import choices_of, in_plain_words

logger = logging.getLogger(__name__)

_CODES = {
    400: "invalid_input",
    401: "unauthenticated",
    404: "route_not_found",
    405: "method_not_allowed",
    413: "payload_too_large",
}
_PARAMETER = re.compile(r"^Missing required \w+ parameter '([^']{1,100})'")


class Problem(msgspec.Struct):
    """A refusal; further members name the wrong values."""

    type: str
    title: str
    status: int
    detail: str
    code: str


def describe_problems(*statuses: int) -> dict[int, ResponseSpec]:
    """Return the ``responses=`` of a handler for these refusals, for the OpenAPI document."""
    return {
        status: ResponseSpec(
            data_container=Problem,
            generate_examples=False,
            description=http.HTTPStatus(status).phrase,
            media_type=media.PROBLEM,
        )
        for status in statuses
    }


def problem_response(problem: dict[str, Any], headers: Mapping[str, str] | None = None) -> Response[bytes]:
    """Return the answer with a problem document; ``retry_after_s`` is also sent as ``Retry-After``."""
    extra = dict(headers or {})
    if isinstance(retry_after_s := problem.get("retry_after_s"), int | float):
        extra["Retry-After"] = str(max(1, math.ceil(retry_after_s)))
    if problem["status"] == 401:
        extra["WWW-Authenticate"] = "Bearer"
    return Response(
        msgspec.json.encode(problem), status_code=problem["status"], media_type=media.PROBLEM, headers=extra
    )


def answer_pygrid_error(request: Request[Any, Any, Any], error: PygridError) -> Response[bytes]:
    """Answer an error of pygrid; one with status 500 is logged like an unexpected error."""
    if error.status == 500:
        return answer_unexpected(request, error)
    return problem_response(explain(request, error))


def explain(request: Request[Any, Any, Any], error: PygridError) -> dict[str, Any]:
    """Return the problem document of an error; for a signed-in user, it names who can assign a missing permission."""
    problem = error.to_problem()
    principal, permission = request.scope.get("user"), error.fields.get("permission")
    if isinstance(principal, Principal) and permission in tuple(Permission):
        authenticator: Authenticator = request.app.state.authenticator
        problem["detail"] = authenticator.explain_missing(principal, Permission(permission))
    return problem


def answer_http_error(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    """Answer a refusal by the framework: unknown route, wrong method, invalid body or parameter."""
    headers = dict(error.headers or {})
    methods = [one for one in headers.get("allow", "").split(", ") if one.isupper()]  # without websocket
    if methods:
        headers["allow"] = ", ".join([*methods, "HEAD"] if "GET" in methods else methods)  # `Heads` answers HEAD
    return problem_response(to_problem(request, error), headers)


def to_problem(request: Request[Any, Any, Any], error: HTTPException) -> dict[str, Any]:
    """Return the problem document of a refusal by the framework."""
    status = error.status_code
    phrase = http.HTTPStatus(status).phrase
    code = _CODES.get(status, phrase.lower().replace(" ", "_"))
    problem: dict[str, Any] = {"title": phrase.capitalize(), "status": status, "detail": error.detail or phrase}
    if isinstance(error, ValidationException):
        problem["errors"] = errors = _invalid_parts(request, error)
        problem["detail"] = (
            "; ".join(f"{part['field']}: {part['detail']}" for part in errors) or "the request is not valid"
        )
        if not errors and (missing := _PARAMETER.search(error.detail)):
            problem["errors"] = [{"field": missing[1], "detail": "it is missing"}]
            problem["detail"] = f"{missing[1]} is missing"
        if errors and all("missing required field" in part["detail"] for part in errors):
            code = "missing_field"
    elif status == 404:
        problem["detail"] = "there is nothing at this address; a Domain or Network has one without a path: https://HOST"
    return {"type": f"urn:pygrid:error:{code}", "code": code, **problem}


def _invalid_parts(request: Request[Any, Any, Any], error: ValidationException) -> list[dict[str, str]]:
    parts = []
    body = getattr(request.scope.get("route_handler"), "parsed_data_field", None)
    for part in error.extra if isinstance(error.extra, list) else []:
        field, detail = str(part.get("key") or part.get("source") or ""), str(part.get("message", ""))
        # The framework calls the body "data", and reports only that name if the body is empty.
        if detail == "'data'":
            detail = "it is empty; send a JSON object"
        detail = in_plain_words(detail, choices_of(getattr(body, "annotation", None), field))
        parts.append({"field": "body" if field in ("data", "") else field, "detail": detail})
    return parts


def answer_unexpected(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Answer a full or faulty disk, or an unexpected error by a log id; the log has the traceback under this id."""
    if (explained := explain_os_error(error)) is not None:
        logger.error("disk failed", extra={"method": request.method, "code": explained.code, "reason": str(error)})
        return answer_pygrid_error(request, explained)
    log_id = secrets.token_hex(8)
    logger.error(
        "unexpected error",
        exc_info=error,
        extra={"log_id": log_id, "method": request.method, "route": request.scope.get("path_template", "")},
    )
    detail = f"The server failed to answer this request. Its log tells why under {log_id}."
    return problem_response(
        {
            "type": "urn:pygrid:error:internal",
            "title": "Internal error",
            "status": 500,
            "detail": detail,
            "code": "internal",
            "log_id": log_id,
        }
    )


def answer_client_gone(_request: Request[Any, Any, Any], _error: ClientGone) -> Response[bytes]:
    """Return an empty answer for a client that closed the connection; 499 marks it in the metrics."""
    return Response(b"", status_code=499, media_type=media.PROBLEM)


EXCEPTION_HANDLERS: ExceptionHandlersMap = {
    PygridError: answer_pygrid_error,
    HTTPException: answer_http_error,
    ClientGone: answer_client_gone,
    Exception: answer_unexpected,
}
