"""Model owners host a process, directly or from a draft, watch it, download its checkpoints and finish it."""

from __future__ import annotations

from dataclasses import dataclass

from pygrid.features.processes.drafts import DraftsService
from pygrid.features.processes.hosting import Hosting, WatchCycle
from pygrid.features.processes.service import ProcessesService
from pygrid.lifecycle import AppContext
from pygrid.storage.audit import AuditedWrites
from pygrid.storage.store import Store


@dataclass(frozen=True)
class Processes:
    """The connected parts of this feature."""

    service: ProcessesService
    drafts: DraftsService


def build_processes(
    app: AppContext, store: Store, writes: AuditedWrites, watch_cycle: WatchCycle, *, is_open: bool
) -> Processes:
    """Build the feature.

    Args:
        writes: transactions of the audit log.
        watch_cycle: called with each cycle that begins or closes here, so that its deadline is kept.
        is_open: callers without an account may host processes and download checkpoints.
    """
    hosting = Hosting(store, watch_cycle, app.clock)
    service = ProcessesService(app, store, writes, hosting, watch_cycle, is_open=is_open)
    return Processes(service, DraftsService(store, hosting, app.clock))
