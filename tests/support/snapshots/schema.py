"""Recordings of the database: the statements that make its tables, for each kind of database."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.schema import CreateIndex, CreateTable

import pygrid.storage.tables  # noqa: F401 - adds its tables to the metadata
from pygrid.storage.sql.metadata import metadata


def sqlite_schema() -> str:
    """The tables of a SQLite database."""
    return _statements(sqlite.dialect())


def postgresql_schema() -> str:
    """The tables of a PostgreSQL database."""
    return _statements(postgresql.dialect())  # type: ignore[no-untyped-call]


def _statements(dialect: sa.Dialect) -> str:
    """Each table and its indexes, by name. Columns and constraints stay in the order of the table."""
    found: list[str] = []
    for table in sorted(metadata.tables.values(), key=lambda table: table.name):
        found.append(str(CreateTable(table).compile(dialect=dialect)))
        indexes = sorted(table.indexes, key=lambda index: str(index.name))
        found += [str(CreateIndex(index).compile(dialect=dialect)) for index in indexes]
    texts = ("\n".join(line.rstrip() for line in text.strip().splitlines()) for text in found)
    return "".join(f"{text};\n\n" for text in texts).rstrip("\n") + "\n"
