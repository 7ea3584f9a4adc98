"""A session for a command from a session of the web console, and the other way round.

The command makes a secret, the verifier, and names its hash, the challenge, in the address of a page of the console.
There the user confirms, and gets a one-time code. Code and verifier together begin a session. So a code that somebody
else reads opens nothing, and neither does the address.

A command with a session can also make a link that opens the console. It works once, within two minutes.

A new session counts as begun when the one before it began: a code does not replace a password (`SessionsService`).

Source: RFC 7636 (PKCE), section 4.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from dataclasses import dataclass

import sqlalchemy as sa

from pygrid import codes
from pygrid.clock import Clock
from pygrid.core.access import Principal
from pygrid.core.addresses import shortened
from pygrid.core.user_agents import describe_user_agent
from pygrid.errors import InvalidInput
from pygrid.features.accounts.invitations import code_not_valid, grouped, new_code, plain_code
from pygrid.features.accounts.service import AccountService
from pygrid.features.accounts.short_lived import ShortLived
from pygrid.features.accounts.signing import NewSession
from pygrid.ids import hash_secret, new_secret
from pygrid.storage import accounts as store
from pygrid.storage import audit, user_sessions
from pygrid.storage.audit import NotifiedWrites
from pygrid.storage.sql.database import Database

CODE_S = 300.0
"""Seconds that a code is valid."""
LINK_S = 120.0
"""Seconds that a link to the console is valid."""
_CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, slots=True)
class _Offer:
    user_id: int
    challenge: str
    token: str
    """The session of the console, which must last until the code is used."""


@dataclass(frozen=True, slots=True)
class _Link:
    user_id: int
    token: str
    """The session of the command, which must last until the link is used."""


class BrowserLogins:
    """One-time codes that a signed-in user takes from the console to a command, and links in the other direction."""

    def __init__(self, database: Database, writes: NotifiedWrites, clock: Clock, accounts: AccountService) -> None:
        self._database = database
        self._writes = writes
        self._clock = clock
        self._accounts = accounts
        self._offers = ShortLived[_Offer](clock, CODE_S)
        self._links = ShortLived[_Link](clock, LINK_S)

    def offer(self, principal: Principal, token: str, challenge: str) -> str:
        """Return a code with which the owner of the challenge can begin a session of the principal.

        Args:
            token: the principal's session.
        Raises:
            InvalidInput: ``invalid_challenge``.
        """
        check_challenge(challenge)
        code = new_code()
        self._offers.put(_Offer(principal.user_id, challenge, token), code)
        return grouped(code)

    async def redeem(self, code: str, verifier: str, address: str, agent: str = "") -> NewSession:
        """Begin a session by a code and the secret behind its challenge. A code works once.

        Raises:
            Forbidden: ``code_not_valid``: the code is wrong, late or used, of another challenge, or the session of the
                console has ended. TooManyRequests: ``too_many_attempts``.
        """
        attempt = self._accounts.failures.limited(lambda: self._accounts.attempts.begin_key(address))
        offer = self._offers.take(plain_code(code))
        challenge = challenge_of(verifier)
        if offer is None or not hmac.compare_digest(offer.challenge, challenge):
            self._accounts.failures.record("code", None, address)
            raise code_not_valid()
        if await self._accounts.find_principal(offer.token) is None:
            raise code_not_valid()
        self._accounts.attempts.forget(attempt)
        return await self._begin(offer.user_id, offer.token, address, agent, "browser")

    def make_link(self, principal: Principal, token: str) -> str:
        """Return the code of a link that opens the console.

        Args:
            token: the principal's session.
        """
        return self._links.put(_Link(principal.user_id, token))

    async def find_link(self, code: str) -> str | None:
        """Return the e-mail of the user whom a link signs in; None: it is not valid."""
        link = self._links.find(code)
        principal = None if link is None else await self._accounts.find_principal(link.token)
        return None if principal is None else (await self._accounts.get_user(principal, principal.user_id)).email

    async def enter(self, code: str, address: str, agent: str = "") -> NewSession:
        """Begin a session of the console by the code of a link, which works once.

        Raises:
            Forbidden: ``code_not_valid``: it is wrong, late or used, or the session of the command has ended.
            TooManyRequests: ``too_many_attempts``.
        """
        attempt = self._accounts.failures.limited(lambda: self._accounts.attempts.begin_key(address))
        link = self._links.take(code)
        if link is None or await self._accounts.find_principal(link.token) is None:
            self._accounts.failures.record("code", None, address)
            raise code_not_valid()
        self._accounts.attempts.forget(attempt)
        return await self._begin(link.user_id, link.token, address, agent, "link")

    async def _begin(self, user_id: int, before: str, address: str, agent: str, by: str) -> NewSession:
        """Begin a session after another one of the user, whose password is as old as it was there."""
        token, now = new_secret(), self._clock.now()

        def put(connection: sa.Connection) -> None:
            store.get_principal(connection, user_id)
            began_at = user_sessions.find_begin(connection, user_id, hash_secret(before))
            if began_at is None:
                raise code_not_valid()
            label = describe_user_agent(agent)
            user_sessions.put_session(connection, hash_secret(token), user_id, now, label, began_at)
            data = {"user_id": user_id, "from": shortened(address), "by": by}
            audit.append(connection, "user_logged_in", data, actor=user_id, now=now)

        await self._writes.write(put)
        return NewSession(token, int(user_sessions.SESSION_IDLE.total_seconds()))


def challenge_of(verifier: str) -> str:
    """The SHA-256 of a verifier, in base64url without padding."""
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")


def check_challenge(challenge: str) -> None:
    """Raise InvalidInput: ``invalid_challenge``: the text is not a challenge of `challenge_of`."""
    if not _CHALLENGE.fullmatch(challenge):
        raise InvalidInput(
            "the address is incomplete: open it again as the command has printed it", code=codes.INVALID_CHALLENGE
        )
