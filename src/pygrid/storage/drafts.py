"""Draft processes: their table, and queries inside a transaction of the caller."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from pygrid import codes
from pygrid.errors import NotFound
from pygrid.storage.sql.metadata import UtcDateTime, insert, metadata

# Only the creator of a draft sees it. ``files`` names the files of the process.
drafts = sa.Table(
    "drafts",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    # Without a foreign key, as in the table of processes.
    sa.Column("created_by", sa.Integer, nullable=False, index=True),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("version", sa.String(200), nullable=False),
    sa.Column("client_config", sa.JSON, nullable=False),
    sa.Column("server_config", sa.JSON, nullable=False),
    sa.Column("notes", sa.JSON, nullable=False),
    # [[part of the form, hash, bytes], ...]; empty after the process is hosted.
    sa.Column("files", sa.JSON, nullable=False),
    sa.Column("process_id", sa.ForeignKey("processes.id"), nullable=True),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.UniqueConstraint("name", "version"),
    sqlite_autoincrement=True,
)


File = tuple[str, str, int]
"""Part of the form, SHA-256, bytes."""


@dataclass(frozen=True)
class DraftRow:
    """A draft of a process. After the process is hosted, ``process_id`` is set and there are no files."""

    id: int
    created_by: int
    name: str
    version: str
    client_config: dict[str, Any]
    server_config: dict[str, Any]
    notes: dict[str, Any]
    files: tuple[File, ...]
    process_id: int | None
    created_at: dt.datetime


_DRAFT = [drafts.c[field] for field in DraftRow.__dataclass_fields__]


def put_draft(connection: sa.Connection, **values: Any) -> DraftRow:
    """Add a draft; ``values`` are the fields of `DraftRow` except ``id`` and ``process_id``.

    Raises ``sqlalchemy.exc.IntegrityError`` if a draft has that name and version.
    """
    return DraftRow(id=insert(connection, drafts.insert().values(values)), process_id=None, **values)


def get_draft(connection: sa.Connection, draft_id: int, user_id: int) -> DraftRow:
    """A draft of a user. Raises NotFound: ``draft_not_found``: the user has no draft of this id."""
    where = (drafts.c.id == draft_id, drafts.c.created_by == user_id)
    row = connection.execute(sa.select(*_DRAFT).where(*where)).first()
    if row is None:
        raise NotFound(f"you have no draft {draft_id}", code=codes.DRAFT_NOT_FOUND, draft_id=draft_id)
    return _draft(row)


def list_drafts(
    connection: sa.Connection, user_id: int, *, name: str | None = None, version: str | None = None, limit: int = 1000
) -> list[DraftRow]:
    """The drafts of a user, newest first; only those of a name or version if given."""
    statement = sa.select(*_DRAFT).where(drafts.c.created_by == user_id).order_by(drafts.c.id.desc()).limit(limit)
    if name is not None:
        statement = statement.where(drafts.c.name == name)
    if version is not None:
        statement = statement.where(drafts.c.version == version)
    return [_draft(row) for row in connection.execute(statement)]


def find_reservation(connection: sa.Connection, name: str, version: str) -> int | None:
    """The id of the draft, not hosted, that reserves a name and version; or None."""
    where = (drafts.c.name == name, drafts.c.version == version, drafts.c.process_id.is_(None))
    return connection.execute(sa.select(drafts.c.id).where(*where)).scalar()


def count_waiting(connection: sa.Connection, user_id: int) -> int:
    """Number of a user's drafts that are not hosted."""
    where = (drafts.c.created_by == user_id, drafts.c.process_id.is_(None))
    return int(connection.execute(sa.select(sa.func.count()).where(*where)).scalar_one())


def set_notes(connection: sa.Connection, draft_id: int, notes: dict[str, Any]) -> None:
    connection.execute(drafts.update().where(drafts.c.id == draft_id).values(notes=notes))


def set_hosted(connection: sa.Connection, draft_id: int, process_id: int) -> None:
    """Mark a draft as hosted; removes its files from the row."""
    connection.execute(drafts.update().where(drafts.c.id == draft_id).values(process_id=process_id, files=[]))


def delete_draft(connection: sa.Connection, draft_id: int) -> None:
    connection.execute(drafts.delete().where(drafts.c.id == draft_id))


def delete_old(connection: sa.Connection, before: dt.datetime) -> None:
    """Delete the drafts that are not hosted and older than ``before``."""
    connection.execute(drafts.delete().where(drafts.c.created_at < before, drafts.c.process_id.is_(None)))


def list_files(connection: sa.Connection) -> set[str]:
    """Every file that a draft names."""
    return {digest for files in connection.execute(sa.select(drafts.c.files)).scalars() for _, digest, _ in files}


def _draft(row: sa.Row[Any]) -> DraftRow:
    fields = dict(row._mapping)
    fields["files"] = tuple(tuple(file) for file in fields["files"])
    return DraftRow(**fields)
