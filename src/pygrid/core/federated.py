"""The participation of a job in a training across Domains: the states of its cycles.

    training ──trained──> trained ──report──> reported
        │                    ├─expired─> missed
        └───────failed───────┴─failed──> lost

| state | means |
|---|---|
| training | its Worker may have started: a private job has used one of the cycles that it paid for |
| trained | the diff is durable and not reported; after a crash the same bytes are reported |
| reported | the diff is in the cycle of the coordinator |
| lost | there is no diff: the Worker failed, the Domain stopped while it ran, or the stored diff is damaged |
| missed | the cycle of the coordinator ended before the diff was ready; the diff was deleted |

A private job trains at most as often as its terms allow, each time with new noise. For a non-private job only finished
diffs count. All functions are pure.
"""

from __future__ import annotations

import datetime as dt
import enum
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from pygrid import codes
from pygrid.core.job_spec import JobResult
from pygrid.core.jobs import JobRecord
from pygrid.errors import InvalidConfig
from pygrid.messages.jobs import FederationRequest, JobRequest

MAX_CYCLES = 10_000
MAX_LOST_IN_A_ROW = 3
"""A job ends after this many consecutive cycles without a diff."""
MAX_TOKEN_CHARS = 16 * 1024
MAX_NAME_CHARS = 200
MAX_ADDRESS_CHARS = 2_000


_ADDED = frozenset({"num_calls", "num_zeroed", "bytes_out", "wall_s", "cpu_s"})
_PEAK = "max_rss_bytes"
"""The fact of which the maximum counts, not the sum."""


Train = Callable[[Path, int], Awaitable[JobResult]]
"""Runs a Worker on the model in a file, for the job's training of this number."""


class Trainer(Protocol):
    """Runs the Workers of a job."""

    def place(self, job: JobRecord, *, may_leave: bool) -> AbstractAsyncContextManager[Train]:
        """Wait for the place of a Worker, and hold it for the length of the block.

        Args:
            may_leave: whether the place may be on another machine, if the policy of the dataset allows it.
        Yields:
            A function that trains there.
        Raises:
            Unavailable: no Worker can be had.
        """


class PartState(enum.StrEnum):
    """See the diagram at the top of this module."""

    TRAINING = "training"
    TRAINED = "trained"
    REPORTED = "reported"
    LOST = "lost"
    MISSED = "missed"


_TRANSITIONS: dict[PartState, frozenset[PartState]] = {
    PartState.TRAINING: frozenset({PartState.TRAINED, PartState.LOST}),
    PartState.TRAINED: frozenset({PartState.REPORTED, PartState.MISSED, PartState.LOST}),
    PartState.REPORTED: frozenset(),
    PartState.LOST: frozenset(),
    PartState.MISSED: frozenset(),
}


@dataclass(frozen=True)
class RoundAttempt:
    """One training of a federated job, for one cycle of its coordinator."""

    job_id: str
    number: int
    """Starts at 1."""
    state: PartState
    cycle: int
    """Number of the cycle at the coordinator."""
    model_hash: str
    """SHA-256 of the model at the start of the training."""
    client_id: str
    """Id of this job as a client of the coordinator."""
    request_key: str
    """Secret that is valid for one report."""
    begun_at: dt.datetime
    ended_at: dt.datetime | None = None
    diff_hash: str | None = None
    """SHA-256 of the file of the diff."""
    facts: Mapping[str, Any] | None = None
    """Facts of the Worker, for the data owner only."""
    private_detail: str = ""

    @property
    def has_ended(self) -> bool:
        return not _TRANSITIONS[self.state]


@dataclass(frozen=True)
class ParticipationResult:
    """How a job's part in a training has ended."""

    detail: str
    """For whoever may see the job."""
    code: str = ""
    """Why it failed; empty: it did what it could."""
    private_detail: str = ""
    """For the data owner only."""
    facts: Mapping[str, Any] = field(default_factory=dict)


