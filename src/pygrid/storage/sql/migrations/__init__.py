"""Migrations of a database to the present tables with Alembic; the steps are in ``versions/``.

Replicas of two versions share a database during an upgrade. So a step adds tables and columns with defaults, and a
later version removes what no code uses. A step that does more raises `MIN_REVISION`.
"""

from __future__ import annotations

import logging
from pathlib import Path

import sqlalchemy as sa

from pygrid import codes
from pygrid.errors import InvalidConfig, Unavailable
from pygrid.storage.app_state import find_state, put_state
from pygrid.storage.sql.database import Database

logger = logging.getLogger(__name__)

FOLDER = Path(__file__).parent
_LOCK = 0x70796772
"""Number of the PostgreSQL advisory lock under which one process migrates."""
MIN_REVISION = "0017"
"""Newest revision of the oldest pygrid that can use the tables of this one. A migration stores it."""
_MIN_REVISION_KEY = "min_revision"
_LOCK_TIMEOUT_S = 5
"""Seconds for which a step waits for a table of PostgreSQL; meanwhile all others wait for the step."""


def migrate(database: Database) -> str:
    """Migrate the tables to the newest revision, in one transaction; returns the revision that they have then.

    Tables of a later pygrid stay as they are, if this one can use them. Two processes may call it at the same time: one
    waits for the other. Blocks; call it in a thread.

    Raises:
        InvalidConfig: ``database_too_new``: a later pygrid has migrated it, and this one cannot use its tables.
        Unavailable: it does not answer, or one of its tables is in use for longer than 5 seconds.
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
    if present is not None and present > newest:
        oldest = database.read_now(lambda connection: find_state(connection, _MIN_REVISION_KEY))
        if oldest is not None and oldest.decode() <= newest:
            logger.warning("later version migrated the database", extra={"revision": present, "own_revision": newest})
            return present
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
        connection.execute(sa.text(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT_S}s'"))
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
    put_state(connection, _MIN_REVISION_KEY, MIN_REVISION.encode())
    logger.info("database migrated", extra={"from_revision": before, "to_revision": newest_revision()})
