"""Where the records of a dataset came from, if a query of a database returned them."""

from __future__ import annotations

import msgspec

SYSTEMS = ("postgresql", "sqlite", "duckdb")
KEPT_OPTIONS = ("host", "port", "sslmode")
"""Options of the address of a database that are not secret."""


class SqlOrigin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A query, and the database that it was sent to. The Domain stores it and never runs it."""

    database: str
    """Address without user, password and other options than ``host``, ``port`` and ``sslmode``."""
    query: str
