"""Revoke the private keys of 0.1

Version 0.1 kept a private key when the password of its owner changed, so it is not known which of them leaked. Their
owners make new ones: POST /users/me/private-key, or `pygrid account rotate-key`.
"""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("UPDATE users SET private_key_hash = 'revoked:' || id")
