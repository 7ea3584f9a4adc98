"""Connections that a pool shares out among threads: the answer to a call is not taken for the end of an idle connection."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import httpcore
import pytest

from pygrid.transport.dialer import Dialer


@pytest.fixture
def ends() -> Iterator[tuple[httpcore.NetworkStream, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        stream = Dialer().connect_tcp("127.0.0.1", listening.getsockname()[1], 10, None, [])
        peer = listening.accept()[0]
    with contextlib.closing(stream), peer:
        peer.settimeout(10)
        yield stream, peer


def test_an_idle_connection_tells_that_it_brings_something(ends: tuple[httpcore.NetworkStream, socket.socket]) -> None:
    stream, peer = ends
    assert not stream.get_extra_info("is_readable")
    peer.close()
    assert stream.get_extra_info("is_readable")


def test_an_answer_is_no_end(ends: tuple[httpcore.NetworkStream, socket.socket]) -> None:
    stream, peer = ends
    stream.write(b"question", 10)
    assert peer.recv(100) == b"question"
    peer.sendall(b"answer")
    assert not stream.get_extra_info("is_readable")
    assert stream.read(100, 10) == b"answer"
    assert not stream.get_extra_info("is_readable")
    peer.close()
    assert stream.get_extra_info("is_readable")
