"""Composition of a Domain: its features, its store, its background tasks."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from litestar import Litestar

from pygrid.clock import Clock
from pygrid.compute.driver import LocalLimits
from pygrid.compute.engines import EngineTimings
from pygrid.compute.leased import LeasedDriver
from pygrid.compute.leases import Leases
from pygrid.compute.local import LocalDriver
from pygrid.compute.pools import Pool, build_pools
from pygrid.core.access import DEFAULT_ROLES, Permission
from pygrid.core.cycles import Cycle
from pygrid.edge import EdgeClient
from pygrid.features import accounts, audit, cycles, datasets, jobs, models, monitoring, processes, workers
from pygrid.features.associations import domain as associations
from pygrid.features.associations.domain.connector import Connectors
from pygrid.features.catalog.service import CatalogService
from pygrid.features.jobs.federated import (
    Connect,
    CoordinatorConnections,
    FederatedService,
    FederationServices,
    ModelFiles,
    ParticipationTimings,
)
from pygrid.features.relay.domain import PipeServer
from pygrid.features.workers.engines import build_engines
from pygrid.features.workers.leases import LeaseRows
from pygrid.legacy import DomainServices
from pygrid.legacy import domain_feature as legacy_feature
from pygrid.lifecycle import AppContext, BackgroundTask, Feature, Stopping, TaskRunner
from pygrid.messages.jobs import FederationRequest
from pygrid.metrics import Metrics
from pygrid.settings import DomainSettings, read_networks, with_secret
from pygrid.storage.app_state import share_identity
from pygrid.storage.audit import HEAD_FILE, AuditedWrites, HeadStore
from pygrid.storage.database_clock import choose_clock
from pygrid.storage.idempotency import AnswerStore
from pygrid.storage.installation import check_folder
from pygrid.storage.job_files import JobFiles
from pygrid.storage.ownership import DatabaseLock, FolderLock
from pygrid.storage.public_content import PublicContent
from pygrid.storage.sql.database import Database
from pygrid.storage.start import database_feature, start_record
from pygrid.storage.store import Store
from pygrid.transport import RetryPolicy
from pygrid.transport.certificates import server_context
from pygrid.transport.identity import IDENTITY_FILE, Identity
from pygrid.transport.pipes import RelayedConnections
from pygrid.web.addresses import ClientAddresses
from pygrid.web.app import build_app
from pygrid.web.blobs import DraftBlobs, ProcessBlobs, ServedModelBlobs, StateBlobs
from pygrid.web.health import Readiness
from pygrid.web.idempotency import Claims
from pygrid.web.identity import identity_routes
from pygrid.web.leadership import Leadership
from pygrid.web.sites import Site

if TYPE_CHECKING:
    from pygrid.storage.shared_signals import SharedSignals


@dataclass(frozen=True)
class DomainTimings:
    """Times that no operator sets."""

    participation: ParticipationTimings = field(default_factory=ParticipationTimings)
    engines: EngineTimings = field(default_factory=EngineTimings)


@dataclass(frozen=True)
class DomainContext(AppContext):
    """The objects that every feature uses."""

    settings: DomainSettings
    timings: DomainTimings
    identity: Identity
    database: Database
    store: Store
    writes: AuditedWrites
    answers: AnswerStore
    connectors: Connectors
    folder_lock: FolderLock
    signals: SharedSignals | None
    """Signals of all replicas; None: there is one process."""
    clock_tasks: tuple[BackgroundTask, ...]

    @classmethod
    def open(
        cls, settings: DomainSettings, timings: DomainTimings, clock: Clock | None, folder_lock: FolderLock | None
    ) -> DomainContext:
        """Raises InvalidConfig: another app uses the data folder, the identity file is damaged, the database URL is
        unusable, or the store of files does not fit. Then nothing stays open.
        """
        with contextlib.ExitStack() as undo:
            if folder_lock is None:
                folder_lock = FolderLock.acquire(settings.data_dir, settings.app)
                undo.callback(folder_lock.release)
            check_folder(settings.data_dir, settings.app)
            database = Database(settings.database_url)
            undo.callback(database.close)
            clock, clock_tasks = choose_clock(clock, database, is_replicated=settings.is_replicated)
            connectors, metrics = Connectors(), Metrics()
            public = PublicContent(connectors.announce_change)
            store, head_store, signals = _open_store(settings, database, public, clock, metrics)
            undo.callback(store.close)
            share = partial(share_identity, settings, database) if settings.is_replicated else None
            identity = Identity.load_or_make(settings.data_dir / IDENTITY_FILE, share)
            undo.pop_all()
        return cls(
            clock=clock,
            stopping=Stopping(),
            metrics=metrics,
            settings=settings,
            timings=timings,
            identity=identity,
            runner=TaskRunner(metrics),
            database=database,
            store=store,
            writes=AuditedWrites(database, settings.data_dir / HEAD_FILE, head_store, store.signals),
            answers=AnswerStore(database, clock),
            connectors=connectors,
            folder_lock=folder_lock,
            signals=signals,
            clock_tasks=clock_tasks,
        )


def _open_store(
    settings: DomainSettings, database: Database, public: PublicContent, clock: Clock, metrics: Metrics
) -> tuple[Store, HeadStore | None, SharedSignals | None]:
    """The store, and in a bucket also the place of the audit log's head, and the signals of all replicas."""
    if not settings.is_replicated:
        return Store.open(database, settings.data_dir, public, settings.num_replicas), None, None
    # Domains with their files in the data folder do not load this.
    from pygrid.storage.blobs.audit_object import HeadObject
    from pygrid.storage.blobs.remote_store import RemoteStore
    from pygrid.storage.shared_signals import SharedSignals

    remote = RemoteStore.open(settings, database, clock)
    signals = SharedSignals(database, settings.database_direct_url or settings.database_url, metrics.registry)
    store = Store.open_remote(database, settings.data_dir, public, remote, signals)
    return store, HeadObject(remote.objects), signals


