"""Variants of plans for clients of 2020"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "plan_variants",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("plan_id", sa.Integer(), nullable=False),
        sa.Column("dialect", sa.String(length=16), nullable=False),
        sa.Column("batch_size", sa.Integer(), nullable=False),
        sa.Column("blob_hash", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["plan_id"], ["plans.id"], name=op.f("fk_plan_variants_plan_id_plans")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_plan_variants")),
        sa.UniqueConstraint(
            "plan_id", "dialect", "batch_size", name=op.f("uq_plan_variants_plan_id_dialect_batch_size")
        ),
    )
