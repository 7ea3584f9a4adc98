"""Composition of a Network: its features, its database, its background tasks."""

from __future__ import annotations

from functools import partial

from litestar import Litestar

from pygrid.clock import Clock
from pygrid.core.access import NETWORK_ACCESS, Permission
from pygrid.features import accounts, audit, discovery
from pygrid.features.associations import network as associations
from pygrid.features.relay.network.pipes import Pipes, RelayLimits
from pygrid.features.relay.network.routes import relay_routes
from pygrid.features.relay.network.service import Relay
from pygrid.legacy import network_feature as legacy_feature
from pygrid.legacy.node_search import WithLegacy
from pygrid.lifecycle import AppContext, Feature, Stopping, TaskRunner
from pygrid.metrics import Metrics
from pygrid.settings import NetworkSettings, read_networks, with_secret
from pygrid.storage.app_state import share_identity
from pygrid.storage.audit import NotifiedWrites
from pygrid.storage.database_clock import choose_clock
from pygrid.storage.idempotency import AnswerStore
from pygrid.storage.installation import check_folder, prepare_replica
from pygrid.storage.ownership import DatabaseLock, FolderLock
from pygrid.storage.signals import LocalSignals
from pygrid.storage.sql.database import Database
from pygrid.storage.start import database_feature, start_record
from pygrid.transport.identity import IDENTITY_FILE, Identity
from pygrid.web.addresses import ClientAddresses
from pygrid.web.app import build_app
from pygrid.web.health import Readiness
from pygrid.web.idempotency import Claims
from pygrid.web.identity import identity_routes
from pygrid.web.leadership import Leadership
from pygrid.web.sites import Site


def build_network(
    settings: NetworkSettings, *, clock: Clock | None = None, folder_lock: FolderLock | None = None
) -> Litestar:
    """Return a Network as an ASGI app; it opens its data folder when it starts and closes it when it stops.

    ``app.state.stopping``: set it to let long requests end.

    Args:
        folder_lock: lock of the data folder, if the caller holds it; the app releases it at its end.
    Raises:
        InvalidConfig: ``already_running``: another app uses the data folder; a secret key is needed and missing, the
            database URL is invalid, or the identity file is damaged.
    """
    settings = with_secret(settings)
    folder_lock = folder_lock or FolderLock.acquire(settings.data_dir, settings.app)
    check_folder(settings.data_dir, settings.app)
    database = Database(settings.database_url)
    identity = _open_identity(settings, database)
    app, clock_feature = _make_context(settings, database, clock)
    leader_lock = DatabaseLock(database) if settings.is_replicated else None
    answers = AnswerStore(database, app.clock)
    signals = LocalSignals()
    writes = NotifiedWrites(database, signals)
    people = accounts.build(app, database, writes, settings, NETWORK_ACCESS)
    pipes = Pipes(RelayLimits(), app.stopping, app.metrics)
    members = associations.build(app, database, settings, identity, pipes.disconnect, signals)
    domains = members.service.domains
    relay = Relay(pipes, domains, people.service, identity.key, app.clock, is_open=settings.open_relay)
    searched = WithLegacy(domains, allow_private=settings.allow_private_addresses)
    features: list[Feature] = [
        database_feature(settings, database, answers, folder_lock, NETWORK_ACCESS.roles, leader_lock=leader_lock),
        people,
        members,
        *_console_feature(app, settings, identity, database),
        legacy_feature(database, people.service, members.service, app.clock, settings),
        discovery.build(app, searched, settings.num_replicas),
        Feature(services=(relay,), routes=tuple(relay_routes())),
        Feature(
            services=(
                identity,
                signals,
                Claims(answers),
                Readiness(database.read, settings.data_dir),
                ClientAddresses(read_networks(settings.trusted_proxies)),
            ),
            routes=tuple(identity_routes()),
        ),
        clock_feature,
        start_record(app, settings, writes),
    ]
    leadership = None if leader_lock is None else Leadership(leader_lock, app.runner, app.stopping)
    built = build_app(
        title=f"Network {settings.id}",
        description="Connects Domains: they join, are watched, searched and reached here. No data passes in the clear.",
        context=app,
        features=features if leadership is None else leadership.divide(features, (clock_feature,)),
        authenticator=people.service,
        site=Site(settings.host_names, settings.address),
    )
    return built if leadership is None else leadership.gate(built)


def _make_context(settings: NetworkSettings, database: Database, clock: Clock | None) -> tuple[AppContext, Feature]:
    """What every part uses, and what keeps its clock right."""
    clock, tasks = choose_clock(clock, database, is_replicated=settings.is_replicated)
    metrics = Metrics()
    return AppContext(clock, Stopping(), metrics, TaskRunner(metrics)), Feature(tasks=tasks)


def _open_identity(settings: NetworkSettings, database: Database) -> Identity:
    """The identity of the Network; replicas share one. Raises InvalidConfig: as `prepare_replica`."""
    path = settings.data_dir / IDENTITY_FILE
    if not settings.is_replicated:
        return Identity.load_or_make(path)
    prepare_replica(settings, database)
    return Identity.load_or_make(path, partial(share_identity, settings, database))


def _console_feature(
    app: AppContext, settings: NetworkSettings, identity: Identity, database: Database
) -> tuple[Feature, ...]:
    if not settings.admin:
        return ()
    from pygrid import ui  # templates and scripts take time to load

    return (
        audit.build(database, settings.data_dir, Permission.EDIT_SETTINGS),
        ui.build(app, "network", settings.id, str(identity.key)),
    )
