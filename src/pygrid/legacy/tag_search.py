"""Search by tags of 2020."""

from __future__ import annotations

import msgspec
from litestar import Router, post
from litestar.datastructures import State
from litestar.params import JSONBody

from pygrid.features.datasets.service import DatasetsService
from pygrid.web.auth import anyone, find_principal
from pygrid.web.problems import describe_problems
from pygrid.web.requests import AppRequest
from pygrid.web.services import service


class TagQuery(msgspec.Struct):
    """The search of published clients for data with one of these tags."""

    query: list[str]


class Found(msgspec.Struct):
    content: bool


@post("/search", status_code=200, guards=[anyone], responses=describe_problems(400, 401))
async def search_tags(request: AppRequest, state: State, data: JSONBody[TagQuery]) -> Found:
    """Return whether the caller may see a dataset with one of these tags."""
    wanted = {tag.casefold() for tag in data.query}
    return Found(
        any(
            tag.casefold() in wanted for tag in await service(state, DatasetsService).list_tags(find_principal(request))
        )
    )


router = Router("/data-centric", route_handlers=[search_tags], tags=["datasets"])
