"""Starts of Workers by engines: one start is for one job, once.

starting ──its Worker claims the job──> claimed ──> ending ──> ended
    └──no claim in time────────────────────────────────^
"""

from __future__ import annotations

import datetime as dt
import enum
from dataclasses import dataclass


class StartState(enum.StrEnum):
    STARTING = "starting"
    CLAIMED = "claimed"
    ENDING = "ending"
    """The job is over; the engine may still run the Worker."""
    ENDED = "ended"


@dataclass(frozen=True)
class EngineStart:
    """A request to an engine to start a Worker for one job."""

    number: int
    job_id: str
    fence: int
    """Number of the start among those of the job, from 1."""
    pool: str
    handle: str
    """The name of the Worker at its engine."""
    state: StartState
    started_at: dt.datetime


def handle_of(job_id: str, fence: int) -> str:
    """The name of a Worker at its engine. It is known before the start, so that no Worker is ever lost."""
    return f"pygrid-{job_id}-{fence}"
