"""Checks that a Domain answers at its address for direct calls, before the Network shows the address to others."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import secrets

import msgspec
import sqlalchemy as sa

from pygrid import codes
from pygrid.clock import Clock
from pygrid.errors import InvalidInput, PygridError
from pygrid.features.associations.network.registry import ConnectedDomain, ConnectedDomains
from pygrid.messages.identity import NONCE_BYTES, SIGNATURE_BYTES, IdentityInfo, from_base64url, to_base64url
from pygrid.storage import associations as rows
from pygrid.storage.sql.database import Database
from pygrid.transport.identity import IdentityKey
from pygrid.transport.untrusted import fetch_untrusted

logger = logging.getLogger(__name__)

LOOK_S = 30.0
RECHECK = dt.timedelta(hours=6)
RETRY = dt.timedelta(minutes=10)
"""Time until the next check after a failed one."""
_AT_ONCE = 8


async def check_address(url: str, name: str, identity: str, *, allow_private: bool) -> None:
    """Return if the Domain of this name and key answers at this address.

    Raises:
        PygridError: the address is refused (`fetch_untrusted`), does not answer, or another app answers there
            (``wrong_identity``).
    """
    nonce = secrets.token_bytes(NONCE_BYTES)
    answer = await fetch_untrusted(
        f"{url.rstrip('/')}/identity?nonce={to_base64url(nonce)}", allow_private=allow_private
    )
    try:
        info = msgspec.json.decode(answer.body, type=IdentityInfo)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise InvalidInput(f"the answer of {url} is not that of a Domain", code=codes.WRONG_IDENTITY) from None
    signature = from_base64url(info.signature or "", SIGNATURE_BYTES, "signature")
    key = IdentityKey.parse(identity)
    if (info.name, info.identity) != (name, identity) or not key.verify(signature, "identity", nonce, name.encode()):
        raise InvalidInput(f"another Domain answers at {url}", code=codes.WRONG_IDENTITY)


class DirectAddresses:
    """Keeps the checked addresses of the Network's Domains up to date."""

    def __init__(self, database: Database, domains: ConnectedDomains, clock: Clock, *, allow_private: bool) -> None:
        self._database = database
        self._domains = domains
        self._clock = clock
        self._allow_private = allow_private
        self._wake = asyncio.Event()

    def wake(self, _name: str = "") -> None:
        """Look for due checks now."""
        self._wake.set()

    async def run(self) -> None:
        """Check addresses when they are due, until cancelled."""
        turns = asyncio.Semaphore(_AT_ONCE)

        async def check(member: ConnectedDomain) -> None:
            async with turns:
                await self._check(member)

        while True:
            self._wake.clear()
            now = self._clock.now()
            await asyncio.gather(*(check(member) for member in self._domains if _is_due(member, now)))
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _check(self, member: ConnectedDomain) -> None:
        known, address = member.known, member.known.claimed_address
        assert address is not None
        fault = ""
        try:
            await check_address(address, known.name, member.identity, allow_private=self._allow_private)
        except PygridError as error:
            fault = error.detail
            logger.info("address not confirmed", extra={"domain": known.name, "why": error.code})
        values = {"address": None if fault else address, "address_checked_at": self._clock.now()}

        def transaction(connection: sa.Connection) -> rows.KnownDomain | None:
            now_known = rows.find_domain(connection, known.id)
            if now_known is None or now_known.claimed_address != address:
                return None
            return rows.update_domain(connection, now_known, values)

        updated = await self._database.write(transaction)
        # Meanwhile the Domain can have been revoked, or have changed its address.
        if updated is not None and self._domains.find(known.name) is member and member.known.id == updated.id:
            member.known = updated
            member.address_fault = fault


def _is_due(member: ConnectedDomain, now: dt.datetime) -> bool:
    if member.is_legacy or member.known.claimed_address is None:
        return False
    checked_at = member.known.address_checked_at
    if checked_at is None:
        return True
    return now - checked_at >= (RECHECK if member.address else RETRY)