def build_domain(
    settings: DomainSettings,
    *,
    timings: DomainTimings | None = None,
    clock: Clock | None = None,
    folder_lock: FolderLock | None = None,
) -> Litestar:
    """Return a Domain as an ASGI app; it opens its data folder when it starts and closes it when it stops.

    ``app.state.stopping``: set it to let long requests end.

    Args:
        folder_lock: lock of the data folder, if the caller holds it; the app releases it at its end.
    Raises:
        InvalidConfig: ``already_running``: another app uses the data folder; a secret key is needed and missing, the
            database URL is invalid, or the identity file is damaged.
    """
    settings = with_secret(settings)
    context = DomainContext.open(settings, timings or DomainTimings(), clock, folder_lock)
    store, writes = context.store, context.writes
    people = accounts.build(context, context.database, writes, settings)
    training = cycles.build(context, store, settings)
    serving = models.build(context.clock, store, settings)
    hosting = processes.build(context, store, writes, training.scheduler.watch, is_open=settings.legacy_open)
    wake_jobs = asyncio.Event()
    leases = Leases(LeaseRows(context.database, store.signals, context.clock))
    leased = LeasedDriver(wake_jobs, leases)
    engines = build_engines(
        settings.pools, settings.address, leases, context.database, context.clock, context.timings.engines
    )
    leader_lock = DatabaseLock(context.database) if settings.is_replicated else None
    files = _store_feature(context)
    features: list[Feature] = [
        _database_feature(context, leader_lock),
        files,
        _garbage_feature(context),
        people,
        training,
        training.upkeep,
        hosting,
        datasets.build(context.clock, store, writes, settings),
        *_jobs_features(context, leased, engines.pools, wake_jobs, training.scheduler.watch),
        workers.build(context, writes, leased, engines, store.signals, allow_weak_sandbox=settings.allow_weak_sandbox),
        serving,
        *_network_features(context),
        *_console_feature(context),
        legacy_feature(DomainServices(people.service, serving.service, training, hosting.published), settings),
        _web_feature(context),
        start_record(context, settings, writes),
    ]
    leadership = None if leader_lock is None else Leadership(leader_lock, context.runner, context.stopping)
    app = build_app(
        title=f"Domain {settings.id}",
        description="Hosts models and data; devices and data scientists train on them.",
        context=context,
        features=features if leadership is None else leadership.divide(features, (training, files)),
        authenticator=people.service,
        site=Site(settings.host_names, settings.address),
    )
    return app if leadership is None else leadership.gate(app)


def _console_feature(context: DomainContext) -> tuple[Feature, ...]:
    if not context.settings.admin:
        return ()
    from pygrid import ui  # templates and scripts take time to load

    settings = context.settings
    return (
        audit.build(context.database, settings.data_dir, Permission.TRIAGE_REQUESTS),
        ui.build(context, "domain", settings.id, str(context.identity.key)),
    )


