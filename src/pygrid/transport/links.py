"""One end of a control WebSocket between a Domain and a Network; both ends work the same way.

A frame is a JSON object in one text message: ``{"type": ..., "id"?: ..., ...}``. A frame with an ``id`` is a request.
The other end replies with ``{"type": "answer", "id": ..., ...}``, or refuses with ``{"type": "problem", "id": ...,
"problem": {...}}``. A frame without an ``id`` gets no reply. Each end numbers its own requests.

    link = Link(socket, {"search": search, "open_pipe": open_pipe})
    run = asyncio.create_task(link.run())           # until either end closes
    found = await link.ask("search", {"query": "mri"}, timeout_s=0.25)
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, Protocol

import msgspec

from pygrid import codes
from pygrid.errors import InvalidInput, NotFound, PayloadTooLarge, PygridError, TooSlow, Unavailable, from_problem
from pygrid.messages.decoding import decode_json

logger = logging.getLogger(__name__)

MAX_FRAME_BYTES = 1024 * 1024
MAX_ASKS = 1024
"""Requests of this end that wait for their answers."""
MAX_HANDLING = 256
"""Requests of the other end that are being handled."""
SEND_S = 10.0
"""The connection to a peer that reads nothing for this time is closed."""
CLOSE_S = 10.0
"""Time limit of the closing handshake."""

NORMAL, GOING_AWAY, PROTOCOL_ERROR, TOO_BIG, OVERLOADED = 1000, 1001, 1002, 1009, 1013
REPLACED = 4000
"""Close code: the same Domain has opened a newer link."""
REFUSED = 4003
"""Close code: the other end is not accepted, or no longer accepted."""

Payload = dict[str, Any]
Handler = Callable[[Payload], Awaitable[Payload | None]]
"""Gets a frame without ``type`` and ``id``; returns the fields of the answer (None: no fields).

