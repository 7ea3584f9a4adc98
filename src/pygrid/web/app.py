"""Builds an app from its features: routes, services, tasks, and the middleware around them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from litestar import Litestar
from litestar.datastructures import State

from pygrid.core.access import Authenticator
from pygrid.lifecycle import BackgroundTask, Stopping, TaskRunner
from pygrid.metrics import Metrics
from pygrid.web.health import health_routes
from pygrid.web.middleware import Headers, Observe, Texts
from pygrid.web.openapi import openapi_config
from pygrid.web.problems import EXCEPTION_HANDLERS
from pygrid.web.requests import MAX_JSON_BYTES, AppRequest
from pygrid.web.services import Services
from pygrid.web.sites import RefuseOtherSites, Site

Opening = Callable[[], AbstractAsyncContextManager[None]]


def build_app(
    *,
    title: str,
    description: str,
    routes: Sequence[Any],
    services: Services,
    authenticator: Authenticator,
    tasks: Sequence[BackgroundTask],
    runner: TaskRunner,
    opening: Opening,
    stopping: Stopping,
    metrics: Metrics,
    site: Site = Site(),  # noqa: B008 - a frozen value
    cors_open_paths: Collection[str] = (),
) -> Litestar:
    """An app that starts under any ASGI server.

    Args:
        routes: Litestar routers and handlers.
        services: what the handlers use (`service`); `Readiness` and, for repeatable calls, `Claims` are among them.
        authenticator: checks the tokens of the requests.
        tasks: run by ``runner`` between start and stop.
        opening: context of the running app; it opens what the services need, and closes it after the tasks ended.
        site: host names and address of the app; requests for other hosts or from pages of other sites are refused.
        cors_open_paths: paths that scripts of any origin may call.

    A JSON body may have at most 64 KiB; a handler that streams sets ``request_max_body_size`` itself.
    """

    @asynccontextmanager
    async def lifespan(_app: Litestar) -> AsyncIterator[None]:
        async with opening(), runner.running(tasks):
            yield
            stopping.set()

    app = Litestar(
        route_handlers=[*health_routes(), *routes],
        state=State(
            {
                "services": services,
                "authenticator": authenticator,
                "tasks": runner,
                "stopping": stopping,
                "metrics": metrics,
            }
        ),
        lifespan=[lifespan],
        exception_handlers=EXCEPTION_HANDLERS,
        request_class=AppRequest,
        request_max_body_size=MAX_JSON_BYTES,
        logging_config=None,
        openapi_config=openapi_config(title, description),
    )
    guarded = RefuseOtherSites(Texts(app.asgi_handler), site, cors_open_paths)
    app.asgi_handler = Observe(Headers(guarded, cors_open_paths), metrics)
    return app
