"""PyGrid Admin: the web console of a Domain and of a Network, served below ``/admin``.

Pages are HTML made by the server. Each calls services with the principal of its session, as the API does. A browser
without scripts can use every page; with scripts, pages follow what happens.
"""

from __future__ import annotations

from functools import cache
from types import ModuleType
from typing import Literal

from litestar import Router
from litestar.handlers import HTTPRouteHandler

from pygrid.lifecycle import AppContext, BackgroundTask, Feature
from pygrid.ui import live, static
from pygrid.ui.confirmation import keep_session
from pygrid.ui.console import Console
from pygrid.ui.errors import PAGE_EXCEPTION_HANDLERS, unknown_page
from pygrid.ui.feed import SharedReads, Topics
from pygrid.ui.pages import account, entry, people, sign_in, single_sign_on, supervision, terminal
from pygrid.ui.sampling import Sampler
from pygrid.ui.session_limits import SessionLimits

PREFIX = "/admin"
_Pages = tuple[Router, Topics, tuple[type, ...]]
"""The pages of an app, what they follow, and the services that each app has of its own."""
_COMMON = (sign_in, single_sign_on, terminal, entry, account, people, supervision, live, static)


def build(app: AppContext, kind: Literal["domain", "network"], name: str, identity: str) -> Feature:
    """Build the console.

    Args:
        kind: of the app; only its own pages are loaded.
        name: name of the app, shown on each page.
        identity: key of the app, from which the name of its cookie is made.
    """
    console = Console.open(kind, name, identity)
    router, topics, services = _domain_pages() if kind == "domain" else _network_pages()
    sampler = Sampler(app.metrics.registry, app.clock)
    return Feature(
        services=(console, console.files, topics, sampler, SessionLimits(app.clock), *(make() for make in services)),
        routes=(router,),
        tasks=(BackgroundTask("sample-metrics", sampler.run),),
    )


@cache
def _domain_pages() -> _Pages:
    from pygrid.ui import domain_topics as topics
    from pygrid.ui.pages import (
        asking,
        budgets,
        dashboard,
        dataset_acts,
        datasets,
        hosting,
        jobs,
        models,
        networks,
        processes,
        requests,
        results,
        search,
        training,
        uploads,
        workers,
    )

    data = (dashboard, requests, jobs, datasets, dataset_acts, budgets, uploads, asking, results)
    router = _router(*data, processes, hosting, training, models, workers, networks, search)
    return router, Topics(topics.signals_of, topics.find_topic), (SharedReads, workers.SandboxExamination)


@cache
def _network_pages() -> _Pages:
    from pygrid.ui import network_topics as topics
    from pygrid.ui.pages import domains, invitations, network_search, relay

    return _router(domains, invitations, relay, network_search), Topics(topics.signals_of, topics.find_topic), ()


def _router(*modules: ModuleType) -> Router:
    """Return the routes of these modules, which are all of their handlers, and those of each app."""
    found = (one for module in (*_COMMON, *modules) for one in vars(module).values())
    pages = [one for one in found if isinstance(one, HTTPRouteHandler)]
    return Router(
        PREFIX,
        route_handlers=[*pages, unknown_page],
        include_in_schema=False,
        middleware=[keep_session],
        exception_handlers=PAGE_EXCEPTION_HANDLERS,
    )
