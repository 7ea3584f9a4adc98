"""What a Domain is: the features it offers, the store it opens, the tasks it runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from litestar import Litestar

import pygrid
from pygrid.clock import Clock, SystemClock
from pygrid.compute.driver import LocalLimits
from pygrid.compute.inference import InferenceLimits, InferenceWorkers
from pygrid.compute.leased import LeasedDriver
from pygrid.compute.local import LocalDriver
from pygrid.compute.pools import Pools, build_pools
from pygrid.core.datasets import DatasetLimits
from pygrid.edge import EdgeClient
from pygrid.features.accounts.routes import account_routes
from pygrid.features.accounts.service import AccountService
from pygrid.features.associations.domain.connector import Connectors, DomainSide
from pygrid.features.associations.domain.routes import association_routes
from pygrid.features.associations.domain.service import DomainAssociations, DomainTerms, HeartbeatSource
from pygrid.features.catalog.service import CatalogService
from pygrid.features.cycles import build_cycles
from pygrid.features.cycles.quotas import DeviceLimits, DeviceQuotas
from pygrid.features.cycles.routes import DEVICE_PATHS
from pygrid.features.cycles.routes import router as cycles_router
from pygrid.features.datasets.routes import router as datasets_router
from pygrid.features.datasets.service import DatasetsService
from pygrid.features.jobs import Jobs, build_jobs
from pygrid.features.jobs.federated import Connect, FederatedService, FederationServices, ModelFiles, Ways
from pygrid.features.jobs.routes import router as jobs_router
from pygrid.features.jobs.running.maintenance import EVERY_S as UPKEEP_S
from pygrid.features.jobs.running.spec_builder import RunLimits
from pygrid.features.models.routes import model_routes
from pygrid.features.models.service import ModelsService
from pygrid.features.processes import build_processes
from pygrid.features.processes.draft_routes import router as drafts_router
from pygrid.features.processes.routes import router as processes_router
from pygrid.features.relay.domain import PipeServer
from pygrid.features.workers.routes import router as workers_router
from pygrid.features.workers.service import WorkersService
from pygrid.legacy.accounts import account_messages
from pygrid.legacy.association_requests import association_request_routes
from pygrid.legacy.models import model_messages
from pygrid.legacy.tag_search import router as tag_search_router
from pygrid.legacy.websocket import Published, converse, domain_messages
from pygrid.lifecycle import AppContext, BackgroundTask, Stopping, TaskRunner
from pygrid.messages.associations import Entry
from pygrid.messages.jobs import FederationRequest
from pygrid.metrics import Metrics
from pygrid.settings import DomainSettings, read_networks, with_secret
from pygrid.storage.accounts import seed_roles
from pygrid.storage.audit import AuditedWrites
from pygrid.storage.idempotency import AnswerStore
from pygrid.storage.installation import check_folder, match_database
from pygrid.storage.job_files import JobFiles
from pygrid.storage.ownership import DatabaseLock, FolderLock
from pygrid.storage.public_content import PublicContent
from pygrid.storage.setup_code import find_setup_code
from pygrid.storage.sql.database import Database
from pygrid.storage.sql.migrations import migrate
from pygrid.storage.start import record_start
from pygrid.storage.store import Store
from pygrid.transport import RetryPolicy
from pygrid.transport.certificates import server_context
from pygrid.transport.identity import IDENTITY_FILE, Identity
from pygrid.transport.pipes import RelayedConnections
from pygrid.web.addresses import ClientAddresses
from pygrid.web.app import build_app
from pygrid.web.blobs import DraftBlobs, ProcessBlobs, ServedModelBlobs
from pygrid.web.health import Readiness
from pygrid.web.idempotency import Claims
from pygrid.web.identity import identity_routes
from pygrid.web.services import Services
from pygrid.web.sites import Site

SESSION_SWEEP_S = 3600.0
ANSWER_SWEEP_S = 3600.0
FAILURES_S = 60.0
CLIENT_SWEEP_S = 3600.0
COORDINATOR_PATIENCE_S = 30.0
"""A coordinator that can't be reached is tried for so long before a job says so; then it is tried again."""


ROUTES = [
    *identity_routes(),
    *account_routes(),
    processes_router,
    drafts_router,
    cycles_router,
    datasets_router,
    jobs_router,
    workers_router,
    *model_routes,
    *association_routes,
    *association_request_routes,
    tag_search_router,
    converse,
]


