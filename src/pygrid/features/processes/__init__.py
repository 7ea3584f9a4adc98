"""Model owners host a process, directly or from a draft, watch it, download its checkpoints and finish it."""

from __future__ import annotations

from dataclasses import dataclass

from pygrid.clock import Clock
from pygrid.features.processes.drafts import DraftsService
from pygrid.features.processes.hosting import Hosting, WatchCycle
from pygrid.features.processes.service import ProcessesService
from pygrid.lifecycle import Stopping
from pygrid.storage.audit import AuditedWrites
from pygrid.storage.store import Store


@dataclass(frozen=True)
class Processes:
    """The connected parts of this feature."""

    service: ProcessesService
    drafts: DraftsService


def build_processes(
    store: Store, writes: AuditedWrites, watch_cycle: WatchCycle, clock: Clock, stopping: Stopping
) -> Processes:
    """Build the feature.

    Args:
        writes: transactions of the audit log.
        watch_cycle: called with each cycle that begins or closes here, so that its deadline is kept.
    """
    hosting = Hosting(store, watch_cycle, clock)
    service = ProcessesService(store, writes, hosting, watch_cycle, clock, stopping)
    return Processes(service, DraftsService(store, hosting, clock))
