"""The pools of `pools.toml`, and the stored starts of their Workers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pygrid import codes
from pygrid.clock import Clock
from pygrid.compute.engines import EngineDriver, Engines, EngineTimings
from pygrid.compute.launchers import make_launcher
from pygrid.compute.leases import Leases
from pygrid.compute.pool_file import read_pools
from pygrid.compute.pools import Pool
from pygrid.core.engine_starts import EngineStart
from pygrid.errors import InvalidConfig
from pygrid.storage import engine_starts as rows
from pygrid.storage.sql.database import Database


@dataclass(frozen=True)
class StartRows:
    """The starts in the database; see `pygrid.compute.engines.Starts`."""

    database: Database
    clock: Clock

    async def put(self, job_id: str, pool: str, token_hash: str) -> EngineStart:
        now = self.clock.now()
        return await self.database.write(lambda connection: rows.put_start(connection, job_id, pool, token_hash, now))

    async def find(self, job_id: str) -> EngineStart | None:
        return await self.database.read(lambda connection: rows.find_current(connection, job_id))

    async def finish_orphans(self) -> None:
        await self.database.write(rows.finish_orphans)

    async def finish(self, start: EngineStart) -> None:
        await self.database.write(lambda connection: rows.finish_start(connection, start.number))

    async def close(self, start: EngineStart) -> None:
        await self.database.write(lambda connection: rows.close_start(connection, start.number))

    async def list_open(self) -> list[EngineStart]:
        return await self.database.read(rows.list_open)


@dataclass(frozen=True)
class EnginePools:
    all: Engines
    pools: tuple[Pool, ...]
    database: Database


def build_engines(
    file: str, address: str, leases: Leases, database: Database, clock: Clock, timings: EngineTimings
) -> EnginePools:
    """Return the pools of a file; none if ``file`` is empty.

    Args:
        address: address of the Domain, for pools that name none.
    Raises:
        InvalidConfig: ``invalid_pools``.
    """
    starts, drivers = StartRows(database, clock), []
    for config in read_pools(Path(file)) if file else ():
        domain = config.domain or address.rstrip("/")
        if not domain:
            raise InvalidConfig(
                f"{file}: domain: the pool {config.name!r} needs the address of this Domain, as the machines of the "
                "engine reach it",
                code=codes.INVALID_POOLS,
                key="domain",
            )
        drivers.append(EngineDriver(config, make_launcher(config, domain), leases, starts, timings))
    pools = tuple(Pool(driver.name, driver, driver.config.places) for driver in drivers)
    return EnginePools(Engines(drivers, starts, timings), pools, database)
