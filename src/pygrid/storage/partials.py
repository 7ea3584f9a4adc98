"""Partial sums of cycles that are not completed: their table, and queries inside a transaction of the caller.

    cycles 1--n partials

The table has no values: these are in an object of the bucket.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from pygrid.storage.sql.metadata import metadata

partials = sa.Table(
    "partials",
    metadata,
    sa.Column("cycle_id", sa.ForeignKey("cycles.id", ondelete="CASCADE"), primary_key=True, autoincrement=False),
    # The process that accepted the reports in it.
    sa.Column("instance", sa.String(32), primary_key=True),
    sa.Column("key", sa.String(200), nullable=False),
    # Length and CRC-32 of the object, in hex.
    sa.Column("fingerprint", sa.String(64), nullable=False),
    # `pygrid.aggregation.stored.pack` of the reports in it.
    sa.Column("covered", sa.LargeBinary, nullable=False),
)


@dataclass(frozen=True)
class PartialRow:
    """A partial sum. See `pygrid.core.closing.PartialSum`."""

    cycle_id: int
    instance: str
    key: str
    fingerprint: str
    covered: bytes


_PARTIAL = [partials.c[field] for field in PartialRow.__dataclass_fields__]


def put_partial(connection: sa.Connection, row: PartialRow) -> None:
    """Store the partial sum of an instance, in place of its earlier one. The caller holds the lock of the cycle."""
    own = (partials.c.cycle_id == row.cycle_id, partials.c.instance == row.instance)
    connection.execute(partials.delete().where(*own))
    connection.execute(partials.insert().values(**vars(row)))


def list_partials(connection: sa.Connection, cycle_id: int) -> list[PartialRow]:
    statement = sa.select(*_PARTIAL).where(partials.c.cycle_id == cycle_id).order_by(partials.c.instance)
    return [PartialRow(*row) for row in connection.execute(statement)]


def delete_partials(connection: sa.Connection, cycle_id: int) -> None:
    """Delete those of a cycle, in the transaction that completes it."""
    connection.execute(partials.delete().where(partials.c.cycle_id == cycle_id))
