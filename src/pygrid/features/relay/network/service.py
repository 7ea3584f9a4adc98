"""The Network's half: lets callers in, asks Domains for pipes, and splices the two."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pygrid.clock import Clock
from pygrid.core.access import Authenticator
from pygrid.core.addresses import network_of
from pygrid.errors import InvalidCredentials, PygridError, Unauthenticated
from pygrid.features.relay.network.pipes import End, Pipes, too_many, unreachable
from pygrid.messages.relay import INVALID_TICKET, LOGIN_NEEDED, SESSION_OVER, TOO_MANY_PIPES
from pygrid.transport.identity import IdentityKey
from pygrid.transport.tickets import PREFIX, check_ticket, read_ticket


class RelayTarget(Protocol):
    """A Domain that belongs to the Network and is connected."""

    @property
    def name(self) -> str:
        """As it is written; who calls may write it in other cases."""
        ...

    async def ask(self, type: str, payload: Mapping[str, Any] | None = None, timeout_s: float = 10.0) -> dict[str, Any]:
        """The Domain's answer to a question over its control link."""
        ...


class RelayDirectory(Protocol):
    """What the relay must know of the Network's Domains."""

    async def reach(self, name: str) -> RelayTarget:
        """The Domain, to ask it.

        Raises:
            NotFound: ``domain_not_found``: no accepted Domain has this name. Unavailable: ``domain_offline``.
        """
        ...

    async def find_identity(self, name: str) -> IdentityKey | None:
        """Who the accepted Domain of this name is."""
        ...


@dataclass(frozen=True, slots=True)
class RelayCaller:
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
        self,
        pipes: Pipes,
        domains: RelayDirectory,
        authenticator: Authenticator,
        own: IdentityKey,
        clock: Clock,
        *,
        is_open: bool,
    ) -> None:
        self.pipes = pipes
        self._domains = domains
        self._authenticator = authenticator
        self._own = own
        self._clock = clock
        self._is_open = is_open

    async def name_caller(self, bearer: str | None, address: str, target: str) -> RelayCaller:
        """Who wants to get through to ``target``.

        Raises:
            Unauthenticated: ``network_login_needed``: nothing was shown; ``network_session_over``, ``invalid_ticket``:
                it is not, or no longer, good.
        """
        if bearer is not None and bearer.startswith(PREFIX):
            ticket = read_ticket(bearer)
            identity = await self._domains.find_identity(ticket.domain)
            if identity is None:
                raise InvalidCredentials(
                    f"no Domain {ticket.domain[:100]!r} belongs to this Network", code=INVALID_TICKET
                )
            check_ticket(ticket, identity, self._own, target, self._clock.now())
            return RelayCaller(
                f"domain {identity}", ticket.domain
            )  # a name can be written in many ways, and counts but once
        if bearer is not None:
            try:
                return RelayCaller(f"user {(await self._authenticator.authenticate(bearer)).user_id}")
            except Unauthenticated as error:
                if not self._is_open:
                    detail = "your session with this Network is over: use pygrid login with its address"
                    raise Unauthenticated(detail, code=SESSION_OVER) from error
        if self._is_open:
            return RelayCaller(f"address {network_of(address)}", is_known=False)
        raise Unauthenticated(
            "this Network carries connections for those who are logged in: use pygrid login with its own address "
            "first, or set PYGRID_NETWORK_TOKEN",
            code=LOGIN_NEEDED,
        )

    async def reach(self, name: str) -> RelayTarget:
        """The Domain of this name. Raises as `RelayDirectory.reach`."""
        return await self._domains.reach(name)

    async def order(self, member: RelayTarget, caller: str) -> End:
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
