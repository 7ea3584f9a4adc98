"""The open connections of a server: how many there can be, what they hold, and which are closed to free memory."""

from __future__ import annotations

import array
import asyncio
import fcntl
import ipaddress
import termios
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from pygrid.settings import AppSettings, read_networks
from pygrid.web import allocator
from pygrid.web.turns import Turns

IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

_IPV6_PREFIX = 64
"""One subscriber gets a whole /64, so its addresses count as one."""


LARGE_MESSAGE_BYTES = 16 * 1024 * 1024
_FEW_BYTES = 4096
"""Fewer than these are not counted."""
READ_BYTES = 64 * 1024
"""Bytes that are read from a socket at once."""
LONG_READ_BYTES = 256 * 1024
"""The same for a long body, which the app streams."""
_MIN_READ_BYTES = 4096
_READ_SHARE = 8
"""A read is at most this part of what may still be read."""
_TRIM_S = 0.1
"""From the close of a connection that held bytes to the return of its memory."""
_TRIM_BYTES = 8 * 1024 * 1024
"""If closed connections held more, their memory is returned at once. A busy machine may call a timer late."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """Bounds of a server's connections and messages. Times in seconds, sizes in bytes."""

    max_connections: int = 4096
    """Open connections in all.

    At the limit a new one replaces the one that has been idle for longest, else it is refused.
    """
    max_connections_per_address: int = 512
    """Open connections of one address (an IPv6 /64); loopback and trusted proxies are exempt. 0: no limit."""
    trusted_proxies: tuple[IpNetwork, ...] = ()
    """Addresses of reverse proxies, each of which carries the connections of many clients."""

    head_bytes: int = 16 * 1024
    """The request line and all headers; also the requests that wait behind the one that is being answered."""
    max_headers: int = 100
    head_s: float = 30.0
    """From the first byte of a connection or request to the end of its headers."""
    idle_s: int = 75
    """A connection without a request is closed after this time."""

    framing_bytes: int = 4 * 1024
    """Chunk sizes, chunk extensions and trailers of a chunked body, in addition to an eighth of its content."""
    unread_body_bytes: int = 64 * 1024
    """Rest of a body that is read after the answer, so that the connection can be used again."""
    linger_bytes: int = 256 * 1024
    """Bytes that are read and dropped after a refusal, so that the client can read the answer."""
    linger_s: float = 2.0
    """Time for either of the two."""
    max_refused: int = 256
    """Connections that were refused and stay open for that time.

    Further ones are closed at once, perhaps with a reset.
    """

    requests_at_once: int = 8
    """Requests of one address that run at once, loopback and callers of a relay included; trusted proxies are exempt.
    Reports and held cycle requests do not count."""
    request_counted_s: float = 1.0
    """A request that runs for longer waits for something, so it is not counted."""

    held_bytes_per_address: int = 20 * 1024 * 1024
    """Unfinished requests, unfinished messages and unread answers of one address, loopback and callers of a relay
    included. Trusted proxies are exempt. At the limit, the connection that has made progress least recently is
    closed."""
    held_bytes: int = 80 * 1024 * 1024
    """The same of all addresses. At the limit, the address that holds most loses a connection."""

    stalled_s: float = 30.0
    """A peer that reads nothing of its answer for this time is cut off."""
    sweep_s: float = 5.0
    """Interval between two checks for stalled peers."""

    large_messages: Mapping[str, int] = field(default_factory=lambda: {"/": LARGE_MESSAGE_BYTES})
    """Path of a WebSocket -> size of its largest message, where that differs from other WebSockets.

    At ``/``, a message can contain a diff or a model as text.
    """
    max_fragments: int = 1024
    """Fragments of one WebSocket message."""
    frames_per_turn: int = 64
    """WebSocket frames of one connection that are parsed before other connections get a turn."""

    @classmethod
    def of(cls, settings: AppSettings) -> ConnectionLimits:
        return cls(
            max_connections=settings.max_connections,
            max_connections_per_address=settings.max_connections_per_address,
            trusted_proxies=read_networks(settings.trusted_proxies),
            large_messages={"/": LARGE_MESSAGE_BYTES} if settings.app == "domain" else {},
        )


class ClosedTransport(asyncio.Transport):
    """Replaces the transport of a closed connection.

    Connections and the objects of frameworks refer to each other, so they are freed late. TLS has buffers of 256 KiB.
    """

    def is_closing(self) -> bool:
        return True

    def close(self) -> None:
        pass

    def abort(self) -> None:
        pass

    def write(self, data: bytes | bytearray | memoryview) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0


