"""Run by Alembic for each command: on the connection, and so in the transaction, of whoever called it."""

from alembic import context

import pygrid.storage.tables
import pygrid.storage.tables_budgets
import pygrid.storage.tables_datasets
import pygrid.storage.tables_idempotency
import pygrid.storage.tables_jobs
import pygrid.storage.tables_models
import pygrid.storage.tables_networks
import pygrid.storage.tables_workers  # noqa: F401 - each adds its tables to the metadata
from pygrid.storage.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite can't alter most things in place; batch mode copies the table.
    render_as_batch=True,
    compare_server_default=True,
    user_module_prefix="schema.",
)
context.run_migrations()
