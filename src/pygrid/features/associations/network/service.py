"""The Network's half of associations: keeps the links of Domains, and applies decisions about them.

control WebSocket ──> serve(): handshake.py ──> row ──> welcome ──> Link, until it ends
people ──> decide(), invite(), ... ──> decisions.py ──> rows ──> reconcile(): memory and links follow the rows
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import sqlalchemy as sa
from prometheus_client import Gauge

from pygrid import codes
from pygrid.core.access import Permission, Principal, require
from pygrid.core.associations import Act, AssociationState, check_domain_name, name_key
from pygrid.errors import Forbidden, InvalidInput, NotFound, PygridError
from pygrid.features.associations.network import decisions
from pygrid.features.associations.network.decisions import DomainDecision
from pygrid.features.associations.network.handshake import Handshake
from pygrid.features.associations.network.registry import ConnectedDomains
from pygrid.ids import hash_secret, new_secret
from pygrid.lifecycle import AppContext
from pygrid.messages.associations import Heartbeat, InvitationInfo
from pygrid.storage import associations as rows
from pygrid.storage.associations import KnownDomain
from pygrid.storage.idempotency import once
from pygrid.storage.sql.database import Database
from pygrid.transport.links import NORMAL, REFUSED, REPLACED, Link, Links, Payload, Socket

logger = logging.getLogger(__name__)

LEAVE_S = 10.0
"""Grace period in seconds for in-flight traffic of a leaving Domain. A revoked Domain is disconnected at once."""
REQUEST_KEPT = dt.timedelta(days=7)
"""Time without a sign of life after which a Domain's request to join is deleted."""


OnParted = Callable[[str, float], object]


@dataclass(frozen=True)
class DomainListeners:
    """What has to know which Domains belong to the Network."""

    changed: Callable[[str], object]
    """Called with the name of a Domain that was accepted, has left or was removed, or whose link has ended."""
    parted: OnParted
    """Called with the name of a Domain that has left or was removed, and how many seconds its traffic may last."""
    listed: Callable[[], object]
    """Called when the lists of Domains, requests to join or invitations have changed."""


