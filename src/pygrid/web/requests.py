"""Bodies of requests, with limits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any, TypeVar, cast

from litestar.connection import Request
from litestar.types.asgi_types import HTTPRequestEvent

from pygrid.core.access import Principal
from pygrid.errors import PayloadTooLarge, TooSlow, UnsupportedMediaType
from pygrid.lifecycle import ClientGone
from pygrid.messages import media
from pygrid.messages.decoding import decode_json

T = TypeVar("T")

MAX_JSON_BYTES = 64 * 1024
ANY_CONTENT_TYPE = "any_content_type"
"""Option of a router whose JSON bodies may have any content type."""
SLOW_S = 30.0
"""Seconds without a byte after which a body is refused."""
GRACE_S = 60.0
MIN_BYTES_PER_S = 256
"""Average rate that a body must have after `GRACE_S` of waiting for it."""


_PUBLISHED_HEADERS = frozenset({"token", "private-key", "private_key"})
"""Clients of 2020 send them with JSON of any content type. No form of a page can send them."""
WAITS = "pygrid_waits"
"""Key in the ``state`` of a scope: the function that `AppRequest.stop_counting` calls."""


class AppRequest(Request[Principal, None, Any]):
    """A request with bounds on the size and depth of ``json()``, and therefore of a handler's ``data``."""

    def stop_counting(self) -> None:
        """Note that the request mostly waits from now on, so other requests of its address may begin."""
        if (waits := self.scope["state"].get(WAITS)) is not None:
            waits()

    async def body(self) -> bytes:
        """Return the whole body; at most the handler's ``request_max_body_size``. Raises PayloadTooLarge, TooSlow."""
        state = self._connection_state
        if isinstance(state.body, bytes):
            return state.body
        limit = self.route_handler.resolve_request_max_body_size()
        body = b"".join([chunk async for chunk in stream_body(self, limit)])
        self._body = state.body = body
        return body

    @property
    def read_body(self) -> bytes | None:
        """The body, if all of it was read."""
        body = self._connection_state.body
        return body if isinstance(body, bytes) else None

    async def json(self) -> Any:
        """Return the body, decoded from JSON.

        Raises:
            InvalidInput: as `decode_json`. UnsupportedMediaType: another content type.
        """
        is_free = self.route_handler.opt.get(ANY_CONTENT_TYPE) or _PUBLISHED_HEADERS.intersection(self.headers)
        if not is_free:
            _check_is_json(self.headers.get("content-type", ""))
        return decode_json(await self.body())


async def stream_body(request: Request[Any, Any, Any], max_bytes: int | None) -> AsyncIterator[bytes]:
    """Yield the pieces of the body as they arrive, without empty pieces.

    Raises:
        PayloadTooLarge: the announced length is above ``max_bytes``, before a byte is read; or more bytes arrived.
        TooSlow: no byte arrived for 30 s, or less than 256 bytes a second after the first minute.
        ClientGone: the connection was closed.
    """
    if max_bytes is not None:
        announced = request.headers.get("content-length", "")
        # Servers check that it is a number; Python refuses to convert very long ones.
        if announced.isascii() and announced.isdigit() and (len(announced) > 20 or int(announced) > max_bytes):
            raise _too_large(max_bytes)
    num_bytes, waited_s = 0, 0.0
    while True:
        began = time.monotonic()
        try:
            async with asyncio.timeout(SLOW_S):
                message = await request.receive()
        except TimeoutError:
            raise TooSlow(f"no byte of the body arrived for {SLOW_S:.0f} s", limit_s=SLOW_S) from None
        if message["type"] == "http.disconnect":
            raise ClientGone
        waited_s += time.monotonic() - began
        if num_bytes < (waited_s - GRACE_S) * MIN_BYTES_PER_S:
            raise TooSlow(f"the body arrived at less than {MIN_BYTES_PER_S} bytes per second", limit_s=GRACE_S)
        event = cast("HTTPRequestEvent", message)
        chunk = event["body"]
        num_bytes += len(chunk)
        if max_bytes is not None and num_bytes > max_bytes:
            raise _too_large(max_bytes)
        if chunk:
            yield chunk
        if not event.get("more_body", False):
            return


async def wait_until_gone(request: Request[Any, Any, Any]) -> None:
    """Return once the client has closed the connection. The body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _check_is_json(content_type: str) -> None:
    """Raises UnsupportedMediaType. A missing content type means JSON, as clients of 2020 send none."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind and kind != media.JSON and not (kind.startswith("application/") and kind.endswith("+json")):
        raise UnsupportedMediaType(
            f"the content type is {kind[:80]!r}, and this route reads JSON: send Content-Type: {media.JSON}"
        )


def _too_large(max_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the body may have at most {max_bytes} bytes", max_bytes=max_bytes)