A `PygridError` becomes a problem.
"""

_ANSWER, _PROBLEM = "answer", "problem"
_RESERVED = frozenset({"type", "id"})


class SocketClosed(Exception):
    """One of the ends has closed the WebSocket."""

    def __init__(self, code: int = GOING_AWAY, reason: str = "") -> None:
        super().__init__(f"{code} {reason}".strip())
        self.code = code
        self.reason = reason


class Socket(Protocol):
    """The part of a WebSocket that a link uses."""

    async def send_text(self, text: str) -> None:
        """Raises SocketClosed."""
        ...

    async def receive_text(self) -> str:
        """The next text message. Raises SocketClosed."""
        ...

    async def close(self, code: int = NORMAL, reason: str = "") -> None:
        """Close it; does nothing if it is closed."""
        ...


class Link:
    """Sends requests and messages to the other end, and handles those of the other end.

    Args:
        handlers: by type. Messages are handled in order, each before the next frame is read; requests run concurrently.
        name: name of the other end, for the log.
    """

    def __init__(
        self,
        socket: Socket,
        handlers: Mapping[str, Handler],
        *,
        name: str = "",
        max_asks: int = MAX_ASKS,
        max_handling: int = MAX_HANDLING,
    ) -> None:
        self.name = name
        self._socket = socket
        self._handlers = handlers
        self._max_asks = max_asks
        self._max_handling = max_handling
        self._asked: dict[int, asyncio.Future[Payload]] = {}
        self._handling: set[asyncio.Task[None]] = set()
        self._last_id = 0
        self._over: SocketClosed | None = None
        self._sending = asyncio.Lock()
        self._reading: asyncio.Timeout | None = None

    @property
    def is_open(self) -> bool:
        """Whether frames can still be sent."""
        return self._over is None

    @property
    def num_asked(self) -> int:
        """The number of requests that wait for their answers."""
        return len(self._asked)

    async def run(self) -> SocketClosed:
        """Read frames until the WebSocket is closed, and return how it ended. Call it once.

        When it returns, open requests have failed with ``link_closed``, and no handler of this end runs.
        """
        try:
            async with asyncio.timeout(None) as self._reading:
                while True:
                    await self._take(await self._socket.receive_text())
        except SocketClosed as closed:
            self._end(closed)
        except TimeoutError:
            logger.warning("link given up", extra={"peer": self.name})
        finally:
            self._reading = None
            self._end(SocketClosed())
            for task in self._handling:
                task.cancel()
            await asyncio.gather(*self._handling, return_exceptions=True)
        assert self._over is not None
        return self._over

    async def ask(self, type: str, payload: Mapping[str, Any] | None = None, timeout_s: float = 10.0) -> Payload:
        """The other end's answer.

        Raises:
            Unavailable: the link is closed (``link_closed``), or has too many open requests (``link_busy``).
            TooSlow: there was no answer in time (``no_answer``).
            PayloadTooLarge: the request is longer than a frame; nothing was sent.
            PygridError: the refusal of the other end.
        """
        if self._over is not None:
            raise self._closed()
        if len(self._asked) >= self._max_asks:
            raise Unavailable(
                f"{len(self._asked)} requests to {self.name or 'the other end'} are open", code=codes.LINK_BUSY
            )
        self._last_id += 1
        number = self._last_id
        frame = _frame(type, payload, number)
        answer: asyncio.Future[Payload] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        try:
            async with asyncio.timeout(timeout_s):
                await self._send(frame)
                return await answer
        except TimeoutError:
            raise TooSlow(
                f"{self.name or 'the other end'} did not answer within {timeout_s:g} s",
                code=codes.NO_ANSWER,
                limit_s=timeout_s,
            ) from None
        finally:
            self._asked.pop(number, None)

    async def notify(self, type: str, payload: Mapping[str, Any] | None = None) -> None:
        """Send a message, which gets no answer.

        Raises:
            Unavailable: the link is closed (``link_closed``).
            PayloadTooLarge: the message is longer than a frame; nothing was sent.
        """
        await self._send(_frame(type, payload))

    async def close(self, code: int = NORMAL, reason: str = "") -> None:
        """Close the WebSocket, so that `run` returns; does nothing if it is closed."""
        self._end(SocketClosed(code, reason))
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._socket.close(code, reason)
        except TimeoutError:
            # The peer does not read the close frame, so `run` does not wait for its frames.
            if self._reading is not None and not self._reading.expired():
                self._reading.reschedule(asyncio.get_running_loop().time())

    async def _send(self, frame: str) -> None:
        if self._over is not None:
            raise self._closed()
        try:
            async with asyncio.timeout(SEND_S), self._sending:
                await self._socket.send_text(frame)
        except SocketClosed as closed:
            self._end(closed)
            raise self._closed() from None
        except TimeoutError:
            await self.close(OVERLOADED, "you read too slowly")
            raise self._closed() from None

    async def _take(self, text: str) -> None:
        try:
            frame = decode_frame(text)
        except PygridError as error:
            code = TOO_BIG if isinstance(error, PayloadTooLarge) else PROTOCOL_ERROR
            logger.warning("link closed for a bad frame", extra={"peer": self.name, "why": error.code})
            await self.close(code, error.detail[:100])
            raise SocketClosed(code, error.detail) from None
        kind, number = frame.pop("type"), frame.pop("id", None)
        if kind in (_ANSWER, _PROBLEM):
            waiting = self._asked.pop(number, None)
            # No request waits if the answer is late, or belongs to no request.
            if waiting is not None and not waiting.done():
                _resolve(waiting, kind, frame)
        elif number is None:
            await self._handle(kind, frame)
        elif len(self._handling) >= self._max_handling:
            busy = Unavailable(
                f"{self._max_handling} requests are being handled; try again later", code=codes.LINK_BUSY
            )
            await self._refuse(number, busy)
        else:
            task = asyncio.create_task(self._answer(kind, number, frame))
            self._handling.add(task)
            task.add_done_callback(self._handling.discard)

    async def _handle(self, kind: str, frame: Payload) -> None:
        handler = self._handlers.get(kind)
        if handler is None:
            # A later version of the other end can send types that this version does not know.
            logger.debug("unknown frame", extra={"peer": self.name, "type": kind[:100]})
            return
        try:
            await handler(frame)
        except PygridError as error:
            logger.warning("frame refused", extra={"peer": self.name, "type": kind, "why": error.code})
        except Exception:
            logger.exception("frame failed", extra={"peer": self.name, "type": kind})

    async def _answer(self, kind: str, number: int, frame: Payload) -> None:
        try:
            handler = self._handlers.get(kind)
            if handler is None:
                raise NotFound(f"nothing here answers {kind[:100]!r}", code=codes.UNKNOWN_TYPE)
            answer = _frame(_ANSWER, await handler(frame), number)
        except PygridError as error:
            await self._refuse(number, error)
            return
        except Exception:
            logger.exception("question failed", extra={"peer": self.name, "type": kind})
            await self._refuse(number, PygridError("the other end failed to answer; its log has the reason"))
            return
        with contextlib.suppress(Unavailable):  # the other end is gone
            await self._send(answer)

    async def _refuse(self, number: int, error: PygridError) -> None:
        with contextlib.suppress(Unavailable):
            await self._send(_frame(_PROBLEM, {"problem": error.to_problem()}, number))

    def _end(self, closed: SocketClosed) -> None:
        if self._over is not None:
            return
        self._over = closed
        for waiting in self._asked.values():
            if not waiting.done():
                waiting.set_exception(self._closed())
        self._asked.clear()

    def _closed(self) -> Unavailable:
        return Unavailable(f"the connection to {self.name or 'the other end'} is closed", code=codes.LINK_CLOSED)


class Links:
    """The links of a Network, by the Domain's name: one for each, the newest."""

    def __init__(self) -> None:
        self._links: dict[str, Link] = {}

    def __len__(self) -> int:
        return len(self._links)

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._links))

    async def put(self, name: str, link: Link) -> None:
        """Register the link of a Domain, and close an older link."""
        older = self.swap(name, link)
        if older is not None:
            await older.close(REPLACED, "this Domain has connected again")

    def swap(self, name: str, link: Link) -> Link | None:
        """Register the link of a Domain, and return an older link, which the caller must close."""
        older, self._links[name] = self._links.get(name), link
        return None if older is link else older

    def release(self, name: str, link: Link) -> bool:
        """Remove a link that has ended, and return True; False if a newer link has replaced it."""
        if self._links.get(name) is not link:
            return False
        del self._links[name]
        return True

    def find(self, name: str) -> Link | None:
        """The open link of a Domain; None: there is none."""
        link = self._links.get(name)
        return link if link is not None and link.is_open else None

    def get(self, name: str) -> Link:
        """The open link of a Domain. Raises Unavailable: there is none (``domain_offline``)."""
        link = self.find(name)
        if link is None:
            raise Unavailable(f"the Domain {name!r} is not connected now", code=codes.DOMAIN_OFFLINE, domain=name)
        return link

    async def close(self, name: str, code: int = REFUSED, reason: str = "") -> None:
        """Close the link of a Domain, if there is one."""
        link = self._links.pop(name, None)
        if link is not None:
            await link.close(code, reason)

    async def close_all(self) -> None:
        """Close all links because the Network stops."""
        links = list(self._links.values())
        self._links.clear()
        await asyncio.gather(*(link.close(GOING_AWAY, "the Network stops") for link in links))


