"""The Network's half: lets callers in, asks Domains for pipes, and splices the two."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

from litestar import WebSocket, websocket
from litestar.exceptions import WebSocketDisconnect
from litestar.params import FromPath

from pygrid.clock import Clock
from pygrid.core.access import Authenticator
from pygrid.core.addresses import network_of
from pygrid.errors import Forbidden, InvalidCredentials, PygridError, Unauthenticated
from pygrid.features.relay.pipes import End, Pipes, Receive, Send, too_many, unreachable
from pygrid.messages import media
from pygrid.messages.relay import INVALID_TICKET, LOGIN_NEEDED, SESSION_OVER, TOO_MANY_PIPES
from pygrid.transport.identity import IdentityKey
from pygrid.transport.tickets import PREFIX, check_ticket, read_ticket
from pygrid.web.auth import find_bearer
from pygrid.web.problems import problem_response
from pygrid.web.sockets import is_of_a_browser

logger = logging.getLogger(__name__)

AnySocket = WebSocket[Any, Any, Any]


class Member(Protocol):
    """A Domain that belongs to the Network and is connected."""

    @property
    def name(self) -> str:
        """As it is written; who calls may write it in other cases."""
        ...

    async def ask(self, type: str, payload: Mapping[str, Any] | None = None, timeout_s: float = 10.0) -> dict[str, Any]:
        """The Domain's answer to a question over its control link."""
        ...


class Membership(Protocol):
    """What the relay must know of the Network's Domains."""

    async def reach(self, name: str) -> Member:
        """The Domain, to ask it.

        Raises:
            NotFound: ``domain_not_found``: no accepted Domain has this name. Unavailable: ``domain_offline``.
        """
        ...

    async def find_identity(self, name: str) -> IdentityKey | None:
        """Who the accepted Domain of this name is."""
        ...


@dataclass(frozen=True, slots=True)
class Caller:
    """Who wants to get through."""

    label: str
    """By which their connections are counted."""
    domain: str | None = None
    """Name of the Domain whose ticket was shown."""
    is_known: bool = True
    """They have shown a session or a ticket."""


class Relay:
    """Carries connections to the Network's Domains.

    Args:
        own: the Network's identity, which tickets are made out to.
        is_open: whether anybody may come, without a login or a ticket.
    """

    def __init__(
        self, pipes: Pipes, domains: Membership, authenticator: Authenticator, own: IdentityKey, clock: Clock, *, is_open: bool
    ) -> None:
        self.pipes = pipes
        self._domains = domains
        self._authenticator = authenticator
        self._own = own
        self._clock = clock
        self._is_open = is_open

    async def name_caller(self, bearer: str | None, address: str, target: str) -> Caller:
        """Who wants to get through to ``target``.

        Raises:
            Unauthenticated: ``network_login_needed``: nothing was shown; ``network_session_over``, ``invalid_ticket``: it is
                not, or no longer, good.
        """
        if bearer is not None and bearer.startswith(PREFIX):
            ticket = read_ticket(bearer)
            identity = await self._domains.find_identity(ticket.domain)
            if identity is None:
                raise InvalidCredentials(f"no Domain {ticket.domain[:100]!r} belongs to this Network", code=INVALID_TICKET)
            check_ticket(ticket, identity, self._own, target, self._clock.now())
            return Caller(f"domain {identity}", ticket.domain)  # a name can be written in many ways, and counts but once
        if bearer is not None:
            try:
                return Caller(f"user {(await self._authenticator.authenticate(bearer)).user_id}")
            except Unauthenticated as error:
                if not self._is_open:
                    detail = "your session with this Network is over: use pygrid login with its address"
                    raise Unauthenticated(detail, code=SESSION_OVER) from error
        if self._is_open:
            return Caller(f"address {network_of(address)}", is_known=False)
        raise Unauthenticated(
            "this Network carries connections for those who are logged in: use pygrid login with its own address first, or set "
            "PYGRID_NETWORK_TOKEN",
            code=LOGIN_NEEDED,
        )

    async def reach(self, name: str) -> Member:
        """The Domain of this name. Raises as `Membership.reach`."""
        return await self._domains.reach(name)

    async def order(self, member: Member, caller: str) -> End:
        """The Domain's end of a new pipe.

        Args:
            caller: address that the Domain is told.
        Raises:
            Unavailable: ``domain_unreachable``. TooManyRequests: ``too_many_pipes``: it has as many as it takes.
        """

        async def ask(token: str) -> None:
            try:
                await member.ask("open_pipe", {"token": token, "caller": caller}, self.pipes.limits.open_s)
            except PygridError as error:
                if error.code == TOO_MANY_PIPES:
                    raise too_many(f"the Domain {member.name!r} has as many connections open as it takes") from error
                raise unreachable(member.name, f"opens no way: {error.detail}") from error

        return await self.pipes.order(ask, member.name)


@websocket("/relay/{domain:str}")
async def relay(socket: AnySocket, domain: FromPath[str]) -> None:
    """A caller's connection to a Domain."""
    service: Relay = socket.app.state.relay
    address = socket.client.host if socket.client else ""

    async def carry() -> None:
        caller = await service.name_caller(find_bearer(socket), address, domain)
        member = await service.reach(domain)
        with service.pipes.place(member.name, caller.label, caller.domain, is_known=caller.is_known) as cut:
            end = await service.order(member, address)
            try:
                await _accept(socket)
                await service.pipes.splice(member.name, _end_of(socket), end, cut)
            finally:
                end.released.set()

    await _answer(socket, carry)


@websocket("/pipes/{token:str}")
async def pipe(socket: AnySocket, token: FromPath[str]) -> None:
    """A Domain's end of a pipe, which it was asked for."""
    service: Relay = socket.app.state.relay

    async def bring() -> None:
        awaited = service.pipes.claim(token)
        await _accept(socket)
        if not awaited.done():  # else nobody waits any more
            end = _end_of(socket)
            awaited.set_result(end)
            await end.released.wait()

    await _answer(socket, bring)


def relay_routes() -> list[Any]:
    """The WebSockets of callers and of Domains; the app's state holds a `Relay` as ``relay``."""
    return [relay, pipe]


async def _answer(socket: AnySocket, work: Callable[[], Awaitable[None]]) -> None:
    """Do what a WebSocket is for, and close it; what is refused before it was accepted is answered as any request is."""
    await socket.receive()  # the first message only says that it is there
    try:
        if is_of_a_browser(socket):
            raise Forbidden("browsers are not let in", code="browsers_not_let_in")
        await work()
    except PygridError as error:
        await _refuse(socket, error)
        return
    except (WebSocketDisconnect, OSError):  # whichever end it was, the other learns of it
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
            cast("Any", {"type": "websocket.http.response.start", "status": error.status, "headers": headers}),
        )
        await socket.send(cast("Any", {"type": "websocket.http.response.body", "body": answer.content}))


def _end_of(socket: AnySocket) -> End:
    return End(cast("Receive", socket.receive), cast("Send", socket.send))
