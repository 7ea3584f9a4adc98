"""Routes by which clients of 2020 search a Network; they return nodes as ``[[id, address], ...]``.

Refusals are problem documents. For an invalid body, their member ``message`` is the published text.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from litestar import Response, Router, get, post
from litestar.datastructures import State
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import JSONBody, PathParameter, QueryParameter
from msgspec import Meta

from pygrid.features.discovery.registry import SearchTarget
from pygrid.features.discovery.routes import count_search, network_url
from pygrid.features.discovery.service import address_of
from pygrid.messages.discovery import DEFAULT_TIMEOUT_S, SearchQuery
from pygrid.web.auth import anyone
from pygrid.web.problems import describe_problems
from pygrid.web.published import Area, exception_handlers
from pygrid.web.requests import ANY_CONTENT_TYPE, AppRequest

_STATUSES = {"online": "online", "degraded": "busy"}

Nodes = list[list[str]]
"""Pairs of name and address."""


class ModelQuery(msgspec.Struct):
    model_id: Annotated[str, Meta(min_length=1, max_length=100)]


class NodeTagQuery(msgspec.Struct):
    query: Annotated[list[Annotated[str, Meta(max_length=1000)]], Meta(max_length=1000)]
    """Tags; a node matches if it has data with one of them."""


class ModelNames(msgspec.Struct):
    models: list[str]


class NodeInfo(msgspec.Struct):
    """A node as clients of 2020 know it. ``status``: online, busy or offline."""

    id: str
    address: str
    status: str
    models: list[str]
    datasets: list[str]
    """Tags of its public data."""


class DatasetNames(msgspec.Struct):
    datasets: list[str]


def _nodes(request: AppRequest, state: State, members: list[SearchTarget]) -> Nodes:
    return [[member.name, address_of(member, network_url(request, state))] for member in members]


@get("/choose-model-host", guards=[anyone], responses=describe_problems(400, 401, 429))
async def choose_model_host(
    request: AppRequest, state: State, model_id: Annotated[str | None, QueryParameter(max_length=100)] = None
) -> Nodes:
    """Return the nodes that serve the model, or else (also without a model) random online nodes for its replicas."""
    return _nodes(request, state, await count_search(request, state).choose_hosts(model_id))


@get(
    "/choose-encrypted-model-host",
    guards=[anyone],
    responses={
        400: ResponseSpec(list[str], generate_examples=False, description="Too few nodes are online"),
        **describe_problems(401, 429),
    },
)
async def choose_encrypted_model_host(request: AppRequest, state: State) -> Response[Any]:
    """Return four online nodes for each replica; 400 with an empty list if there are too few."""
    chosen = count_search(request, state).choose_shareholders()
    return Response(_nodes(request, state, chosen), status_code=200 if chosen else 400)


@post("/search-model", status_code=200, guards=[anyone], responses=describe_problems(400, 401, 413, 429))
async def search_model(request: AppRequest, state: State, data: JSONBody[ModelQuery]) -> Nodes:
    """Return the nodes that serve the model."""
    return _nodes(request, state, await count_search(request, state).find_hosts(data.model_id))


@post("/search-encrypted-model", status_code=200, guards=[anyone], responses=describe_problems(400, 401, 413, 429))
async def search_encrypted_model(request: AppRequest, state: State, data: JSONBody[ModelQuery]) -> dict[str, Any]:
    """Return the nodes with shares of the model: always none, because models are not split into shares."""
    count_search(request, state)
    return {}


@get("/search-available-models", guards=[anyone], responses=describe_problems(401, 429))
async def search_available_models(request: AppRequest, state: State) -> list[str]:
    """List the ids of all served models."""
    asked = await count_search(request, state).summaries()
    return sorted({model for _, summary in asked.answers for model in summary.models})


@get("/search-available-tags", guards=[anyone], responses=describe_problems(401, 429))
async def search_available_tags(request: AppRequest, state: State) -> list[str]:
    """List the tags of all data."""
    asked = await count_search(request, state).summaries()
    return sorted({tag for _, summary in asked.answers for tag in summary.tags})


@post("/search", status_code=200, guards=[anyone], responses=describe_problems(400, 401, 413, 429))
async def search_tags(request: AppRequest, state: State, data: JSONBody[NodeTagQuery]) -> Nodes:
    """Return the nodes that have data with one of the tags."""
    asked = await count_search(request, state).summaries()
    wanted = {tag.strip().casefold() for tag in data.query}
    found = [member for member, summary in asked.answers if wanted & {tag.casefold() for tag in summary.tags}]
    return _nodes(request, state, found)


@get("/models", guards=[anyone], responses=describe_problems(401, 429))
async def list_models(request: AppRequest, state: State) -> ModelNames:
    """List the ids of all served models."""
    asked = await count_search(request, state).summaries()
    return ModelNames(sorted({model for _, summary in asked.answers for model in summary.models}))


@get("/node/{name:str}", guards=[anyone], responses=describe_problems(400, 401, 404, 429))
async def get_node(
    request: AppRequest, state: State, name: Annotated[str, PathParameter(min_length=1, max_length=100)]
) -> NodeInfo:
    """Show a node with its public content."""
    search = count_search(request, state)
    member = search.get_member(name)
    answered = await search.summarize(member)
    tags = sorted({tag for _, summary in answered.answers for tag in summary.tags})
    models = sorted({model for _, summary in answered.answers for model in summary.models})
    status = _STATUSES.get(member.state, "offline")
    return NodeInfo(member.name, address_of(member, network_url(request, state)), status, models, tags)


@get("/datasets", guards=[anyone], responses=describe_problems(401, 429))
async def list_datasets(request: AppRequest, state: State) -> DatasetNames:
    """List the names of public datasets."""
    service = count_search(request, state)
    answer = await service.search(SearchQuery(kinds=("dataset",)), DEFAULT_TIMEOUT_S, network_url(request, state))
    return DatasetNames(sorted({hit.name for hit in answer.datasets}))


router = Router(
    "/",
    route_handlers=[
        choose_model_host,
        choose_encrypted_model_host,
        search_model,
        search_encrypted_model,
        search_available_models,
        search_available_tags,
        search_tags,
        list_models,
        list_datasets,
        get_node,
    ],
    exception_handlers=exception_handlers(Area.NODES),
    tags=["discovery"],
    opt={ANY_CONTENT_TYPE: True},
)
