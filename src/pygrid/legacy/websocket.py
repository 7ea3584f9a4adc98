"""The WebSocket at ``/`` for clients of 2020, with one answer to each message.

    {"type": "run-inference", "request_id": 7, "token": "...", "model_id": "digits", ...}
    {"type": "run-inference", "request_id": 7, "success": true, "prediction": [[0.1, 0.9]]}

    {"type": "model-centric/authenticate", "request_id": 8, "data": {"model_name": "digits"}}
    {"type": "model-centric/authenticate", "request_id": 8, "data": {"status": "success", ...}}

Each type of message has a `Handler`; `Published`, a service of the app, holds them. A handler does the same as the REST
route of its use case, with the same permissions. Model-centric messages have their fields in ``data``, all others at
the top level. Each answer repeats ``type`` and ``request_id``. A refusal gets an answer, and the WebSocket stays open:
``error`` is the published text, or else the error's own.

The token of a session identifies the caller: in the message (``token``), or from an earlier message ``authentication``.
Pages of other sites may send only the messages of devices, which need no account.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol, TypeAlias, TypeVar, cast

import msgspec
from litestar import WebSocket, websocket
from litestar.datastructures import State

from pygrid import codes
from pygrid.core.access import (
    API_TOKEN_PREFIX,
    Authenticator,
    Credential,
    Permission,
    Principal,
    not_permitted,
    session_needed,
    token_reads_only,
)
from pygrid.errors import Forbidden, InvalidInput, PygridError, Unauthenticated, Unavailable, explain_os_error
from pygrid.messages.decoding import decode_json, holds_nul, in_pythons_words, read_struct
from pygrid.transport.links import GOING_AWAY, NORMAL, SocketClosed
from pygrid.web.addresses import client_address
from pygrid.web.auth import find_authenticator
from pygrid.web.message_memory import MessageMemory
from pygrid.web.published import Area, find_text
from pygrid.web.services import service
from pygrid.web.sites import is_of_other_site
from pygrid.web.sockets import AsgiSocket, MessageParts
from pygrid.web.streamed_messages import STREAMED

logger = logging.getLogger(__name__)

Message: TypeAlias = Mapping[str, Any]
Answer: TypeAlias = dict[str, Any]
Socket: TypeAlias = WebSocket[Any, Any, Any]
T = TypeVar("T")

ENVELOPE = "model-centric/"
"""Types that begin with it have their fields, and those of the answer, in ``data``."""
MAX_VALUES = 50_000
"""Values of one message. The limits of its lists, objects and texts are in proportion; large contents are base64."""
IDLE_S = 600.0
"""Seconds without a message after which a WebSocket is closed."""
MAX_SOCKETS = 3000
SHORT = 4096
"""Longest message in characters that is decoded without a queue."""
MAX_WAITING = 64
"""Limit of large messages that wait for decoding. The server bounds the memory of all messages together."""
PAUSES_PER_DECODING = 4
"""Pause after the decoding of a large message, as a multiple of its duration."""
TOO_BIG = 1009
TRY_AGAIN = 1013
"""Close code of a WebSocket over the limit."""
SYFT_VERSION = "0.2.9"
"""Version of the published clients, which refuse a Domain with another one."""
_BINARY = "messages must be JSON texts; binary messages of PySyft are not supported"
_ECHOED_CHARS = 2048
"""Characters at the start of a message, and at its end, that are searched for what an answer repeats if the message
cannot be decoded."""
_ECHOED = re.compile(r'"(type|request_id)"\s*:\s*("[\w/.+=-]{1,200}"|-?\d{1,18})(?=\s*[,}])')


class LegacyCaller:
    """The client of one WebSocket.

    Attributes:
        address: network address of the client.
        is_foreign: whether a page of another site opened the WebSocket.
        token: token of the session that ``authentication`` began.
    """

    def __init__(self, authenticator: Authenticator, address: str, *, is_foreign: bool = False) -> None:
        self.address = address
        self.is_foreign = is_foreign
        self.token: str | None = None
        self._authenticator = authenticator

    async def principal(
        self, message: Message, permission: Permission | None = None, *, reads: bool = False
    ) -> Principal:
        """Return the user of a message; each message is checked, so that an ended session is not valid.

        Args:
            reads: the message changes nothing, so an API token of the scope ``read`` is enough.
        Raises:
            Unauthenticated: the token is missing, or not that of a session. Forbidden: ``not_permitted``.
        """
        token = message.get("token") or self.token
        if not isinstance(token, str):
            raise Unauthenticated("send the token of a session as 'token', or first a message 'authentication'")
        principal = await self._authenticator.authenticate(token)
        if principal.credential is Credential.READ and not reads:
            raise token_reads_only()
        if permission is not None and not principal.may(permission):
            raise not_permitted(permission)
        return principal

    def check_session(self, message: Message) -> None:
        """Check that an account may be changed by this message. Raises Forbidden: ``session_needed``: an API token."""
        if str(message.get("token") or self.token or "").startswith(API_TOKEN_PREFIX):
            raise session_needed()


Handler: TypeAlias = Callable[[LegacyCaller, Message], Awaitable[Answer]]


class Streams(Protocol):
    """Takes messages of one type while they arrive."""

    def begins_report(self, start: bytes) -> bool:
        """Return whether a message is of this type, by its first bytes."""
        ...

    async def take(self, caller: LegacyCaller, message: MessageParts) -> Answer:
        """Return the answer to a message."""
        ...


class Published:
    """The handlers of an app by type of message, and the number of open WebSockets.

    Args:
        handlers: answer to clients that no page of another site opened.
        device_handlers: answer to all clients.
        as_text: types with answers that are JSON texts in a JSON text, if the message has no ``request_id``.
        memory: bounds the memory of all large messages together.
        streams: takes reports while they arrive; None: all messages are read whole.
        invalid: the answer to a message that is not a JSON object or has an unknown type; None: it names the fault.
    """

    def __init__(
        self,
        handlers: Mapping[str, Handler],
        device_handlers: Mapping[str, Handler] | None = None,
        *,
        memory: MessageMemory | None = None,
        streams: Streams | None = None,
        as_text: frozenset[str] = frozenset(),
        invalid: Answer | None = None,
    ) -> None:
        self.device_handlers = device_handlers or {}
        self.handlers = {**handlers, **self.device_handlers}
        self.memory = memory or MessageMemory()
        self.streams = streams
        self.as_text = as_text
        self.invalid = invalid
        self.max_sockets = MAX_SOCKETS
        self.idle_s = IDLE_S
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

    def find(self, caller: LegacyCaller, kind: Any) -> Handler:
        """Return the handler of a type of message.

        Raises:
            InvalidInput: ``unknown_type``. Forbidden: ``cross_site_refused``: a page of another site may not send it.
        """
        handler = self.handlers.get(kind) if isinstance(kind, str) else None
        if handler is None:
            raise InvalidInput(
                f"unknown message type {str(kind)[:100]!r}; this app answers {', '.join(sorted(self.handlers))}",
                code=codes.UNKNOWN_TYPE,
            )
        if caller.is_foreign and kind not in self.device_handlers:
            raise Forbidden(
                f"a page of another site may not send {kind!r}; it may send {', '.join(sorted(self.device_handlers))}",
                code=codes.CROSS_SITE_REFUSED,
            )
        return handler


def text_field(message: Message, name: str) -> str:
    """Return a text of a message. Raises InvalidInput: ``missing_field``: it is missing, or has another type."""
    value = message.get(name)
    if not isinstance(value, str):
        raise InvalidInput(f"the message needs a text {name!r}", code=codes.MISSING_FIELD, field=name)
    return value


def answer_of(message: msgspec.Struct) -> Answer:
    """Return the fields of a message as an answer."""
    found: Answer = msgspec.to_builtins(message)
    return found


def read_fields(message: Message, kind: type[T]) -> T:
    """Return the fields of a message as the request of a use case.

    Raises:
        InvalidInput: ``missing_field``, ``invalid_text`` (a NUL character), or a field has another type or value.
    """
    if holds_nul(message):
        raise InvalidInput("a text of the message has a NUL character; remove it", code=codes.INVALID_TEXT)
    return read_struct(message, kind)


def domain_messages(domain_id: str) -> dict[str, Handler]:
    async def get_id(_caller: LegacyCaller, _message: Message) -> Answer:
        return {"id": domain_id, "syft_version": SYFT_VERSION}

    return {"get-id": get_id}


async def ping(_caller: LegacyCaller, _message: Message) -> Answer:
    """Answer ``socket-ping``, with which clients keep a WebSocket open."""
    return {"alive": "True"}


@websocket("/")
async def converse(socket: Socket, state: State) -> None:
    """Answer messages in sequence, until the client disconnects."""
    published = service(state, Published)
    if published.streams is not None:
        cast("dict[str, Any]", socket.scope)[STREAMED] = published.streams.begins_report
    await socket.accept()
    if published.num_open >= published.max_sockets:
        await socket.close(TRY_AGAIN, "too many connections; try again later")
        return
    published.num_open += 1
    try:
        await _serve(socket, published)
    finally:
        published.num_open -= 1


async def _serve(socket: Socket, published: Published) -> None:
    caller = LegacyCaller(find_authenticator(socket), client_address(socket), is_foreign=is_of_other_site(socket.scope))
    end = AsgiSocket(socket)
    try:
        while True:
            async with asyncio.timeout(published.idle_s):
                found = await end.receive()
            said: Answer | str
            if found is None:
                said = _invalid(published, {}, InvalidInput(_BINARY), "")
            elif isinstance(found, str):
                said = await answer(published, caller, found)
            else:
                assert published.streams is not None
                said = await published.streams.take(caller, found)
            await end.send_text(msgspec.json.encode(said).decode())
            if isinstance(found, MessageParts) and not found.is_over:
                await end.close(TOO_BIG, "the rest of a refused report is too long")
                return
    except TimeoutError:
        await end.close(NORMAL, f"no message within {published.idle_s:g} s")
    except SocketClosed:
        return
    except asyncio.CancelledError:
        await end.close(GOING_AWAY)
        raise


async def answer(published: Published, caller: LegacyCaller, text: str) -> Answer | str:
    try:
        with published.memory.hold(len(text)):
            return await _answer(published, caller, text)
    except Unavailable as error:
        return _wrap(_find_echoed(text), refusal(error))


async def _answer(published: Published, caller: LegacyCaller, text: str) -> Answer | str:
    try:
        message = await _read(published, text)
    except Unavailable:
        raise
    except PygridError as error:
        return _invalid(published, _find_echoed(text), error, text)
    echoed: Answer = {name: message[name] for name in ("type", "request_id") if name in message}
    try:
        handler = published.find(caller, message.get("type"))
    except PygridError as error:
        return _invalid(published, echoed, error, text)
    try:
        found = await handler(caller, _fields(message))
    except PygridError as error:
        found = refusal(error, Area.DEVICES if message["type"] in published.device_handlers else Area.DATA)
    except Exception as error:
        found = unexpected(error)
    whole = _wrap(echoed, found)
    if message["type"] in published.as_text and "request_id" not in message:
        return msgspec.json.encode(whole).decode()
    return whole


async def _read(published: Published, text: str) -> dict[str, Any]:
    """Return the object of a message. Raises InvalidInput, Unavailable."""
    message = await published.decode(text)
    if not isinstance(message, dict):
        raise InvalidInput("a message must be a JSON object with a field 'type'")
    return message


def _fields(message: dict[str, Any]) -> Message:
    """Return the fields of a message. Raises InvalidInput: its ``data`` is not an object."""
    if not message["type"].startswith(ENVELOPE):
        return message
    fields = message.get("data")
    if not isinstance(fields, dict):
        raise InvalidInput("'data' must be an object with the fields of the message", field="data")
    # Where credentials are needed, they may be next to the envelope's data, as in all other messages.
    return {**{name: message[name] for name in ("token", "private-key", "private_key") if name in message}, **fields}


def _wrap(echoed: Answer, found: Answer) -> Answer:
    """Return an answer with what it repeats. Clients of model-centric messages reject fields that they do not know."""
    kind = echoed.get("type")
    if isinstance(kind, str) and kind.startswith(ENVELOPE):
        if "error" in found:
            status = {"status": "rejected"} if kind == ENVELOPE + "cycle-request" else {}
            found = {**status, "error": found["error"]}
        return {**echoed, "data": found}
    return {**echoed, **found}


def _invalid(published: Published, echoed: Answer, error: PygridError, text: str) -> Answer:
    """Return the answer to a message that no handler gets."""
    if published.invalid is not None:
        return {**echoed, **published.invalid}
    found = refusal(error)
    if error.code == "invalid_json":
        # Python's own error text costs a second decoding, so only short messages get it.
        found["error"] = in_pythons_words(text) or error.detail
    return _wrap(echoed, found)


def _find_echoed(text: str) -> Answer:
    """Return ``type`` and ``request_id`` of a message that was not decoded, where its text shows them."""
    found: Answer = {}
    for part in (text[:_ECHOED_CHARS], text[_ECHOED_CHARS:][-_ECHOED_CHARS:]):
        for name, value in _ECHOED.findall(part):
            found.setdefault(name, msgspec.json.decode(value))
    return found


def unexpected(error: Exception) -> Answer:
    """Return the answer to a client after a fault of the server, which is logged."""
    if (explained := explain_os_error(error)) is not None:
        logger.error("disk failed", extra={"code": explained.code, "reason": str(error)})
        return refusal(explained)
    log_id = secrets.token_hex(8)
    logger.error("unexpected error", exc_info=error, extra={"log_id": log_id})
    return {
        "success": False,
        "error": f"the server failed to answer; its log has the reason under {log_id}",
        "code": "internal",
    }


def refusal(error: PygridError, area: Area = Area.DATA) -> Answer:
    return {
        **error.fields,
        "success": False,
        "error": find_text(area, error.code, error.detail, error.fields.get("field")),
        "code": error.code,
    }


def _decode(text: str) -> Any:
    return decode_json(text.encode(errors="surrogatepass"), may_hold_nul=True, max_values=MAX_VALUES)
