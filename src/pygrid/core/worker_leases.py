"""Leases of Workers on other machines: each assigns one job to one Worker, and outlives the process that granted it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WorkerLease:
    """A lease that has not ended. A job has at most one."""

    id_hash: str
    """SHA-256 of the id, which only the Worker has."""
    job_id: str
    worker_id: int
    """The id of an authorized Worker; below 0: the number of a start by an engine, negated."""
    worker: str
    """The name of the Worker, or of its pool."""
    is_begun: bool = False
    """Whether the Worker may have read a record. It is recorded before the first renewal is answered."""
    age_s: float = 0.0
    """Seconds since the job was assigned."""
