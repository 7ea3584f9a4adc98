"""What a Network is: the features it offers, the store it opens, the tasks it runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from litestar import Litestar

from pygrid.clock import Clock, SystemClock
from pygrid.core.access import NETWORK_ACCESS
from pygrid.features.accounts.routes import account_routes
from pygrid.features.accounts.service import AccountService
from pygrid.metrics import Metrics
from pygrid.settings import NetworkSettings, make_data_dir, with_secret
from pygrid.storage.accounts import has_first_owner, seed_roles
from pygrid.storage.database import Database
from pygrid.storage.migrations import migrate
from pygrid.transport.identity import IDENTITY_FILE, Identity
from pygrid.web.app import build_app
from pygrid.web.identity import identity_routes
from pygrid.web.lifecycle import BackgroundTask, Stopping
from pygrid.web.links import Links

SESSION_SWEEP_S = 3600.0


def prepare_store(settings: NetworkSettings) -> bool:
    """Bring the database to the present tables, ahead of a start, so that what is wrong with it is told in words.

    Gives whether anybody has an account yet. Does nothing that `build_network` would not do.

    Raises:
        InvalidConfig: its URL is none, or a later pygrid has used it. Unavailable: it does not answer.
    """
    make_data_dir(settings.data_dir)
    database = Database(settings.database_url)
    try:
        migrate(database)
        return database.read_now(has_first_owner)
    finally:
        database.close()


def build_network(settings: NetworkSettings, *, clock: Clock | None = None) -> Litestar:
    """A Network as an ASGI app; it opens its data folder when it starts and closes it when it stops.

    ``app.state`` holds settings, clock, database, identity, links and services by name, and ``stopping``.

    Raises:
        InvalidConfig: no secret key where one is needed, a damaged identity, or a database URL that is none.
    """
    settings = with_secret(settings)
    clock = clock or SystemClock()
    make_data_dir(settings.data_dir)
    identity = Identity.load_or_make(settings.data_dir / IDENTITY_FILE)
    metrics = Metrics()
    stopping = Stopping()
    database = Database(settings.database_url)
    accounts = AccountService(database, clock, open_signup=settings.open_signup, access=NETWORK_ACCESS)
    links = Links()

    async def close_links() -> None:
        await stopping.wait()
        await links.close_all()

    @asynccontextmanager
    async def opening() -> AsyncIterator[None]:
        try:
            await asyncio.to_thread(migrate, database)
            await database.write(lambda connection: seed_roles(connection, NETWORK_ACCESS.roles))
            yield
        finally:
            await links.close_all()
            accounts.close()
            await asyncio.to_thread(database.close)

    return build_app(
        title=f"Network {settings.id}",
        description="Connects Domains: they join, are watched, searched and reached here. No data passes in the clear.",
        routes=[*account_routes(with_groups=False), *identity_routes()],
        services={
            "settings": settings,
            "clock": clock,
            "database": database,
            "accounts": accounts,
            "authenticator": accounts,
            "identity": identity,
            "links": links,
        },
        tasks=[
            BackgroundTask("close-links", close_links),
            BackgroundTask.every(SESSION_SWEEP_S, "remove-expired-sessions", accounts.remove_expired_sessions),
        ],
        opening=opening,
        stopping=stopping,
        metrics=metrics,
    )