def _web_feature(context: DomainContext) -> Feature:
    store = context.store
    return Feature(
        services=(
            context.identity,
            context.store.signals,
            context.writes,
            Claims(context.answers),
            Readiness(
                context.database.read,
                context.settings.data_dir,
                None if store.remote is None else store.remote.health.check,
            ),
            ProcessBlobs(store.blobs),
            StateBlobs(store.states),
            ServedModelBlobs(store.served),
            DraftBlobs(store.drafts),
            ClientAddresses(read_networks(context.settings.trusted_proxies)),
        ),
        routes=tuple(identity_routes()),
    )


def _store_feature(context: DomainContext) -> Feature:
    store = context.store

    async def wake_waiting() -> None:
        await context.stopping.wait()
        store.signals.notify_all()

    async def close() -> None:
        store.close()

    signaling = () if context.signals is None else context.signals.tasks()
    tasks = (BackgroundTask("wake-waiting", wake_waiting), *signaling, *context.clock_tasks)
    return Feature(services=(store,), tasks=tasks, close=close)


def _database_feature(context: DomainContext, leader_lock: DatabaseLock | None) -> Feature:
    locks = context.folder_lock, DEFAULT_ROLES
    return database_feature(context.settings, context.database, context.answers, *locks, leader_lock=leader_lock)


def _garbage_feature(context: DomainContext) -> Feature:
    remote = context.store.remote
    return Feature(tasks=() if remote is None else remote.tasks())


def _network_features(context: DomainContext) -> tuple[Feature, Feature]:
    """Build pipes, the public catalog and associations, which connect this Domain to Networks."""
    settings, store, relayed = context.settings, context.store, RelayedConnections()
    pipes = PipeServer(server_context(context.identity, settings.data_dir / IDENTITY_FILE), relayed)
    catalog = CatalogService(context.database, store.public)
    side = associations.make_side(
        store,
        settings,
        context.identity,
        lambda: context.runner.failing,
        lambda network_url: {**catalog.handlers(), **pipes.handlers(network_url)},
    )
    return (
        Feature(services=(catalog, relayed), close=pipes.close),
        associations.build(context, store, context.writes, settings, side, context.connectors),
    )


def _jobs_features(
    context: DomainContext,
    leased: LeasedDriver,
    engines: Sequence[Pool],
    wake: asyncio.Event,
    watch_cycle: Callable[[Cycle], None],
) -> tuple[Feature, Feature]:
    settings, store, timings = context.settings, context.store, context.timings.participation
    known = settings.data_dir / "known_domains.json"
    connections = CoordinatorConnections(
        context.database, settings.id, context.identity, known, context.clock, is_local=settings.is_loopback
    )

    def federate(files: JobFiles, notify: Callable[[str], None]) -> FederatedService:
        services = FederationServices(context.database, context.writes, files, context.clock, notify, timings)
        connect = _make_connect(connections, timings.connect_patience_s)
        return FederatedService(services, connect, connections.may_dial)

    pools = build_pools(
        LocalDriver(LocalLimits(2 * settings.num_workers, settings.allow_weak_sandbox)),
        leased,
        engines,
        num_workers=settings.num_workers,
        prefer_leased=settings.prefer_remote_workers,
        on_change=wake.set,
    )
    return (
        jobs.build(context, store, context.writes, pools, federate, wake, watch_cycle, settings),
        monitoring.build(context, context.database, pools, leased, settings.data_dir),
    )


def _make_connect(connections: CoordinatorConnections, patience_s: float) -> Connect:
    """Return a function that makes this Domain a client of a process at another Domain."""

    def connect(
        federation: FederationRequest,
        *,
        client_id: str | None,
        cache: ModelFiles,
        is_guarded: bool,
        sleep: Callable[[float], None],
    ) -> EdgeClient:
        return EdgeClient(
            federation.coordinator,
            federation.process,
            federation.version,
            auth_token=federation.auth_token or None,
            client_id=client_id,
            cache=cache,
            # A few Domains, not thousands of devices: they may retry soon.
            retries=RetryPolicy(max_delay_s=2.0, max_elapsed_s=patience_s),
            transport=connections.open(federation.coordinator, is_guarded=is_guarded),
            owns_transport=True,
            sleep=sleep,
        )

    return connect
