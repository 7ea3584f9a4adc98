"""The states of a cycle, and the rules of admission and reports.

    hosted ──open──> open ──close──> closing ──complete──> completed ──> (next cycle: hosted | process finished)
                    │    ^
                    └────┘ reopen: the deadline passed with fewer than ``min_diffs`` reports. The checkpoint and the
                           reports stay, assignments that did not report end, a new deadline begins.

A diff is always ``original - trained``, so ``new = old - mean(diff)``.

All functions are pure: they take states and the time, and return the next state or a refusal.
"""

from __future__ import annotations

import datetime as dt
import enum
import math
from dataclasses import dataclass, replace

from pygrid import codes
from pygrid.core.process_config import ProcessConfig
from pygrid.errors import Conflict, Gone, PygridError
from pygrid.messages.cycles import RefusalReason

POLL_S = 5
"""Default time after which a refused client asks again."""


class CycleState(enum.StrEnum):
    """See the diagram at the top of this module."""

    HOSTED = "hosted"
    OPEN = "open"
    CLOSING = "closing"
    COMPLETED = "completed"


class AssignmentState(enum.StrEnum):
    """``assigned -> reported`` or ``assigned -> expired``."""

    ASSIGNED = "assigned"
    REPORTED = "reported"
    EXPIRED = "expired"


@dataclass(frozen=True)
class Cycle:
    """One training round of a process."""

    id: int
    process_id: int
    sequence: int
    state: CycleState
    attempt: int
    """1 at first, incremented each time the cycle is reopened."""
    checkpoint: int
    """Number of the checkpoint that clients start from."""
    num_assigned: int
    """Clients admitted in this attempt, and those of earlier attempts that reported."""
    num_reports: int
    created_at: dt.datetime
    opened_at: dt.datetime | None = None
    deadline_at: dt.datetime | None = None
    completed_at: dt.datetime | None = None
    num_left: int = 0
    """Named clients that have left and will not report. The cycle does not wait for them."""


@dataclass(frozen=True)
class Assignment:
    """A client's admission to a cycle."""

    id: int
    cycle_id: int
    client_id: str
    state: AssignmentState
    fingerprint: str | None = None
    """Fingerprint of the report, if there is one."""


@dataclass(frozen=True)
class AdmissionRefusal:
    """The reason why a client is not admitted. ``timeout_s`` None: the training has ended for this client."""

    reason: RefusalReason
    detail: str
    timeout_s: int | None


LEFT = AdmissionRefusal("training_finished", "this client has left the training", None)
FINISHED = AdmissionRefusal("training_finished", "the training of this process has ended", None)
BETWEEN_CYCLES = AdmissionRefusal("between_cycles", "a cycle is being completed", 1)


def open_cycle(cycle: Cycle, config: ProcessConfig, now: dt.datetime) -> Cycle:
    """``hosted -> open``: enough clients have requested the cycle. The deadline begins."""
    assert cycle.state is CycleState.HOSTED
    return replace(cycle, state=CycleState.OPEN, opened_at=now, deadline_at=_deadline(config, now))


def reopen(cycle: Cycle, config: ProcessConfig, now: dt.datetime) -> Cycle:
    """``open -> open``: too few reports at the deadline.

    The received reports still count, and a new deadline begins.
    """
    assert cycle.state is CycleState.OPEN
    return replace(cycle, attempt=cycle.attempt + 1, num_assigned=cycle.num_reports, deadline_at=_deadline(config, now))


def restart(cycle: Cycle, config: ProcessConfig, checkpoint: int, now: dt.datetime) -> Cycle:
    """Continue an uncompleted cycle from another checkpoint.

    The received reports still count. An open cycle begins a new attempt, because its clients train from the old
    checkpoint.
    """
    assert cycle.state is not CycleState.COMPLETED
    again = reopen(cycle, config, now) if cycle.state is CycleState.OPEN else cycle
    return replace(again, checkpoint=checkpoint)


def close(cycle: Cycle) -> Cycle:
    """``open -> closing``: the cycle takes no further reports. A ``hosted`` cycle without clients can close too."""
    assert cycle.state in (CycleState.HOSTED, CycleState.OPEN)
    return replace(cycle, state=CycleState.CLOSING)


def next_cycle_state(config: ProcessConfig) -> CycleState:
    """The first state of a new cycle: ``hosted`` if it waits for several clients, otherwise ``open``."""
    return CycleState.HOSTED if config.candidates_needed > 1 else CycleState.OPEN


def _deadline(config: ProcessConfig, now: dt.datetime) -> dt.datetime | None:
    return None if config.cycle_length is None else now + dt.timedelta(seconds=config.cycle_length)


def first_deadline(config: ProcessConfig, now: dt.datetime) -> dt.datetime | None:
    """The deadline of a cycle that is created in state ``open`` at ``now``."""
    return _deadline(config, now)


def shorten(cycle: Cycle, config: ProcessConfig, now: dt.datetime) -> Cycle:
    """Limit the deadline to that of a new cycle. It changes only if the clock was set back."""
    latest = _deadline(config, now)
    if cycle.deadline_at is None or latest is None or cycle.deadline_at <= latest:
        return cycle
    return replace(cycle, deadline_at=latest)


def is_last(cycle: Cycle, config: ProcessConfig) -> bool:
    """Whether the process finishes with this cycle."""
    return config.num_cycles > 0 and cycle.sequence >= config.num_cycles


