"""Workers on other machines: their authorization, and the leases of their jobs."""

from __future__ import annotations

from pygrid.compute.leased import LeasedDriver
from pygrid.features.workers.routes import router
from pygrid.features.workers.service import WorkersService
from pygrid.lifecycle import AppContext, Feature
from pygrid.storage.audit import AuditedWrites
from pygrid.storage.sql.database import Database


def build(
    app: AppContext, database: Database, writes: AuditedWrites, driver: LeasedDriver, *, allow_weak_sandbox: bool
) -> Feature:
    """Build the feature.

    Args:
        driver: has the jobs that Workers of other machines lease.
    """
    workers = WorkersService(database, writes, driver, app.clock, app.stopping, allow_weak_sandbox)
    return Feature(services=(workers,), routes=(router,))
