"""Builds an app from its features: routes, services, tasks, and the middleware around them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from copy import copy
from typing import Any

from litestar import Litestar, Router
from litestar.datastructures import State
from litestar.plugins import PluginProtocol
from litestar.plugins.core import MsgspecDIPlugin
from litestar.routes import HTTPRoute

from pygrid.core.access import Authenticator
from pygrid.lifecycle import AppContext, Feature, opened
from pygrid.web.health import health_routes
from pygrid.web.middleware import Headers, Heads, Observe, Paths, Texts
from pygrid.web.openapi import OpenApiDocument, openapi_config
from pygrid.web.problems import EXCEPTION_HANDLERS
from pygrid.web.requests import MAX_JSON_BYTES, AppRequest
from pygrid.web.services import Services
from pygrid.web.sites import RefuseOtherSites, Site


class MsgspecApp(Litestar):
    """An app that starts faster: without Litestar's plugins for pydantic and attrs, and without deep copies."""

    @staticmethod
    def _get_default_plugins(plugins: list[PluginProtocol]) -> list[PluginProtocol]:
        return [*plugins, MsgspecDIPlugin()]

    def _validate_registration_value(self, value: Any) -> Any:
        """A router of this app: a copy with copies of its handlers.

        Litestar copies everything that a router refers to, which takes a third of the time in which an app is built.
        """
        if not isinstance(value, Router) or value is self:
            return super()._validate_registration_value(value)
        router = copy(value)
        router.owner = self
        made: dict[Any, Any] = {}

        def owned(handler: Any) -> Any:
            """The one copy of a handler, which can serve several paths."""
            if handler not in made:
                made[handler] = copy(handler)
                made[handler].owner = router
            return made[handler]

        router.routes = []
        for route in value.routes:
            copied: Any = copy(route)
            if isinstance(copied, HTTPRoute):
                copied.route_handlers = [owned(handler) for handler in copied.route_handlers]
            else:
                copied.route_handler = owned(copied.route_handler)
            router.routes.append(copied)
        return router


def build_app(
    *,
    title: str,
    description: str,
    context: AppContext,
    features: Sequence[Feature],
    authenticator: Authenticator,
    site: Site = Site(),  # noqa: B008 - a frozen value
) -> Litestar:
    """Return an app that starts under any ASGI server.

    Args:
        features: started in their order, and closed in the reverse order after their tasks ended; `Readiness` and, for
            repeatable calls, `Claims` are among their services.
        authenticator: checks the tokens of the requests.
        site: host names and address of the app; requests for other hosts or from pages of other sites are refused.

    A JSON body may have at most 64 KiB; a handler that streams sets ``request_max_body_size`` itself.
    """
    tasks = [task for feature in features for task in feature.tasks]
    open_paths = [path for feature in features for path in feature.open_paths]

    @asynccontextmanager
    async def lifespan(_app: Litestar) -> AsyncIterator[None]:
        async with opened(features), context.runner.running(tasks):
            yield
            context.stopping.set()

    app = MsgspecApp(
        route_handlers=[*health_routes(), *(route for feature in features for route in feature.routes)],
        state=State(
            {
                "services": Services(OpenApiDocument(), *(one for feature in features for one in feature.services)),
                "authenticator": authenticator,
                "tasks": context.runner,
                "stopping": context.stopping,
                "metrics": context.metrics,
            }
        ),
        lifespan=[lifespan],
        exception_handlers=EXCEPTION_HANDLERS,
        request_class=AppRequest,
        request_max_body_size=MAX_JSON_BYTES,
        logging_config=None,
        openapi_config=openapi_config(title, description),
    )
    open_sockets = [path for feature in features for path in feature.open_sockets]
    guarded = RefuseOtherSites(Texts(Heads(app.asgi_handler)), site, open_paths, open_sockets)
    app.asgi_handler = Paths(Observe(Headers(guarded, open_paths), context.metrics))
    return app
