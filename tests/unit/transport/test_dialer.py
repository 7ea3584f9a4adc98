"""Connections that the threads of a pool share.

Should happen: an idle connection tells that it has ended; cutting ends every connection, also one that is being made.
Should not happen: an answer taken for the end of a connection; a connection that is opened after `cut` and stays
open.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Any

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


def test_no_connection_is_made_after_cut() -> None:
    dialer = Dialer()
    dialer.cut()
    with socket.create_server(("127.0.0.1", 0)) as listening, pytest.raises(httpcore.ConnectError, match="closed"):
        dialer.connect_tcp("127.0.0.1", listening.getsockname()[1], 10, None, [])


def test_a_connection_that_was_being_made_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    dialer = Dialer()
    connect = httpcore.SyncBackend.connect_tcp

    def connect_and_close(*args: Any, **more: Any) -> httpcore.NetworkStream:
        stream = connect(*args, **more)
        dialer.cut()
        return stream

    monkeypatch.setattr(httpcore.SyncBackend, "connect_tcp", connect_and_close)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        with pytest.raises(httpcore.ConnectError, match="closed"):
            dialer.connect_tcp("127.0.0.1", listening.getsockname()[1], 10, None, [])
        with listening.accept()[0] as peer:
            peer.settimeout(10)
            assert peer.recv(1) == b""
