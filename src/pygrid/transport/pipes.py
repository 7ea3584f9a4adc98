"""The caller's end of a pipe: a stream of bytes in the binary messages of a WebSocket."""

from __future__ import annotations

import asyncio
import base64
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any

import httpcore
from websockets.frames import Frame, Opcode
from websockets.protocol import CLIENT, OPEN, Protocol
from websockets.utils import accept_key

MAX_MESSAGE_BYTES = 1024 * 1024
"""Largest message that an end accepts."""
MESSAGE_BYTES = 256 * 1024
"""Largest message that an end sends."""
_READ_BYTES = 256 * 1024

_quiet = logging.getLogger("pygrid.transport.pipes.frames")
_quiet.setLevel(logging.WARNING)


ProtocolFactory = Callable[[str], asyncio.Protocol]
"""Returns the protocol object of a connection, from the caller's address."""


class RelayedConnections:
    """The protocol that an app's server uses for connections through pipes."""

    factory: ProtocolFactory | None = None
    """None: there is no server."""

    def serve_with(self, factory: ProtocolFactory) -> None:
        """Use the protocols of this factory."""
        self.factory = factory


def upgrade_headers() -> tuple[dict[str, str], str]:
    """The headers that request a WebSocket, and the ``Sec-WebSocket-Accept`` that the answer must have."""
    key = base64.b64encode(secrets.token_bytes(16)).decode()
    asked = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": key}
    return asked, accept_key(key)


class PipeStream(httpcore.NetworkStream):
    """The bytes of an open WebSocket's binary messages; the borders of messages have no meaning.

    Args:
        stream: the connection, after its answer 101.
        release: called after the close, to release the connection.
    """

    def __init__(self, stream: httpcore.NetworkStream, release: Callable[[], object]) -> None:
        self._stream = stream
        self._release = release
        self._frames = Protocol(CLIENT, state=OPEN, max_size=MAX_MESSAGE_BYTES, logger=_quiet)
        self._data = memoryview(b"")
        self._is_over = False

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        left_s = countdown(timeout)  # for all reads together, because empty frames could arrive without end
        while not self._data and not self._is_over:
            self._take(self._stream.read(_READ_BYTES, left_s()), timeout)
        piece, self._data = self._data[:max_bytes], self._data[max_bytes:]
        return bytes(piece)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        view = memoryview(buffer)
        for begin in range(0, len(view), MESSAGE_BYTES):
            if self._is_over or self._frames.state is not OPEN:  # or it is about to close, after a wrong frame
                raise httpcore.WriteError("the pipe is closed")
            self._frames.send_binary(view[begin : begin + MESSAGE_BYTES])
            self._flush(timeout)

    def close(self) -> None:
        self._is_over = True
        try:
            self._stream.close()
        finally:
            self._release()

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable":
            return bool(self._data) or self._is_over or self._stream.get_extra_info(info)
        return self._stream.get_extra_info(info)

    def _take(self, data: bytes, timeout: float | None) -> None:
        if data:
            self._frames.receive_data(data)
        else:
            self._frames.receive_eof()
            self._is_over = True
        parts: list[bytes | bytearray | memoryview] = [self._data] if self._data else []
        for frame in self._frames.events_received():
            assert isinstance(frame, Frame)
            if frame.opcode in (Opcode.BINARY, Opcode.CONT):
                parts.append(frame.data)
            elif frame.opcode is Opcode.CLOSE:
                self._is_over = True
            elif frame.opcode is Opcode.TEXT:
                raise httpcore.ReadError("the pipe brought a text message")
        self._data = memoryview(parts[0]) if len(parts) == 1 else memoryview(b"".join(parts))
        if self._frames.parser_exc is not None and data:
            self._is_over = True
            raise httpcore.ReadError(f"the bytes are not a WebSocket ({self._frames.parser_exc})")
        self._flush(timeout)  # a ping is answered, a close is echoed

    def _flush(self, timeout: float | None) -> None:
        for piece in self._frames.data_to_send():
            if piece:
                self._stream.write(piece, timeout)


def countdown(timeout: float | None) -> Callable[[], float | None]:
    """A function that returns the seconds left of ``timeout``; None: without limit.

    The function raises ``httpcore.ReadTimeout`` when no time is left.
    """
    if timeout is None:
        return lambda: None
    end = time.monotonic() + timeout

    def left_s() -> float:
        left = end - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout("no content arrived in time")
        return left

    return left_s


def is_upgraded(status: int, headers: Mapping[str, str], accept: str) -> bool:
    """Whether an answer opens the WebSocket that `upgrade_headers` asked for."""
    return (
        status == 101
        and headers.get("upgrade", "").lower() == "websocket"
        and "upgrade" in [token.strip() for token in headers.get("connection", "").lower().split(",")]
        and headers.get("sec-websocket-accept") == accept
        and "sec-websocket-extensions" not in headers
    )
