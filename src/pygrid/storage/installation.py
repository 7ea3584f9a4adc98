"""A data folder and its database share an id, so that neither is used with another one by mistake.

folder     database      at a start
------     --------      ----------
no id      no id         both get a new id: they are new, or of version 0.1
id         the same id   accepted
id         no id         refused, unless the id in the folder is marked as pending
no id      id            refused
id         another id    refused
"""

from __future__ import annotations

import datetime as dt
import uuid
from pathlib import Path

import msgspec
import sqlalchemy as sa

from pygrid import codes
from pygrid.durable import write_atomically
from pygrid.errors import InvalidConfig
from pygrid.settings import AppSettings
from pygrid.storage.app_state import restore_identity
from pygrid.storage.sql.database import Database
from pygrid.storage.sql.metadata import UtcDateTime, metadata
from pygrid.storage.sql.migrations import migrate

installation = sa.Table(
    "installation",
    metadata,
    # One row, with the id that the data folder has too. No row before the first start of a version that writes it.
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("instance_id", sa.String(32), nullable=False),
    sa.Column("app", sa.String(16), nullable=False),
    # Counts the owners of the database. A write of a former owner is refused.
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.CheckConstraint("id = 1", name="one_row"),
)


FILE = "installation.json"
_DATABASES = {"domain": "domain.db", "network": "network.db"}
_BYTES = ("blobs", "diffs", "datasets", "served-models", "jobs/results")
"""Folders whose files belong to rows in the database of a Domain."""


class FolderId(msgspec.Struct, frozen=True):
    """Content of ``installation.json``."""

    id: str
    app: str
    is_pending: bool = False
    """Whether the id may still be missing in the database."""


def check_folder(folder: Path, app: str) -> None:
    """Refuse the data folder of an app of another kind, before anything is written to it.

    Raises:
        InvalidConfig: ``wrong_data_dir``; ``invalid_data_dir``: its id cannot be read.
    """
    found = _read(folder)
    other = next(name for name in _DATABASES if name != app)
    is_other = (folder / _DATABASES[other]).exists() and not (folder / _DATABASES[app]).exists()
    if (found is not None and found.app != app) or (found is None and is_other):
        raise InvalidConfig(
            f"the data folder {folder} belongs to a {other.capitalize()}, and this is a {app.capitalize()}: "
            "choose another folder (--data-dir)",
            code=codes.WRONG_DATA_DIR,
        )


def match_database(database: Database, folder: Path, app: str, *, is_disposable: bool = False) -> str:
    """The id that a data folder and its database share; new ones get one here. The caller owns the folder.

    Args:
        is_disposable: no file that is needed is in the folder, so one without an id of its own belongs to any database.
    Raises:
        InvalidConfig: ``wrong_database``: they do not belong together; nothing was changed.
    """
    ours = _read(folder)
    theirs = database.read_now(find_installation)
    if is_disposable and theirs is not None and (ours is None or ours.is_pending):
        ours = FolderId(theirs, app)
        _write(folder, ours)
    if theirs is not None and (ours is None or ours.id != theirs):
        raise _wrong(database, folder, f"belongs to another data folder (its id is {theirs})")
    if theirs is None and ours is not None and not ours.is_pending:
        raise _wrong(database, folder, f"has no id, but the folder belongs to a database with the id {ours.id}")
    if theirs is None and ours is None and not is_disposable and _has_bytes(folder) and database.read_now(is_empty):
        raise _wrong(database, folder, "is empty, and the folder holds models or data")
    known = ours or FolderId(uuid.uuid4().hex, app, is_pending=True)
    if ours is None:
        _write(folder, known)
    if theirs is None:
        try:
            database.write_now(lambda connection: _put(connection, known))
        except sa.exc.IntegrityError:
            if not is_disposable:
                raise
            # Another replica was quicker with a new database.
            return match_database(database, folder, app, is_disposable=True)
    if known.is_pending:
        _write(folder, msgspec.structs.replace(known, is_pending=False))
    return known.id


def prepare_replica(settings: AppSettings, database: Database) -> None:
    """Migrate the database of an app with replicas, and bring what they share to this data folder, which can be empty.

    A second call changes nothing.

    Raises:
        InvalidConfig: ``wrong_database``, ``identity_damaged``.
    """
    migrate(database)
    match_database(database, settings.data_dir, settings.app, is_disposable=True)
    restore_identity(settings, database)


def find_installation(connection: sa.Connection) -> str | None:
    """The id of a database, which its data folder or its store shares; None: it has none."""
    found: str | None = connection.execute(sa.select(installation.c.instance_id)).scalar()
    return found


def _put(connection: sa.Connection, known: FolderId) -> None:
    values = {"id": 1, "instance_id": known.id, "app": known.app, "epoch": 0, "created_at": dt.datetime.now(dt.UTC)}
    connection.execute(installation.insert().values(values))


def is_empty(connection: sa.Connection) -> bool:
    """Whether the database has no row that files could belong to."""
    from pygrid.storage.datasets import datasets
    from pygrid.storage.drafts import drafts
    from pygrid.storage.models import served_models
    from pygrid.storage.processes import processes

    tables = (processes, drafts, datasets, served_models)
    return not any(connection.execute(sa.select(sa.literal(1)).select_from(table).limit(1)).first() for table in tables)


def _has_bytes(folder: Path) -> bool:
    places = (folder / name for name in _BYTES)
    return any(
        not path.name.startswith(".") and not path.name.startswith("copy-")
        for p in places
        if p.is_dir()
        for path in p.iterdir()
    )


def _read(folder: Path) -> FolderId | None:
    try:
        return msgspec.json.decode((folder / FILE).read_bytes(), type=FolderId)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise InvalidConfig(
            f"{folder / FILE} cannot be read ({error}): restore it from a backup of this folder",
            code=codes.INVALID_DATA_DIR,
        ) from error


def _write(folder: Path, known: FolderId) -> None:
    write_atomically(folder / FILE, msgspec.json.encode(known) + b"\n")


def _wrong(database: Database, folder: Path, why: str) -> InvalidConfig:
    shown = database.url.render_as_string(hide_password=True)
    return InvalidConfig(
        f"the database {shown} {why}; the data folder is {folder}. Set DATABASE_URL (--database-url) and the folder "
        "(--data-dir) as at the last start; docs/how-to/backup.md describes how to join a restored pair",
        code=codes.WRONG_DATABASE,
    )
