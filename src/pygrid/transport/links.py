"""One end of a control WebSocket between a Domain and a Network: the same on both sides.

A frame is a JSON object in one text message: ``{"type": ..., "id"?: ..., ...}``. With an ``id`` it is a question, which
the other end answers by ``{"type": "answer", "id": ..., ...}`` or refuses by ``{"type": "problem", "id": ...,
"problem": {...}}``; without one it only tells. Each end numbers its own questions.

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
"""Questions of one end that wait for their answers."""
MAX_HANDLING = 256
"""Questions of the other end that are being answered."""
SEND_S = 10.0
"""A peer that takes nothing for so long is given up."""
CLOSE_S = 10.0
"""So long a goodbye may take."""

NORMAL, GOING_AWAY, PROTOCOL_ERROR, TOO_BIG, OVERLOADED = 1000, 1001, 1002, 1009, 1013
REPLACED = 4000
"""Close code: the same Domain has opened a newer link."""
REFUSED = 4003
"""Close code: the other end is not let in, or no longer."""

Payload = dict[str, Any]
Handler = Callable[[Payload], Awaitable[Payload | None]]
"""Gets a frame without ``type`` and ``id``; gives the answer's fields (None: none).

A `PygridError` becomes a problem.
"""

_ANSWER, _PROBLEM = "answer", "problem"
_RESERVED = frozenset({"type", "id"})


class SocketClosed(Exception):
    """The WebSocket is closed, by whichever side."""

    def __init__(self, code: int = GOING_AWAY, reason: str = "") -> None:
        super().__init__(f"{code} {reason}".strip())
        self.code = code
        self.reason = reason


class Socket(Protocol):
    """What a link needs of a WebSocket."""

    async def send_text(self, text: str) -> None:
        """Raises SocketClosed."""
        ...

    async def receive_text(self) -> str:
        """The next text message. Raises SocketClosed."""
        ...

    async def close(self, code: int = NORMAL, reason: str = "") -> None:
        """Close it; harmless when it is closed already."""
        ...


class Link:
    """Asks the other end, answers it, and tells it things.

    Args:
        handlers: what this end answers and hears, by type. Told frames are handled one after the other, before the next
            frame is read; questions side by side.
        name: of the other end, for the log.
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
        """How many questions wait for their answers."""
        return len(self._asked)

    async def run(self) -> SocketClosed:
        """Read frames until the WebSocket is closed; gives how it ended. Call it once.

        Then open questions have failed with ``link_closed``, and nothing of this end's handlers runs any more.
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
            Unavailable: ``link_closed``; ``link_busy``: too many questions are open. TooSlow: ``no_answer`` in time.
            PayloadTooLarge: the question is longer than a frame; nothing was sent.
            PygridError: what the other end refused with.
        """
        if self._over is not None:
            raise self._closed()
        if len(self._asked) >= self._max_asks:
            raise Unavailable(
                f"{len(self._asked)} questions to {self.name or 'the other end'} are open", code=codes.LINK_BUSY
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

    async def tell(self, type: str, payload: Mapping[str, Any] | None = None) -> None:
        """Send what needs no answer.

        Raises:
            Unavailable: ``link_closed``. PayloadTooLarge: it is longer than a frame; nothing was sent.
        """
        await self._send(_frame(type, payload))

    async def close(self, code: int = NORMAL, reason: str = "") -> None:
        """Close the WebSocket; `run` returns. Harmless when it is closed already."""
        self._end(SocketClosed(code, reason))
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._socket.close(code, reason)
        except TimeoutError:
            # It does not even take the goodbye, so what it still says is not waited for.
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
            # Nobody waits if the answer came too late, or was never asked for.
            if waiting is not None and not waiting.done():
                _resolve(waiting, kind, frame)
        elif number is None:
            await self._hear(kind, frame)
        elif len(self._handling) >= self._max_handling:
            busy = Unavailable(f"{self._max_handling} questions are being answered; ask again", code=codes.LINK_BUSY)
            await self._refuse(number, busy)
        else:
            task = asyncio.create_task(self._answer(kind, number, frame))
            self._handling.add(task)
            task.add_done_callback(self._handling.discard)

    async def _hear(self, kind: str, frame: Payload) -> None:
        handler = self._handlers.get(kind)
        if handler is None:
            # A later version of the other end may tell more than this one knows of.
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
            await self._refuse(number, PygridError("the other end failed to answer; its log tells why"))
            return
        with contextlib.suppress(Unavailable):  # nobody is left to hear it
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
        """Let this be the Domain's link; an older one is closed."""
        older = self.swap(name, link)
        if older is not None:
            await older.close(REPLACED, "this Domain has connected anew")

    def swap(self, name: str, link: Link) -> Link | None:
        """Let this be the Domain's link; gives an older one, which is to be closed."""
        older, self._links[name] = self._links.get(name), link
        return None if older is link else older

    def release(self, name: str, link: Link) -> bool:
        """Forget a link that has ended, unless a newer one took its place; gives whether it was the Domain's link."""
        if self._links.get(name) is not link:
            return False
        del self._links[name]
        return True

    def find(self, name: str) -> Link | None:
        """The Domain's link, if it has one that is open."""
        link = self._links.get(name)
        return link if link is not None and link.is_open else None

    def get(self, name: str) -> Link:
        """Raises Unavailable: ``domain_offline``."""
        link = self.find(name)
        if link is None:
            raise Unavailable(f"the Domain {name!r} is not connected now", code=codes.DOMAIN_OFFLINE, domain=name)
        return link

    async def close(self, name: str, code: int = REFUSED, reason: str = "") -> None:
        """Close the Domain's link, if it has one."""
        link = self._links.pop(name, None)
        if link is not None:
            await link.close(code, reason)

    async def close_all(self) -> None:
        """Close every link: the Network stops."""
        links = list(self._links.values())
        self._links.clear()
        await asyncio.gather(*(link.close(GOING_AWAY, "the Network stops") for link in links))


def encode_frame(type: str, payload: Mapping[str, Any] | None = None, id: int | None = None) -> str:
    """A frame as it travels. Raises PayloadTooLarge: ``frame_too_large``."""
    return _frame(type, payload, id)


def decode_frame(text: str) -> Payload:
    """A frame that came, with its ``type`` (a text) and ``id`` (a whole number, if it has one).

    Raises:
        PayloadTooLarge: ``frame_too_large``. InvalidInput: ``invalid_frame``: it is no such object.
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
