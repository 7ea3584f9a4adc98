"""Workers on other machines: their authorization, and the leases of their jobs."""

from __future__ import annotations

from pygrid.compute.leased import LeasedDriver
from pygrid.features.workers.engines import EnginePools
from pygrid.features.workers.routes import router
from pygrid.features.workers.service import WorkersService
from pygrid.lifecycle import AppContext, BackgroundTask, Feature
from pygrid.storage.audit import AuditedWrites


def build(
    app: AppContext, writes: AuditedWrites, driver: LeasedDriver, engines: EnginePools, *, allow_weak_sandbox: bool
) -> Feature:
    """Build the feature.

    Args:
        driver: has the jobs that Workers of other machines lease.
        engines: of `build_engines`.
    """
    workers = WorkersService(engines.database, writes, driver, engines.all, app.clock, app.stopping, allow_weak_sandbox)
    tasks = (BackgroundTask("look-at-engines", engines.all.run),) if engines.pools else ()
    return Feature(services=(workers, engines.all), routes=(router,), tasks=tasks, start=engines.all.end_all)
