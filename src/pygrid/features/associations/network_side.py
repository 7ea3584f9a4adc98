"""The Network's half of associations: lets Domains in, keeps their links, carries out what is decided about them.

control WebSocket ──> serve(): challenge, hello, checks ──> row ──> welcome ──> Link, until it ends
people ──> decide(), invite(), ... ──> row ──> _settle(): memory and links follow the row
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import hashlib
import logging
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import sqlalchemy as sa
from prometheus_client import Counter, Gauge

from pygrid.clock import Clock
from pygrid.core.access import Principal
from pygrid.core.associations import Act, AssociationState, Turned, arrive, check_domain_name, move
from pygrid.errors import Forbidden, InvalidInput, PygridError, TooManyRequests
from pygrid.features.associations.fleet import Fleet
from pygrid.ids import hash_secret, new_secret
from pygrid.messages.associations import Entry, Heartbeat, Hello, Welcome, canonical
from pygrid.messages.identity import NONCE_BYTES, SIGNATURE_BYTES, from_base64url, to_base64url
from pygrid.metrics import Metrics
from pygrid.storage import networks as rows
from pygrid.storage.database import Database
from pygrid.storage.networks import Invitation, KnownDomain
from pygrid.transport.identity import Identity, IdentityKey
from pygrid.web.links import REFUSED, Link, Links, Payload, Socket, SocketClosed, decode_frame, encode_frame
from pygrid.web.requests import MAX_JSON_DEPTH, is_deeper_than

logger = logging.getLogger(__name__)

HELLO_S = 10.0
MAX_HANDSHAKES = 500
MAX_PENDING = 1000
"""Domains that wait for a decision; strangers can't fill the store."""
MAX_ENTRY_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class NetworkTerms:
    """What the operator set."""

    name: str
    heartbeat_s: float
    invitation_hash: str | None = None
    """Of an invitation that holds for any Domain, as long as it is set."""


@dataclass(frozen=True, slots=True)
class _Proven:
    """A hello whose signatures were checked."""

    name: str
    key: IdentityKey
    nonce: bytes
    entry: dict[str, Any]
    entry_signature: str
    invitation: str | None


