"""Values that are kept for minutes, until the secret that names them is used once."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

from pygrid.clock import Clock
from pygrid.ids import hash_secret, new_secret

T = TypeVar("T")


class ShortLived(Generic[T]):
    """Values by secret, in memory: a restart of the app forgets them.

    Args:
        max_values: beyond it the oldest value is forgotten.
    """

    def __init__(self, clock: Clock, lifetime_s: float, max_values: int = 4096) -> None:
        self._clock = clock
        self._lifetime_s = lifetime_s
        self._max_values = max_values
        self._by_hash: OrderedDict[str, tuple[float, T]] = OrderedDict()

    def put(self, value: T, secret: str | None = None) -> str:
        """Keep a value, and return its secret, which is not stored."""
        now = self._now()
        while self._by_hash and (
            len(self._by_hash) >= self._max_values or next(iter(self._by_hash.values()))[0] <= now
        ):
            self._by_hash.popitem(last=False)
        secret = new_secret() if secret is None else secret
        self._by_hash[hash_secret(secret)] = (now + self._lifetime_s, value)
        return secret

    def find(self, secret: str) -> T | None:
        """Return the value of a secret, None if there is none or it has expired."""
        ends_at, value = self._by_hash.get(hash_secret(secret), (0.0, None))
        return value if ends_at > self._now() else None

    def take(self, secret: str) -> T | None:
        """Return the value of a secret as `find`, and forget it."""
        value = self.find(secret)
        self._by_hash.pop(hash_secret(secret), None)
        return value

    def _now(self) -> float:
        return self._clock.now().timestamp()
