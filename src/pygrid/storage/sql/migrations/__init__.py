"""Migrations of a database to the present tables with Alembic; the steps are in ``versions/``."""

from __future__ import annotations

import logging
from pathlib import Path

import sqlalchemy as sa

from pygrid import codes
from pygrid.errors import InvalidConfig, Unavailable
from pygrid.storage.sql.database import Database

logger = logging.getLogger(__name__)

FOLDER = Path(__file__).parent
_LOCK = 0x70796772
"""Number of the PostgreSQL advisory lock under which one process migrates."""


def migrate(database: Database) -> str:
    """Migrate the tables to the newest revision, in one transaction; returns that revision.

    Two processes may call it at the same time: one waits for the other. Blocks; call it in a thread.

    Raises:
        InvalidConfig: ``database_too_new``: a later pygrid has migrated it. Unavailable: it does not answer.
    """
    newest = newest_revision()
    try:
        present = database.read_now(_present_revision)
    except Unavailable as error:
        shown = database.url.render_as_string(hide_password=True)
        reason = getattr(error.__cause__, "orig", error)
        raise Unavailable(f"the database {shown} cannot be used: {reason}", code=error.code) from error
    if present == newest:
        return newest
    database.write_apart(_upgrade)
    return newest


def newest_revision() -> str:
    """The revision of this pygrid: the number of the last file in ``versions/``."""
    return max(path.name.split("_", 1)[0] for path in (FOLDER / "versions").glob("[0-9]*.py"))


def _present_revision(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
    return revision


def _upgrade(connection: sa.Connection) -> None:
    # Loaded only if needed: it takes longer than the rest of a start.
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    before = _present_revision(connection)
    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise InvalidConfig(
            f"the database has revision {before}, which this pygrid does not know: was it used by a later version? "
            "Install that version, or set another DATABASE_URL",
            code=codes.DATABASE_TOO_NEW,
            revision=before,
        ) from error
    logger.info("database migrated", extra={"from_revision": before, "to_revision": newest_revision()})
