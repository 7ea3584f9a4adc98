"""The WebSocket at ``/`` for clients of 2020, with one answer to each message.

    {"type": "run-inference", "request_id": 7, "token": "...", "model_id": "digits", ...}
    {"request_id": 7, "success": true, "prediction": [[0.1, 0.9]]}

Each type of message has a `Handler`; `Published`, a service of the app, holds them. A handler does the same as the REST
route of its use case, with the same permissions. A refusal gets an answer, and the WebSocket stays open: ``error`` is
the published text, or else the error's own, and ``code`` is that of the error.

The token of a session identifies the caller: in the message (``token``), or from an earlier message ``authentication``.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias

import msgspec
from litestar import WebSocket, websocket
from litestar.datastructures import State

from pygrid import codes
from pygrid.core.access import Authenticator, Permission, Principal, not_permitted
from pygrid.errors import InvalidInput, PygridError, Unauthenticated, Unavailable, explain_os_error
from pygrid.messages.decoding import decode_json
from pygrid.transport.links import GOING_AWAY, NORMAL, SocketClosed
from pygrid.web.auth import find_authenticator
from pygrid.web.services import service
from pygrid.web.sockets import AsgiSocket

logger = logging.getLogger(__name__)

Message: TypeAlias = Mapping[str, Any]
Answer: TypeAlias = dict[str, Any]
Socket: TypeAlias = WebSocket[Any, Any, Any]

MAX_VALUES = 50_000
"""Values of one message. The limits of its lists, objects and texts are in proportion; large contents are base64."""
IDLE_S = 600.0
"""Seconds without a message after which a WebSocket is closed."""
MAX_SOCKETS = 1000
SHORT = 4096
"""Longest message in characters that is decoded without a queue."""
MAX_WAITING = 4
"""Limit of large messages that wait for decoding."""
PAUSES_PER_DECODING = 4
"""Pause after the decoding of a large message, as a multiple of its duration."""
TRY_AGAIN = 1013
"""Close code of a WebSocket over the limit."""
SYFT_VERSION = "0.2.9"
"""Version of the published clients, which refuse a Domain with another one."""
PUBLISHED_TEXTS = {
    "unauthenticated": "Missing request key!",
    "invalid_credentials": "Invalid credentials!",
    "not_permitted": "User is not authorized for this operation!",
    "model_not_found": "Model ID not found!",
    "model_exists": "Model id already exists.",
}
"""Code of an error -> text that clients of 2020 compare."""


class LegacyCaller:
    """The client of one WebSocket."""

    def __init__(self, authenticator: Authenticator, address: str) -> None:
        self.address = address
        self.token: str | None = None
        """Token of the session that ``authentication`` began."""
        self._authenticator = authenticator

    async def principal(self, message: Message, permission: Permission | None = None) -> Principal:
        """Return the user of a message; each message is checked, so that an ended session is not valid.

        Raises:
            Unauthenticated: the token is missing, or not that of a session. Forbidden: ``not_permitted``.
        """
        token = message.get("token") or self.token
        if not isinstance(token, str):
            raise Unauthenticated("send the token of a session as 'token', or first a message 'authentication'")
        principal = await self._authenticator.authenticate(token)
        if permission is not None and not principal.may(permission):
            raise not_permitted(permission)
        return principal


Handler: TypeAlias = Callable[[LegacyCaller, Message], Awaitable[Answer]]


class Published:
    """The handlers of an app by type of message, and the number of open WebSockets."""

    def __init__(
        self, handlers: Mapping[str, Handler], *, max_sockets: int = MAX_SOCKETS, idle_s: float = IDLE_S
    ) -> None:
        self.handlers = handlers
        self.max_sockets = max_sockets
        self.idle_s = idle_s
        self.num_open = 0
        self._decoding = asyncio.Lock()
        self._num_waiting = 0

    async def decode(self, text: str) -> Any:
        """Decode a message. Large ones are decoded one at a time, with pauses in which the loop serves other clients.

        Raises:
            InvalidInput: as `decode_json`. Unavailable: ``server_busy``: too many large messages wait.
        """
        if len(text) <= SHORT:
            return _decode(text)
        if self._num_waiting >= MAX_WAITING:
            raise Unavailable(
                "too many large messages wait; send this one again later", code=codes.SERVER_BUSY, retry_after_s=1.0
            )
        self._num_waiting += 1
        try:
            await self._decoding.acquire()
        finally:
            self._num_waiting -= 1
        try:
            began = time.perf_counter()
            try:
                return _decode(text)
            finally:
                await asyncio.sleep(PAUSES_PER_DECODING * (time.perf_counter() - began))
        finally:
            self._decoding.release()


def text_field(message: Message, name: str) -> str:
    """Return a text of a message. Raises InvalidInput: ``missing_field``: it is missing, or has another type."""
    value = message.get(name)
    if not isinstance(value, str):
        raise InvalidInput(f"the message needs a text {name!r}", code=codes.MISSING_FIELD, field=name)
    return value


def domain_messages(domain_id: str) -> dict[str, Handler]:
    """Return the handlers of messages about the Domain itself."""

    async def get_id(_caller: LegacyCaller, _message: Message) -> Answer:
        return {"id": domain_id, "syft_version": SYFT_VERSION}

    async def ping(_caller: LegacyCaller, _message: Message) -> Answer:
        return {"alive": "True"}

    return {"get-id": get_id, "socket-ping": ping}


@websocket("/")
async def converse(socket: Socket, state: State) -> None:
    """Answer messages in sequence, until the client disconnects."""
    published = service(state, Published)
    await socket.accept()
    if published.num_open >= published.max_sockets:
        await socket.close(TRY_AGAIN, "too many connections; try again later")
        return
    published.num_open += 1
    try:
        await _serve(socket, published, state)
    finally:
        published.num_open -= 1


async def _serve(socket: Socket, published: Published, state: State) -> None:
    caller = LegacyCaller(find_authenticator(socket), socket.client.host if socket.client else "")
    end = AsgiSocket(socket)
    try:
        while True:
            async with asyncio.timeout(published.idle_s):
                text = await end.receive_text()
            await end.send_text(msgspec.json.encode(await answer(published, caller, text)).decode())
    except TimeoutError:
        await end.close(NORMAL, f"no message within {published.idle_s:g} s")
    except SocketClosed:
        return
    except asyncio.CancelledError:
        await end.close(GOING_AWAY)
        raise


async def answer(published: Published, caller: LegacyCaller, text: str) -> Answer:
    """Return the answer to any message."""
    if not text:
        return {
            "error": "messages must be JSON texts; binary messages of PySyft are not supported",
            "code": "invalid_input",
        }
    try:
        message = await published.decode(text)
    except InvalidInput as error:
        # Python's own error text costs a second decoding, so only short messages get it.
        words = _in_pythons_words(text) if error.code == "invalid_json" and len(text) <= SHORT else ""
        return {"error": words or error.detail, "code": error.code}
    except Unavailable as error:
        return refusal(error)
    if not isinstance(message, dict):
        return {"error": "a message must be a JSON object with a field 'type'", "code": "invalid_input"}
    try:
        found = await _handle(published.handlers, caller, message)
    except PygridError as error:
        found = refusal(error)
    except Exception as error:
        if (explained := explain_os_error(error)) is not None:
            logger.error("disk failed", extra={"code": explained.code, "reason": str(error)})
            found = refusal(explained)
        else:
            log_id = secrets.token_hex(8)
            logger.exception("unexpected error", extra={"log_id": log_id})
            found = {"error": f"the server failed to answer; its log has the reason under {log_id}", "code": "internal"}
    return {"request_id": message["request_id"], **found} if "request_id" in message else found


async def _handle(handlers: Mapping[str, Handler], caller: LegacyCaller, message: Message) -> Answer:
    kind = message.get("type")
    handler = handlers.get(kind) if isinstance(kind, str) else None
    if handler is None:
        raise InvalidInput(
            f"unknown message type {str(kind)[:100]!r}; this app answers {', '.join(sorted(handlers))}",
            code=codes.UNKNOWN_TYPE,
        )
    return await handler(caller, message)


def refusal(error: PygridError) -> Answer:
    """Return the answer to a client after an error."""
    return {
        **error.fields,
        "success": False,
        "error": PUBLISHED_TEXTS.get(error.code, error.detail),
        "code": error.code,
    }


def _decode(text: str) -> Any:
    return decode_json(text.encode(errors="surrogatepass"), may_hold_nul=True, max_values=MAX_VALUES)


def _in_pythons_words(text: str) -> str:
    """Return Python's error for invalid JSON, which the published answer contains; empty if there is none."""
    try:
        json.loads(text)
    except ValueError as error:
        return str(error)
    except RecursionError:
        pass
    return ""
