"""The stored leases of Workers on other machines."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import sqlalchemy as sa

from pygrid.clock import Clock
from pygrid.core.worker_leases import WorkerLease
from pygrid.storage import workers as rows
from pygrid.storage.leases import lease_time
from pygrid.storage.signals import Signals, notify_job
from pygrid.storage.sql.database import Database

T = TypeVar("T")


@dataclass(frozen=True)
class LeaseRows:
    """The leases in the database; see `pygrid.compute.leases.LeaseStore`."""

    database: Database
    signals: Signals
    clock: Clock

    async def put(self, lease: WorkerLease, lease_s: float) -> None:
        await self._write(lambda connection, now: rows.put_lease(connection, lease, now, _after(now, lease_s)))

    async def find(self, id_hash: str, worker_id: int) -> WorkerLease | None:
        return await self.database.look_up(lambda connection: rows.find_lease(connection, id_hash, worker_id))

    async def renew(self, id_hash: str, lease_s: float) -> bool:
        return await self._write(lambda connection, now: rows.renew_lease(connection, id_hash, _after(now, lease_s)))

    async def begin(self, id_hash: str) -> bool:
        return await self.database.write(lambda connection: rows.begin_lease(connection, id_hash))

    async def adopt(self, job_id: str, lease_s: float) -> WorkerLease | None:
        return await self._write(
            lambda connection, now: rows.adopt_lease(connection, job_id, now, _after(now, lease_s))
        )

    async def end(self, job_id: str, *, id_hash: str = "", only_expired: bool = False) -> WorkerLease | None:
        ended = await self._write(
            lambda connection, now: rows.end_of_job(connection, job_id, id_hash, now if only_expired else None)
        )
        notify_job(self.signals, job_id)
        return ended

    async def _write(self, fn: Callable[[sa.Connection, dt.datetime], T]) -> T:
        now = self.clock.now()
        return await self.database.write(lambda connection: fn(connection, lease_time(connection, now)))


def _after(now: dt.datetime, seconds: float) -> dt.datetime:
    return now + dt.timedelta(seconds=seconds)
