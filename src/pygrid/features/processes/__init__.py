"""Model owners host a process, at once or from a draft, watch it, download its checkpoints and finish it."""

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
    """Everything of a Domain that sees to hosted processes, wired."""

    service: ProcessesService
    drafts: DraftsService


def build_processes(
    store: Store, writes: AuditedWrites, watch_cycle: WatchCycle, clock: Clock, stopping: Stopping
) -> Processes:
    """The process features of a Domain.

    Args:
        writes: writes what leaves an entry in the audit log.
        watch_cycle: told of each cycle that begins or closes here, so that its deadline is kept.
    """
    hosting = Hosting(store, watch_cycle, clock)
    service = ProcessesService(store, writes, hosting, watch_cycle, clock, stopping)
    return Processes(service, DraftsService(store, hosting, clock))
