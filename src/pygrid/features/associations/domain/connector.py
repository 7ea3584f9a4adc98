"""Dials a Domain's Networks and keeps one control link to each, so that the Domain needs no open port.

For each Network: dial ──> challenge, hello ──> welcome ──> heartbeats, until the link ends ──> wait ──> dial ...

The row of a Network keeps its answers. A Network is identified by its key, not by its address.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec
from websockets.exceptions import WebSocketException

from pygrid import codes
from pygrid.clock import Clock
from pygrid.core.associations import AssociationState, retry_s
from pygrid.errors import Forbidden, InvalidInput, PygridError
from pygrid.messages.associations import (
    CONTROL_PATH,
    Challenge,
    Entry,
    Heard,
    Heartbeat,
    Hello,
    StateChange,
    Turned,
    Welcome,
    canonical,
)
from pygrid.messages.identity import NONCE_BYTES, SIGNATURE_BYTES, from_base64url, to_base64url
from pygrid.storage import associations as rows
from pygrid.storage.associations import JoinedNetwork
from pygrid.storage.sql.database import Database
from pygrid.transport.identity import Identity, IdentityKey
from pygrid.transport.links import (
    MAX_FRAME_BYTES,
    PROTOCOL_ERROR,
    REPLACED,
    Handler,
    Link,
    Payload,
    SocketClosed,
    decode_frame,
)
from pygrid.transport.websockets import ClientSocket, dial_websocket

logger = logging.getLogger(__name__)

DIAL_S = 10.0
ANSWER_S = 10.0
"""Timeout of each step of the handshake, and of the answer to a heartbeat."""
CATALOG_S = 1.0
"""Time for which a change of public content waits until the Networks know it."""
STEADY_S = 30.0
"""Duration of a link after which the count of failures begins again."""
MAX_HEARTBEAT_S = 600.0
_DECIDED = frozenset({AssociationState.DENIED, AssociationState.REVOKED, AssociationState.REFUSED})
_TURNED = {"denied": AssociationState.DENIED, "revoked": AssociationState.REVOKED}

HandlersFor = Callable[[str], Mapping[str, Handler]]
"""Returns the handlers of requests from the Network at an address."""


@dataclass(frozen=True)
class DomainSide:
    identity: Identity
    entry: Entry
    describe: Callable[[], Awaitable[Heartbeat]]
    """Returns the next heartbeat."""
    handlers: HandlersFor
    """Called only while the Network has accepted this Domain."""


class Connector:
    """The link to one Network."""

    def __init__(self, network: JoinedNetwork, database: Database, clock: Clock, domain: DomainSide) -> None:
        self.network = network
        self._database = database
        self._clock = clock
        self._identity = domain.identity
        self._entry = {name: value for name, value in msgspec.to_builtins(domain.entry).items() if value is not None}
        self._describe = domain.describe
        self._handlers = domain.handlers(network.url)
        self._link: Link | None = None
        self._wake = asyncio.Event()
        self._draw = random.Random()

    @property
    def is_connected(self) -> bool:
        """Whether the link is open now."""
        return self._link is not None and self._link.is_open

    async def run(self) -> None:
        """Keep the link until the Domain has left the Network."""
        num_failures = 0
        while not self._has_left():
            began = time.monotonic()
            try:
                ended = await self._visit()
            # UnicodeError: a host whose name can't be looked up, which must not end the links to the other Networks.
            except (OSError, TimeoutError, UnicodeError, WebSocketException, SocketClosed, PygridError) as error:
                logger.info("network not reached", extra={"network": self.network.url, "why": _words(error)})
                ended = None
                if self.network.state not in _DECIDED:
                    await self.note(reason=_words(error))
            num_failures = 1 if time.monotonic() - began >= STEADY_S else num_failures + 1
            if ended is not None and ended.code == REPLACED:
                # Another process has this Domain's key; the two must not replace each other's links in a loop.
                logger.warning(
                    "another process connects with this Domain's identity", extra={"network": self.network.url}
                )
                num_failures = max(num_failures, 5)
            if not self._has_left():
                await self._pause(retry_s(num_failures, self.network.state, self._draw))

    def _has_left(self) -> bool:
        return self.network.state is AssociationState.LEFT

    def wake(self, network: JoinedNetwork) -> None:
        """Apply a change of the row at once, without the wait for the next try."""
        self.network = network
        self._wake.set()

    async def beat(self) -> None:
        """Send a heartbeat now, if the Network is connected."""
        if self._link is not None and self._link.is_open:
            try:
                await self._heartbeat(self._link, CATALOG_S)
            except PygridError as error:
                logger.info("heartbeat not answered", extra={"network": self.network.url, "why": error.code})

    async def leave(self) -> bool:
        """Notify the Network that the Domain leaves, and return whether it has answered."""
        if self._link is None or not self._link.is_open:
            return False
        try:
            await self._link.ask("leave", timeout_s=ANSWER_S)
        except PygridError as error:
            logger.info("leave not answered", extra={"network": self.network.url, "why": error.code})
            return False
        return True

    async def close(self) -> None:
        """Close the link, if it is open."""
        if self._link is not None:
            await self._link.close()

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        self._wake.clear()

    async def _visit(self) -> SocketClosed | None:
        """Run one connection, from dialing to its end; None: the Domain was refused."""
        self._wake.clear()
        # Heartbeats are answered, so each end notices the loss of the other without pings.
        dialing = dial_websocket(self.network.url, CONTROL_PATH, open_s=DIAL_S, close_s=5.0, max_bytes=MAX_FRAME_BYTES)
        async with dialing as connection:
            socket = ClientSocket(connection)
            heartbeat_s = await self._shake_hands(socket)
            if heartbeat_s is None:
                return None
            link = Link(
                socket, {**self._guarded(), "state": self._on_state}, name=self.network.name or self.network.url
            )
            running = asyncio.create_task(link.run())
            self._link = link
            try:
                if self.network.state is AssociationState.LEAVING:
                    if await self.leave() and self.network.state is AssociationState.LEAVING:
                        await self.note(state=AssociationState.LEFT, reason="")
                else:
                    await self._beat_until_over(link, heartbeat_s, running)
            finally:
                self._link = None
                await link.close()
                ended = await running
            return ended

    async def _shake_hands(self, socket: ClientSocket) -> float | None:
        """Shake hands and return the seconds between heartbeats; None: the Domain was refused, as the row shows."""
        challenge = await _receive(socket, Challenge)
        key = IdentityKey.parse(challenge.identity)
        if self.network.identity is not None and self.network.identity != challenge.identity:
            await self.note(
                state=AssociationState.REFUSED,
                reason=f"another Network answers at {self.network.url} now: its key is {challenge.identity}. "
                "If this key is right, leave this association and join again",
            )
            return None
        if self._has_left():
            return None
        nonce = secrets.token_bytes(NONCE_BYTES)
        await socket.send_text(msgspec.json.encode(self._hello(challenge, key, nonce)).decode())
        answer = await _receive(socket, Welcome | Turned)
        proven = answer.signature is not None and key.verify(
            from_base64url(answer.signature, SIGNATURE_BYTES, "signature"),
            "welcome",
            nonce,
            self._identity.key.raw,
            challenge.network.encode(),
        )
        if isinstance(answer, Turned):
            if not proven:
                # A refusal can precede the signature. Without a proof, only the refusal itself is used.
                raise InvalidInput(f"{answer.code}: {answer.detail}", code=codes.HELLO_REFUSED)
            await self._note_turned(answer)
            return None
        if not proven:
            raise InvalidInput(
                f"the Network at {self.network.url} did not prove its identity", code=codes.BAD_SIGNATURE
            )
        changes: dict[str, Any] = {"name": challenge.network, "identity": challenge.identity}
        if self._has_left():
            # The owner left while the Network answered, so the Network must still be notified.
            changes["state"] = AssociationState.LEAVING
        elif self.network.state is not AssociationState.LEAVING:
            changes |= {"state": AssociationState(answer.state), "reason": ""}
            if answer.state == "accepted":
                changes["invitation"] = None
        logger.info("network reached", extra={"network": self.network.url, "state": answer.state})
        await self.note(**changes)
        assert isinstance(answer, Welcome)
        return min(answer.heartbeat_s, MAX_HEARTBEAT_S)

    def _hello(self, challenge: Challenge, network: IdentityKey, nonce: bytes) -> Hello:
        entry = canonical(self._entry)
        name = str(self._entry["name"])
        their_nonce = from_base64url(challenge.nonce, NONCE_BYTES, "nonce")
        signed = (their_nonce, network.raw, name.encode(), hashlib.sha256(entry).digest())
        return Hello(
            name=name,
            identity=str(self._identity.key),
            nonce=to_base64url(nonce),
            signature=to_base64url(self._identity.sign("control", *signed)),
            entry=self._entry,
            entry_signature=to_base64url(self._identity.sign("entry", entry)),
            invitation=self.network.invitation,
        )

    async def _note_turned(self, answer: Turned) -> None:
        if self.network.state in (AssociationState.LEAVING, AssociationState.LEFT):
            # A refused Domain is not a member, so it has left.
            await self.note(state=AssociationState.LEFT, reason="")
            return
        state = _TURNED.get(answer.code, AssociationState.REFUSED)
        logger.warning("network refused this domain", extra={"network": self.network.url, "why": answer.code})
        await self.note(state=state, reason=answer.detail)

    async def _beat_until_over(self, link: Link, heartbeat_s: float, running: asyncio.Task[SocketClosed]) -> None:
        """Send heartbeats until the link is closed, the Network does not answer, or its row was changed."""
        woken = asyncio.create_task(self._wake.wait())
        try:
            while not running.done() and not woken.done():
                await self._heartbeat(link, max(ANSWER_S, heartbeat_s))
                await asyncio.wait({running, woken}, timeout=heartbeat_s, return_when=asyncio.FIRST_COMPLETED)
        except PygridError as error:
            logger.info("link ends", extra={"network": self.network.url, "why": error.code})
        finally:
            woken.cancel()

    async def _heartbeat(self, link: Link, timeout_s: float) -> None:
        heartbeat = msgspec.to_builtins(await self._describe())
        answer = await link.ask("heartbeat", heartbeat, timeout_s)
        try:
            heard = msgspec.convert(answer, Heard)
        except msgspec.ValidationError as error:
            raise InvalidInput(f"the Network's answer is not valid: {error}", code=codes.INVALID_ANSWER) from None
        if self.network.state in (AssociationState.PENDING, AssociationState.ACCEPTED):
            await self.note(state=AssociationState(heard.state))

    async def _on_state(self, payload: Payload) -> None:
        try:
            change = msgspec.convert(payload, StateChange)
        except msgspec.ValidationError as error:
            raise InvalidInput(f"state: {error}", code=codes.INVALID_STATE) from None
        if self.network.state is AssociationState.LEAVING:
            return
        changes: dict[str, Any] = {"state": AssociationState(change.state), "reason": change.reason}
        if change.state == "accepted":
            changes["invitation"] = None
        logger.info("association", extra={"network": self.network.url, "state": change.state})
        await self.note(**changes)

    def _guarded(self) -> dict[str, Handler]:
        """Return the handlers, limited to a Network that has accepted this Domain and that it does not leave."""

        def guard(handler: Handler) -> Handler:
            async def handle(payload: Payload) -> Payload | None:
                if self.network.state is not AssociationState.ACCEPTED:
                    raise Forbidden("this Domain is not a member of your Network", code=codes.NOT_A_MEMBER)
                return await handler(payload)

            return handle

        return {kind: guard(handler) for kind, handler in self._handlers.items()}

    async def note(self, **changes: Any) -> None:
        """Apply changes in memory and in the row."""
        before = self.network
        # In memory first: the next frame on the link must see the changes.
        self.network = replace(before, **changes)
        if self.network == before:
            return
        values = {name: str(value) if isinstance(value, AssociationState) else value for name, value in changes.items()}
        now = self._clock.now()
        await self._database.write(lambda connection: rows.update_network(connection, before.id, values, now))


class Connectors(dict[int, Connector]):
    """The connectors of a Domain, by the ids of their Networks."""

    async def announce_change(self, _version: str = "") -> None:
        """Send a heartbeat to all Networks, and return when they have answered, or after a second."""
        await asyncio.gather(*(connector.beat() for connector in self.values()))


async def _receive(socket: ClientSocket, wanted: Any) -> Any:
    """Return the next frame, which must be this message. Raises InvalidInput: ``not_a_network``."""
    async with asyncio.timeout(ANSWER_S):
        text = await socket.receive_text()
    try:
        return msgspec.convert(decode_frame(text), wanted)
    except (msgspec.ValidationError, PygridError) as error:
        await socket.close(PROTOCOL_ERROR, "unexpected frame")
        raise InvalidInput(f"the answer is not that of a Network: {error}", code=codes.NOT_A_NETWORK) from None


def _words(error: Exception) -> str:
    return str(error)[:300] or ("no answer in time" if isinstance(error, TimeoutError) else type(error).__name__)
