"""Search of the content of a Domain."""

from __future__ import annotations

import msgspec
from litestar import Response, get
from litestar.datastructures import State
from litestar.params import FromQuery

from pygrid.core.access import Permission
from pygrid.features.associations.domain.service import DomainAssociations
from pygrid.features.datasets.service import DatasetsService
from pygrid.features.models.service import ModelsService
from pygrid.features.processes.service import ProcessesService
from pygrid.ui.access import signed_in
from pygrid.ui.console import console_of
from pygrid.ui.words import PROCESS_STATES
from pygrid.web.requests import AppRequest
from pygrid.web.services import service

MAX_HITS = 50
"""Hits of each kind."""


class Hit(msgspec.Struct, frozen=True):
    """Something that was found."""

    kind: str
    name: str
    path: str
    """Its page on this app; empty: it is on another one."""
    words: str
    where: str


class SearchView(msgspec.Struct, frozen=True):
    text: str
    hits: list[Hit]
    missing: list[tuple[str, str]]
    """Domains that did not answer, and why."""
    num_domains: int
    has_more: bool
    networks: list[str]
    python: str


@get("/search", guards=[signed_in()])
async def search_domain(request: AppRequest, state: State, q: FromQuery[str] = "") -> Response[bytes]:
    """Search what this Domain has and the caller may see."""
    principal, text = request.user, q[:200]
    hits: list[Hit] = []
    networks: list[str] = []
    if text.strip():
        datasets = await service(state, DatasetsService).list_datasets(principal, text=text)
        hits += [
            Hit("dataset", one.name, f"/admin/datasets/{one.id}", one.description, "") for one in datasets[:MAX_HITS]
        ]
        models = await service(state, ModelsService).list_models(principal)
        found = [one for one in models if _matches(text, one.id, one.description)]
        hits += [Hit("model", one.id, f"/admin/models/{one.id}", one.description, "") for one in found[:MAX_HITS]]
        processes = await service(state, ProcessesService).list_page(principal, before=None, limit=MAX_HITS, text=text)
        hits += [
            Hit("process", f"{one.name} {one.version}", f"/admin/processes/{one.id}", PROCESS_STATES[one.state], "")
            for one in processes
        ]
    if principal.may(Permission.MANAGE_INFRASTRUCTURE):
        networks = [one.network for one in await service(state, DomainAssociations).list_networks(principal)]
    view = SearchView(text, hits, [], 0, len(hits) >= MAX_HITS, networks, f"domain.datasets.search({text!r})")
    return await console_of(request).page(request, "search.html", "Search", view)


def _matches(text: str, *fields: str) -> bool:
    everything = " ".join(fields).lower()
    return all(word in everything for word in text.lower().split())
