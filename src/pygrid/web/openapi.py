"""The OpenAPI document of an app: made once, at the first request, in a thread."""

from __future__ import annotations

import asyncio
from typing import Any

from litestar import Litestar, Request, Response, Router
from litestar.constants import OPENAPI_JSON_HANDLER_NAME
from litestar.enums import OpenAPIMediaType
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme
from litestar.serialization import encode_json

import pygrid
from pygrid.web.services import service


class OpenApiDocument:
    """The bytes of the document.

    All answers share them, so a client that reads none of its answers holds little memory.
    """

    def __init__(self) -> None:
        self._making: asyncio.Task[bytes] | None = None

    async def read(self, app: Litestar) -> bytes:
        """Return the document as JSON. Making it takes about 0.1 s, too long for the event loop."""
        if self._making is None:
            self._making = asyncio.create_task(asyncio.to_thread(lambda: encode_json(app.openapi_schema.to_schema())))
        return await asyncio.shield(self._making)


async def _send_document(request: Request[Any, Any, Any]) -> Response[bytes] | None:
    if request.route_handler.name != OPENAPI_JSON_HANDLER_NAME:
        return None
    document = service(request.app.state, OpenApiDocument)
    return Response(await document.read(request.app), media_type=OpenAPIMediaType.OPENAPI_JSON)


def openapi_config(title: str, description: str) -> OpenAPIConfig:
    """Return the configuration of the document, at ``/schema`` and ``/schema/openapi.json``.

    The app needs the service `OpenApiDocument`.
    """
    return OpenAPIConfig(
        title=title,
        version=pygrid.__version__,
        description=description,
        # Litestar would make and encode the document on the event loop.
        openapi_router=Router("/schema", route_handlers=[], before_request=_send_document, include_in_schema=False),
        render_plugins=[JsonRenderPlugin()],
        components=Components(
            security_schemes={
                "session": SecurityScheme(
                    type="http", scheme="bearer", description="The token that POST /users/login returns."
                )
            }
        ),
    )
