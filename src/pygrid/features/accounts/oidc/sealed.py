"""Values that the browser keeps for the app, encrypted. So no number of others can make the app forget them."""

from __future__ import annotations

import base64
from typing import Generic, TypeVar

import msgspec

from pygrid.clock import Clock

T = TypeVar("T")

SIGN_IN_S = 600
"""Seconds that a person has at the provider, and to confirm with a password."""


class SealedValues(Generic[T]):
    """Values of a kind that are valid for `SIGN_IN_S`, also at another replica and after a restart.

    Args:
        secret_key: secret of the app; all its replicas have the same.
    """

    def __init__(self, clock: Clock, secret_key: str, kind: type[T]) -> None:
        from cryptography.fernet import Fernet
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        key = HKDF(SHA256(), 32, None, f"pygrid/{kind.__name__}".encode()).derive(secret_key.encode())
        self._cipher = Fernet(base64.urlsafe_b64encode(key))
        self._clock = clock
        self._kind = kind

    def seal(self, value: T) -> str:
        """Return a text, which only this app can read and make."""
        return self._cipher.encrypt_at_time(msgspec.json.encode(value), self._now()).decode()

    def open(self, text: str) -> T | None:
        """Return the value of a text of `seal`; None: it has expired, or is another text."""
        from cryptography.fernet import InvalidToken

        try:
            data = self._cipher.decrypt_at_time(text, SIGN_IN_S, self._now())
            return msgspec.json.decode(data, type=self._kind)
        except (InvalidToken, ValueError):
            return None

    def _now(self) -> int:
        return int(self._clock.now().timestamp())