class NetworkAssociations:
    """The use cases of a Network's Domains, and of the people who decide about them."""

    def __init__(
        self,
        app: AppContext,
        database: Database,
        handshake: Handshake,
        domains: ConnectedDomains,
        listeners: DomainListeners,
    ) -> None:
        self.domains = domains
        self.waiting = Links()
        """Links of Domains that wait for a decision, by `_waits_as`."""
        waiting = "Domains that are connected and wait for a decision."
        Gauge("pygrid_network_waiting_domains", waiting, registry=app.metrics.registry).set_function(
            lambda: len(self.waiting)
        )
        self._listeners = listeners
        self._database = database
        self._handshake = handshake
        self._clock = app.clock
        self._reconciling = asyncio.Lock()
        """Never held while another party is awaited: a Domain that hangs must not block others."""
        self._rows: dict[Link, KnownDomain] = {}
        """The Domain of each link, as of its connection. A name is not enough: others may request it, or receive it."""
        self._disconnecting: set[asyncio.Task[None]] = set()
        self._seen: dict[int, dt.datetime] = {}

    async def load(self) -> None:
        """Load the members of the Network from the store."""
        for known in await self._database.read(
            lambda connection: rows.list_domains(connection, {AssociationState.ACCEPTED})
        ):
            self.domains.put(known)

    async def close(self) -> None:
        """Close all links, when the Network stops."""
        await asyncio.gather(self.waiting.close_all(), self.domains.links.close_all(), *self._disconnecting)

    # The control WebSocket

    async def serve(self, socket: Socket) -> None:
        """Serve one Domain, from the challenge until its WebSocket is closed."""
        admitted = await self._handshake.receive(socket)
        if admitted is not None:
            await self._keep(socket, admitted)

    async def _keep(self, socket: Socket, known: KnownDomain) -> None:
        """Run the Domain's link until it ends."""
        name, waits_as = known.name, _waits_as(known)

        async def on_heartbeat(payload: Payload) -> Payload:
            heartbeat = _read_heartbeat(payload)
            if self.waiting.find(waits_as) is link:
                state = AssociationState.PENDING
            elif (member := self.domains.find(name)) is not None and member.link is link:
                state = AssociationState.ACCEPTED
                self.domains.record_heartbeat(member, heartbeat)
            else:
                raise Forbidden("this Domain is not a member of the Network", code=codes.NOT_A_MEMBER)
            self._seen[known.id] = self._clock.now()
            return {"state": str(state)}

        async def on_leave(_payload: Payload) -> Payload:
            await self._leave(known)
            # The Domain itself closes the link when it has the answer.
            asyncio.get_running_loop().call_later(LEAVE_S, self._disconnect, link, NORMAL, "left")
            return {}

        link = Link(socket, {"heartbeat": on_heartbeat, "leave": on_leave}, name=name)
        self._rows[link] = known
        self._disconnect(self.waiting.swap(waits_as, link))
        logger.info("domain connected", extra={"domain": name, "state": str(known.state)})
        try:
            # Applies a decision that was made after the welcome was sent.
            await self.reconcile(name)
            ended = await link.run()
        finally:
            del self._rows[link]
            self.waiting.release(waits_as, link)
            if self.domains.links.release(name, link):
                self._listeners.changed(name)
            self._listeners.listed()
            await link.close()
        logger.info("domain disconnected", extra={"domain": name, "close_code": ended.code})

    def is_waiting(self, known: KnownDomain) -> bool:
        """Whether a Domain is connected and waits for a decision."""
        return self.waiting.find(_waits_as(known)) is not None

    async def _leave(self, known: KnownDomain) -> None:
        await self._database.write(lambda connection: decisions.leave(connection, known.id, self._clock.now()))
        logger.info("domain left", extra={"domain": known.name})
        async with self._reconciling:
            accepted = await self._find_accepted(known.name)
            # The request to leave can have come through the relay, and its caller waits for the answer.
            self._renew_member(known.name, accepted, LEAVE_S)
        self._listeners.listed()

    async def reconcile(self, name: str) -> None:
        """Make memory and the links of a name match its rows, and notify the Domains."""
        async with self._reconciling:
            found = await self._database.look_up(lambda connection: rows.list_named(connection, name))
            named = {known.id: known for known in found}
            accepted = next((known for known in found if known.state is AssociationState.ACCEPTED), None)
            self._renew_member(name, accepted)
            here = [
                (link, named.get(was.id)) for link, was in self._rows.items() if name_key(was.name) == name_key(name)
            ]
            news = [(link, known) for link, known in here if self._place(link, self._rows[link], known)]
            if accepted is not None:
                self._listeners.changed(accepted.name)
        self._listeners.listed()
        await asyncio.gather(*(_notify(link, known) for link, known in news))

    async def _find_accepted(self, name: str) -> KnownDomain | None:
        holder = await self._database.look_up(lambda connection: rows.find_holder(connection, name))
        return holder if holder is not None and holder.state is AssociationState.ACCEPTED else None

    def _renew_member(self, name: str, accepted: KnownDomain | None, after_s: float = 0.0) -> None:
        """Make the accepted Domain the only member of this name."""
        before = self.domains.find(name)
        if before is not None and (accepted is None or before.known.id != accepted.id):
            self.domains.remove(name)
            self._listeners.parted(name, after_s)
            self._listeners.changed(name)
        if accepted is not None:
            self.domains.put(accepted)

    def _place(self, link: Link, was: KnownDomain, known: KnownDomain | None) -> bool:
        """Move a link to the place that its row requires, and return whether the Domain must be notified."""
        state = None if known is None else known.state
        is_waiting = self.waiting.find(_waits_as(was)) is link
        if state is AssociationState.PENDING:
            if not is_waiting and self.domains.links.release(was.name, link):
                self._disconnect(link)  # of its earlier membership: it left, and has asked to join again
            return False
        self.waiting.release(_waits_as(was), link)
        if known is None or state is not AssociationState.ACCEPTED:
            return self.domains.links.release(was.name, link) or is_waiting
        if is_waiting:
            # The heartbeat of its earlier membership is void, even while the earlier link is being closed.
            self.domains.record_heartbeat(self.domains.get(known.name), Heartbeat())
            self._disconnect(self.domains.links.swap(known.name, link))
        return is_waiting

    def _disconnect(
        self, link: Link | None, code: int = REPLACED, reason: str = "this Domain has connected again"
    ) -> None:
        """Close a link in the background."""
        if link is not None:
            task = asyncio.create_task(link.close(code, reason))
            self._disconnecting.add(task)
            task.add_done_callback(self._disconnecting.discard)

    async def note_seen(self) -> None:
        """Store in one transaction when the Domains were last seen."""
        seen, self._seen = self._seen, {}
        if seen:
            await self._database.write(lambda connection: rows.update_domains_seen(connection, seen))

    # People

    async def list_domains(self, principal: Principal, states: set[AssociationState] | None) -> list[KnownDomain]:
        """Return the Domains in these states (None: all), by name."""
        require(principal, Permission.MANAGE_NODES)
        return await self._database.read(lambda connection: rows.list_domains(connection, states))

    async def get_domain(self, principal: Principal, name: str, identity: str | None = None) -> KnownDomain:
        """Return the Domain that has this name, or else requested it first; or the one with this identity.

        Raises:
            NotFound: ``domain_not_found``.
        """
        require(principal, Permission.MANAGE_NODES)
        named = await self._database.look_up(lambda connection: rows.get_named(connection, name))
        found = next((known for known in named if identity in (None, known.identity)), None)
        if found is None:
            raise NotFound(
                f"no Domain with the name {name!r} has the identity {identity}",
                code=codes.DOMAIN_NOT_FOUND,
                domain=name,
            )
        return found

    async def decide(
        self, principal: Principal, name: str, act: Act, reason: str = "", identity: str | None = None
    ) -> KnownDomain:
        """Accept, deny or revoke a Domain, and notify it at once if it is connected.

        A revocation concerns the key, so all other names of the key on this Network are revoked too.

        Raises:
            NotFound, Conflict: as `decisions.decide`.
        """
        require(principal, Permission.MANAGE_NODES)
        verdict = DomainDecision(act, reason, principal.user_id, self._clock.now())
        decide = once(lambda connection: decisions.decide(connection, name, identity, verdict), lambda found: found[0])
        known, names = await self._database.write(decide)
        for each in names:
            logger.info("association decided", extra={"domain": each, "act": str(act), "by_user_id": principal.user_id})
            await self.reconcile(each)
        return known

    async def forget(self, principal: Principal, name: str, identity: str | None = None) -> KnownDomain:
        """Delete the Domains of a name and the decisions about them.

        A connected Domain is disconnected, and may ask to join again.

        Raises:
            NotFound, Conflict: as `decisions.forget`.
        """
        require(principal, Permission.MANAGE_NODES)
        known = await self._database.write(lambda connection: decisions.forget(connection, name, identity))
        return await self._forgotten(known, principal)

    async def forget_node(self, principal: Principal | None, name: str, address: str) -> KnownDomain:
        """Delete a node of 2020. Raises NotFound, InvalidInput: as `decisions.forget_node`."""
        known = await self._database.write(lambda connection: decisions.forget_node(connection, name, address))
        return await self._forgotten(known, principal)

    async def _forgotten(self, known: KnownDomain, principal: Principal | None) -> KnownDomain:
        logger.info(
            "domain forgotten", extra={"domain": known.name, "by_user_id": principal.user_id if principal else None}
        )
        await self.reconcile(known.name)
        return known

    async def forget_stale(self) -> None:
        """Delete requests to join whose Domains showed no sign of life for `REQUEST_KEPT`."""
        before = self._clock.now() - REQUEST_KEPT
        for name in await self._database.write(lambda connection: rows.delete_stale_requests(connection, before)):
            logger.info("request forgotten", extra={"domain": name})
            await self.reconcile(name)

    async def invite(
        self, principal: Principal, domain: str | None, max_uses: int, expires_in_s: int
    ) -> tuple[InvitationInfo, str]:
        """Create an invitation, and return it with its token, which is not stored.

        Raises:
            InvalidInput: ``invalid_name``.
        """
        require(principal, Permission.MANAGE_NODES)
        if domain is not None:
            check_domain_name(domain)
        token, now = new_secret(), self._clock.now()

        def transaction(connection: sa.Connection) -> InvitationInfo:
            expires_at = now + dt.timedelta(seconds=expires_in_s)
            new = rows.UnusedInvitation(hash_secret(token), domain, max_uses, expires_at, created_by=principal.user_id)
            return rows.put_invitation(connection, new, now)

        made = await self._database.write(once(transaction, lambda found: (found, token)))
        self._listeners.listed()
        return made, token

    async def list_invitations(self, principal: Principal) -> list[InvitationInfo]:
        """Return all invitations that were not withdrawn."""
        require(principal, Permission.MANAGE_NODES)
        return await self._database.read(rows.list_invitations)

    async def take_back(self, principal: Principal, invitation_id: int) -> None:
        """Withdraw an invitation; Domains that used it stay. Raises NotFound: ``invitation_not_found``."""
        require(principal, Permission.MANAGE_NODES)
        await self._database.write(lambda connection: rows.delete_invitation(connection, invitation_id))
        self._listeners.listed()


def _waits_as(known: KnownDomain) -> str:
    """Return the key of a waiting Domain; several can wait with one name."""
    return str(known.id)


async def _notify(link: Link, known: KnownDomain | None) -> None:
    """Notify a Domain of its state, and close the link if it is not a member of the Network."""
    if known is not None and known.state is not AssociationState.LEFT:
        with contextlib.suppress(PygridError):
            await link.notify("state", {"state": str(known.state), "reason": known.reason})
    if known is None or known.state is not AssociationState.ACCEPTED:
        await link.close(REFUSED, "removed" if known is None else str(known.state))


def _read_heartbeat(payload: Mapping[str, Any]) -> Heartbeat:
    try:
        return msgspec.convert(payload, Heartbeat)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"heartbeat: {error}", code=codes.INVALID_HEARTBEAT) from None
