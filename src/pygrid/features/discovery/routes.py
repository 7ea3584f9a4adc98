"""Routes of search at a Network. Anybody may search, because all content that it finds is public."""

from __future__ import annotations

from typing import Annotated

import msgspec
from litestar import Router, get, post
from litestar.datastructures import State
from litestar.params import JSONBody, QueryParameter

from pygrid import codes
from pygrid.attempts import AttemptSketch, Bound
from pygrid.core.addresses import network_of
from pygrid.errors import InvalidInput
from pygrid.features.discovery.service import DiscoveryService
from pygrid.messages.discovery import (
    DEFAULT_TIMEOUT_S,
    MAX_TAGS,
    MAX_TEXT,
    MAX_TIMEOUT_S,
    SearchAnswer,
    SearchQuery,
    SearchRequest,
)
from pygrid.settings import AppSettings
from pygrid.web.addresses import client_address
from pygrid.web.auth import anyone, find_principal
from pygrid.web.problems import describe_problems
from pygrid.web.requests import AppRequest
from pygrid.web.services import service

MAX_SEARCHES = 120
"""Searches of one account, or of one address of anonymous callers, in `SEARCH_WINDOW_S`."""
SEARCH_WINDOW_S = 60.0


def count_search(request: AppRequest, state: State) -> DiscoveryService:
    """Count the caller's search and return the service. Raises TooManyRequests: ``too_many_attempts``."""
    principal = find_principal(request)
    caller = f"user {principal.user_id}" if principal else f"address {network_of(client_address(request))}"
    service(state, AttemptSketch).record(Bound(caller, MAX_SEARCHES))
    return service(state, DiscoveryService)


def network_url(request: AppRequest, state: State) -> str:
    """Return the address of this Network: the operator's setting, else the address of this request."""
    return service(state, AppSettings).address or str(request.base_url)


@post("/search", status_code=200, guards=[anyone], responses=describe_problems(400, 401, 413, 429))
async def search(request: AppRequest, state: State, data: JSONBody[SearchRequest]) -> SearchAnswer:
    """Query all Domains in parallel; at the deadline, answer with the hits and the Domains that are missing."""
    return await _search(request, state, data)


@get("/search", guards=[anyone], responses=describe_problems(400, 401, 429))
async def search_by_address(
    request: AppRequest,
    state: State,
    q: Annotated[str, QueryParameter(max_length=MAX_TEXT)] = "",
    tag: Annotated[list[str] | None, QueryParameter(max_items=MAX_TAGS)] = None,
    column: Annotated[str, QueryParameter(max_length=100)] = "",
    dtype: Annotated[str | None, QueryParameter(max_length=20)] = None,
    meaning: Annotated[str, QueryParameter(max_length=200)] = "",
    model: Annotated[str, QueryParameter(max_length=100)] = "",
    kind: Annotated[list[str] | None, QueryParameter(max_items=3)] = None,
    timeout_s: Annotated[float, QueryParameter(ge=0.01, le=MAX_TIMEOUT_S)] = DEFAULT_TIMEOUT_S,
) -> SearchAnswer:
    """Search as the POST does, for browsers: ``/network/search?q=age+income&tag=oncology``."""
    asked = {
        "text": q,
        "tags": tag or [],
        "column": column,
        "dtype": dtype,
        "meaning": meaning,
        "model": model,
        "kinds": kind or [],
        "timeout_s": timeout_s,
    }
    try:
        return await _search(request, state, msgspec.convert(asked, SearchRequest))
    except msgspec.ValidationError as error:
        raise InvalidInput(f"the search is not valid: {error}", code=codes.INVALID_SEARCH) from error


async def _search(request: AppRequest, state: State, asked: SearchRequest) -> SearchAnswer:
    discovery = count_search(request, state)
    fields = msgspec.structs.asdict(asked)
    timeout_s = fields.pop("timeout_s")
    return await discovery.search(SearchQuery(**fields), timeout_s, network_url(request, state))


router = Router("/network", route_handlers=[search, search_by_address], tags=["discovery"])
