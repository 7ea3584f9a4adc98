"""The Domain's half of the relay: dials out when the Network requests a pipe, and serves the app through it.

    pipe ──> TLS that ends here, with the identity's certificate ──> the same HTTP server ──> the app

No port is opened. The server counts these connections with its others, so a stop waits for their requests too.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from functools import cached_property
from typing import Annotated, Any

import msgspec
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from pygrid import codes
from pygrid.errors import InvalidInput, TooManyRequests, Unavailable
from pygrid.messages.relay import RELAYED
from pygrid.transport.authorities import trusting_context
from pygrid.transport.pipes import MESSAGE_BYTES, ProtocolFactory, RelayedConnections
from pygrid.transport.websockets import dial_websocket

logger = logging.getLogger(__name__)
_quiet = logging.getLogger("pygrid.features.relay.dialling")
_quiet.setLevel(logging.WARNING)  # its lower levels would log the tokens

MAX_PIPES = 1000
DIAL_S = 10.0
HANDSHAKE_S = 10.0
_MESSAGE_BYTES = 64 * 1024
"""Size of a message. Small, because both sides of the Network hold several messages of an answer that is not read."""


class PipeRequest(msgspec.Struct, frozen=True):
    """The Network's request for a pipe."""

    token: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{20,100}$")]
    caller: Annotated[str, msgspec.Meta(max_length=100)] = ""


class PipeServer:
    """Serves pipes as the app's server serves its own connections.

    Args:
        context: TLS of the Domain's identity.
        relayed: reads the connections, after the app's server has started.
    """

    def __init__(self, context: ssl.SSLContext, relayed: RelayedConnections, *, max_pipes: int = MAX_PIPES) -> None:
        self._context = context
        self._max_pipes = max_pipes
        self._relayed = relayed
        self._serving: set[asyncio.Task[None]] = set()
        self._num_dialing = 0

    def handlers(self, network_url: str) -> Mapping[str, Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]]:
        """Return the handlers of a Network's requests over the control link: ``open_pipe``."""

        async def open_pipe(payload: dict[str, Any]) -> dict[str, Any]:
            await self.open_pipe(network_url, payload)
            return {}

        return {"open_pipe": open_pipe}

    async def open_pipe(self, network_url: str, payload: Mapping[str, Any]) -> None:
        """Dial the Network with the token that it sent, and return when the pipe is being served.

        Raises:
            InvalidInput: ``invalid_input``: the request is malformed. TooManyRequests: ``too_many_pipes``.
            Unavailable: ``pipe_failed``: the Network refuses the pipe; ``not_serving``: no server runs the app.
        """
        try:
            request = msgspec.convert(payload, PipeRequest)
        except msgspec.ValidationError as error:
            raise InvalidInput(f"open_pipe: {error}") from None
        factory = self._relayed.factory
        if factory is None:
            raise Unavailable("no server runs this Domain's app", code=codes.NOT_SERVING)
        if len(self._serving) + self._num_dialing >= self._max_pipes:
            raise TooManyRequests(
                f"{self._max_pipes} pipes are open, the most that are allowed",
                code=codes.TOO_MANY_PIPES,
                retry_after_s=1.0,
            )
        self._num_dialing += 1
        try:
            pipe = await _dial(network_url, request.token, self._trust if network_url.startswith("https") else None)
        finally:
            self._num_dialing -= 1
        task = asyncio.create_task(self._serve(pipe, factory, request.caller))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    @cached_property
    def _trust(self) -> ssl.SSLContext:
        """The TLS context for Networks behind https.

        It is created once, because loading the public authorities takes as long as the rest of a dial.
        """
        return trusting_context()

    async def close(self) -> None:
        """Close all pipes, when the app stops."""
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _serve(self, pipe: ClientConnection, factory: ProtocolFactory, caller: str) -> None:
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setblocking(False)
        loop = asyncio.get_running_loop()
        reading = loop.create_task(_read_pipe(pipe, ours))
        writing = loop.create_task(_write_pipe(ours, pipe))
        connecting = loop.create_task(
            loop.connect_accepted_socket(
                lambda: factory(RELAYED + caller), theirs, ssl=self._context, ssl_handshake_timeout=HANDSHAKE_S
            )
        )
        try:
            # The end of a connection ends one of the two: the server closes its socket, or the pipe is closed.
            await asyncio.wait([reading, writing], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (reading, writing, connecting):
                task.cancel()
            for ended in await asyncio.gather(reading, writing, connecting, return_exceptions=True):
                _log_end(ended)
            ours.close()
            try:
                await pipe.close()
            finally:
                pipe.transport.abort()  # the stop of the app can interrupt the closing handshake


def _log_end(ended: object) -> None:
    if isinstance(ended, ssl.SSLError | OSError):
        logger.debug("pipe ended", extra={"why": str(ended)})
    elif isinstance(ended, Exception):
        logger.error("pipe failed", exc_info=ended)


async def _dial(network_url: str, token: str, trust: ssl.SSLContext | None) -> ClientConnection:
    try:
        return await dial_websocket(
            network_url,
            f"/pipes/{token}",
            open_s=DIAL_S,
            close_s=2.0,
            max_bytes=MESSAGE_BYTES,
            max_queue=1,
            trust=trust,
            logger=_quiet,
        )
    except (InvalidHandshake, OSError, TimeoutError) as error:
        raise Unavailable(f"the Network refuses the pipe: {error}", code=codes.PIPE_FAILED) from error


async def _read_pipe(pipe: ClientConnection, into: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    with contextlib.suppress(ConnectionClosed, OSError):
        while True:
            message = await pipe.recv(decode=False)
            await loop.sock_sendall(into, message)


async def _write_pipe(source: socket.socket, pipe: ClientConnection) -> None:
    loop = asyncio.get_running_loop()
    with contextlib.suppress(ConnectionClosed, OSError):
        while data := await loop.sock_recv(source, _MESSAGE_BYTES):
            await pipe.send(data)
