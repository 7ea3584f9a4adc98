"""A permission to host models, and the role Model Owner.

So far ``can_upload_data`` allowed hosting, so each role with it gets the new permission.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_OWNER_ID = 4


def upgrade() -> None:
    """Change the table of roles and what is in it."""
    # With a default, so that SQLite adds it in place: other tables refer to this one.
    op.add_column("roles", sa.Column("can_host_models", sa.Boolean(), nullable=False, server_default=sa.false()))
    connection = op.get_bind()
    roles = sa.Table("roles", sa.MetaData(), autoload_with=connection)
    connection.execute(roles.update().values(can_host_models=roles.c.can_upload_data))
    # A Network has no such permission: its Owner may not upload data either.
    is_domain = connection.execute(sa.select(roles.c.can_upload_data).where(roles.c.id == _OWNER_ID)).scalar()
    is_taken = connection.execute(sa.select(roles.c.id).where(roles.c.name == "Model Owner")).first()
    if is_domain and not is_taken:
        flags = {column.name: column.name == "can_host_models" for column in roles.c if column.name.startswith("can_")}
        connection.execute(roles.insert().values(name="Model Owner", **flags))
