"""Imports every table, for Alembic, which compares them with the migrations."""

from __future__ import annotations

from pygrid.storage import (  # noqa: F401 - each adds its tables to the metadata
    accounts,
    associations,
    audit,
    budgets,
    charges,
    cycles,
    datasets,
    drafts,
    federated,
    idempotency,
    installation,
    jobs,
    models,
    processes,
    reports,
    workers,
)
