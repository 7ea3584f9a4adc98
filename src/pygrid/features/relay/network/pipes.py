"""The Network's pipes: their one-time tokens, their limits, and the splicing of two ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

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

K = TypeVar("K")
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class RelayLimits:
    max_pipes_per_domain: int = 1000
    max_pipes_per_caller: int = 200
    max_pipes_per_address: int = 24
    """Limit for callers without an account or a ticket. A pipe whose caller reads nothing costs about 1.5 MB."""
    open_s: float = 10.0
    """Seconds after which a pipe that did not arrive is given up, and its token expires."""
    idle_s: float = 300.0
    """Seconds without data after which a pipe is closed; longer than any answer is held back."""


@dataclass(slots=True)
class End:
    """One end of a pipe: the ASGI functions of an accepted WebSocket, and whether it may be closed.

    `receive` and `send` raise OSError once the WebSocket is closed.
    """

    receive: Receive
    send: Send
    released: asyncio.Event = field(default_factory=asyncio.Event)


class Pipes:
    """The pipes of a Network. They are in memory only, because they end with the Network."""

    def __init__(self, limits: RelayLimits, stopping: Stopping, metrics: Metrics) -> None:
        self.limits = limits
        self._stopping = stopping
        self._awaited: dict[str, asyncio.Future[End]] = {}
        self._disconnected: dict[str, set[asyncio.Event]] = {}
        self._by_domain: Counter[str] = Counter()
        self._by_caller: Counter[str] = Counter()
        self._by_ends: Counter[tuple[str, str]] = Counter()
        """Pipes by the name of the Domain and the key of the caller."""
        self._carried: Counter[str] = Counter()
        self._open = Gauge("pygrid_relay_pipes", "Pipes that are open or being opened.", registry=metrics.registry)
        self._bytes = CounterFamily("pygrid_relay_bytes", "Bytes carried through pipes.", registry=metrics.registry)

    def count(self, domain: str) -> int:
        return self._by_domain[domain]

    def list_callers(self, domain: str) -> list[tuple[str, int]]:
        """Return the keys of the callers of a Domain with their numbers of pipes, most pipes first."""
        found = [(caller, count) for (name, caller), count in self._by_ends.items() if name == domain]
        return sorted(found, key=lambda one: (-one[1], one[0]))

    def carried_bytes(self, domain: str) -> int:
        """Return the bytes that were carried to and from a Domain since the start of the app."""
        return self._carried[domain]

    @contextlib.contextmanager
    def place(
        self, domain: str, caller: str, caller_domain: str | None = None, *, is_known: bool = True
    ) -> Iterator[asyncio.Event]:
        """Hold a place for one pipe, and yield an event that `disconnect` sets, even before the pipe is open.

        Args:
            caller: key under which the caller's pipes are counted.
            caller_domain: name of the calling Domain, if the caller is one.
            is_known: whether the caller has a valid session or ticket.
        Raises:
            TooManyRequests: ``too_many_pipes``: the Domain or the caller is at its limit.
        """
        if self._by_domain[domain] >= self.limits.max_pipes_per_domain:
            raise too_many(
                f"the Domain {domain!r} has {self._by_domain[domain]} open connections, the most that are allowed"
            )
        if self._by_caller[caller] >= (
            self.limits.max_pipes_per_caller if is_known else self.limits.max_pipes_per_address
        ):
            raise too_many(f"you have {self._by_caller[caller]} open connections, the most that are allowed")
        self._by_domain[domain] += 1
        self._by_caller[caller] += 1
        self._by_ends[domain, caller] += 1
        self._open.inc()
        disconnected = asyncio.Event()
        ends = {name_key(name) for name in (domain, caller_domain) if name is not None}
        for end in ends:
            self._disconnected.setdefault(end, set()).add(disconnected)
        try:
            yield disconnected
        finally:
            for end in ends:
                self._disconnected[end].discard(disconnected)
                if not self._disconnected[end]:
                    del self._disconnected[end]
            self._open.dec()
            _take_one(self._by_domain, domain)
            _take_one(self._by_caller, caller)
            _take_one(self._by_ends, (domain, caller))

    async def order(self, request: Callable[[str], Awaitable[object]], domain: str) -> End:
        """Request a new pipe and return the Domain's end of it. Set its ``released`` when it is not needed anymore.

        Args:
            request: sends the Domain the token for its call, and returns after the Domain has dialed.
        Raises:
            Unavailable: ``domain_unreachable``: the pipe did not arrive, or not in time. And the errors of
                ``request``.
        """
        token = secrets.token_urlsafe(TOKEN_BYTES)
        arrived: asyncio.Future[End] = asyncio.get_running_loop().create_future()
        self._awaited[token] = arrived
        requested: asyncio.Future[Any] = asyncio.ensure_future(request(token))
        is_taken = False
        try:
            async with asyncio.timeout(self.limits.open_s):
                await asyncio.wait([requested, arrived], return_when=asyncio.FIRST_COMPLETED)
                if not arrived.done():
                    await requested  # raises the Domain's refusal
                    raise unreachable(domain, "reported an open connection, but opened none")
            is_taken = True
            return arrived.result()
        except TimeoutError:
            raise unreachable(domain, f"did not open a connection within {self.limits.open_s:g} s") from None
        finally:
            self._awaited.pop(token, None)
            requested.cancel()
            if not arrived.done():
                arrived.cancel()
            elif not is_taken:
                arrived.result().released.set()  # it arrived in the moment in which the caller left
            await asyncio.gather(requested, return_exceptions=True)

    def claim(self, token: str) -> asyncio.Future[End]:
        """Use up a token, and return the future that waits for the Domain's end (done: the wait is over).

        Raises:
            Gone: ``invalid_pipe_token``: the token is unknown, used or expired.
        """
        awaited = self._awaited.pop(token, None)
        if awaited is None:
            raise Gone("this token of a pipe is unknown, used or expired", code=codes.INVALID_PIPE_TOKEN)
        return awaited

    def disconnect(self, domain: str, after_s: float = 0.0) -> None:
        """Close the present pipes to and from a Domain that is not a member anymore, also those that are being opened.

        Args:
            after_s: grace period in seconds.
        """
        pipes = list(self._disconnected.get(name_key(domain), ()))

        def disconnect_all() -> None:
            for disconnected in pipes:
                disconnected.set()

        if after_s > 0:
            asyncio.get_running_loop().call_later(after_s, disconnect_all)
        else:
            disconnect_all()

    async def splice(self, name: str, caller: End, domain: End, disconnected: asyncio.Event) -> None:
        """Carry data both ways until an end closes, the pipe is idle for too long or disconnected, or the app stops.

        Args:
            name: name of the Domain.
            disconnected: the event of `place`.
        """
        seen = _Seen(self._bytes, self._carried, name)
        loops = [
            asyncio.create_task(_carry(caller.receive, domain.send, seen)),
            asyncio.create_task(_carry(domain.receive, caller.send, seen)),
            asyncio.create_task(self._watch(seen)),
            asyncio.create_task(disconnected.wait()),
        ]
        try:
            await asyncio.wait(loops, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for loop in loops:
                loop.cancel()
            for ended in await asyncio.gather(*loops, return_exceptions=True):
                if isinstance(ended, Exception) and not isinstance(ended, OSError):
                    logger.error("pipe failed", exc_info=ended, extra={"domain": name})

    async def _watch(self, seen: _Seen) -> None:
        idle_s = 0.0
        while idle_s < self.limits.idle_s:
            before = seen.num_messages
            if await self._stopping.sleep(min(_CHECK_S, self.limits.idle_s)):
                return
            idle_s = idle_s + _CHECK_S if seen.num_messages == before else 0.0


class _Seen:
    def __init__(self, counted: CounterFamily, carried: Counter[str], domain: str) -> None:
        self.num_messages = 0
        self._counted = counted
        self._carried = carried
        self._domain = domain

    def add(self, num_bytes: int) -> None:
        self.num_messages += 1
        self._counted.inc(num_bytes)
        self._carried[self._domain] += num_bytes


async def _carry(receive: Receive, send: Send, seen: _Seen) -> None:
    """Pass messages on one at a time: while the far end reads nothing, this end is not read, which slows the sender."""
    while True:
        message = await receive()
        if message["type"] != "websocket.receive" or (data := message.get("bytes")) is None:
            return  # closed; or text, which is not allowed here
        if data:
            seen.add(len(data))
            await send({"type": "websocket.send", "bytes": data})


def unreachable(domain: str, what: str) -> Unavailable:
    """Return the error for a Domain that opens no pipe."""
    detail = f"the Domain {domain!r} {what}"
    return Unavailable(detail, code=DOMAIN_UNREACHABLE, domain=domain, retry_after_s=RETRY_S)


def too_many(detail: str) -> TooManyRequests:
    """Return the error for a limit of pipes that is reached."""
    return TooManyRequests(detail, code=TOO_MANY_PIPES, retry_after_s=RETRY_S)


def _take_one(counts: Counter[K], key: K) -> None:
    counts[key] -= 1
    if counts[key] <= 0:
        del counts[key]
