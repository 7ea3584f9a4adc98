"""Imports every table, for Alembic, which compares them with the migrations."""

from __future__ import annotations

from pygrid.storage import (  # noqa: F401 - each adds its tables to the metadata
    accounts,
    api_tokens,
    app_state,
    associations,
    audit,
    budgets,
    charges,
    cycles,
    datasets,
    drafts,
    engine_starts,
    federated,
    idempotency,
    installation,
    jobs,
    models,
    one_time_codes,
    partials,
    presence,
    processes,
    provided_identities,
    reports,
    workers,
)
from pygrid.storage.blobs import garbage  # noqa: F401
