"""WebSockets of callers and of Domains."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any, cast

from litestar import WebSocket, websocket
from litestar.exceptions import WebSocketDisconnect
from litestar.params import FromPath

from pygrid import codes
from pygrid.errors import Forbidden, PygridError
from pygrid.features.relay.network.pipes import End
from pygrid.features.relay.network.service import Relay
from pygrid.messages import media
from pygrid.web.addresses import client_address
from pygrid.web.auth import find_bearer
from pygrid.web.problems import problem_response
from pygrid.web.services import service
from pygrid.web.sockets import is_of_a_browser

logger = logging.getLogger(__name__)


AnySocket = WebSocket[Any, Any, Any]


@websocket("/relay/{domain:str}")
async def relay(socket: AnySocket, domain: FromPath[str]) -> None:
    """Connect a caller to a Domain."""
    relays = service(socket.app.state, Relay)
    address = client_address(socket)

    async def carry() -> None:
        caller = await relays.name_caller(find_bearer(socket), address, domain)
        member = await relays.domains.reach(domain)
        with relays.pipes.place(member.name, caller.label, caller.domain, is_known=caller.is_known) as disconnected:
            end = await relays.order(member, address)
            try:
                await _accept(socket)
                await relays.pipes.splice(member.name, _end_of(socket), end, disconnected)
            finally:
                end.released.set()

    await _answer(socket, carry)


@websocket("/pipes/{token:str}")
async def pipe(socket: AnySocket, token: FromPath[str]) -> None:
    """Take a Domain's end of a requested pipe."""
    relays = service(socket.app.state, Relay)

    async def bring() -> None:
        awaited = relays.pipes.claim(token)
        await _accept(socket)
        if not awaited.done():  # else the caller has gone
            end = _end_of(socket)
            awaited.set_result(end)
            await end.released.wait()

    await _answer(socket, bring)


def relay_routes() -> list[Any]:
    """Return the WebSockets of callers and of Domains; they need the service `Relay`."""
    return [relay, pipe]


async def _answer(socket: AnySocket, work: Callable[[], Awaitable[None]]) -> None:
    """Do the work of a WebSocket and close it; a refusal before it is accepted gets an HTTP answer."""
    await socket.receive()  # the first message is that of the connection itself
    try:
        if is_of_a_browser(socket):
            raise Forbidden("browsers may not connect here", code=codes.BROWSERS_NOT_LET_IN)
        await work()
    except PygridError as error:
        service(socket.app.state, Relay).refusals[error.code] += 1
        await _refuse(socket, error)
        return
    except (WebSocketDisconnect, OSError):  # one end closed, and the other is closed below
        logger.debug("pipe ended", extra={"route": socket.scope.get("path_template", "")})
    with contextlib.suppress(WebSocketDisconnect, OSError, RuntimeError):
        await socket.send({"type": "websocket.close", "code": 1000, "reason": ""})


async def _accept(socket: AnySocket) -> None:
    await socket.send({"type": "websocket.accept", "subprotocol": None, "headers": []})


async def _refuse(socket: AnySocket, error: PygridError) -> None:
    answer = problem_response(error.to_problem())
    headers = [
        (b"content-type", media.PROBLEM.encode()),
        *((k.lower().encode(), v.encode()) for k, v in answer.headers.items()),
    ]
    with contextlib.suppress(WebSocketDisconnect, OSError):
        await socket.send(
            cast("Any", {"type": "websocket.http.response.start", "status": error.status, "headers": headers})
        )
        await socket.send(cast("Any", {"type": "websocket.http.response.body", "body": answer.content}))


def _end_of(socket: AnySocket) -> End:
    async def receive() -> Any:
        try:
            return await socket.receive()
        except WebSocketDisconnect as error:
            raise ConnectionError("the WebSocket is closed") from error

    async def send(message: Any) -> None:
        try:
            await socket.send(message)
        except WebSocketDisconnect as error:
            raise ConnectionError("the WebSocket is closed") from error

    return End(receive, send)
