"""The published refusals: the texts that clients of 2020 compare, and the statuses where they differ.

This is the only table of them; the routes of both apps and the WebSocket at ``/`` use it. A refusal stays a problem
document with a stable ``code``. The published text is one more member of it: ``error``, or ``message`` on the routes of
nodes at a Network.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any

from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException

from pygrid.errors import PygridError
from pygrid.messages.decoding import MAX_EXPLAINED, find_field, in_pythons_words
from pygrid.web.problems import answer_unexpected, explain, problem_response, to_problem
from pygrid.web.requests import AppRequest


class Area(enum.Enum):
    """A part of the published interface with its own statuses."""

    ACCOUNTS = enum.auto()
    """``/users``, ``/roles`` and ``/groups``, and their messages."""
    DEVICES = enum.auto()
    """The routes of devices below ``/model-centric``, and their messages."""
    DATA = enum.auto()
    """``/data-centric``, the routes of model owners below ``/model-centric``, and their messages."""
    NODES = enum.auto()
    """The routes of nodes and of searches at a Network."""

    @property
    def member(self) -> str:
        """Name of the member with the published text."""
        return "message" if self is Area.NODES else "error"


TEXTS: Mapping[str, str] = {
    "unauthenticated": "Missing request key!",
    "missing_request_key": "Missing request key!",
    "invalid_credentials": "Invalid credentials!",
    "not_permitted": "User is not authorized for this operation!",
    "user_not_found": "User ID not found!",
    "role_not_found": "Role ID not found!",
    "group_not_found": "Group ID not found!",
    "worker_not_found": "Worker ID not found!",
    "protocol_not_found": "Protocol ID not found!",
    "plan_not_found": "Plan ID not found!",
    "model_not_found": "Model ID not found!",
    "cycle_closed": "Cycle not found!",
    "process_not_found": "Not found any process related with this cycle and worker ID.",
    "process_exists": "FL Process already exists.",
    "invalid_request_key": "Invalid request key!",
    "model_exists": "Model id already exists.",
    "inference_not_allowed": "You're not allowed to run inferences on this model.",
}
"""Code of an error -> its text in all areas but that of nodes.

An error without a row here or below keeps its own text.
"""

_INVALID_JSON = "Invalid JSON format."

ROWS: Mapping[Area, Mapping[str, tuple[int | None, str | None]]] = {
    Area.ACCOUNTS: {
        "unauthenticated": (400, None),
        "missing_field": (400, TEXTS["unauthenticated"]),
        "missing_request_key": (400, TEXTS["unauthenticated"]),
        "invalid_credentials": (403, None),
        "ambiguous_credentials": (400, TEXTS["unauthenticated"]),
        "signup_closed": (403, TEXTS["not_permitted"]),
        "built_in_role": (403, TEXTS["not_permitted"]),
        "last_owner": (403, TEXTS["not_permitted"]),
    },
    Area.DEVICES: {
        "auth_token_missing": (400, None),
        "auth_token_invalid": (400, None),
        "auth_token_refused": (400, None),
    },
    Area.DATA: {},
    Area.NODES: {
        "invalid_json": (400, _INVALID_JSON),
        "invalid_input": (400, _INVALID_JSON),
        "missing_field": (400, _INVALID_JSON),
        "invalid_text": (400, _INVALID_JSON),
        "json_too_complex": (400, _INVALID_JSON),
        "duplicate_key": (400, _INVALID_JSON),
        "node_exists": (409, "This ID has already been registered"),
        "domain_not_found": (409, "This ID was not found in connected nodes"),
    },
}
"""Area -> code -> (status, text). None: the status of the error, the text of `TEXTS`."""

FIELDS: Mapping[str, str] = {
    **{name: f"'{name}' needs to be a positive number" for name in ("ping", "download", "upload")},
    **dict.fromkeys(("model_name", "model_version", "model", "version"), TEXTS["process_not_found"]),
    "auth_token": "The 'auth_token' you sent is invalid.",
    "worker_id": TEXTS["worker_not_found"],
    "request_key": TEXTS["invalid_request_key"],
    "model_id": TEXTS["model_not_found"],
    "plan_id": TEXTS["plan_not_found"],
    "protocol_id": TEXTS["protocol_not_found"],
}
"""Field of a request of a device -> the text if it is missing or has another type."""
_OF_FIELDS = ("invalid_input", "missing_field")


IN_QUERY: Mapping[str, int] = {
    "cycle_closed": 400,
    "worker_not_found": 400,
    "model_not_found": 400,
    "plan_not_found": 400,
    "protocol_not_found": 400,
}
"""Code -> status on the routes of devices for clients of 2020, which send their request key in the query."""


def find_text(area: Area, code: str, detail: str, field: str | None = None) -> str:
    """Return the published text of an error, possibly about one field; ``detail`` if there is none."""
    if area is Area.DEVICES and code in _OF_FIELDS and (text := FIELDS.get(field or "")):
        return text
    if area is Area.ACCOUNTS and code == "invalid_input" and ", not null" in detail:
        return TEXTS["missing_request_key"]  # as published, a field that is null is missing
    _, text = ROWS[area].get(code, (None, None))
    return text or (detail if area is Area.NODES else TEXTS.get(code, detail))


def publish(problem: Mapping[str, Any], area: Area) -> dict[str, Any]:
    """Return the problem document with the published status and text."""
    code = problem["code"]
    status, _ = ROWS[area].get(code, (None, None))
    published = {
        **problem,
        "status": status or problem["status"],
        area.member: find_text(area, code, problem["detail"], _field_of(problem)),
    }
    return {**published, "success": False} if code == "model_exists" else published


def _field_of(problem: Mapping[str, Any]) -> str | None:
    """The first field that a problem document names."""
    for part in problem.get("errors", ()):
        return find_field(part["detail"]) or str(part["field"])
    return problem.get("field")


def exception_handlers(area: Area) -> dict[Any, Any]:
    """Return the ``exception_handlers`` of a router in this area."""

    def answer_error(request: Request[Any, Any, Any], error: PygridError) -> Response[bytes]:
        if error.status == 500:
            return answer_unexpected(request, error)
        problem = publish(explain(request, error), area)
        if area is Area.DEVICES and "request_key" in request.query_params:
            problem["status"] = IN_QUERY.get(error.code, problem["status"])
        if error.code == "invalid_json" and area is not Area.NODES:
            problem[area.member] = words_about_body(request) or problem[area.member]
        return problem_response(problem)

    def answer_http_error(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
        problem = publish(to_problem(request, error), area)
        if isinstance(error, ValidationException) and area is not Area.NODES:
            problem[area.member] = words_about_body(request) or problem[area.member]
        return problem_response(problem, error.headers)

    return {PygridError: answer_error, HTTPException: answer_http_error}


def words_about_body(request: Request[Any, Any, Any]) -> str:
    """Return Python's error for the body of a request; empty: it is JSON, was not read, or is long."""
    body = request.read_body if isinstance(request, AppRequest) else None
    return in_pythons_words(body.decode(errors="replace")) if body is not None and len(body) <= MAX_EXPLAINED else ""
