"""What a Network is: the features it offers, the store it opens, the tasks it runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from litestar import Litestar

from pygrid.attempts import AttemptSketch
from pygrid.clock import Clock, SystemClock
from pygrid.core.access import NETWORK_ACCESS
from pygrid.features.accounts.routes import account_routes
from pygrid.features.accounts.service import AccountService
from pygrid.features.associations.network.direct_addresses import DirectAddresses
from pygrid.features.associations.network.handshake import Handshake, NetworkTerms
from pygrid.features.associations.network.registry import ConnectedDomains
from pygrid.features.associations.network.routes import network_routes
from pygrid.features.associations.network.service import DomainListeners, NetworkAssociations
from pygrid.features.discovery.fanout import Fanout
from pygrid.features.discovery.routes import SEARCH_WINDOW_S
from pygrid.features.discovery.routes import router as search_router
from pygrid.features.discovery.service import DiscoveryService
from pygrid.features.relay.network.pipes import Pipes, RelayLimits
from pygrid.features.relay.network.routes import relay_routes
from pygrid.features.relay.network.service import Relay
from pygrid.ids import hash_secret
from pygrid.legacy.node_routes import published_node_routes
from pygrid.legacy.node_search import WithLegacy
from pygrid.legacy.nodes import LegacyNodes
from pygrid.legacy.search_routes import router as published_router
from pygrid.lifecycle import AppContext, BackgroundTask, Stopping, TaskRunner
from pygrid.metrics import Metrics
from pygrid.settings import NetworkSettings, with_secret
from pygrid.storage.accounts import seed_roles
from pygrid.storage.idempotency import AnswerStore
from pygrid.storage.installation import check_folder, match_database
from pygrid.storage.ownership import DatabaseLock, FolderLock
from pygrid.storage.setup_code import find_setup_code
from pygrid.storage.sql.database import Database
from pygrid.storage.sql.migrations import migrate
from pygrid.storage.start import record_start
from pygrid.transport.identity import IDENTITY_FILE, Identity
from pygrid.transport.links import Links
from pygrid.web.app import build_app
from pygrid.web.health import Readiness
from pygrid.web.idempotency import Claims
from pygrid.web.identity import identity_routes
from pygrid.web.services import Services
from pygrid.web.sites import Site

SESSION_SWEEP_S = 3600.0
ANSWER_SWEEP_S = 3600.0
FAILURES_S = 60.0
NOTE_SEEN_S = 60.0
REQUEST_SWEEP_S = 3600.0


def build_network(
    settings: NetworkSettings, *, clock: Clock | None = None, folder_lock: FolderLock | None = None
) -> Litestar:
    """A Network as an ASGI app; it opens its data folder when it starts and closes it when it stops.

    ``app.state.stopping``: set it to let long requests end.

    Args:
        folder_lock: of the data folder, if the caller has taken it; the app releases it at its end.
    Raises:
        InvalidConfig: ``already_running``: another app uses the data folder; no secret key where one is
            needed, a damaged identity, or a database URL that is none.
    """
    settings = with_secret(settings)
    clock = clock or SystemClock()
    held = folder_lock or FolderLock.acquire(settings.data_dir, settings.app)
    check_folder(settings.data_dir, settings.app)
    identity = Identity.load_or_make(settings.data_dir / IDENTITY_FILE)
    context = AppContext(clock, Stopping(), Metrics())
    stopping, metrics = context.stopping, context.metrics
    database = Database(settings.database_url)
    kept_answers = AnswerStore(database, clock)
    accounts = AccountService(
        database,
        database,
        clock,
        open_signup=settings.open_signup,
        access=NETWORK_ACCESS,
        setup_code=find_setup_code(settings),
    )
    fleet = ConnectedDomains(Links(), clock, settings.heartbeat_s, metrics)
    invitation_hash = hash_secret(settings.invitation) if settings.invitation else None
    terms = NetworkTerms(settings.id, settings.heartbeat_s, invitation_hash)
    handshake = Handshake(database, identity, clock, metrics, terms)
    direct = DirectAddresses(database, fleet, clock, allow_private=settings.allow_private_addresses)
    pipes = Pipes(RelayLimits(), stopping, metrics)
    associations = NetworkAssociations(
        context, database, handshake, fleet, DomainListeners(direct.wake, pipes.disconnect)
    )
    relay = Relay(pipes, fleet, accounts, identity.key, clock, is_open=settings.open_relay)
    nodes = LegacyNodes(
        database,
        associations,
        clock,
        allow_private=settings.allow_private_addresses,
        is_open=settings.legacy_open,
    )
    searched = WithLegacy(fleet, allow_private=settings.allow_private_addresses)
    discovery = DiscoveryService(searched, settings.num_replicas, Fanout(metrics))

    database_lock = DatabaseLock(database)

    async def close_links() -> None:
        await stopping.wait()
        await associations.close()

    @asynccontextmanager
    async def opening() -> AsyncIterator[None]:
        try:
            await asyncio.to_thread(migrate, database)
            await asyncio.to_thread(match_database, database, settings.data_dir, settings.app)
            await asyncio.to_thread(database_lock.acquire)
            await database.write(lambda connection: seed_roles(connection, NETWORK_ACCESS.roles))
            await associations.load()
            await database.write(lambda connection: record_start(connection, settings, clock.now()))
            yield
            await accounts.failures.write_entry()
        finally:
            await discovery.close()
            await associations.close()
            await associations.note_seen()
            accounts.close()
            await asyncio.to_thread(database.close)
            database_lock.release()
            held.release()

    return build_app(
        title=f"Network {settings.id}",
        description="Connects Domains: they join, are watched, searched and reached here. No data passes in the clear.",
        routes=[
            *account_routes(with_groups=False),
            *identity_routes(),
            *network_routes,
            *published_node_routes,
            search_router,
            published_router,
            *relay_routes(),
        ],
        services=Services(
            settings,
            identity,
            database,
            kept_answers,
            Claims(kept_answers),
            Readiness(database.read, settings.data_dir),
            accounts,
            fleet,
            associations,
            direct,
            nodes,
            relay,
            discovery,
            AttemptSketch(clock, SEARCH_WINDOW_S),
        ),
        authenticator=accounts,
        tasks=[
            BackgroundTask("keep-database-lock", database_lock.keep),
            BackgroundTask("close-links", close_links),
            BackgroundTask("check-addresses", direct.run),
            BackgroundTask.every(NOTE_SEEN_S, "note-seen", associations.note_seen),
            BackgroundTask.every(REQUEST_SWEEP_S, "forget-stale-requests", associations.forget_stale),
            BackgroundTask.every(SESSION_SWEEP_S, "remove-expired-sessions", accounts.remove_expired_sessions),
            BackgroundTask.every(ANSWER_SWEEP_S, "remove-expired-answers", kept_answers.remove_expired),
            BackgroundTask.every(FAILURES_S, "record-failed-logins", accounts.failures.write_entry),
        ],
        runner=TaskRunner(metrics),
        opening=opening,
        stopping=stopping,
        metrics=metrics,
        site=Site(settings.host_names, settings.address),
    )
