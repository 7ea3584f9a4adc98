"""Where a session comes from, and accounts that only their own person connects with a sign-in provider"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("sessions", sa.Column("label", sa.String(100), nullable=False, server_default=sa.text("''")))
    op.add_column("users", sa.Column("is_disconnected", sa.Boolean(), nullable=False, server_default=sa.false()))