@dataclass(frozen=True)
class DomainContext(AppContext):
    """What every feature uses."""

    settings: DomainSettings
    identity: Identity
    runner: TaskRunner
    database: Database
    store: Store
    connectors: Connectors
    folder_lock: FolderLock

    @classmethod
    def open(cls, settings: DomainSettings, clock: Clock, folder_lock: FolderLock | None) -> DomainContext:
        """Raises InvalidConfig: another app uses the data folder, the identity file is damaged, or the database URL is
        unusable.
        """
        folder_lock = folder_lock or FolderLock.acquire(settings.data_dir, settings.app)
        check_folder(settings.data_dir, settings.app)
        identity = Identity.load_or_make(settings.data_dir / IDENTITY_FILE)
        database = Database(settings.database_url)
        connectors = Connectors()
        public = PublicContent(connectors.tell_change)
        store = Store.open(database, settings.data_dir, public, settings.num_replicas)
        metrics = Metrics()
        return cls(
            clock=clock,
            stopping=Stopping(),
            metrics=metrics,
            settings=settings,
            identity=identity,
            runner=TaskRunner(metrics),
            database=database,
            store=store,
            connectors=connectors,
            folder_lock=folder_lock,
        )


def build_domain(
    settings: DomainSettings, *, clock: Clock | None = None, folder_lock: FolderLock | None = None
) -> Litestar:
    """A Domain as an ASGI app; it opens its data folder when it starts and closes it when it stops.

    ``app.state.stopping``: set it to let long requests end.

    Args:
        folder_lock: of the data folder, if the caller has taken it; the app releases it at its end.
    Raises:
        InvalidConfig: ``already_running``: another app uses the data folder; no secret key where one is
            needed, a database URL that is none, or a damaged identity file.
    """
    settings = with_secret(settings)
    ground = DomainContext.open(settings, clock or SystemClock(), folder_lock)
    clock, database, store, stopping, metrics = (
        ground.clock,
        ground.database,
        ground.store,
        ground.stopping,
        ground.metrics,
    )

    kept_answers = AnswerStore(database, clock)
    quotas = DeviceQuotas(_device_limits(settings), clock, settings.secret_key)
    cycles = build_cycles(store, clock, stopping, metrics, quotas, allow_private=settings.allow_private_addresses)
    wake_jobs = asyncio.Event()
    leased = LeasedDriver(wake_jobs)
    pools = build_pools(
        LocalDriver(LocalLimits(2 * settings.num_workers, settings.allow_weak_sandbox)),
        leased,
        num_workers=settings.num_workers,
        prefer_leased=settings.prefer_remote_workers,
        on_change=wake_jobs.set,
    )
    jobs = _build_jobs(ground, pools, wake_jobs)
    processes = build_processes(ground, store, jobs.writes, cycles.scheduler.watch, is_open=settings.legacy_open)
    datasets = DatasetsService(database, store.columns, clock, _dataset_limits(settings), store.public, jobs.writes)
    accounts = AccountService(
        database, jobs.writes, clock, open_signup=settings.open_signup, setup_code=find_setup_code(settings)
    )
    workers = WorkersService(database, jobs.writes, leased, clock, stopping, settings.allow_weak_sandbox)
    inference = InferenceWorkers(
        InferenceLimits(settings.inference_models, wall_s=settings.inference_wall_s, idle_s=settings.inference_idle_s),
        allow_weak_sandbox=settings.allow_weak_sandbox,
    )
    models = ModelsService(store, inference, clock, max_request_bytes=settings.inference_questions_mb * 1024**2)
    relayed = RelayedConnections()
    pipes = PipeServer(server_context(ground.identity, settings.data_dir / IDENTITY_FILE), relayed)
    catalog = CatalogService(database, store.public)
    associations = _build_associations(ground, jobs.writes, catalog, pipes)

    database_lock = DatabaseLock(database)

    async def wake_waiting() -> None:
        await stopping.wait()
        store.signals.notify_all()

    @asynccontextmanager
    async def opening() -> AsyncIterator[None]:
        try:
            await asyncio.to_thread(migrate, database)
            await asyncio.to_thread(match_database, database, settings.data_dir, settings.app)
            await asyncio.to_thread(database_lock.acquire)
            await database.write(seed_roles)
            await cycles.scheduler.recover()
            await processes.drafts.recover()
            await datasets.recover()
            await jobs.scheduler.recover()
            await models.recover()
            await associations.recover()
            await jobs.writes.write(lambda connection: record_start(connection, settings, clock.now()))
            yield
            await accounts.failures.write_entry()
        finally:
            await pipes.close()
            await inference.close()
            await pools.close()
            jobs.federation.close()
            accounts.close()
            cycles.close()
            store.close()
            await asyncio.to_thread(database.close)
            database_lock.release()
            ground.folder_lock.release()

    messages = {**domain_messages(settings.id), **account_messages(accounts, settings.id), **model_messages(models)}
    return build_app(
        title=f"Domain {settings.id}",
        description="Hosts models and data; devices and data scientists train on them.",
        routes=ROUTES,
        services=Services(
            settings,
            ground.identity,
            database,
            kept_answers,
            Claims(kept_answers),
            Readiness(database.read, settings.data_dir),
            store,
            ProcessBlobs(store.blobs),
            ServedModelBlobs(store.served),
            DraftBlobs(store.drafts),
            accounts,
            processes.service,
            processes.drafts,
            cycles.service,
            cycles.membership,
            cycles.scheduler,
            ClientAddresses(read_networks(settings.trusted_proxies)),
            datasets,
            jobs.service,
            jobs.policies,
            jobs.upkeep,
            workers,
            models,
            Published(messages),
            catalog,
            associations,
            relayed,
        ),
        authenticator=accounts,
        tasks=[
            BackgroundTask("keep-database-lock", database_lock.keep),
            BackgroundTask("run-cycles", cycles.scheduler.run),
            BackgroundTask("run-jobs", jobs.scheduler.run),
            BackgroundTask.every(UPKEEP_S, "look-after-jobs", jobs.upkeep.run_once),
            BackgroundTask("keep-associations", associations.run),
            BackgroundTask("wake-waiting", wake_waiting),
            BackgroundTask.every(CLIENT_SWEEP_S, "remove-unused-clients", cycles.membership.remove_unused),
            BackgroundTask.every(SESSION_SWEEP_S, "remove-expired-sessions", accounts.remove_expired_sessions),
            BackgroundTask.every(ANSWER_SWEEP_S, "remove-expired-answers", kept_answers.remove_expired),
            BackgroundTask.every(FAILURES_S, "record-failed-logins", accounts.failures.write_entry),
        ],
        runner=ground.runner,
        opening=opening,
        stopping=stopping,
        metrics=metrics,
        site=Site(settings.host_names, settings.address),
        cors_open_paths=DEVICE_PATHS,
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


def _dataset_limits(settings: DomainSettings) -> DatasetLimits:
    return DatasetLimits.from_mb(
        max_upload_mb=settings.max_upload_mb,
        max_datasets_mb=settings.max_datasets_mb,
        max_columns=settings.max_columns,
        min_free_mb=settings.min_free_mb,
    )


def _build_jobs(ground: DomainContext, pools: Pools, wake: asyncio.Event) -> Jobs:
    settings = ground.settings

    def federate(writes: AuditedWrites, files: JobFiles, notify: Callable[[str], None]) -> FederatedService:
        known = settings.data_dir / "known_domains.json"
        ways = Ways(ground.database, settings.id, ground.identity, known, ground.clock, is_local=settings.is_loopback)
        services = FederationServices(ground.database, writes, files, ground.clock, notify)
        return FederatedService(services, _make_connect(ways), ways.may_dial)

    return build_jobs(
        ground.store,
        settings.data_dir,
        pools,
        ground.clock,
        ground.stopping,
        ground.metrics,
        federate,
        wake,
        limits=RunLimits(
            memory_bytes=settings.job_memory_mb * 1024**2,
            wall_s=settings.job_wall_s,
            max_answers_bytes=settings.job_answers_mb * 1024**2,
            max_federated=settings.federated_jobs_per_user,
        ),
        keep_results_days=settings.keep_results_days,
    )


def _build_associations(
    ground: DomainContext, writes: AuditedWrites, catalog: CatalogService, pipes: PipeServer
) -> DomainAssociations:
    settings = ground.settings
    domain = DomainSide(
        ground.identity,
        Entry(settings.id, pygrid.__version__, settings.address or None),
        HeartbeatSource(
            ground.database, settings.published_counts, lambda: catalog.version, lambda: ground.runner.failing
        ),
        lambda network_url: {**catalog.handlers(), **pipes.handlers(network_url)},
    )
    terms = DomainTerms(
        settings.network,
        settings.invitation,
        only_loopback=settings.is_loopback and (settings.open_signup or settings.legacy_open),
    )
    return DomainAssociations(ground, ground.database, writes, terms, domain, ground.connectors)


def _make_connect(ways: Ways) -> Connect:
    """This Domain as a client of processes at other ones."""

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
            # A handful of Domains, not thousands of devices: they may come back soon.
            retries=RetryPolicy(max_delay_s=2.0, max_elapsed_s=COORDINATOR_PATIENCE_S),
            transport=ways.open(federation.coordinator, is_guarded=is_guarded),
            owns_transport=True,
            sleep=sleep,
        )

    return connect
