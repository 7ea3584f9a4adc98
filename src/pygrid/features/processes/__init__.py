"""Model owners host a process, directly or from a draft, watch it, download its checkpoints and finish it."""

from __future__ import annotations

from pygrid.features.processes.draft_routes import router as drafts_router
from pygrid.features.processes.drafts import DraftsService
from pygrid.features.processes.hosting import Hosting, WatchCycle
from pygrid.features.processes.routes import router
from pygrid.features.processes.service import ProcessesService
from pygrid.lifecycle import AppContext, Feature
from pygrid.storage.audit import AuditedWrites
from pygrid.storage.store import Store


def build(app: AppContext, store: Store, writes: AuditedWrites, watch_cycle: WatchCycle, *, is_open: bool) -> Feature:
    """Build the feature.

    Args:
        watch_cycle: called with each cycle that begins or closes here, so that its deadline is kept.
        is_open: callers without an account may host processes and download checkpoints.
    """
    hosting = Hosting(store, watch_cycle, app.clock)
    processes = ProcessesService(app, store, writes, hosting, watch_cycle, is_open=is_open)
    drafts = DraftsService(store, hosting, app.clock)
    return Feature(services=(processes, drafts), routes=(router, drafts_router), start=drafts.recover)
