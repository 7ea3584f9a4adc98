"""Robust rules and quotas for devices"""

from __future__ import annotations

import datetime as dt

import sqlalchemy as sa
from alembic import op

from pygrid.storage.sql import metadata

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("cycles") as batch_op:
        batch_op.add_column(sa.Column("radius", sa.Double(), nullable=True))
    with op.batch_alter_table("reports") as batch_op:
        batch_op.add_column(sa.Column("distance", sa.Double(), nullable=True))
    with op.batch_alter_table("clients") as batch_op:
        batch_op.add_column(sa.Column("used_at", metadata.UtcDateTime(), nullable=True))
        batch_op.add_column(sa.Column("address_mark", sa.String(32), nullable=True))
        batch_op.add_column(sa.Column("subject_mark", sa.String(32), nullable=True))
        batch_op.create_index("ix_clients_process_id_address_mark", ["process_id", "address_mark"])
        batch_op.create_index("ix_clients_process_id_subject_mark", ["process_id", "subject_mark"])
    # Nobody knows when these were last used; their time begins now.
    clients = sa.table("clients", sa.column("used_at", metadata.UtcDateTime()))
    op.execute(clients.update().values(used_at=dt.datetime.now(dt.UTC)))
