"""Hashes and checks passwords with argon2id, with a bound on the load of the machine."""

from __future__ import annotations

import asyncio
import base64
import secrets
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import argon2
from argon2.exceptions import InvalidHashError, VerificationError

from pygrid import codes
from pygrid.errors import TooManyRequests

T = TypeVar("T")

TIME_COST, MEMORY_KIB, PARALLELISM = 2, 19 * 1024, 1
"""The minimum that OWASP recommends for argon2id; about 25 ms and 19 MiB."""
NUM_THREADS = 2
MAX_WAITING = 32


class Passwords:
    """Two threads and a short queue. Further requests are refused, so that logins cannot starve other work."""

    def __init__(self) -> None:
        self._hasher = argon2.PasswordHasher(time_cost=TIME_COST, memory_cost=MEMORY_KIB, parallelism=PARALLELISM)
        self._threads = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="password")
        self._num_waiting = 0
        self._nobody = hash_of_no_password()

    async def hash(self, password: str) -> str:
        """Return the hash of the password in the normal form NFC. Raises TooManyRequests: ``busy``."""
        return await self._run(lambda: self._hasher.hash(normalize_password(password)))

    async def verify(self, password: str, stored: str | None) -> bool:
        """Whether the password has the hash ``stored``; takes as long for None, an account that does not exist.

        Keyboards write the same text in different code points, so the password is compared in the normal form NFC.
        Version 0.1 hashed passwords without this step, so a password that is not in NFC is also compared as received.

        Raises:
            TooManyRequests: ``busy``.
        """
        normal = normalize_password(password)
        # The number of hashes depends only on the given password. Else the time would reveal which accounts exist.
        forms = [normal] if normal == password else [normal, password]

        def verify() -> bool:
            return sum(self._verify(form, stored or self._nobody) for form in forms) > 0

        return await self._run(verify)

    async def needs_rehash(self, password: str, stored: str) -> bool:
        """Whether ``stored``, a hash of this password, differs in form from a new hash. Raises as `verify`."""
        normal = normalize_password(password)
        if self._hasher.check_needs_rehash(stored):
            return True
        return normal != password and not await self._run(lambda: self._verify(normal, stored))

    def _verify(self, password: str, stored: str) -> bool:
        try:
            return self._hasher.verify(stored, password)
        except (VerificationError, InvalidHashError):
            return False

    async def _run(self, work: Callable[[], T]) -> T:
        if self._num_waiting >= NUM_THREADS + MAX_WAITING:
            raise TooManyRequests("too many logins at once; try again in 2 s", code=codes.BUSY, retry_after_s=2)
        self._num_waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._num_waiting -= 1

    def close(self) -> None:
        """End the threads. A second call has no effect."""
        self._threads.shutdown(cancel_futures=True)


def hash_of_no_password() -> str:
    """Return a hash that no password has. A check against it takes as long as one against a real hash."""
    return f"$argon2id$v=19$m={MEMORY_KIB},t={TIME_COST},p={PARALLELISM}${_random_base64(16)}${_random_base64(32)}"


def normalize_password(password: str) -> str:
    """Return the password in the normal form NFC."""
    return unicodedata.normalize("NFC", password)


def _random_base64(num_bytes: int) -> str:
    return base64.b64encode(secrets.token_bytes(num_bytes)).decode().rstrip("=")
