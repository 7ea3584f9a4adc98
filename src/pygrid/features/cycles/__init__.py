"""Training on devices: clients authenticate, join a cycle, download and report; cycles close and complete."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from pygrid.features.cycles.accumulator import CycleSums, find_expected
from pygrid.features.cycles.admission import Admissions
from pygrid.features.cycles.clients import ClientRegistry
from pygrid.features.cycles.completion import Completion
from pygrid.features.cycles.cycle_metrics import CycleCounts
from pygrid.features.cycles.devices import Endpoints
from pygrid.features.cycles.partials import PartialSums
from pygrid.features.cycles.presence import REFRESH_S, Presence
from pygrid.features.cycles.progress import ProgressService
from pygrid.features.cycles.published import PublishedDevices
from pygrid.features.cycles.quotas import DeviceLimits, DeviceQuotas
from pygrid.features.cycles.report_stage import ReportStage
from pygrid.features.cycles.routes import DEVICE_PATHS, router
from pygrid.features.cycles.scheduler import CycleScheduler
from pygrid.features.cycles.service import CyclesService
from pygrid.lifecycle import AppContext, BackgroundTask, Feature
from pygrid.settings import DomainSettings
from pygrid.storage.store import Store

CLIENT_SWEEP_S = 3600.0


@dataclass(frozen=True, kw_only=True)
class CyclesFeature(Feature):
    """Training on devices, and the services that other features need."""

    scheduler: CycleScheduler
    clients: ClientRegistry
    cycles: CyclesService
    published: PublishedDevices
    upkeep: Feature
    """What only one process does."""


def build(app: AppContext, store: Store, settings: DomainSettings) -> CyclesFeature:
    """Build the feature. One thread folds reports and completes cycles, so the sums have one user."""
    clock = app.clock
    executor = ThreadPoolExecutor(1, thread_name_prefix="aggregate")
    partials = None if store.remote is None else PartialSums(store.database, store.remote.objects)
    sums = CycleSums(store.diffs, partial(find_expected, store.database), partials)
    counts = CycleCounts(app.metrics)
    quotas = DeviceQuotas(_device_limits(settings), clock, settings.secret_key)
    scheduler = CycleScheduler(store, Completion(store, sums, clock), clock, executor, app.metrics, counts)
    admissions = Admissions(store, scheduler, clock, app.stopping, quotas)
    cycles = CyclesService(store, admissions, sums, scheduler, clock, executor, counts, quotas)
    endpoints = Endpoints(allow_private=settings.allow_private_addresses)
    clients = ClientRegistry(store, scheduler, clock, quotas, endpoints)
    published = PublishedDevices(store, cycles, ReportStage(settings.data_dir))

    async def close() -> None:
        executor.shutdown()
        if partials is not None:
            partials.close()
        cycles.close()

    return CyclesFeature(
        scheduler=scheduler,
        clients=clients,
        cycles=cycles,
        published=published,
        services=(cycles, clients, scheduler, published, ProgressService(store, counts, clock)),
        routes=(router,),
        open_paths=DEVICE_PATHS,
        tasks=(
            BackgroundTask("run-cycles", scheduler.run),
            *(_shared_tasks(scheduler, admissions.presence) if store.is_shared else ()),
        ),
        start=scheduler.recover,
        upkeep=Feature(tasks=(BackgroundTask.every(CLIENT_SWEEP_S, "remove-unused-clients", clients.remove_unused),)),
        close=close,
    )


def _shared_tasks(scheduler: CycleScheduler, presence: Presence) -> tuple[BackgroundTask, ...]:
    return (
        BackgroundTask("follow-cycles", scheduler.follow),
        BackgroundTask.every(REFRESH_S, "store-presence", presence.refresh),
    )


def _device_limits(settings: DomainSettings) -> DeviceLimits:
    return DeviceLimits(
        clients_per_address=settings.clients_per_address,
        authentications_per_minute=settings.authentications_per_minute,
        cycle_requests_per_minute=settings.cycle_requests_per_minute,
        speed_tests_per_minute=settings.speed_tests_per_minute,
        expiry_days=settings.client_expiry_days,
        limit_loopback=settings.limit_loopback,
    )
