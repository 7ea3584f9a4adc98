"""The Network's half of associations: keeps the links of Domains, and carries out what is decided about them.

control WebSocket ──> serve(): handshake.py ──> row ──> welcome ──> Link, until it ends
people ──> decide(), invite(), ... ──> row ──> settle(): memory and links follow the row
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import logging
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import sqlalchemy as sa
from prometheus_client import Gauge

from pygrid.clock import Clock
from pygrid.core.access import Principal
from pygrid.core.associations import Act, AssociationState, check_domain_name, move
from pygrid.errors import Forbidden, InvalidInput, PygridError
from pygrid.features.associations.fleet import Fleet
from pygrid.features.associations.handshake import Handshake
from pygrid.ids import hash_secret, new_secret
from pygrid.messages.associations import Heartbeat
from pygrid.metrics import Metrics
from pygrid.storage import networks as rows
from pygrid.storage.database import Database
from pygrid.storage.networks import Invitation, KnownDomain
from pygrid.web.links import REFUSED, REPLACED, Link, Links, Payload, Socket

logger = logging.getLogger(__name__)

LEAVE_S = 10.0
"""So long what is under way with a Domain that leaves may take yet. One that is put out is cut off at once."""


class NetworkAssociations:
    """The use cases of a Network's Domains, and of those who decide about them."""

    def __init__(self, database: Database, handshake: Handshake, fleet: Fleet, clock: Clock, metrics: Metrics) -> None:
        self.fleet = fleet
        self.waiting = Links()
        """Links of Domains that were not decided about yet."""
        waiting = "Domains that are connected and wait for a decision."
        Gauge("pygrid_network_waiting_domains", waiting, registry=metrics.registry).set_function(lambda: len(self.waiting))
        self.on_change: list[Callable[[str], object]] = []
        """Called with the name of a Domain that has come to belong to the Network, or does so no more."""
        self.on_part: list[Callable[[str, float], object]] = []
        """Called with the name of one that does so no more, and the seconds that what it has under way may take yet."""
        self._database = database
        self._handshake = handshake
        self._clock = clock
        self._settling = asyncio.Lock()
        """Never held while somebody else is waited for: a Domain that hangs must not keep others out."""
        self._rows: dict[Link, int] = {}
        """Whose each link is. A name alone does not tell: it may have gone to another key meanwhile."""
        self._parting: set[asyncio.Task[None]] = set()
        self._seen: dict[int, dt.datetime] = {}

    async def load(self) -> None:
        """Learn from the store who belongs to the Network."""
        for known in await self._database.read(lambda connection: rows.list_domains(connection, {AssociationState.ACCEPTED})):
            self.fleet.put(known)

    async def close(self) -> None:
        """Close every link: the Network stops."""
        await asyncio.gather(self.waiting.close_all(), self.fleet.links.close_all(), *self._parting)

    # The control WebSocket

    async def serve(self, socket: Socket) -> None:
        """Everything with one Domain, from the challenge until its WebSocket is closed."""
        admitted = await self._handshake.receive(socket)
        if admitted is not None:
            await self._keep(socket, admitted)

    async def _keep(self, socket: Socket, known: KnownDomain) -> None:
        """Run the Domain's link until it ends."""
        name = known.name

        async def on_heartbeat(payload: Payload) -> Payload:
            heartbeat = _read_heartbeat(payload)
            if self.waiting.find(name) is link:
                state = AssociationState.PENDING
            elif (member := self.fleet.find(name)) is not None and member.link is link:
                state = AssociationState.ACCEPTED
                self.fleet.hear(member, heartbeat)
            else:
                raise Forbidden("this Domain does not belong to the Network", code="not_a_member")
            self._seen[known.id] = self._clock.now()
            return {"state": str(state)}

        async def on_leave(_payload: Payload) -> Payload:
            await self._leave(known.id, name)
            return {}

        link = Link(socket, {"heartbeat": on_heartbeat, "leave": on_leave}, name=name)
        self._rows[link] = known.id
        self._part(self.waiting.swap(name, link))
        logger.info("domain connected", extra={"domain": name, "state": str(known.state)})
        try:
            # Whatever was decided between the welcome and here.
            await self.settle(name)
            ended = await link.run()
        finally:
            del self._rows[link]
            self.waiting.release(name, link)
            if self.fleet.links.release(name, link):
                self._changed(name)
            await link.close()
        logger.info("domain disconnected", extra={"domain": name, "close_code": ended.code})

    async def _leave(self, domain_id: int, name: str) -> None:
        def transaction(connection: sa.Connection) -> None:
            known = rows.get_domain(connection, name)
            if known.id == domain_id:
                state = move(known.state, Act.LEAVE, name)
                rows.update_domain(connection, known.id, {"state": state.value, "decided_at": self._clock.now()})

        await self._database.write(transaction)
        logger.info("domain left", extra={"domain": name})
        # Its link is left open: the Domain closes it itself, once it has the answer.
        async with self._settling:
            known = await self._database.look_up(lambda connection: rows.find_domain(connection, name))
            is_out = known is None or known.state is not AssociationState.ACCEPTED
            if is_out and self.fleet.remove(name) is not None:
                # Who let it leave may have come through the relay, and waits for the answer.
                self._parted(name, LEAVE_S)

    async def settle(self, name: str) -> None:
        """Let memory and the Domain's link be as its row says, and tell the Domain."""
        async with self._settling:
            known = await self._database.look_up(lambda connection: rows.find_domain(connection, name))
            if known is not None and known.state is AssociationState.ACCEPTED:
                self._part_from_strangers(known)
                link = self._let_in(known)
            elif known is not None and known.state is AssociationState.PENDING:
                self._part_from_strangers(known)
                link = None
            else:
                link = self._put_out(name)
        if known is not None and link is not None:
            with contextlib.suppress(PygridError):
                await link.tell("state", {"state": str(known.state), "reason": known.reason})
        if link is not None and (known is None or known.state is not AssociationState.ACCEPTED):
            await link.close(REFUSED, "removed" if known is None else str(known.state))

    def _let_in(self, known: KnownDomain) -> Link | None:
        """The link that has come in just now, if there is one."""
        before = self.fleet.find(known.name)
        if before is not None and before.known.id != known.id:
            # It was forgotten, and the name is another's already.
            self.fleet.remove(known.name)
            self._parted(known.name)
        member = self.fleet.put(known)
        link = self.waiting.find(known.name)
        if link is not None:
            self.waiting.release(known.name, link)
            # Of its former life nothing is believed, also while the link of that is being closed.
            self.fleet.hear(member, Heartbeat())
            self._part(self.fleet.links.swap(known.name, link))
        self._changed(known.name)
        return link

    def _part_from_strangers(self, known: KnownDomain) -> None:
        """Close what was opened under this name by one who had it before."""
        for links in (self.waiting, self.fleet.links):
            link = links.find(known.name)
            if link is not None and self._rows.get(link) != known.id:
                links.release(known.name, link)
                self._part(link, REFUSED, "removed")

    def _part(self, link: Link | None, code: int = REPLACED, reason: str = "this Domain has connected anew") -> None:
        """Close a link without waiting for it."""
        if link is not None:
            task = asyncio.create_task(link.close(code, reason))
            self._parting.add(task)
            task.add_done_callback(self._parting.discard)

    def _put_out(self, name: str) -> Link | None:
        """The link that is to be closed, if there is one."""
        removed = self.fleet.remove(name)
        link = self.waiting.find(name) or self.fleet.links.find(name)
        if link is not None:
            self.waiting.release(name, link)
            self.fleet.links.release(name, link)
        if removed is not None:
            self._parted(name)
        return link

    def _parted(self, name: str, after_s: float = 0.0) -> None:
        for listener in self.on_part:
            listener(name, after_s)
        self._changed(name)

    def _changed(self, name: str) -> None:
        for listener in self.on_change:
            listener(name)

    async def note_seen(self) -> None:
        """Write down when Domains were last heard of, all at once."""
        seen, self._seen = self._seen, {}
        if seen:
            await self._database.write(lambda connection: rows.update_domains_seen(connection, seen))

    # People

    async def list_domains(self, states: set[AssociationState] | None) -> list[KnownDomain]:
        """The Domains in these states (None: all), by name."""
        return await self._database.read(lambda connection: rows.list_domains(connection, states))

    async def get_domain(self, name: str) -> KnownDomain:
        """Raises NotFound: ``domain_not_found``."""
        return await self._database.look_up(lambda connection: rows.get_domain(connection, name))

    async def decide(self, actor: Principal, name: str, act: Act, reason: str = "") -> KnownDomain:
        """Accept, deny or revoke; the Domain learns of it at once if it is connected.

        What is revoked is the key, so whatever else it has on this Network is revoked with it.

        Raises:
            NotFound: ``domain_not_found``. Conflict: ``wrong_state``.
        """

        def transaction(connection: sa.Connection) -> tuple[KnownDomain, list[str]]:
            known = rows.get_domain(connection, name)
            values = {
                "state": move(known.state, act, known.name).value,
                "reason": reason,
                "decided_at": self._clock.now(),
                "decided_by": actor.user_id,
            }
            decided = [known]
            if act is Act.REVOKE and known.identity is not None:
                others = rows.list_domains(connection, {AssociationState.ACCEPTED, AssociationState.PENDING})
                decided += [other for other in others if other.identity == known.identity and other.id != known.id]
            for each in decided:
                rows.update_domain(connection, each.id, values)
            return rows.get_domain(connection, name), [each.name for each in decided]

        known, names = await self._database.write(transaction)
        for each in names:
            logger.info("association decided", extra={"domain": each, "act": str(act), "by_user_id": actor.user_id})
            await self.settle(each)
        return known

    async def forget(self, actor: Principal | None, name: str, *, legacy_address: str | None = None) -> KnownDomain:
        """Forget a Domain and what was decided about it; one that is connected is cut off, and may ask again.

        Args:
            legacy_address: forget it only if it is a node of 2020 at this address.
        Raises:
            NotFound: ``domain_not_found``. InvalidInput: ``wrong_address``.
        """

        def transaction(connection: sa.Connection) -> KnownDomain:
            known = rows.get_domain(connection, name)
            if legacy_address is not None and (not known.is_legacy or known.address != legacy_address):
                raise InvalidInput("this node has another address", code="wrong_address", domain=known.name)
            rows.delete_domain(connection, name)
            return known

        known = await self._database.write(transaction)
        logger.info("domain forgotten", extra={"domain": known.name, "by_user_id": actor.user_id if actor else None})
        await self.settle(known.name)
        return known

    async def invite(self, actor: Principal, domain: str | None, max_uses: int, expires_in_s: int) -> tuple[Invitation, str]:
        """A new invitation and its token, which is nowhere else. Raises InvalidInput: ``invalid_name``."""
        if domain is not None:
            check_domain_name(domain)
        token, now = new_secret(), self._clock.now()

        def transaction(connection: sa.Connection) -> Invitation:
            return rows.put_invitation(
                connection,
                token_hash=hash_secret(token),
                domain=domain,
                max_uses=max_uses,
                expires_at=now + dt.timedelta(seconds=expires_in_s),
                created_by=actor.user_id,
                now=now,
            )

        return await self._database.write(transaction), token

    async def list_invitations(self) -> list[Invitation]:
        """All that were given and not taken back."""
        return await self._database.read(rows.list_invitations)

    async def take_back(self, invitation_id: int) -> None:
        """Take an invitation back; who came by it stays. Raises NotFound: ``invitation_not_found``."""
        await self._database.write(lambda connection: rows.delete_invitation(connection, invitation_id))


def _read_heartbeat(payload: Mapping[str, Any]) -> Heartbeat:
    try:
        return msgspec.convert(payload, Heartbeat)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"heartbeat: {error}", code="invalid_heartbeat") from None
