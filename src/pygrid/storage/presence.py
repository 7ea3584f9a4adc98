"""Clients that wait at each replica for a cycle to open: their table, and queries inside a transaction of the caller.

cycles 1--n presence
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection
from hashlib import blake2b

import sqlalchemy as sa

from pygrid.core.cycles import CycleState
from pygrid.storage.cycles import get_cycle
from pygrid.storage.sql.database import instance_of
from pygrid.storage.sql.metadata import UtcDateTime, metadata

presence = sa.Table(
    "presence",
    metadata,
    sa.Column("cycle_id", sa.ForeignKey("cycles.id", ondelete="CASCADE"), primary_key=True, autoincrement=False),
    # The process at which the clients wait.
    sa.Column("instance", sa.String(32), primary_key=True),
    # A mark of `MARK_BYTES` for each client.
    sa.Column("marks", sa.LargeBinary, nullable=False),
    # The row counts until this time. A process that has ended does not delete its rows.
    sa.Column("until", UtcDateTime, nullable=False),
)

MARK_BYTES = 8


def mark_of(client_id: str) -> bytes:
    """Return what stands for a client in a row: the same at each replica, so a client that changes counts once."""
    return blake2b(client_id.encode(errors="surrogatepass"), digest_size=MARK_BYTES).digest()


def exchange(
    connection: sa.Connection, cycle_id: int, marks: Collection[bytes], now: dt.datetime, until: dt.datetime
) -> set[bytes] | None:
    """Store the marks of the clients that wait here, and return those of the clients that wait anywhere.

    The transaction is serializable, so of two replicas one sees what the other one has stored.

    Returns:
        None: the cycle does not wait any longer.
    """
    if get_cycle(connection, cycle_id).state is not CycleState.HOSTED:
        return None
    own = presence.c.instance == instance_of(connection)
    connection.execute(presence.delete().where(presence.c.cycle_id == cycle_id, own))
    if marks:
        values = {"cycle_id": cycle_id, "instance": instance_of(connection), "until": until}
        connection.execute(presence.insert().values(**values, marks=b"".join(marks)))
    others = sa.select(presence.c.marks).where(presence.c.cycle_id == cycle_id, ~own, presence.c.until > now)
    found = set(marks)
    for packed in connection.execute(others).scalars():
        found.update(packed[start : start + MARK_BYTES] for start in range(0, len(packed), MARK_BYTES))
    return found


def delete_presence(connection: sa.Connection, cycle_id: int) -> None:
    """Delete the rows of a cycle, in the transaction that opens it."""
    connection.execute(presence.delete().where(presence.c.cycle_id == cycle_id))
