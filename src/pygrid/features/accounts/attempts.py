"""Limits of attempts to log in, sign up or use a private key, and the audit entries of failures."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import sqlalchemy as sa

from pygrid.attempts import Attempt, AttemptSketch, Bound
from pygrid.clock import Clock
from pygrid.core.addresses import network_of, shortened
from pygrid.errors import TooManyRequests
from pygrid.messages.relay import RELAYED
from pygrid.storage import audit

WINDOW_S = 60.0
MAX_PER_ACCOUNT_AND_ADDRESS = 10
MAX_PER_ADDRESS = 50
"""Failed logins and keys, of all accounts together."""
MAX_PER_ACCOUNT = 100
"""Failed logins from all addresses together; direct and relayed callers are counted separately."""
MAX_RELAYED = 300
"""Failed logins of all relayed callers, because a Network can invent any number of addresses."""
MAX_SIGN_UPS_PER_ADDRESS = 100
MAX_SIGN_INS_PER_ADDRESS = 300
"""Sign-ins by a provider that are begun; a company can have one address."""
MAX_KEY_USES = 10
"""Uses of one private key, including valid ones."""
MAX_LISTED = 20
"""Failed attempts that an audit entry lists; it only counts the others."""


class Attempts:
    """The limits of an app. Methods that count raise TooManyRequests: ``too_many_attempts``."""

    def __init__(self, clock: Clock) -> None:
        self._sketch = AttemptSketch(clock, WINDOW_S)

    def begin_login(self, email_key: str, address: str) -> Attempt:
        """Count a login before it is checked, so that parallel attempts cannot exceed the limit together."""
        origin, mark = network_of(address), RELAYED if address.startswith(RELAYED) else "direct:"
        return self._sketch.record(
            *self._bounds_of(address),
            Bound(f"account {mark}{email_key}", MAX_PER_ACCOUNT),
            Bound(f"both {origin} {email_key}", MAX_PER_ACCOUNT_AND_ADDRESS),
        )

    def begin_key(self, address: str) -> Attempt:
        """Count a private key before it is checked. For a valid key, call `forget` and `record_key_use`."""
        return self._sketch.record(*self._bounds_of(address))

    def record_key_use(self, user_id: int) -> None:
        """Count a use of the private key of this user."""
        self._sketch.record(Bound(f"key of {user_id}", MAX_KEY_USES))

    def record_sign_up(self, address: str) -> None:
        """Count a sign-up by an anonymous caller."""
        self._sketch.record(Bound(f"sign-up {network_of(address)}", MAX_SIGN_UPS_PER_ADDRESS))

    def record_sign_in(self, address: str) -> None:
        """Count a sign-in by a provider that is begun."""
        self._sketch.record(Bound(f"sign-in {network_of(address)}", MAX_SIGN_INS_PER_ADDRESS))

    def begin_setup_code(self, address: str) -> Attempt:
        """Count a try of the setup code."""
        return self._sketch.record(*self._bounds_of(address), Bound("setup code", MAX_PER_ACCOUNT))

    def forget(self, attempt: Attempt) -> None:
        """Remove the count of a successful attempt."""
        self._sketch.forget(attempt)

    @staticmethod
    def _bounds_of(address: str) -> list[Bound]:
        bounds = [Bound(f"address {network_of(address)}", MAX_PER_ADDRESS)]
        return [*bounds, Bound("relayed", MAX_RELAYED)] if address.startswith(RELAYED) else bounds


class FailureLog:
    """Failed logins and keys since the last audit entry. One entry reports them all, so no caller can flood the log.

    Args:
        write: runs a function in a transaction of the audit log.
    """

    def __init__(self, write: Callable[[Callable[[sa.Connection], object]], Awaitable[object]], clock: Clock) -> None:
        self._write = write
        self._clock = clock
        self._reset()

    def record(self, kind: str, user_id: int | None, address: str) -> None:
        """Record a wrong ``kind``, for example ``password``. ``user_id`` None: no account has this e-mail or key."""
        self._num_failed += 1
        if len(self._listed) < MAX_LISTED:
            self._listed.append({"wrong": kind, "user_id": user_id, "from": shortened(address)})

    def record_refused(self) -> None:
        """Record an attempt over the limit, which was not checked."""
        self._num_refused += 1

    async def write_entry(self) -> None:
        """Write the recorded failures, if there are any, as one audit entry ``logins_failed``."""
        if not (self._num_failed or self._num_refused):
            return
        data: dict[str, Any] = {"num_failed": self._num_failed, "num_refused": self._num_refused, "first": self._listed}
        self._reset()
        now = self._clock.now()
        await self._write(lambda connection: audit.append(connection, "logins_failed", data, actor=None, now=now))

    def limited(self, begin: Callable[[], Attempt]) -> Attempt:
        """Return the attempt of ``begin``, or record and raise its refusal."""
        try:
            return begin()
        except TooManyRequests:
            self.record_refused()
            raise

    def _reset(self) -> None:
        self._num_failed = self._num_refused = 0
        self._listed: list[dict[str, Any]] = []
