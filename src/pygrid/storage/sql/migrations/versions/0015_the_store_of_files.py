"""The store of files"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from pygrid.storage.sql import metadata

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "app_state",
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("value", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_app_state")),
    )
    op.create_table(
        "doomed",
        sa.Column("key", sa.String(length=200), nullable=False),
        sa.Column("not_before", metadata.UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_doomed")),
    )
    with op.batch_alter_table("doomed", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_doomed_not_before"), ["not_before"], unique=False)
