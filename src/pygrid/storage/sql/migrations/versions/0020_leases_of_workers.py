"""Leases of Workers on other machines"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

import pygrid.storage.sql.metadata

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "worker_leases",
        sa.Column("id_hash", sa.String(length=64), nullable=False),
        sa.Column("job_id", sa.String(length=64), nullable=False),
        sa.Column("worker_id", sa.Integer(), nullable=False),
        sa.Column("worker", sa.String(length=100), nullable=False),
        sa.Column("is_begun", sa.Boolean(), nullable=False),
        sa.Column("assigned_at", pygrid.storage.sql.metadata.UtcDateTime(), nullable=False),
        sa.Column("until", pygrid.storage.sql.metadata.UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id_hash", name=op.f("pk_worker_leases")),
        sa.UniqueConstraint("job_id", name=op.f("uq_worker_leases_job_id")),
    )
    op.create_index(op.f("ix_worker_leases_worker_id"), "worker_leases", ["worker_id"], unique=False)
