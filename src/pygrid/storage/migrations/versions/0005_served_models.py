"""Served models"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from pygrid.storage import schema

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "served_models",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("model_id", sa.String(length=100), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("file", sa.String(length=64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("allow_download", sa.Boolean(), nullable=False),
        sa.Column("allow_remote_inference", sa.Boolean(), nullable=False),
        sa.Column("max_batch_size", sa.Integer(), nullable=False),
        sa.Column("report", sa.JSON(), nullable=False),
        sa.Column("created_by", sa.Integer(), nullable=True),
        sa.Column("created_at", schema.UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_served_models")),
        sa.UniqueConstraint("model_id", name=op.f("uq_served_models_model_id")),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("served_models", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_served_models_file"), ["file"], unique=False)
