"""Cycles with a time of grace, and the number of clients that were late"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from pygrid.storage.sql import metadata

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("cycles", sa.Column("grace_until", metadata.UtcDateTime(), nullable=True))
    op.add_column("cycles", sa.Column("num_late", sa.Integer(), nullable=False, server_default=sa.text("0")))
