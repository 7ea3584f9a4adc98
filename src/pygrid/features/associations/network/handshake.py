"""The handshake of a Domain with a Network: a challenge, a hello that proves the Domain's identity, and the answer.

challenge ──> hello ──> _check_hello(): is the identity proven? ──> _admit(): may it join? ──> row ──> welcome | refused
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import hashlib
import logging
import secrets
from dataclasses import dataclass
from typing import Any

import msgspec
import sqlalchemy as sa
from prometheus_client import Counter

from pygrid import codes
from pygrid.clock import Clock
from pygrid.core.associations import AssociationState, HandshakeRefusal, arrive, check_domain_name
from pygrid.errors import Forbidden, InvalidInput, PygridError, TooManyRequests
from pygrid.ids import hash_secret
from pygrid.messages.associations import Entry, Hello, InvitationInfo, Welcome, canonical
from pygrid.messages.identity import NONCE_BYTES, SIGNATURE_BYTES, from_base64url, to_base64url
from pygrid.metrics import Metrics
from pygrid.storage import associations as rows
from pygrid.storage.associations import KnownDomain
from pygrid.storage.sql.database import Database
from pygrid.transport.identity import Identity, IdentityKey
from pygrid.transport.links import REFUSED, Socket, SocketClosed, decode_frame, encode_frame

logger = logging.getLogger(__name__)

HELLO_S = 10.0
MAX_HANDSHAKES = 500
MAX_PENDING = 1000
"""Limit of Domains that wait for a decision, so that anonymous callers cannot fill the store."""
MAX_ENTRY_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class NetworkTerms:
    """Settings of the operator."""

    name: str
    heartbeat_s: float
    invitation_hash: str | None = None
    """Hash of an invitation that is valid for any Domain as long as it is set."""


@dataclass(frozen=True, slots=True)
class _Proven:
    """A hello with checked signatures."""

    name: str
    key: IdentityKey
    nonce: bytes
    entry: dict[str, Any]
    entry_signature: str
    invitation: str | None


class Handshake:
    """Authenticates Domains, and accepts or refuses them."""

    def __init__(
        self, database: Database, identity: Identity, clock: Clock, metrics: Metrics, terms: NetworkTerms
    ) -> None:
        self._turned = Counter(
            "pygrid_network_turned_away", "Domains that were refused, by reason.", ("code",), registry=metrics.registry
        )
        self._database = database
        self._identity = identity
        self._clock = clock
        self._terms = terms
        self._num_running = 0

    async def receive(self, socket: Socket) -> KnownDomain | None:
        """Return the Domain, accepted or waiting; None: it was told the reason, and its WebSocket is closed."""
        if self._num_running >= MAX_HANDSHAKES:
            error = TooManyRequests("too many Domains connect at once; try again later", code=codes.BUSY)
            await self._refuse(socket, error)
            return None
        self._num_running += 1
        try:
            async with asyncio.timeout(HELLO_S):
                return await self._shake_hands(socket)
        except TimeoutError:
            await socket.close(REFUSED, f"no hello within {HELLO_S:g} s")
            return None
        except SocketClosed:
            return None
        finally:
            self._num_running -= 1

    async def _shake_hands(self, socket: Socket) -> KnownDomain | None:
        nonce = secrets.token_bytes(NONCE_BYTES)
        challenge = {"nonce": to_base64url(nonce), "network": self._terms.name, "identity": str(self._identity.key)}
        await socket.send_text(encode_frame("challenge", challenge))
        try:
            proven = self._check_hello(await socket.receive_text(), nonce)
        except PygridError as error:
            logger.info("hello refused", extra={"why": error.code})
            self._turned.labels(error.code).inc()
            await self._refuse(socket, error)
            return None
        admitted = await self._admit(proven)
        signature = to_base64url(
            self._identity.sign("welcome", proven.nonce, proven.key.raw, self._terms.name.encode())
        )
        if isinstance(admitted, HandshakeRefusal):
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
            raise InvalidInput(f"the hello is not valid: {error}", code=codes.INVALID_HELLO) from None
        name = check_domain_name(hello.name)
        key = IdentityKey.parse(hello.identity)
        entry_bytes = canonical(hello.entry)
        if len(entry_bytes) > MAX_ENTRY_BYTES:
            raise InvalidInput(
                f"the entry has {len(entry_bytes):,} bytes; at most {MAX_ENTRY_BYTES:,} are allowed",
                code=codes.INVALID_HELLO,
            )
        signature = from_base64url(hello.signature, SIGNATURE_BYTES, "signature")
        signed = (nonce, self._identity.key.raw, name.encode(), hashlib.sha256(entry_bytes).digest())
        if entry.name != name or not key.verify(signature, "control", *signed):
            raise Forbidden(
                "the signature does not match this identity, challenge, name and entry", code=codes.BAD_SIGNATURE
            )
        entry_signature = from_base64url(hello.entry_signature, SIGNATURE_BYTES, "entry_signature")
        if not key.verify(entry_signature, "entry", entry_bytes):
            raise Forbidden("the entry is not signed by this identity", code=codes.BAD_SIGNATURE)
        their_nonce = from_base64url(hello.nonce, NONCE_BYTES, "nonce")
        return _Proven(name, key, their_nonce, hello.entry, hello.entry_signature, hello.invitation)

    async def _admit(self, proven: _Proven) -> KnownDomain | HandshakeRefusal:
        known = await self._database.look_up(lambda connection: rows.find_key(connection, proven.name, str(proven.key)))
        if known is not None and self._is_unchanged(known, proven):
            # The usual case after a restart of either side; nothing is written.
            return known
        now = self._clock.now()
        return await self._database.write(lambda connection: self._put(connection, proven, now))

    @staticmethod
    def _is_unchanged(known: KnownDomain, proven: _Proven) -> bool:
        keeps_state = known.state is AssociationState.ACCEPTED or (
            known.state is AssociationState.PENDING and proven.invitation is None
        )
        return keeps_state and known.entry_signature == proven.entry_signature

    def _put(self, connection: sa.Connection, proven: _Proven, now: dt.datetime) -> KnownDomain | HandshakeRefusal:
        identity = str(proven.key)
        known = rows.find_key(connection, proven.name, identity)
        holder = rows.find_holder(connection, proven.name)
        is_taken = holder is not None and (known is None or holder.id != known.id)
        invited, invitation = self._find_invitation(connection, proven, now)
        was_accepted = known is not None and known.state is AssociationState.ACCEPTED
        if not was_accepted and rows.is_revoked(connection, identity):
            return HandshakeRefusal("revoked", "this Network has revoked the association of this key")
        outcome = arrive(proven.name, None if known is None else known.state, is_taken=is_taken, is_invited=invited)
        if isinstance(outcome, HandshakeRefusal):
            return outcome
        if outcome is not AssociationState.ACCEPTED:
            if proven.invitation is not None:
                return HandshakeRefusal(
                    "invalid_invitation", "this invitation is used up, has expired, or is for another name"
                )
            is_new = known is None or known.state is not AssociationState.PENDING
            if is_new and rows.count_domains(connection).get(AssociationState.PENDING, 0) >= MAX_PENDING:
                return HandshakeRefusal("busy", "too many Domains wait for a decision; try again later")
        if outcome is AssociationState.ACCEPTED and not was_accepted and invitation is not None:
            rows.acquire_invitation(connection, invitation.id)
        if known is None:
            invitation_id = None if invitation is None else invitation.id
            signed = proven.entry, proven.entry_signature
            new = rows.NewDomain(proven.name, identity, outcome, *signed, invitation_id=invitation_id)
            return rows.put_domain(connection, new, now)
        values: dict[str, Any] = {
            "state": outcome.value,
            "entry": proven.entry,
            "entry_signature": proven.entry_signature,
        }
        if outcome is not known.state:
            values |= {"reason": "", "decided_at": now if outcome is AssociationState.ACCEPTED else None}
        if (proven.entry.get("address") or None) != known.claimed_address:
            values |= {"address": None, "address_checked_at": None}
        return rows.update_domain(connection, known, values)

    def _find_invitation(
        self, connection: sa.Connection, proven: _Proven, now: dt.datetime
    ) -> tuple[bool, InvitationInfo | None]:
        if proven.invitation is None:
            return False, None
        token_hash = hash_secret(proven.invitation)
        if token_hash == self._terms.invitation_hash:
            return True, None
        found = rows.find_invitation(connection, token_hash, proven.name, now)
        return found is not None, found

    async def _refuse(self, socket: Socket, error: PygridError) -> None:
        with contextlib.suppress(SocketClosed):
            await socket.send_text(encode_frame("refused", {"code": error.code, "detail": error.detail[:500]}))
        await socket.close(REFUSED, error.code)
