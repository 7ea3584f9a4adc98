"""The Network's half of the relay: authenticates callers and requests pipes of Domains."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pygrid.clock import Clock
from pygrid.core.access import Authenticator, Permission, Principal, require
from pygrid.core.addresses import network_of
from pygrid.errors import InvalidCredentials, PygridError, Unauthenticated
from pygrid.features.relay.network.pipes import End, Pipes, RelayLimits, too_many, unreachable
from pygrid.messages.relay import INVALID_TICKET, LOGIN_NEEDED, SESSION_OVER, TOO_MANY_PIPES
from pygrid.transport.identity import IdentityKey
from pygrid.transport.tickets import PREFIX, check_ticket, read_ticket


class RelayTarget(Protocol):
    """A connected member of the Network."""

    @property
    def name(self) -> str:
        """The name in its own case; callers can write it in any case."""
        ...

    async def request(
        self, type: str, payload: Mapping[str, Any] | None = None, timeout_s: float = 10.0
    ) -> dict[str, Any]:
        """Send a request over the Domain's control link and return the answer."""
        ...


class RelayDirectory(Protocol):
    """The Network's Domains, as the relay uses them."""

    async def reach(self, name: str) -> RelayTarget:
        """Return the connected Domain of this name.

        Raises:
            NotFound: ``domain_not_found``: no accepted Domain has this name. Unavailable: ``domain_offline``.
        """
        ...

    async def find_identity(self, name: str) -> IdentityKey | None:
        """Return the key of the accepted Domain of this name, if there is one."""
        ...


@dataclass(frozen=True, slots=True)
class RelayCaller:
    """The party that connects to a Domain."""

    label: str
    """Key under which the caller's connections are counted."""
    domain: str | None = None
    """Name of the Domain that issued the caller's ticket."""
    is_known: bool = True
    """Whether the caller has a valid session or ticket."""


@dataclass(frozen=True, slots=True)
class DomainPipes:
    """The use of the relay by the callers of one Domain."""

    domain: str
    num_pipes: int
    carried_bytes: int
    """To and from the Domain since the start of the app."""
    callers: tuple[tuple[str, int], ...]
    """Keys of callers with their numbers of pipes, most pipes first; at most `MAX_CALLERS`."""


@dataclass(frozen=True, slots=True)
class RelayUsage:
    """The use of a relay, without any content."""

    domains: tuple[DomainPipes, ...]
    refusals: Mapping[str, int]
    """Refused connections since the start of the app, by code."""
    limits: RelayLimits
    is_open: bool


MAX_CALLERS = 20


class Relay:
    """Carries connections to the Network's Domains.

    Args:
        own: the Network's identity, for which tickets are issued.
        is_open: whether callers need neither a login nor a ticket.
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
        self.domains = domains
        self._authenticator = authenticator
        self._own = own
        self._clock = clock
        self._is_open = is_open
        self.refusals: Counter[str] = Counter()
        """Refused connections of callers and Domains, by code."""

    def usage(self, principal: Principal, domains: Sequence[str]) -> RelayUsage:
        """Return what these Domains use of the relay. Raises Forbidden: ``not_permitted``."""
        require(principal, Permission.MANAGE_NODES)
        pipes = self.pipes
        used = (
            DomainPipes(
                name, pipes.count(name), pipes.carried_bytes(name), tuple(pipes.list_callers(name)[:MAX_CALLERS])
            )
            for name in domains
        )
        return RelayUsage(tuple(used), dict(self.refusals), pipes.limits, self._is_open)

    async def name_caller(self, bearer: str | None, address: str, target: str) -> RelayCaller:
        """Authenticate a caller that connects to the Domain ``target``.

        Raises:
            Unauthenticated: ``network_login_needed``: no credential; ``network_session_over``, ``invalid_ticket``: the
                credential is not valid, or no longer.
        """
        if bearer is not None and bearer.startswith(PREFIX):
            ticket = read_ticket(bearer)
            identity = await self.domains.find_identity(ticket.domain)
            if identity is None:
                raise InvalidCredentials(
                    f"the ticket's Domain {ticket.domain[:100]!r} is not a member of this Network", code=INVALID_TICKET
                )
            check_ticket(ticket, identity, self._own, target, self._clock.now())
            return RelayCaller(
                f"domain {identity}", ticket.domain
            )  # counted by key, because one name can be written in several ways
        if bearer is not None:
            try:
                return RelayCaller(f"user {(await self._authenticator.authenticate(bearer)).user_id}")
            except Unauthenticated as error:
                if not self._is_open:
                    detail = "your session with this Network has ended: use pygrid login with its address"
                    raise Unauthenticated(detail, code=SESSION_OVER) from error
        if self._is_open:
            return RelayCaller(f"address {network_of(address)}", is_known=False)
        raise Unauthenticated(
            "this Network relays connections only for logged-in callers: use pygrid login with its address first, or "
            "set PYGRID_NETWORK_TOKEN",
            code=LOGIN_NEEDED,
        )

    async def order(self, member: RelayTarget, caller: str) -> End:
        """Request a new pipe, and return the Domain's end of it.

        Args:
            caller: the caller's address, which is sent to the Domain.
        Raises:
            Unavailable: ``domain_unreachable``. TooManyRequests: ``too_many_pipes``: the Domain is at its limit.
        """

        async def request(token: str) -> None:
            try:
                await member.request("open_pipe", {"token": token, "caller": caller}, self.pipes.limits.open_s)
            except PygridError as error:
                if error.code == TOO_MANY_PIPES:
                    raise too_many(f"the Domain {member.name!r} is at its limit of open connections") from error
                raise unreachable(member.name, f"did not open a connection: {error.detail}") from error

        return await self.pipes.order(request, member.name)
