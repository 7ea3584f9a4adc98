"""The objects that rows of the database name."""

from __future__ import annotations

import sqlalchemy as sa

from pygrid.core.cycles import CycleState
from pygrid.storage import datasets, drafts, jobs, models, processes
from pygrid.storage.cycles import cycles

KINDS = ("blobs/", "served/", "drafts/", "columns/", "jobs/", "diffs/", "probe/")
"""Beginnings of the keys that the nightly look reads. ``store.json`` and ``audit/`` are never garbage."""


def blob_key(kind: str, name: str) -> str:
    """The key of a blob; ``kind`` is ``blobs``, ``served`` or ``drafts``."""
    return f"{kind}/{name[:2]}/{name}"


def list_named(connection: sa.Connection) -> set[str]:
    """The roots (`garbage.root_of`) of all objects that rows name."""
    open_cycles = sa.select(cycles.c.id).where(cycles.c.state != CycleState.COMPLETED.value)
    unfinished = jobs.list_unfinished_ids(connection)
    return {
        *(blob_key("blobs", name) for name in processes.list_blobs(connection)),
        *(blob_key("served", name) for name in models.list_model_files(connection)),
        *(blob_key("drafts", name) for name in drafts.list_files(connection)),
        *(f"columns/{name}" for name in datasets.list_folders(connection)),
        *(f"jobs/inputs/{job_id}" for job_id in unfinished),
        *(f"jobs/results/{job_id}" for job_id in unfinished | jobs.list_result_ids(connection)),
        *(f"diffs/{cycle_id}" for cycle_id in connection.execute(open_cycles).scalars()),
    }