def encode_frame(type: str, payload: Mapping[str, Any] | None = None, id: int | None = None) -> str:
    """The text of a frame. Raises PayloadTooLarge: it is too long (``frame_too_large``)."""
    return _frame(type, payload, id)


def decode_frame(text: str) -> Payload:
    """The frame in a text, with its ``type`` (a text) and ``id`` (a whole number, if it has one).

    Raises:
        PayloadTooLarge: the text is too long (``frame_too_large``).
        InvalidInput: the text is not a frame (``invalid_frame``).
    """
    if len(text) > MAX_FRAME_BYTES:
        raise _too_large()
    try:
        frame = decode_json(text.encode())
    except UnicodeEncodeError as error:
        raise InvalidInput(f"a frame is UTF-8: {error}", code=codes.INVALID_FRAME) from None
    except InvalidInput as error:
        raise InvalidInput(f"a frame is a JSON object: {error.detail}", code=codes.INVALID_FRAME) from None
    if not isinstance(frame, dict) or not isinstance(frame.get("type"), str):
        raise InvalidInput('a frame is a JSON object with a text "type"', code=codes.INVALID_FRAME)
    if not isinstance(number := frame.get("id"), int | None) or isinstance(number, bool):
        raise InvalidInput('the "id" of a frame is a whole number', code=codes.INVALID_FRAME)
    return frame


def _frame(kind: str, payload: Mapping[str, Any] | None, number: int | None = None) -> str:
    fields = dict(payload or {})
    assert not _RESERVED & fields.keys(), "a payload has neither type nor id"
    head: Payload = {"type": kind} if number is None else {"type": kind, "id": number}
    text = msgspec.json.encode({**head, **fields})
    if len(text) > MAX_FRAME_BYTES:
        raise _too_large()
    return text.decode()


def _resolve(waiting: asyncio.Future[Payload], kind: str, frame: Payload) -> None:
    if kind == _ANSWER:
        waiting.set_result(frame)
        return
    problem = frame.get("problem")
    waiting.set_exception(from_problem(problem if isinstance(problem, dict) else {}))


def _too_large() -> PayloadTooLarge:
    return PayloadTooLarge(
        f"a frame has at most {MAX_FRAME_BYTES:,} bytes", code=codes.FRAME_TOO_LARGE, max_bytes=MAX_FRAME_BYTES
    )