CLOSED = ClosedTransport()


class Connection(Protocol):
    """The reader of one connection: HTTP first, later possibly a WebSocket."""

    transport: asyncio.Transport
    num_drained: int
    """How often writing resumed because the peer had read enough, plus the number of answers."""

    def num_held_bytes(self) -> int:
        """Return the bytes that the server keeps for the peer: its unfinished messages, and answers it has not read."""

    def cut_off(self) -> None:
        """End the connection at once, because what it holds is needed for others."""


@dataclass(slots=True, eq=False)
class ConnectionSlot:
    owner: Connection
    key: str | None
    """Address that it counts for; None: no address."""
    holder: str | None
    """Address or caller that its held bytes count for; None: they count only in the total."""
    num_held: int = 0
    """Held bytes at its last progress."""
    seen: tuple[int, int] = (0, 0)
    """Unsent bytes and `Connection.num_drained` at the last sweep."""
    since: float = 0.0


class Connections:
    """Counts connections, replaces idle ones at the limit, and cuts off peers that do not read."""

    def __init__(self, limits: ConnectionLimits, clock: Callable[[], float]) -> None:
        self.limits = limits
        self._clock = clock
        self.turns = Turns(limits.requests_at_once, limits.request_counted_s, clock)
        self._places: set[ConnectionSlot] = set()
        self._refused: set[Connection] = set()
        self._idle: dict[int, ConnectionSlot] = {}
        """By identity of the slot; the longest idle one comes first."""
        self._by_key: Counter[str] = Counter()
        self._held: dict[str | None, OrderedDict[int, ConnectionSlot]] = {}
        """By holder and identity, the slots with held bytes; least recent progress first."""
        self._held_by: Counter[str | None] = Counter()
        self._num_held = 0
        self._sweeping: asyncio.TimerHandle | None = None
        self._trimming: asyncio.TimerHandle | None = None
        self.buffer = memoryview(bytearray(LONG_READ_BYTES))
        """Where the bytes of all connections are read to."""
        self._num_freed = 0
        """Bytes that closed connections held since the last return of memory."""

    @property
    def num_held_bytes(self) -> int:
        return self._num_held

    def __len__(self) -> int:
        return len(self._places)

    def admit(self, owner: Connection, address: str | None, *, caller: str | None = None) -> ConnectionSlot | str:
        """Return a slot for a new connection, idle at first; or the code of the refusal.

        Args:
            address: IP address of the peer; None: the connection counts only in the total.
            caller: the caller that the held bytes of such a connection count for.
        """
        key, is_exempt = (None, True) if address is None else self._key(address)
        holder = key if address is not None else None if caller is None else f"relay {caller}"
        key = None if is_exempt else key
        most = self.limits.max_connections_per_address
        if key is not None and most and self._by_key[key] >= most:
            return "too_many_connections"
        if len(self._places) >= self.limits.max_connections and not self._replace_idle():
            return "server_busy"
        place = ConnectionSlot(owner, key, holder)
        self._places.add(place)
        self._idle[id(place)] = place
        if key is not None:
            self._by_key[key] += 1
        if self._sweeping is None:
            self._sweeping = asyncio.get_running_loop().call_later(self.limits.sweep_s, self._sweep)
        return place

    def release(self, place: ConnectionSlot) -> None:
        """Free a slot. Does nothing if it is free already."""
        if place not in self._places:
            return
        self._places.discard(place)
        if place.holder is not None:
            self.turns.end(place.holder, place.owner)
        self._idle.pop(id(place), None)
        self._set_held(place, 0)
        if place.key is not None:
            self._by_key[place.key] -= 1
            if not self._by_key[place.key]:
                del self._by_key[place.key]

    def note_refused(self, owner: Connection) -> bool:
        """Whether a connection that was not admitted may stay open until its client has read why."""
        if len(self._refused) >= self.limits.max_refused:
            return False
        self._refused.add(owner)
        return True

    def forget_refused(self, owner: Connection) -> None:
        """Note that a refused connection is closed. Does nothing for any other one."""
        self._refused.discard(owner)

    def mark_busy(self, place: ConnectionSlot) -> None:
        """Note that a request is being answered, so the connection cannot be replaced."""
        self._idle.pop(id(place), None)

    def mark_idle(self, place: ConnectionSlot) -> None:
        """Note that no request is being answered."""
        if place in self._places:
            self._idle[id(place)] = place

    def note_progress(self, place: ConnectionSlot) -> None:
        """Count what a connection holds now, and close others if that is too much."""
        num_bytes = place.owner.num_held_bytes()
        if place not in self._places or (num_bytes < _FEW_BYTES and not place.num_held):
            return
        self._set_held(place, num_bytes)
        if place.holder is not None:
            while self._held_by[place.holder] > self.limits.held_bytes_per_address:
                self._close_stalest(place.holder)
        while self._num_held > self.limits.held_bytes:
            self._close_stalest(max(self._held_by, key=self._held_by.__getitem__))

    def num_bytes_to_read(self, holder: str | None, most: int) -> int:
        """Return how many bytes a connection may read at once, of at most ``most``.

        The more its address holds, the fewer they are, so that many connections that read in one iteration of the event
        loop stay within the limits.
        """
        return max(min(self._num_left(holder) // _READ_SHARE, most), min(_MIN_READ_BYTES, most))

    def must_pause(self, holder: str | None) -> bool:
        """Whether a connection should read no more until the app has taken what it holds."""
        return self._num_left(holder) < _READ_SHARE * _MIN_READ_BYTES

    def _num_left(self, holder: str | None) -> int:
        """Bytes up to three quarters of the limits. The last quarter is for small reads of many connections."""
        num_left = self.limits.held_bytes * 3 // 4 - self._num_held
        if holder is not None:
            num_left = min(num_left, self.limits.held_bytes_per_address * 3 // 4 - self._held_by[holder])
        return num_left

    def _set_held(self, place: ConnectionSlot, num_bytes: int) -> None:
        change = num_bytes - place.num_held
        place.num_held = num_bytes
        self._num_held += change
        self._held_by[place.holder] += change
        places = self._held.setdefault(place.holder, OrderedDict())
        if num_bytes:
            places[id(place)] = place
            places.move_to_end(id(place))
        else:
            places.pop(id(place), None)
        if not places:
            del self._held[place.holder], self._held_by[place.holder]

    def _close_stalest(self, holder: str | None) -> None:
        """Close the connection with the least recent progress.

        If it holds less than was counted, correct the count instead.
        """
        place = next(iter(self._held[holder].values()))
        num_bytes = place.owner.num_held_bytes()
        if num_bytes < place.num_held:
            self._set_held(place, num_bytes)
        else:
            self.release(place)
            place.owner.cut_off()
            self._trim_later(num_bytes)

    def _trim_later(self, num_bytes: int) -> None:
        """Return the memory of closed connections to the system; the allocator would keep it in fragments."""
        self._num_freed += num_bytes
        if self._trimming is None:
            self._trimming = asyncio.get_running_loop().call_later(_TRIM_S, self._trim)
        elif self._num_freed >= _TRIM_BYTES:
            self._trimming.cancel()
            self._num_freed = 0
            # After the connection was closed, which is the next callback.
            self._trimming = asyncio.get_running_loop().call_later(0, self._trim)

    def _trim(self) -> None:
        self._trimming = None
        self._num_freed = 0
        allocator.trim()

    def _replace_idle(self) -> bool:
        for place in self._idle.values():
            self.release(place)
            place.owner.transport.abort()
            return True
        return False

    def _key(self, text: str) -> tuple[str | None, bool]:
        """Return the key of an address in the counts, and whether the number of its connections has no limit."""
        try:
            address = ipaddress.ip_address(text.partition("%")[0])
        except ValueError:
            return None, True  # a Unix socket
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        if any(address in network for network in self.limits.trusted_proxies):
            return None, True
        if isinstance(address, ipaddress.IPv6Address) and not address.is_loopback:
            return str(ipaddress.ip_network((address, _IPV6_PREFIX), strict=False)), False
        return str(address), address.is_loopback

    def _sweep(self) -> None:
        """Cut off every peer that has not read for `ConnectionLimits.stalled_s`."""
        now = self._clock()
        for place in list(self._places):
            seen = (place.owner.transport.get_write_buffer_size(), place.owner.num_drained)
            if seen != place.seen or not seen[0]:
                place.seen, place.since = seen, now
            elif now - place.since >= self.limits.stalled_s:
                place.owner.transport.abort()
        self._sweeping = None
        if self._places:
            self._sweeping = asyncio.get_running_loop().call_later(self.limits.sweep_s, self._sweep)


def num_unread(transport: asyncio.BaseTransport) -> int:
    """Return how many bytes of a connection wait in the kernel."""
    connection = transport.get_extra_info("socket")
    if connection is None or connection.fileno() < 0:
        return 0
    waiting = array.array("i", [0])
    fcntl.ioctl(connection.fileno(), termios.FIONREAD, waiting)
    return waiting[0]
