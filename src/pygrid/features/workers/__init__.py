"""Workers on other machines: their authorization, and the leases of their jobs."""

from __future__ import annotations

import datetime as dt

from pygrid.compute.leased import LeasedDriver
from pygrid.features.workers.engines import EnginePools
from pygrid.features.workers.routes import router
from pygrid.features.workers.service import WorkersService
from pygrid.lifecycle import AppContext, BackgroundTask, Feature
from pygrid.storage import engine_starts
from pygrid.storage.audit import AuditedWrites
from pygrid.storage.signals import Signals

DELETE_EVERY_S = 3600.0
KEEP_STARTS = dt.timedelta(days=30)
"""How long the starts of ended jobs are kept."""


def build(
    app: AppContext,
    writes: AuditedWrites,
    driver: LeasedDriver,
    engines: EnginePools,
    signals: Signals,
    *,
    allow_weak_sandbox: bool,
) -> Feature:
    """Build the feature.

    Args:
        driver: has the jobs that Workers of other machines lease.
        engines: of `build_engines`.
    """
    database = engines.database
    workers = WorkersService(
        database, writes, driver, engines.all, app.clock, app.stopping, signals, allow_weak_sandbox
    )

    async def end_orphans() -> None:
        # The jobs that nobody works at have ended by now.
        await database.write(engine_starts.end_orphans)

    async def delete_old() -> None:
        before = app.clock.now() - KEEP_STARTS
        await database.write(lambda connection: engine_starts.delete_old(connection, before))

    tasks = (BackgroundTask("look-at-engines", engines.all.run),) if engines.pools else ()
    return Feature(
        services=(workers, engines.all),
        routes=(router,),
        tasks=(*tasks, BackgroundTask.every(DELETE_EVERY_S, "delete-engine-starts", delete_old)),
        start=end_orphans,
    )
