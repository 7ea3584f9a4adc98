"""Bodies of requests, with limits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar, cast

import msgspec
from litestar.connection import Request
from litestar.types.asgi_types import HTTPRequestEvent

from pygrid.core.access import Principal
from pygrid.errors import InvalidInput, PayloadTooLarge, TooSlow, UnsupportedMediaType
from pygrid.messages import media

T = TypeVar("T")

MAX_JSON_BYTES = 64 * 1024
MAX_JSON_DEPTH = 32
ANY_CONTENT_TYPE = "any_content_type"
"""Option of a router whose JSON bodies are read whatever their content type is."""
SLOW_S = 30.0
"""A body that brings nothing for so long is given up."""


class ClientGone(Exception):
    """The client closed the connection before its request was complete; nobody is left to answer."""


class AppRequest(Request[Principal, None, Any]):
    """A request whose ``json()``, and so a handler's ``data``, is bounded in size and depth."""

    async def body(self) -> bytes:
        """The whole body; at most the handler's ``request_max_body_size``.

        Raises:
            PayloadTooLarge, TooSlow.
        """
        state = self._connection_state
        if isinstance(state.body, bytes):
            return state.body
        limit = self.route_handler.resolve_request_max_body_size()
        body = b"".join([chunk async for chunk in stream_body(self, limit)])
        self._body = state.body = body
        return body

    async def json(self) -> Any:
        """The body decoded from JSON.

        Raises:
            InvalidInput: ``invalid_json``: not JSON, or nested deeper than 32. UnsupportedMediaType: another content type.
        """
        if not self.route_handler.opt.get(ANY_CONTENT_TYPE):
            _check_is_json(self.headers.get("content-type", ""))
        return decode_json(await self.body())


async def stream_body(request: Request[Any, Any, Any], max_bytes: int | None) -> AsyncIterator[bytes]:
    """The body piece by piece as it arrives, without empty pieces.

    Raises:
        PayloadTooLarge: before a byte is read if the announced length is above ``max_bytes``, else once more has come.
        TooSlow: nothing came for 30 s. ClientGone: the connection was closed.
    """
    if max_bytes is not None:
        announced = request.headers.get("content-length", "")
        # Servers check that it is a number; a longer one than this is none that Python would convert.
        if announced.isascii() and announced.isdigit() and (len(announced) > 20 or int(announced) > max_bytes):
            raise _too_large(max_bytes)
    num_bytes = 0
    while True:
        try:
            async with asyncio.timeout(SLOW_S):
                message = await request.receive()
        except TimeoutError:
            raise TooSlow(f"the body brought nothing for {SLOW_S:.0f} s", limit_s=SLOW_S) from None
        if message["type"] == "http.disconnect":
            raise ClientGone
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


async def unless_gone(departed: Callable[[], Awaitable[None]], work: Coroutine[Any, Any, T]) -> T:
    """What the work gives. If the client goes before that, the work is cancelled.

    Args:
        departed: returns once the client has gone, as `wait_until_gone` does.
    Raises:
        ClientGone: after the work has ended.
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(departed())
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        gone.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait([task])


def _check_is_json(content_type: str) -> None:
    """Raises UnsupportedMediaType. No content type at all is taken for JSON, as clients of 2020 send none."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind and kind != media.JSON and not (kind.startswith("application/") and kind.endswith("+json")):
        raise UnsupportedMediaType(
            f"the content type is {kind[:80]!r}, and this route reads JSON: send Content-Type: {media.JSON}"
        )


def _too_large(max_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the body may have at most {max_bytes} bytes", max_bytes=max_bytes)


def decode_json(body: bytes, *, may_hold_nul: bool = False) -> Any:
    """The value that a JSON text describes.

    Args:
        may_hold_nul: for a text that carries bytes, one character each, as those of published clients do.

    Raises:
        InvalidInput: ``invalid_json``: malformed, not UTF-8, half of a surrogate pair, or nested deeper than 32;
            ``invalid_text``: a text, or a name, with a NUL character.
    """
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"the body is not JSON: {error}", code="invalid_json") from None
    except RecursionError:
        raise _too_deep() from None
    if is_deeper_than(value, MAX_JSON_DEPTH):
        raise _too_deep()
    # In JSON a NUL is written in this way only; the backslash before it may be a character of its own.
    if not may_hold_nul and b"\\u0000" in body and _holds_nul(value):
        raise InvalidInput("a text in the JSON holds a NUL character (\\u0000); remove it", code="invalid_text")
    return value


def _holds_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any("\0" in name or _holds_nul(item) for name, item in value.items())
    return isinstance(value, list) and any(map(_holds_nul, value))


def _too_deep() -> InvalidInput:
    return InvalidInput(f"the JSON in the body is nested deeper than {MAX_JSON_DEPTH}", code="invalid_json")


def is_deeper_than(value: Any, depth: int) -> bool:
    """Whether a value from JSON is nested deeper than that."""
    if isinstance(value, dict):
        return depth == 0 or any(is_deeper_than(item, depth - 1) for item in value.values())
    if isinstance(value, list):
        return depth == 0 or any(is_deeper_than(item, depth - 1) for item in value)
    return False