class NetworkAssociations:
    """The use cases of a Network's Domains, and of those who decide about them."""

    def __init__(
        self, database: Database, identity: Identity, fleet: Fleet, clock: Clock, metrics: Metrics, terms: NetworkTerms
    ) -> None:
        self.fleet = fleet
        self.waiting = Links()
        """Links of Domains that were not decided about yet."""
        waiting = "Domains that are connected and wait for a decision."
        Gauge("pygrid_network_waiting_domains", waiting, registry=metrics.registry).set_function(lambda: len(self.waiting))
        self._turned = Counter(
            "pygrid_network_turned_away", "Domains that were not let in, by the reason.", ("code",), registry=metrics.registry
        )
        self.on_change: list[Callable[[str], object]] = []
        """Called with the name of a Domain that has come to belong to the Network, or does so no more."""
        self._database = database
        self._identity = identity
        self._clock = clock
        self._terms = terms
        self._settling = asyncio.Lock()
        self._num_handshakes = 0
        self._seen: dict[int, dt.datetime] = {}

    async def load(self) -> None:
        """Learn from the store who belongs to the Network."""
        for known in await self._database.read(lambda connection: rows.list_domains(connection, {AssociationState.ACCEPTED})):
            self.fleet.put(known)

    async def close(self) -> None:
        """Close every link: the Network stops."""
        await asyncio.gather(self.waiting.close_all(), self.fleet.links.close_all())

    # The control WebSocket

    async def serve(self, socket: Socket) -> None:
        """Everything with one Domain, from the challenge until its WebSocket is closed."""
        if self._num_handshakes >= MAX_HANDSHAKES:
            await self._turn_away(socket, TooManyRequests("too many Domains knock at once; try again", code="busy"))
            return
        self._num_handshakes += 1
        try:
            async with asyncio.timeout(HELLO_S):
                admitted = await self._shake_hands(socket)
        except TimeoutError:
            await socket.close(REFUSED, f"no hello within {HELLO_S:g} s")
            return
        except SocketClosed:
            return
        finally:
            self._num_handshakes -= 1
        if admitted is not None:
            await self._keep(socket, admitted)

    async def _shake_hands(self, socket: Socket) -> KnownDomain | None:
        nonce = secrets.token_bytes(NONCE_BYTES)
        challenge = {"nonce": to_base64url(nonce), "network": self._terms.name, "identity": str(self._identity.key)}
        await socket.send_text(encode_frame("challenge", challenge))
        try:
            proven = self._check_hello(await socket.receive_text(), nonce)
        except PygridError as error:
            logger.info("hello refused", extra={"why": error.code})
            self._turned.labels(error.code).inc()
            await self._turn_away(socket, error)
            return None
        admitted = await self._admit(proven)
        signature = to_base64url(self._identity.sign("welcome", proven.nonce, proven.key.raw, self._terms.name.encode()))
        if isinstance(admitted, Turned):
            logger.info("domain turned away", extra={"domain": proven.name, "why": admitted.code})
            self._turned.labels(admitted.code).inc()
            turned = {"code": admitted.code, "detail": admitted.detail, "signature": signature}
            await socket.send_text(encode_frame("refused", turned))
            await socket.close(REFUSED, admitted.code)
            return None
        is_accepted = admitted.state is AssociationState.ACCEPTED
        welcome = Welcome("accepted" if is_accepted else "pending", self._terms.heartbeat_s, signature)
        await socket.send_text(msgspec.json.encode(welcome).decode())
        return admitted

    def _check_hello(self, text: str, nonce: bytes) -> _Proven:
        frame = decode_frame(text)
        try:
            hello = msgspec.convert(frame, Hello)
            entry = msgspec.convert(hello.entry, Entry)
        except msgspec.ValidationError as error:
            raise InvalidInput(f"this is no hello of a Domain: {error}", code="invalid_hello") from None
        name = check_domain_name(hello.name)
        key = IdentityKey.parse(hello.identity)
        entry_bytes = canonical(hello.entry)
        if len(entry_bytes) > MAX_ENTRY_BYTES or is_deeper_than(hello.entry, MAX_JSON_DEPTH):
            detail = f"an entry has at most {MAX_ENTRY_BYTES:,} bytes and is nested no deeper than {MAX_JSON_DEPTH}"
            raise InvalidInput(detail, code="invalid_hello")
        signature = from_base64url(hello.signature, SIGNATURE_BYTES, "signature")
        signed = (nonce, self._identity.key.raw, name.encode(), hashlib.sha256(entry_bytes).digest())
        if entry.name != name or not key.verify(signature, "control", *signed):
            raise Forbidden("the signature is not of this identity, for this challenge, name and entry", code="bad_signature")
        entry_signature = from_base64url(hello.entry_signature, SIGNATURE_BYTES, "entry_signature")
        if not key.verify(entry_signature, "entry", entry_bytes):
            raise Forbidden("the entry is not signed by this identity", code="bad_signature")
        their_nonce = from_base64url(hello.nonce, NONCE_BYTES, "nonce")
        return _Proven(name, key, their_nonce, hello.entry, hello.entry_signature, hello.invitation)

    async def _admit(self, proven: _Proven) -> KnownDomain | Turned:
        known = await self._database.look_up(lambda connection: rows.find_domain(connection, proven.name))
        if known is not None and self._is_settled(known, proven):
            # As after every restart of either side; nothing is written.
            return known
        now = self._clock.now()
        return await self._database.write(lambda connection: self._put(connection, proven, now))

    @staticmethod
    def _is_settled(known: KnownDomain, proven: _Proven) -> bool:
        settled = known.state is AssociationState.ACCEPTED or (
            known.state is AssociationState.PENDING and proven.invitation is None
        )
        return settled and known.identity == str(proven.key) and known.entry_signature == proven.entry_signature

    def _put(self, connection: sa.Connection, proven: _Proven, now: dt.datetime) -> KnownDomain | Turned:
        identity = str(proven.key)
        known = rows.find_domain(connection, proven.name)
        invited, invitation = self._find_invitation(connection, proven, now)
        if (known is None or known.identity != identity) and rows.is_revoked(connection, identity):
            return Turned("revoked", "this Network has revoked the association of this key")
        outcome = arrive(proven.name, identity, None if known is None else known.as_known(), invited)
        if isinstance(outcome, Turned):
            return outcome
        if outcome is not AssociationState.ACCEPTED:
            if proven.invitation is not None:
                return Turned("invalid_invitation", "this invitation is used up, has expired, or is for another name")
            is_new = known is None or known.state is not AssociationState.PENDING
            if is_new and rows.count_domains(connection).get(AssociationState.PENDING, 0) >= MAX_PENDING:
                return Turned("busy", "too many Domains wait for a decision already; try again later")
        was_accepted = known is not None and known.identity == identity and known.state is AssociationState.ACCEPTED
        if outcome is AssociationState.ACCEPTED and not was_accepted and invitation is not None:
            rows.acquire_invitation(connection, invitation.id)
        if known is None or known.identity != identity:
            return rows.put_domain(
                connection,
                name=proven.name,
                identity=identity,
                state=outcome,
                entry=proven.entry,
                entry_signature=proven.entry_signature,
                now=now,
                invitation_id=None if invitation is None else invitation.id,
            )
        values: dict[str, Any] = {"state": outcome.value, "entry": proven.entry, "entry_signature": proven.entry_signature}
        if outcome is not known.state:
            values |= {"reason": "", "decided_at": now if outcome is AssociationState.ACCEPTED else None}
        if (proven.entry.get("address") or None) != known.claimed_address:
            values |= {"address": None, "address_checked_at": None}
        rows.update_domain(connection, known.id, values)
        return rows.get_domain(connection, known.name)

    def _find_invitation(self, connection: sa.Connection, proven: _Proven, now: dt.datetime) -> tuple[bool, Invitation | None]:
        if proven.invitation is None:
            return False, None
        token_hash = hash_secret(proven.invitation)
        if token_hash == self._terms.invitation_hash:
            return True, None
        found = rows.find_invitation(connection, token_hash, proven.name, now)
        return found is not None, found

    async def _turn_away(self, socket: Socket, error: PygridError) -> None:
        with contextlib.suppress(SocketClosed):
            await socket.send_text(encode_frame("refused", {"code": error.code, "detail": error.detail[:500]}))
        await socket.close(REFUSED, error.code)

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
        await self.waiting.put(name, link)
        logger.info("domain connected", extra={"domain": name, "state": str(known.state)})
        try:
            # Whatever was decided between the welcome and here.
            await self.settle(name)
            ended = await link.run()
        finally:
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
        # Not settled here: the Domain closes its link itself, once it has the answer.
        if self.fleet.remove(name) is not None:
            self._changed(name)

    async def settle(self, name: str) -> None:
        """Let memory and the Domain's link be as its row says, and tell the Domain."""
        async with self._settling:
            known = await self._database.look_up(lambda connection: rows.find_domain(connection, name))
            if known is not None and known.state is AssociationState.ACCEPTED:
                link = await self._let_in(known)
            elif known is not None and known.state is AssociationState.PENDING:
                link = None
            else:
                link = self._put_out(name)
        if known is not None and link is not None:
            with contextlib.suppress(PygridError):
                await link.tell("state", {"state": str(known.state), "reason": known.reason})
        if link is not None and (known is None or known.state is not AssociationState.ACCEPTED):
            await link.close(REFUSED, "removed" if known is None else str(known.state))

    async def _let_in(self, known: KnownDomain) -> Link | None:
        """The link that has come in just now, if there is one."""
        member = self.fleet.put(known)
        link = self.waiting.find(known.name)
        if link is not None:
            self.waiting.release(known.name, link)
            # Of its former life nothing is believed, also while the link of that is being closed.
            self.fleet.hear(member, Heartbeat())
            await self.fleet.links.put(known.name, link)
        self._changed(known.name)
        return link

    def _put_out(self, name: str) -> Link | None:
        """The link that is to be closed, if there is one."""
        removed = self.fleet.remove(name)
        link = self.waiting.find(name) or self.fleet.links.find(name)
        if link is not None:
            self.waiting.release(name, link)
            self.fleet.links.release(name, link)
        if removed is not None:
            self._changed(name)
        return link

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

        Raises:
            NotFound: ``domain_not_found``. Conflict: ``wrong_state``.
        """

        def transaction(connection: sa.Connection) -> KnownDomain:
            known = rows.get_domain(connection, name)
            values = {
                "state": move(known.state, act, known.name).value,
                "reason": reason,
                "decided_at": self._clock.now(),
                "decided_by": actor.user_id,
            }
            rows.update_domain(connection, known.id, values)
            return rows.get_domain(connection, name)

        known = await self._database.write(transaction)
        logger.info("association decided", extra={"domain": known.name, "act": str(act), "by_user_id": actor.user_id})
        await self.settle(known.name)
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
