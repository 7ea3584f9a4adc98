"""Training on devices: clients authenticate, join a cycle, download and report; cycles close and complete."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pygrid.clock import Clock
from pygrid.features.cycles.accumulator import CycleSums
from pygrid.features.cycles.admission import Admissions
from pygrid.features.cycles.clients import ClientRegistry
from pygrid.features.cycles.completion import Completion
from pygrid.features.cycles.cycle_metrics import CycleCounts
from pygrid.features.cycles.devices import Endpoints
from pygrid.features.cycles.quotas import DeviceQuotas
from pygrid.features.cycles.scheduler import CycleScheduler
from pygrid.features.cycles.service import CyclesService
from pygrid.lifecycle import Stopping
from pygrid.metrics import Metrics
from pygrid.storage.cycles import find_radius
from pygrid.storage.store import Store


@dataclass(frozen=True)
class Cycles:
    """The connected parts of this feature."""

    service: CyclesService
    membership: ClientRegistry
    scheduler: CycleScheduler
    executor: ThreadPoolExecutor

    def close(self) -> None:
        """Wait for the running work of the threads and end them."""
        self.executor.shutdown()
        self.service.close()


def build_cycles(
    store: Store,
    clock: Clock,
    stopping: Stopping,
    metrics: Metrics,
    quotas: DeviceQuotas,
    *,
    allow_private: bool = False,
) -> Cycles:
    """Build the feature. One thread folds reports and completes cycles, so the sums have one user."""
    executor = ThreadPoolExecutor(1, thread_name_prefix="aggregate")
    sums = CycleSums(
        store.diffs, lambda process_id: store.database.read_now(lambda connection: find_radius(connection, process_id))
    )
    counts = CycleCounts(metrics)
    scheduler = CycleScheduler(store, Completion(store, sums, clock), clock, executor, metrics, counts)
    admissions = Admissions(store, scheduler, clock, stopping, quotas)
    service = CyclesService(store, admissions, sums, scheduler, clock, executor, counts, quotas)
    membership = ClientRegistry(store, scheduler, clock, quotas, Endpoints(allow_private=allow_private))
    return Cycles(service, membership, scheduler, executor)
