"""Numbers of events within their process, and holders and fences of leases.

The events of before keep their ids as numbers, so that a follower that remembers an id goes on from there.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("processes", sa.Column("num_events", sa.BigInteger(), nullable=False, server_default=sa.text("0")))
    op.add_column("events", sa.Column("number", sa.BigInteger(), nullable=False, server_default=sa.text("0")))
    op.execute("UPDATE events SET number = id")
    op.execute(
        "UPDATE processes SET num_events = "
        "coalesce((SELECT max(events.id) FROM events WHERE events.process_id = processes.id), 0)"
    )
    op.create_index("ix_events_process_id_number", "events", ["process_id", "number"], unique=True)
    op.drop_index("ix_events_process_id", table_name="events")
    for table in ("cycles", "jobs"):
        op.add_column(table, sa.Column("lease_holder", sa.String(length=32), nullable=True))
        op.add_column(table, sa.Column("lease_fence", sa.Integer(), nullable=False, server_default=sa.text("0")))
