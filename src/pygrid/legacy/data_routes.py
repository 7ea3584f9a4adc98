"""The data-centric routes of 2020, in both published spellings of their prefix, and the page at ``/``.

Bodies are those of 2020. Callers without an account see what its owner made public.
"""

from __future__ import annotations

import html
from typing import Annotated, Any

import msgspec
from litestar import Response, Router, get, post
from litestar.datastructures import State
from litestar.enums import MediaType
from litestar.params import JSONBody
from msgspec import Meta

from pygrid import codes
from pygrid.errors import InvalidInput, NotFound
from pygrid.features.datasets.service import DatasetsService
from pygrid.features.workers.routes import list_nodes
from pygrid.settings import DomainSettings
from pygrid.web.auth import anyone, find_principal
from pygrid.web.problems import describe_problems
from pygrid.web.published import Area, exception_handlers
from pygrid.web.requests import ANY_CONTENT_TYPE, AppRequest
from pygrid.web.services import service

_INVALID_PAYLOAD = "Invalid payload format"
_PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>{name}</title></head>
<body><h1>{name}</h1><p>This is a Domain of pygrid. It hosts data and models.</p></body>
</html>
"""


class TagQuery(msgspec.Struct):
    """The search of published clients for data with one of these tags."""

    query: list[str]


class Found(msgspec.Struct):
    content: bool


class EncryptedModelQuery(msgspec.Struct):
    model_id: Annotated[str, Meta(min_length=1, max_length=100)]


class NodeIdentity(msgspec.Struct):
    success: bool
    identity: str


class NodeStatus(msgspec.Struct):
    success: bool
    status: str


@post("/search", status_code=200, guards=[anyone], responses=describe_problems(400, 401))
async def search_tags(request: AppRequest, state: State, data: JSONBody[TagQuery]) -> Found:
    """Return whether the caller may see a dataset with one of these tags."""
    wanted = {tag.casefold() for tag in data.query}
    found = await service(state, DatasetsService).list_tags(find_principal(request))
    return Found(any(tag.casefold() in wanted for tag in found))


@get("/dataset-tags", guards=[anyone], responses=describe_problems(401))
async def list_tags(request: AppRequest, state: State) -> list[str]:
    """List all tags of the datasets that the caller may see."""
    return await service(state, DatasetsService).list_tags(find_principal(request))


@post("/search-encrypted-models", status_code=200, guards=[anyone], responses=describe_problems(400, 401, 404))
async def search_encrypted_models(request: AppRequest) -> dict[str, Any]:
    """Return the nodes with shares of a model: there are none, because models are not split into shares."""
    try:
        query = msgspec.convert(await request.json(), EncryptedModelQuery)
    except msgspec.ValidationError as error:
        raise InvalidInput(_INVALID_PAYLOAD, field="model_id") from error
    raise NotFound("no model is split into shares here", code=codes.MODEL_NOT_FOUND, model_id=query.model_id)


@get("/identity", sync_to_thread=False)
def show_identity(state: State) -> NodeIdentity:
    """Return the id of this Domain."""
    return NodeIdentity(True, service(state, DomainSettings).id)


@get("/status", sync_to_thread=False)
def show_status() -> NodeStatus:
    """Return the published name of a running node."""
    return NodeStatus(True, "OpenGrid")


@get("/", include_in_schema=False, sync_to_thread=False)
def show_page(request: AppRequest, state: State) -> Response[Any]:
    """Show the name of the Domain; lead a browser to the web console, if there is one."""
    settings = service(state, DomainSettings)
    if settings.admin and "text/html" in request.headers.get("accept", ""):
        return Response(b"", status_code=303, media_type=MediaType.TEXT, headers={"Location": "/admin/"})
    return Response(_PAGE.format(name=html.escape(settings.id)), media_type=MediaType.HTML)


_ON_ERROR = exception_handlers(Area.DATA)
_OPT = {ANY_CONTENT_TYPE: True}
_HANDLERS: list[Any] = [search_tags, search_encrypted_models, show_identity, show_status]

data_routes: list[Any] = [
    Router("/data-centric", route_handlers=_HANDLERS, tags=["nodes"], exception_handlers=_ON_ERROR, opt=_OPT),
    Router(
        "/data_centric",
        route_handlers=[*_HANDLERS, list_tags, list_nodes],
        tags=["nodes"],
        exception_handlers=_ON_ERROR,
        include_in_schema=False,
        opt=_OPT,
    ),
    show_page,
]
