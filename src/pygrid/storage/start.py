"""Preparation of an app's database before the app starts."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

import pygrid
from pygrid.core.access import Role
from pygrid.lifecycle import AppContext, BackgroundTask, Feature
from pygrid.settings import AppSettings, DomainSettings
from pygrid.storage import audit
from pygrid.storage.accounts import has_first_owner, seed_roles
from pygrid.storage.app_state import check_no_store
from pygrid.storage.audit import NotifiedWrites
from pygrid.storage.idempotency import AnswerStore
from pygrid.storage.installation import check_folder, match_database, prepare_replica
from pygrid.storage.ownership import DatabaseLock, FolderLock
from pygrid.storage.sql.database import Database
from pygrid.storage.sql.migrations import migrate

ANSWER_SWEEP_S = 3600.0


def prepare_store(settings: AppSettings) -> bool:
    """Migrate the database before the app starts, so that its faults are reported in words.

    Returns whether an account exists. It does nothing that the start of the app would not do. The caller holds the lock
    of the data folder.

    Raises:
        InvalidConfig: its URL is not valid, or a later version of pygrid has used it. ``wrong_database``,
            ``wrong_data_dir``: database, folder and app do not belong together. Unavailable: it does not answer.
    """
    check_folder(settings.data_dir, settings.app)
    database = Database(settings.database_url)
    try:
        if isinstance(settings, DomainSettings) and settings.is_replicated:
            from pygrid.storage.blobs import remote_store  # most Domains have no store

            remote_store.prepare_remote(settings, database, remote_store.open_objects(settings))
        elif settings.is_replicated:
            prepare_replica(settings, database)
        else:
            prepare_files(settings, database)
        return database.read_now(has_first_owner)
    finally:
        database.close()


def prepare_files(settings: AppSettings, database: Database) -> None:
    """Migrate the database of an app with its files in the data folder, and match the two.

    Raises:
        InvalidConfig: ``wrong_store``: its files are in a store; ``wrong_database``.
    """
    migrate(database)
    database.read_now(check_no_store)
    match_database(database, settings.data_dir, settings.app)


def database_feature(
    settings: AppSettings,
    database: Database,
    answers: AnswerStore,
    folder_lock: FolderLock,
    roles: Sequence[Role],
    *,
    leader_lock: DatabaseLock | None = None,
) -> Feature:
    """The database of an app: migrated and locked at the start, closed at the end, with both locks.

    Args:
        roles: of a new app.
        leader_lock: the lock of the database, if the app has replicas; `pygrid.web.leadership` takes and keeps it.
    """
    lock = leader_lock or DatabaseLock(database)

    async def start() -> None:
        if not settings.is_replicated:
            await asyncio.to_thread(prepare_files, settings, database)
        if leader_lock is None:
            await asyncio.to_thread(lock.acquire)
        await database.write(lambda connection: seed_roles(connection, roles))

    async def close() -> None:
        await asyncio.to_thread(database.close)
        lock.release()
        folder_lock.release()

    return Feature(
        services=(settings, database, answers),
        tasks=(
            *(() if leader_lock is not None else (BackgroundTask("keep-database-lock", lock.keep),)),
            BackgroundTask.every(ANSWER_SWEEP_S, "remove-expired-answers", answers.remove_expired),
        ),
        start=start,
        close=close,
    )


def start_record(app: AppContext, settings: AppSettings, writes: NotifiedWrites) -> Feature:
    """Writes an entry ``app_started``, as the last step of a start."""
    return Feature(start=lambda: writes.write(lambda connection: record_start(connection, settings, app.clock.now())))


RECORDED = (
    *("host", "port", "address", "hosts", "network", "open_signup", "legacy_open", "publish", "open_relay"),
    *("allow_private_addresses", "allow_weak_sandbox", "prefer_remote_workers"),
)
"""Settings in the entry, if the app has them."""


def record_start(connection: sa.Connection, settings: AppSettings, now: dt.datetime) -> None:
    """Write an entry ``app_started`` of the audit log."""
    data: dict[str, Any] = {"app": settings.app, "version": pygrid.__version__}
    data |= {name: getattr(settings, name) for name in RECORDED if hasattr(settings, name)}
    audit.append(connection, "app_started", data, actor=None, now=now)
