"""Where a training across Domains is: its Domains and its cycles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pygrid.messages.processes import Contribution


@dataclass(frozen=True)
class DomainState:
    """A Domain that was asked to take part."""

    name: str
    url: str
    dataset: str
    job_id: str
    state: str
    """Of its job; ``refused``: it took none; ``unknown``: it can't be asked now."""
    detail: str
    """What it does now; or why it takes no part, or no longer."""
    num_reported: int = 0
    """Cycles that its diff went into."""


@dataclass(frozen=True)
class FederatedCycle:
    """A cycle of the training, and what it brought."""

    cycle: int
    state: str
    contributions: tuple[Contribution, ...]
    metrics: Mapping[str, float]
    """Of the model after it, on the data given as ``evaluate``."""
    seconds: float | None
    """From its opening to its end."""
