"""Limits of one address and of one subject of tokens, as devices of a Domain.

authenticate   ──> rate of the address ──> rate of the subject ──> number of clients of the subject, else of the address
cycle request  ──> rate of the address
speed test     ──> rate of the address
ping           ──> rate of the address
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from hashlib import blake2b

from pygrid import codes
from pygrid.clock import Clock
from pygrid.core.addresses import bucket_of
from pygrid.errors import TooManyRequests
from pygrid.rates import RateTable

RETRY_FULL_S = 3600.0
"""Retry time for an address at its limit of clients; when one of them will expire is unknown."""


PINGS = 10
"""Pings per cycle request. On a fast network, syft.js sends more than 2,000 pings before its cycle request."""


@dataclass(frozen=True)
class DeviceLimits:
    """Settings of the operator; 0 switches a limit off."""

    clients_per_address: int = 0
    authentications_per_minute: int = 0
    cycle_requests_per_minute: int = 0
    speed_tests_per_minute: int = 0
    expiry_days: int = 0
    limit_loopback: bool = False


class DeviceQuotas:
    """Enforces the limits of devices.

    Args:
        secret: key of the marks of addresses and subjects, so a copy of the database alone does not reveal them.
    """

    def __init__(self, limits: DeviceLimits, clock: Clock, secret: str) -> None:
        self.limits = limits
        self._clock = clock
        self._key = blake2b(secret.encode(), person=b"device quotas").digest()
        self._authentications = _table(clock, limits.authentications_per_minute, "authentications")
        self._subjects = _table(clock, limits.authentications_per_minute, "authentications")
        self._cycle_requests = _table(clock, limits.cycle_requests_per_minute, "cycle requests")
        self._pings = _table(clock, PINGS * limits.cycle_requests_per_minute, "pings", "CYCLE_REQUESTS")
        self._speed_tests = _table(clock, limits.speed_tests_per_minute, "speed tests")

    def take_authentication(self, address: str) -> None:
        """Count an authentication. All `take_` functions raise TooManyRequests: ``rate_limited``."""
        self._authentications.take(self._bucket(address))

    def take_subject(self, process_id: int, subject: str) -> None:
        """Count an authentication of a subject, from any address; loopback is limited here too."""
        self._subjects.take(f"{process_id} {subject}")

    def take_cycle_request(self, address: str) -> None:
        """Count a request for a cycle, or a departure."""
        self._cycle_requests.take(self._bucket(address))

    def take_ping(self, address: str) -> None:
        """Count a ping of a speed test."""
        self._pings.take(self._bucket(address))

    def take_speed_test(self, address: str) -> None:
        """Count a speed test in one direction."""
        self._speed_tests.take(self._bucket(address))

    def mark_address(self, address: str) -> str | None:
        """Return the mark of an address in the rows of its clients; None: its clients are not counted."""
        bucket = self._bucket(address)
        return None if bucket is None or not self.limits.clients_per_address else self._mark("address", bucket)

    def mark_subject(self, subject: str) -> str:
        """Return the mark of a token's subject in the rows of its clients."""
        return self._mark("subject", subject)

    def used_since(self) -> dt.datetime | None:
        """Return the time before which a client's last use means that it has expired; None: clients do not expire."""
        days = self.limits.expiry_days
        return self._clock.now() - dt.timedelta(days=days) if days else None

    def check_clients(self, num_clients: int) -> None:
        """Check that an address may have another client of a process, in addition to ``num_clients``.

        Raises:
            TooManyRequests: ``too_many_clients``.
        """
        most = self.limits.clients_per_address
        if num_clients >= most:
            raise TooManyRequests(
                f"your address has {num_clients} clients of this process, of at most {most}: use the worker_id of one "
                "of them (the operator of this Domain can raise PYGRID_CLIENTS_PER_ADDRESS)",
                code=codes.TOO_MANY_CLIENTS,
                retry_after_s=RETRY_FULL_S,
            )

    def _bucket(self, address: str) -> str | None:
        return bucket_of(address, limit_loopback=self.limits.limit_loopback)

    def _mark(self, kind: str, text: str) -> str:
        data = f"{kind} {text}".encode(errors="surrogatepass")
        return blake2b(data, key=self._key, digest_size=16).hexdigest()


def _table(clock: Clock, per_minute: int, what: str, setting: str = "") -> RateTable:
    name = setting or what.upper().replace(" ", "_")
    refusal = (
        f"more than {per_minute} {what} a minute came from your address; try again in {{wait_s}} s (the operator of "
        f"this Domain can raise PYGRID_{name}_PER_MINUTE)"
    )
    return RateTable(clock, per_minute / 60, per_minute, refusal)
