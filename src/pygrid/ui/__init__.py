"""PyGrid Admin: the web console of a Domain and of a Network, served below ``/admin``.

Pages are HTML made by the server. Each calls services with the principal of its session, as the API does. A browser
without scripts can use every page; with scripts, pages follow what happens.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

from litestar import Router

from pygrid.lifecycle import Feature
from pygrid.ui.console import Console
from pygrid.ui.errors import PAGE_EXCEPTION_HANDLERS, unknown_page
from pygrid.ui.feed import SharedReads
from pygrid.ui.live import live_routes
from pygrid.ui.pages import (
    account,
    asking,
    budgets,
    dashboard,
    dataset_acts,
    datasets,
    domains,
    entry,
    hosting,
    invitations,
    jobs,
    models,
    network_search,
    networks,
    people,
    processes,
    relay,
    requests,
    results,
    search,
    sign_in,
    single_sign_on,
    supervision,
    terminal,
    training,
    uploads,
    workers,
)
from pygrid.ui.static import static_routes

PREFIX = "/admin"


def build(kind: Literal["domain", "network"], name: str, identity: str) -> Feature:
    """Build the console.

    Args:
        name: name of the app, shown on each page.
        identity: key of the app, from which the name of its cookie is made.
    """
    console = Console.open(kind, name, identity)
    services = (console, console.files, SharedReads(), workers.SandboxExamination())
    return Feature(services=services, routes=(_router(kind),))


@cache
def _router(kind: Literal["domain", "network"]) -> Router:
    pages = [
        *sign_in.routes(),
        *single_sign_on.routes(),
        *terminal.routes(),
        *entry.routes(),
        *account.routes(),
        *people.routes(),
    ]
    pages += [*supervision.routes(), *live_routes(), *static_routes(), unknown_page]
    pages += _domain_pages() if kind == "domain" else _network_pages()
    return Router(PREFIX, route_handlers=pages, include_in_schema=False, exception_handlers=PAGE_EXCEPTION_HANDLERS)


def _network_pages() -> list[Any]:
    return [route for module in (domains, invitations, relay, network_search) for route in module.routes()]


def _domain_pages() -> list[Any]:
    data = (dashboard, requests, jobs, datasets, dataset_acts, budgets, uploads, asking, results)
    training_pages = (processes, hosting, training, models, workers, networks)
    found = [route for module in (*data, *training_pages) for route in module.routes()]
    return [*found, *search.routes()]