def count_report(cycle: Cycle) -> Cycle:
    """The cycle with one more report."""
    return replace(cycle, num_reports=cycle.num_reports + 1)


class Due(enum.Enum):
    """The next action of the scheduler for a cycle."""

    NOTHING = enum.auto()
    CLOSE = enum.auto()
    REOPEN = enum.auto()


def due(cycle: Cycle, config: ProcessConfig, now: dt.datetime) -> Due:
    """Whether an open cycle closes or is reopened.

    With at least `needed_diffs` reports it closes when ``max_diffs`` is reached, the deadline has passed, or all
    clients that can be admitted have reported. Without ``max_diffs``, deadline and ``max_workers`` it closes at once.
    Each named client that has left reduces the number of expected reports by one.
    """
    if cycle.state is not CycleState.OPEN:
        return Due.NOTHING
    passed = cycle.deadline_at is not None and now >= cycle.deadline_at
    if cycle.num_reports < config.needed_diffs:
        return Due.REOPEN if passed else Due.NOTHING
    full = config.max_diffs is not None and cycle.num_reports >= config.max_diffs - cycle.num_left
    nobody_left = config.max_workers is not None and cycle.num_reports >= config.max_workers
    no_limits = config.max_diffs is None and cycle.deadline_at is None and config.max_workers is None
    return Due.CLOSE if full or passed or nobody_left or no_limits else Due.NOTHING


def admit(
    cycle: Cycle,
    config: ProcessConfig,
    now: dt.datetime,
    *,
    own: Assignment | None,
    last_sequence: int | None,
    download: float | None,
    upload: float | None,
) -> AdmissionRefusal | None:
    """Whether a client is admitted to this cycle. None: it is.

    Args:
        own: the assignment of the client to this cycle, also of an earlier attempt.
        last_sequence: the newest earlier cycle to which the client was admitted.
        download: Mbit/s, measured by the client; required if the process has a minimum.
        upload: Mbit/s, measured by the client; required if the process has a minimum.
    """
    wait_s = _wait_s(cycle, now)
    if cycle.state in (CycleState.CLOSING, CycleState.COMPLETED):
        return BETWEEN_CYCLES
    for name, speed, floor in (
        ("download", download, config.minimum_download_speed),
        ("upload", upload, config.minimum_upload_speed),
    ):
        if floor is not None and (speed is None or speed < floor):
            return AdmissionRefusal("too_slow", f"{name} speed is below {floor:g} Mbit/s", max(wait_s, 60))
    if own is not None and own.state is not AssignmentState.EXPIRED:
        return AdmissionRefusal("already_assigned", "this client already takes part in the current cycle", wait_s)
    rest = config.do_not_reuse_workers_until_cycle
    if last_sequence is not None and cycle.sequence - last_sequence <= rest:
        return AdmissionRefusal("resting", f"this client sits out until cycle {last_sequence + rest + 1}", wait_s)
    if cycle.state is CycleState.HOSTED:
        return waiting_for_workers(config)
    if config.max_workers is not None and cycle.num_assigned >= config.max_workers:
        return AdmissionRefusal("cycle_full", "the cycle has its clients", wait_s)
    if cycle.deadline_at is not None and now >= cycle.deadline_at:
        return BETWEEN_CYCLES
    return None


def waiting_for_workers(config: ProcessConfig) -> AdmissionRefusal:
    """The refusal while too few clients have requested the cycle."""
    return AdmissionRefusal(
        "waiting_for_workers", f"the cycle opens when {config.min_workers} clients request it", POLL_S
    )


def may_renew(cycle: Cycle, own: Assignment, now: dt.datetime) -> bool:
    """Whether an admitted client that has not reported may get a new request key instead of a lost one."""
    passed = cycle.deadline_at is not None and now >= cycle.deadline_at
    return cycle.state is CycleState.OPEN and own.state is AssignmentState.ASSIGNED and not passed


def _wait_s(cycle: Cycle, now: dt.datetime) -> int:
    """Seconds until the deadline of the cycle, at least 1; `POLL_S` without a deadline."""
    if cycle.deadline_at is None:
        return POLL_S
    return max(1, math.ceil((cycle.deadline_at - now).total_seconds()))


@dataclass(frozen=True)
class Redeemed:
    """The request key is valid: the report can be stored, or (``repeated``) is stored already."""

    repeated: bool


def redeem(cycle: Cycle, assignment: Assignment, now: dt.datetime, fingerprint: str | None) -> Redeemed | PygridError:
    """Whether a request key is valid for a report. ``fingerprint`` is None before the bytes are known.

    An accepted report stays accepted in every state of its cycle. Other bytes under the same key are refused.
    """
    if assignment.state is AssignmentState.REPORTED:
        if fingerprint is None or fingerprint == assignment.fingerprint:
            return Redeemed(repeated=True)
        return Conflict("this request key was already used for another report", code=codes.ALREADY_REPORTED)
    passed = cycle.deadline_at is not None and now >= cycle.deadline_at
    if assignment.state is AssignmentState.EXPIRED or cycle.state is not CycleState.OPEN or passed:
        return cycle_closed(cycle)
    return Redeemed(repeated=False)


def cycle_closed(cycle: Cycle) -> Gone:
    """The error for an expired request key."""
    return Gone(
        "the cycle of this request key is over; request a new one", code=codes.CYCLE_CLOSED, cycle=cycle.sequence
    )
