"""The state of a training across Domains: its Domains and its cycles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pygrid.messages.processes import Contribution


@dataclass(frozen=True)
class DomainState:
    """A Domain of the training."""

    name: str
    url: str
    dataset: str
    job_id: str
    state: str
    """State of its job; ``refused``: it accepted no job; ``unknown``: it did not answer."""
    detail: str
    """What the Domain does at present; or why it does not take part."""
    num_reported: int = 0
    """Number of cycles with its diff."""


@dataclass(frozen=True)
class FederatedCycle:
    """A cycle of the training and its results."""

    cycle: int
    state: str
    contributions: tuple[Contribution, ...]
    metrics: Mapping[str, float]
    """Metrics of the resulting model on the data in ``evaluate``."""
    seconds: float | None
    """From its opening to its end."""
