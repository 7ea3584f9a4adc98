"""Pools that a dataset allows and a job names, and starts of Workers by engines"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from pygrid.storage.sql import metadata

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("policies", sa.Column("pools", sa.Text(), nullable=False, server_default=",local,"))
    op.execute(sa.text("UPDATE policies SET pools = ',local,leased,' WHERE allow_remote_workers"))
    op.add_column("jobs", sa.Column("pool", sa.String(40), nullable=False, server_default=sa.text("''")))
    op.create_table(
        "engine_starts",
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("job_id", sa.String(length=64), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("pool", sa.String(length=40), nullable=False),
        sa.Column("handle", sa.String(length=128), nullable=False),
        sa.Column("token_hash", sa.String(length=64), nullable=False),
        sa.Column("secret_hash", sa.String(length=64), nullable=True),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("started_at", metadata.UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_engine_starts")),
        sa.UniqueConstraint("job_id", "fence", name=op.f("uq_engine_starts_job_id_fence")),
        sa.UniqueConstraint("secret_hash", name=op.f("uq_engine_starts_secret_hash")),
        sa.UniqueConstraint("token_hash", name=op.f("uq_engine_starts_token_hash")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_engine_starts_state"), "engine_starts", ["state"], unique=False)
