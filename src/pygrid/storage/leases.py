"""The time with which leases are compared.

On PostgreSQL it is that of the database, because the clocks of replicas differ. SQLite has one process, so there it is
the clock of the app.
"""

from __future__ import annotations

import datetime as dt

import sqlalchemy as sa

_CLOCK = sa.text("SELECT clock_timestamp()")


def lease_time(connection: sa.Connection, now: dt.datetime) -> dt.datetime:
    """The present time for leases.

    Args:
        now: the clock of the app.
    """
    if connection.dialect.name == "sqlite":
        return now
    found: dt.datetime = connection.execute(_CLOCK).scalar_one()
    return found.astimezone(dt.UTC)
