"""Which connections a server admits, and which it closes when they hold too much.

Should happen: limits per address; the connection that makes least progress is closed; proxies are exempt.
Should not happen: a count is left when everything is closed, an address pays for another.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pygrid.web.connections import ConnectionLimits, Connections, ConnectionSlot

KIB = 1024


class Transport(asyncio.Transport):
    """Knows only whether it was aborted."""

    def __init__(self) -> None:
        super().__init__()
        self.is_aborted = False

    def abort(self) -> None:
        self.is_aborted = True

    def get_write_buffer_size(self) -> int:
        return 0


class Peer:
    """A connection that holds as much as it says."""

    def __init__(self) -> None:
        self.transport: Any = Transport()
        self.num_drained = 0
        self.num_bytes = 0

    def num_held_bytes(self) -> int:
        return self.num_bytes

    def cut_off(self) -> None:
        self.transport.abort()


@pytest.fixture(autouse=True)
def _loop() -> Iterator[None]:
    """Timers are made in a loop that never turns."""
    loop = asyncio.new_event_loop()
    asyncio._set_running_loop(loop)
    yield
    asyncio._set_running_loop(None)
    loop.close()


def _connections(**limits: Any) -> Connections:
    return Connections(ConnectionLimits(**limits), lambda: 0.0)


def _hold(connections: Connections, address: str, num_bytes: int) -> tuple[Peer, ConnectionSlot]:
    peer = Peer()
    place = connections.admit(peer, address)
    assert isinstance(place, ConnectionSlot)
    peer.num_bytes = num_bytes
    connections.note_progress(place)
    return peer, place


@pytest.mark.parametrize(
    ("first", "second", "is_one"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("127.0.0.1", "127.0.0.1", False),
        ("::1", "::1", False),
        ("10.1.2.3", "10.1.2.3", False),
    ],
)
def test_connections_of_an_address_are_limited(first: str, second: str, is_one: bool) -> None:
    connections = _connections(max_connections_per_address=1, trusted_proxies=(ipaddress.ip_network("10.0.0.0/8"),))
    place = connections.admit(Peer(), first)
    assert isinstance(place, ConnectionSlot)
    assert (connections.admit(Peer(), second) == "too_many_connections") is is_one
    connections.release(place)
    assert not is_one or isinstance(connections.admit(Peer(), second), ConnectionSlot)


@pytest.mark.parametrize("address", ["192.0.2.1", "127.0.0.1", "::1"])
def test_the_connection_with_the_least_recent_progress_is_closed(address: str) -> None:
    connections = _connections(held_bytes_per_address=100 * KIB)
    first, place = _hold(connections, address, 40 * KIB)
    second, _ = _hold(connections, address, 40 * KIB)
    connections.note_progress(place)
    third, _ = _hold(connections, address, 40 * KIB)
    assert [peer.transport.is_aborted for peer in (first, second, third)] == [False, True, False]


def test_what_a_connection_holds_no_longer_is_not_held_against_it() -> None:
    connections = _connections(held_bytes_per_address=100 * KIB)
    first, _ = _hold(connections, "192.0.2.1", 80 * KIB)
    first.num_bytes = 0  # its peer read the answer, which nobody noted
    second, _ = _hold(connections, "192.0.2.1", 80 * KIB)
    assert not first.transport.is_aborted
    assert not second.transport.is_aborted


def test_an_address_does_not_pay_for_another() -> None:
    connections = _connections(held_bytes_per_address=100 * KIB, held_bytes=120 * KIB)
    small, _ = _hold(connections, "192.0.2.1", 30 * KIB)
    large, _ = _hold(connections, "192.0.2.2", 80 * KIB)
    other, _ = _hold(connections, "192.0.2.3", 30 * KIB)
    assert [peer.transport.is_aborted for peer in (small, large, other)] == [False, True, False]


def test_trusted_proxies_are_bounded_in_all_only() -> None:
    proxies = (ipaddress.ip_network("10.0.0.0/8"),)
    connections = _connections(held_bytes_per_address=50 * KIB, held_bytes=100 * KIB, trusted_proxies=proxies)
    peers = [_hold(connections, "10.0.0.1", 40 * KIB)[0] for _ in range(3)]
    assert [peer.transport.is_aborted for peer in peers] == [True, False, False]


@given(
    st.lists(st.tuples(st.sampled_from(["192.0.2.1", "192.0.2.2", "127.0.0.1"]), st.integers(0, 60 * KIB)), max_size=30)
)
def test_counts_are_exact_and_bounded(steps: list[tuple[str, int]]) -> None:
    connections = _connections(held_bytes_per_address=100 * KIB, held_bytes=150 * KIB)
    places = []
    for address, num_bytes in steps:
        places.append(_hold(connections, address, num_bytes)[1])
        assert connections.num_held_bytes == sum(place.num_held for place in places)
        assert connections.num_held_bytes <= 150 * KIB
    for place in places:
        connections.release(place)
    assert connections.num_held_bytes == 0
    assert len(connections) == 0


def test_reads_are_smaller_the_more_an_address_holds() -> None:
    connections = _connections(held_bytes_per_address=1024 * KIB, held_bytes=4096 * KIB)
    key = "192.0.2.1"
    assert connections.num_bytes_to_read(key, 64 * KIB) == 64 * KIB
    assert not connections.must_pause(key)
    _, place = _hold(connections, key, 512 * KIB)
    holder = place.holder
    assert connections.num_bytes_to_read(holder, 64 * KIB) == 32 * KIB
    assert connections.num_bytes_to_read(holder, 16 * KIB) == 16 * KIB
    _hold(connections, key, 250 * KIB)
    assert connections.num_bytes_to_read(holder, 64 * KIB) == 4 * KIB
    assert connections.num_bytes_to_read(holder, 1) == 1
    assert connections.must_pause(holder)
    assert connections.num_bytes_to_read("192.0.2.2", 64 * KIB) == 64 * KIB


def test_reads_are_smaller_the_more_all_addresses_hold() -> None:
    connections = _connections(held_bytes_per_address=1024 * KIB, held_bytes=1024 * KIB)
    _hold(connections, "192.0.2.1", 767 * KIB)
    assert connections.num_bytes_to_read("192.0.2.2", 64 * KIB) == 4 * KIB
    assert connections.must_pause(None)


@given(st.integers(100, 340))
def test_many_connections_that_read_at_once_stay_within_the_limit(num: int) -> None:
    connections = _connections()
    peers = []
    for _ in range(num):
        num_bytes = connections.num_bytes_to_read("192.0.2.1", 64 * KIB)
        peers.append(_hold(connections, "192.0.2.1", num_bytes + 24 * KIB)[0])
    assert not any(peer.transport.is_aborted for peer in peers)
