"""Privacy budgets"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from pygrid.storage import schema

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "audit_entries",
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("entry", sa.Text(), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_audit_entries")),
    )
    op.create_table(
        "audit_head",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_audit_head_one_row")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_head")),
    )
    op.create_table(
        "curves",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("events_hash", sa.String(length=64), nullable=False),
        sa.Column("events", sa.Text(), nullable=False),
        sa.Column("divergences", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_curves")),
        sa.UniqueConstraint("events_hash", name=op.f("uq_curves_events_hash")),
    )
    op.create_table(
        "budgets",
        sa.Column("dataset_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("epsilon", sa.Double(), nullable=False),
        sa.Column("delta", sa.Double(), nullable=False),
        sa.Column("basic_epsilon", sa.Double(), nullable=False),
        sa.Column("basic_delta", sa.Double(), nullable=False),
        sa.Column("order", sa.Integer(), nullable=False),
        sa.Column("user_epsilon", sa.Double(), nullable=True),
        sa.Column("user_delta", sa.Double(), nullable=True),
        sa.Column("user_basic_epsilon", sa.Double(), nullable=True),
        sa.Column("user_basic_delta", sa.Double(), nullable=True),
        sa.Column("user_order", sa.Integer(), nullable=True),
        sa.Column("opened_at", schema.UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["dataset_id"], ["datasets.id"], name=op.f("fk_budgets_dataset_id_datasets")),
        sa.PrimaryKeyConstraint("dataset_id", name=op.f("pk_budgets")),
    )
    op.create_table(
        "charges",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("job_id", sa.String(length=64), nullable=False),
        sa.Column("dataset_id", sa.Integer(), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("curve_id", sa.Integer(), nullable=False),
        sa.Column("dataset_cost", sa.Double(), nullable=False),
        sa.Column("user_cost", sa.Double(), nullable=False),
        sa.Column("basic_epsilon", sa.Double(), nullable=False),
        sa.Column("basic_delta", sa.Double(), nullable=False),
        sa.Column("created_at", schema.UtcDateTime(), nullable=False),
        sa.Column("updated_at", schema.UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["curve_id"], ["curves.id"], name=op.f("fk_charges_curve_id_curves")),
        sa.ForeignKeyConstraint(["dataset_id"], ["budgets.dataset_id"], name=op.f("fk_charges_dataset_id_budgets")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_charges")),
        sa.UniqueConstraint("job_id", name=op.f("uq_charges_job_id")),
    )
    with op.batch_alter_table("charges", schema=None) as batch_op:
        batch_op.create_index("ix_charges_dataset_user", ["dataset_id", "user_id"], unique=False)

    op.create_table(
        "grants",
        sa.Column("dataset_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("user_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("epsilon", sa.Double(), nullable=False),
        sa.Column("delta", sa.Double(), nullable=False),
        sa.Column("basic_epsilon", sa.Double(), nullable=False),
        sa.Column("basic_delta", sa.Double(), nullable=False),
        sa.Column("order", sa.Integer(), nullable=False),
        sa.Column("is_default", sa.Boolean(), nullable=False),
        sa.Column("spent_divergence", sa.Double(), nullable=False),
        sa.Column("spent_in_dataset", sa.Double(), nullable=False),
        sa.Column("spent_basic_epsilon", sa.Double(), nullable=False),
        sa.Column("spent_basic_delta", sa.Double(), nullable=False),
        sa.Column("granted_at", schema.UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["dataset_id"], ["budgets.dataset_id"], name=op.f("fk_grants_dataset_id_budgets")),
        sa.PrimaryKeyConstraint("dataset_id", "user_id", name=op.f("pk_grants")),
    )
