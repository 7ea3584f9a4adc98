"""Run by Alembic for each command: on the connection, and so in the transaction, of whoever called it."""

from alembic import context

import pygrid.storage.tables  # noqa: F401 - adds all tables to the metadata
from pygrid.storage.sql.metadata import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite can't alter most things in place; batch mode copies the table.
    render_as_batch=True,
    compare_server_default=True,
    user_module_prefix="metadata.",
)
context.run_migrations()