def trained(part: RoundAttempt, diff_hash: str, facts: Mapping[str, Any]) -> RoundAttempt:
    """``training -> trained``."""
    return replace(_move(part, PartState.TRAINED), diff_hash=diff_hash, facts=facts)


def failed(
    part: RoundAttempt, private_detail: str, now: dt.datetime, facts: Mapping[str, Any] | None = None
) -> RoundAttempt:
    """``training | trained -> lost``. ``facts`` None: the known facts stay."""
    return replace(_move(part, PartState.LOST), private_detail=private_detail, facts=facts or part.facts, ended_at=now)


def report(part: RoundAttempt, now: dt.datetime) -> RoundAttempt:
    """``trained -> reported``."""
    return replace(_move(part, PartState.REPORTED), ended_at=now)


def expired(part: RoundAttempt, now: dt.datetime) -> RoundAttempt:
    """``trained -> missed``."""
    return replace(_move(part, PartState.MISSED), ended_at=now)


def num_spent(parts: Sequence[RoundAttempt], *, is_private: bool) -> int:
    """Number of used cycles of a job: all started ones of a private job, all with a diff of a non-private job."""
    return sum(is_private or part.state is not PartState.LOST for part in parts)


def is_hopeless(parts: Sequence[RoundAttempt]) -> bool:
    """Whether the last trainings were all lost, so that another one is pointless."""
    last = parts[-MAX_LOST_IN_A_ROW:]
    return len(last) == MAX_LOST_IN_A_ROW and all(part.state is PartState.LOST for part in last)


def add_facts(parts: Sequence[RoundAttempt]) -> dict[str, Any]:
    """The combined facts of the Workers of all parts. Facts that cannot be added are those of the last part."""
    total: dict[str, Any] = {}
    for part in parts:
        for name, value in (part.facts or {}).items():
            adds = name in _ADDED and name in total
            total[name] = (
                total[name] + value if adds else max(total[name], value) if name == _PEAK and name in total else value
            )
    return total


def fits_cycle(part: RoundAttempt, cycle: int, model_hash: str) -> bool:
    """Whether a stored diff belongs to the cycle that the coordinator offers, which is the case after a reopening."""
    return part.state is PartState.TRAINED and (part.cycle, part.model_hash) == (cycle, model_hash)


def check_federation(request: JobRequest) -> None:
    """Check the federation of a request, except the address. Raises InvalidConfig: ``invalid_job``."""
    federation = request.federation
    if federation is None:
        return
    if request.kind != "train":
        raise _invalid("is for jobs of kind train")
    for name, value, most in (
        ("coordinator", federation.coordinator, MAX_ADDRESS_CHARS),
        ("process", federation.process, MAX_NAME_CHARS),
        ("version", federation.version, MAX_NAME_CHARS),
    ):
        if not value.strip() or len(value) > most or not value.isprintable():
            raise _invalid(f"{name} is a printable text of 1 to {most:,} characters")
    if not 1 <= federation.cycles <= MAX_CYCLES:
        raise _invalid(f"cycles is {federation.cycles}; use 1 to {MAX_CYCLES:,}")
    if len(federation.auth_token) > MAX_TOKEN_CHARS or not federation.auth_token.isprintable():
        raise _invalid(f"auth_token is printable and has at most {MAX_TOKEN_CHARS:,} characters")


def without_secrets(federation: FederationRequest) -> FederationRequest:
    """The request with a placeholder instead of the token."""
    return FederationRequest(
        federation.coordinator,
        federation.process,
        federation.version,
        federation.cycles,
        "(set)" if federation.auth_token else "",
    )


def _move(part: RoundAttempt, after: PartState) -> RoundAttempt:
    assert after in _TRANSITIONS[part.state], (part.state, after)
    return replace(part, state=after)


def _invalid(detail: str) -> InvalidConfig:
    return InvalidConfig(f"federation: {detail}", code=codes.INVALID_JOB)
