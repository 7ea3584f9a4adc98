"""The Network's pipes: the one-time tokens under which Domains bring them, how many there are, and the splicing of two
ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from litestar.exceptions import WebSocketDisconnect
from prometheus_client import Counter as CounterFamily
from prometheus_client import Gauge

from pygrid import codes
from pygrid.core.associations import name_key
from pygrid.errors import Gone, TooManyRequests, Unavailable
from pygrid.lifecycle import Stopping
from pygrid.messages.relay import DOMAIN_UNREACHABLE, TOO_MANY_PIPES
from pygrid.metrics import Metrics

logger = logging.getLogger(__name__)

TOKEN_BYTES = 32
RETRY_S = 1.0
_CHECK_S = 1.0

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class RelayLimits:
    """Bounds of a relay."""

    max_pipes_per_domain: int = 1000
    max_pipes_per_caller: int = 200
    max_pipes_per_address: int = 24
    """Of callers without an account or a ticket, where these are allowed. One that reads nothing costs about 1.5 MB."""
    open_s: float = 10.0
    """A Domain that brings no pipe for so long is given up, and the token is good no longer."""
    idle_s: float = 300.0
    """A pipe through which nothing comes for so long is closed. Longer than any answer is held back."""


@dataclass(slots=True)
class End:
    """One end of a pipe: an accepted WebSocket as ASGI gives it, and whether it has served its purpose."""

    receive: Receive
    send: Send
    released: asyncio.Event = field(default_factory=asyncio.Event)


class Pipes:
    """What a Network knows of its pipes. In memory only: with the Network, its pipes end."""

    def __init__(self, limits: RelayLimits, stopping: Stopping, metrics: Metrics) -> None:
        self.limits = limits
        self._stopping = stopping
        self._awaited: dict[str, asyncio.Future[End]] = {}
        self._cuts: dict[str, set[asyncio.Event]] = {}
        self._by_domain: Counter[str] = Counter()
        self._by_caller: Counter[str] = Counter()
        self._open = Gauge("pygrid_relay_pipes", "Pipes that are open or being opened.", registry=metrics.registry)
        self._bytes = CounterFamily("pygrid_relay_bytes", "Bytes carried through pipes.", registry=metrics.registry)

    def count(self, domain: str) -> int:
        """How many pipes a Domain has."""
        return self._by_domain[domain]

    @contextlib.contextmanager
    def place(
        self, domain: str, caller: str, caller_domain: str | None = None, *, is_known: bool = True
    ) -> Iterator[asyncio.Event]:
        """Hold a place for one pipe; gives what is set once the pipe is cut (`cut`), be it before it has been opened.

        Args:
            caller: by which its pipes are counted.
            caller_domain: name of the Domain that calls, if it is one.
            is_known: the caller has shown a session or a ticket.
        Raises:
            TooManyRequests: ``too_many_pipes``: the Domain, or the caller, has as many as it may.
        """
        if self._by_domain[domain] >= self.limits.max_pipes_per_domain:
            raise too_many(
                f"the Domain {domain!r} has {self._by_domain[domain]} connections open, as many as there may be"
            )
        if self._by_caller[caller] >= (
            self.limits.max_pipes_per_caller if is_known else self.limits.max_pipes_per_address
        ):
            raise too_many(f"you have {self._by_caller[caller]} connections open, as many as there may be")
        self._by_domain[domain] += 1
        self._by_caller[caller] += 1
        self._open.inc()
        cut = asyncio.Event()
        ends = {name_key(name) for name in (domain, caller_domain) if name is not None}
        for end in ends:
            self._cuts.setdefault(end, set()).add(cut)
        try:
            yield cut
        finally:
            for end in ends:
                self._cuts[end].discard(cut)
                if not self._cuts[end]:
                    del self._cuts[end]
            self._open.dec()
            _take_one(self._by_domain, domain)
            _take_one(self._by_caller, caller)

    async def order(self, ask: Callable[[str], Awaitable[object]], domain: str) -> End:
        """The Domain's end of a new pipe. Set ``released`` of it when it is no longer needed.

        Args:
            ask: gives the Domain the token to dial in with, and returns once it has dialled.
        Raises:
            Unavailable: ``domain_unreachable``: it did not come in time, or not at all. What ``ask`` raises.
        """
        token = secrets.token_urlsafe(TOKEN_BYTES)
        arrived: asyncio.Future[End] = asyncio.get_running_loop().create_future()
        self._awaited[token] = arrived
        asking: asyncio.Future[Any] = asyncio.ensure_future(ask(token))
        is_taken = False
        try:
            async with asyncio.timeout(self.limits.open_s):
                await asyncio.wait([asking, arrived], return_when=asyncio.FIRST_COMPLETED)
                if not arrived.done():
                    await asking  # raises what the Domain refused with
                    raise unreachable(domain, "says it opened the way, and did not")
            is_taken = True
            return arrived.result()
        except TimeoutError:
            raise unreachable(domain, f"did not open the way within {self.limits.open_s:g} s") from None
        finally:
            self._awaited.pop(token, None)
            asking.cancel()
            if not arrived.done():
                arrived.cancel()
            elif not is_taken:
                arrived.result().released.set()  # it came at the moment that the caller went
            await asyncio.gather(asking, return_exceptions=True)

    def claim(self, token: str) -> asyncio.Future[End]:
        """Use up a token; gives what awaits the end that comes with it (done: it was awaited too long).

        Raises:
            Gone: ``invalid_pipe_token``: never given out, used, or over.
        """
        awaited = self._awaited.pop(token, None)
        if awaited is None:
            raise Gone("this token of a pipe was never given out, was used, or is over", code=codes.INVALID_PIPE_TOKEN)
        return awaited

    def cut(self, domain: str, after_s: float = 0.0) -> None:
        """Close all pipes to a Domain and from it, also those that are being opened: it belongs to the Network no
        longer.

        Args:
            after_s: so long they may stay, and no later ones are meant.
        """
        cuts = list(self._cuts.get(name_key(domain), ()))

        def cut_all() -> None:
            for cut in cuts:
                cut.set()

        if after_s > 0:
            asyncio.get_running_loop().call_later(after_s, cut_all)
        else:
            cut_all()

    async def splice(self, name: str, caller: End, domain: End, cut: asyncio.Event) -> None:
        """Carry what either end sends to the other until one closes, nothing comes for too long, it is cut, or the app
        stops.

        Args:
            name: of the Domain.
            cut: what `place` gave.
        """
        seen = _Seen(self._bytes)
        loops = [
            asyncio.create_task(_carry(caller.receive, domain.send, seen)),
            asyncio.create_task(_carry(domain.receive, caller.send, seen)),
            asyncio.create_task(self._watch(seen)),
            asyncio.create_task(cut.wait()),
        ]
        try:
            await asyncio.wait(loops, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for loop in loops:
                loop.cancel()
            for ended in await asyncio.gather(*loops, return_exceptions=True):
                if isinstance(ended, Exception) and not isinstance(ended, WebSocketDisconnect | OSError):
                    logger.error("pipe failed", exc_info=ended, extra={"domain": name})

    async def _watch(self, seen: _Seen) -> None:
        idle_s = 0.0
        while idle_s < self.limits.idle_s:
            before = seen.num_messages
            if await self._stopping.sleep(min(_CHECK_S, self.limits.idle_s)):
                return
            idle_s = idle_s + _CHECK_S if seen.num_messages == before else 0.0


class _Seen:
    def __init__(self, counted: CounterFamily) -> None:
        self.num_messages = 0
        self._counted = counted

    def add(self, num_bytes: int) -> None:
        self.num_messages += 1
        self._counted.inc(num_bytes)


async def _carry(receive: Receive, send: Send, seen: _Seen) -> None:
    """Pass messages on, one at a time: while the far end takes none, none is read here, and so back to who sends."""
    while True:
        message = await receive()
        if message["type"] != "websocket.receive" or (data := message.get("bytes")) is None:
            return  # closed; or text, which has no business here
        if data:
            seen.add(len(data))
            await send({"type": "websocket.send", "bytes": data})


def unreachable(domain: str, what: str) -> Unavailable:
    """The refusal for a Domain that brings no pipe."""
    detail = f"the Domain {domain!r} {what}"
    return Unavailable(detail, code=DOMAIN_UNREACHABLE, domain=domain, retry_after_s=RETRY_S)


def too_many(detail: str) -> TooManyRequests:
    """The refusal where there are as many pipes as there may be."""
    return TooManyRequests(detail, code=TOO_MANY_PIPES, retry_after_s=RETRY_S)


def _take_one(counts: Counter[str], key: str) -> None:
    counts[key] -= 1
    if counts[key] <= 0:
        del counts[key]
