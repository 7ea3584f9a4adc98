"""The states of a cycle, and the rules of admission and reports.

    hosted ──open──> open ──close──> closing ──complete──> completed ──> (next cycle: hosted | process finished)
                    │    ^
                    └────┘ reopen: the deadline passed with fewer than ``min_diffs`` reports. The checkpoint and the
                           reports stay, assignments that did not report end, a new deadline begins.

With ``grace_s``, an open cycle that would close or reopen first has a grace period: it admits nobody, and its clients
may still report. It ends early when all of them have reported.

A diff is always ``original - trained``, so ``new = old - mean(diff)``.

All functions are pure: they take states and the time, and return the next state or a refusal.
"""

from __future__ import annotations

import datetime as dt
import enum
import math
from dataclasses import dataclass, replace

from pygrid import codes
from pygrid.configuration import ServerConfig
from pygrid.errors import Conflict, Gone, InvalidInput, PygridError
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
    grace_until: dt.datetime | None = None
    """End of the grace period, once it has begun."""
    num_late: int = 0
    """Clients that were admitted, had not reported when the cycle closed or was reopened, and have not left."""
    lease_fence: int = 0
    """Number of the newest lease for its completion. A completion ends only under this number."""

    @property
    def ends_at(self) -> dt.datetime | None:
        """The time of the next transition by the clock."""
        return self.deadline_at if self.grace_until is None else self.grace_until


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
PAUSED = AdmissionRefusal("process_paused", "the owner of this process has paused its training", 60)
SUPERSEDED = AdmissionRefusal("resting", "a later request of this client was answered", 1)
BETWEEN_CYCLES = AdmissionRefusal("between_cycles", "a cycle is being completed", 1)


def window_left_s(now: dt.datetime, window_s: float) -> float:
    """Seconds until a window of random selection ends. Windows end at the same moments at all replicas."""
    return window_s - now.timestamp() % window_s


def open_cycle(cycle: Cycle, config: ServerConfig, now: dt.datetime) -> Cycle:
    """``hosted -> open``: enough clients have requested the cycle. The deadline begins."""
    assert cycle.state is CycleState.HOSTED
    return replace(cycle, state=CycleState.OPEN, opened_at=now, deadline_at=_deadline(config, now))


def reopen(cycle: Cycle, config: ServerConfig, now: dt.datetime) -> Cycle:
    """``open -> open``: too few reports at the deadline.

    The received reports still count, and a new deadline begins.
    """
    assert cycle.state is CycleState.OPEN
    return replace(
        cycle,
        attempt=cycle.attempt + 1,
        num_assigned=cycle.num_reports,
        deadline_at=_deadline(config, now),
        grace_until=None,
    )


def begin_grace(cycle: Cycle, config: ServerConfig, now: dt.datetime) -> Cycle:
    """``open -> open``: the cycle has ended, and its clients may still report for ``grace_s``."""
    assert cycle.state is CycleState.OPEN
    return replace(cycle, grace_until=now + dt.timedelta(seconds=config.grace_s))


def restart(cycle: Cycle, config: ServerConfig, checkpoint: int, now: dt.datetime) -> Cycle:
    """Continue an uncompleted cycle from another checkpoint.

    The received reports still count. An open cycle begins a new attempt, because its clients train from the old
    checkpoint. A closing cycle gets the next fence, so that a completion from the old checkpoint cannot end.
    """
    assert cycle.state is not CycleState.COMPLETED
    again = reopen(cycle, config, now) if cycle.state is CycleState.OPEN else cycle
    if cycle.state is CycleState.CLOSING:
        again = replace(cycle, lease_fence=cycle.lease_fence + 1)
    return replace(again, checkpoint=checkpoint)


def close(cycle: Cycle) -> Cycle:
    """``open -> closing``: the cycle takes no further reports. A ``hosted`` cycle without clients can close too.

    The instance that closes it holds the lease for its completion.
    """
    assert cycle.state in (CycleState.HOSTED, CycleState.OPEN)
    return replace(cycle, state=CycleState.CLOSING, lease_fence=cycle.lease_fence + 1)


def next_cycle_state(config: ServerConfig, *, is_paused: bool = False) -> CycleState:
    """The first state of a new cycle: ``hosted`` if it waits for several clients or a resume, otherwise ``open``."""
    return CycleState.HOSTED if is_paused or config.candidates_needed > 1 else CycleState.OPEN


def _deadline(config: ServerConfig, now: dt.datetime) -> dt.datetime | None:
    return None if config.cycle_length is None else now + dt.timedelta(seconds=config.cycle_length)


def first_deadline(config: ServerConfig, now: dt.datetime) -> dt.datetime | None:
    """The deadline of a cycle that is created in state ``open`` at ``now``."""
    return _deadline(config, now)


def shorten(cycle: Cycle, config: ServerConfig, now: dt.datetime) -> Cycle:
    """Limit the deadline to that of a new cycle. It changes only if the clock was set back."""
    latest = _deadline(config, now)
    if cycle.grace_until is not None and cycle.grace_until > now + dt.timedelta(seconds=config.grace_s):
        cycle = begin_grace(cycle, config, now)
    if cycle.deadline_at is None or latest is None or cycle.deadline_at <= latest:
        return cycle
    return replace(cycle, deadline_at=latest)


def is_last(cycle: Cycle, config: ServerConfig) -> bool:
    """Whether the process finishes with this cycle."""
    return config.num_cycles > 0 and cycle.sequence >= config.num_cycles


def count_report(cycle: Cycle) -> Cycle:
    return replace(cycle, num_reports=cycle.num_reports + 1)


class Due(enum.Enum):
    """The next action of the scheduler for a cycle."""

    NOTHING = enum.auto()
    CLOSE = enum.auto()
    REOPEN = enum.auto()
    GRACE = enum.auto()


def due(cycle: Cycle, config: ServerConfig, now: dt.datetime) -> Due:
    """Whether an open cycle closes, is reopened, or begins its grace period.

    With at least `needed_diffs` reports it closes when ``max_diffs`` is reached, the deadline has passed, or all
    clients that can be admitted have reported. Without ``max_diffs``, deadline and ``max_workers`` it closes at once.
    Each named client that has left reduces the number of expected reports by one. With ``grace_s`` the grace period
    begins instead, unless all clients of the cycle have reported.
    """
    if cycle.state is not CycleState.OPEN:
        return Due.NOTHING
    is_complete = cycle.num_reports >= cycle.num_assigned
    if cycle.grace_until is not None and not is_complete and now < cycle.grace_until:
        return Due.NOTHING
    end = _end(cycle, config, now)
    if end is not Due.NOTHING and config.grace_s > 0 and cycle.grace_until is None and not is_complete:
        return Due.GRACE
    return end


def _end(cycle: Cycle, config: ServerConfig, now: dt.datetime) -> Due:
    passed = cycle.grace_until is not None or (cycle.deadline_at is not None and now >= cycle.deadline_at)
    if cycle.num_reports < config.needed_diffs:
        return Due.REOPEN if passed else Due.NOTHING
    full = config.max_diffs is not None and cycle.num_reports >= config.max_diffs - cycle.num_left
    nobody_left = config.max_workers is not None and cycle.num_reports >= config.max_workers
    no_limits = config.max_diffs is None and cycle.deadline_at is None and config.max_workers is None
    return Due.CLOSE if full or passed or nobody_left or no_limits else Due.NOTHING


def find_refusal(cycle: Cycle, found: FoundApplicant, now: dt.datetime) -> AdmissionRefusal | None:
    """Why this cycle does not admit a client of an active process; None: it does."""
    config, own, wait_s = found.config, found.own, _wait_s(cycle, now)
    if cycle.state in (CycleState.CLOSING, CycleState.COMPLETED):
        return BETWEEN_CYCLES
    for name, speed, floor in (
        ("download", found.download, config.minimum_download_speed),
        ("upload", found.upload, config.minimum_upload_speed),
    ):
        if floor is not None and (speed is None or speed < floor):
            return AdmissionRefusal("too_slow", f"{name} speed is below {floor:g} Mbit/s", max(wait_s, 60))
    if cycle.grace_until is not None and (own is None or own.state is AssignmentState.EXPIRED):
        return replace(BETWEEN_CYCLES, timeout_s=wait_s)
    if own is not None and own.state is not AssignmentState.EXPIRED:
        return AdmissionRefusal("already_assigned", "this client already takes part in the current cycle", wait_s)
    last, rest = None if found.is_preferred else found.last_sequence, config.do_not_reuse_workers_until_cycle
    if last is not None and cycle.sequence - last <= rest:
        return AdmissionRefusal("resting", f"this client sits out until cycle {last + rest + 1}", wait_s)
    if cycle.state is CycleState.HOSTED:
        return waiting_for_workers(config)
    if config.max_workers is not None and cycle.num_assigned >= config.max_workers:
        return AdmissionRefusal("cycle_full", "the cycle has its clients", wait_s)
    if cycle.deadline_at is not None and now >= cycle.deadline_at:
        return BETWEEN_CYCLES
    return None


@dataclass(frozen=True)
class FoundApplicant:
    """A client that requests admission, with all that decides on it, as read under the lock of the cycle."""

    config: ServerConfig
    own: Assignment | None = None
    """The client's assignment to this cycle, also of an earlier attempt."""
    process_state: str = "running"
    """``running``, ``paused`` or ``finished``."""
    has_left: bool = False
    may_renew: bool = False
    """Whether the client may get a new key instead of a lost one: native clients may."""
    last_sequence: int | None = None
    """The newest earlier cycle to which the client was admitted; read only if the process lets clients rest."""
    download: float | None = None
    """Mbit/s, measured by the client; required if the process has a minimum. The same for ``upload``."""
    upload: float | None = None
    is_preferred: bool = False
    """Whether the client was late in the cycle before, and the process prefers such clients."""
    num_awaited: int = 0
    """Number of preferred clients without a place in this cycle; read only while the cycle keeps places."""
    is_quorum: bool = False
    """Whether enough clients request a ``hosted`` cycle to open it."""
    obstacle: str = ""
    """Why the client could not train, although it would be admitted; empty if it can."""


@dataclass(frozen=True)
class Admitted:
    """The client has a place in the cycle. It gets a new key; its assignment is added, or renewed if there is one."""

    is_opening: bool
    """Whether this admission opened the cycle."""


def decide_admission(cycle: Cycle, found: FoundApplicant, now: dt.datetime) -> AdmissionRefusal | None:
    """Why a client is not admitted; None: it is. `admit` is the same decision with its effect."""
    config = found.config
    if found.process_state == "finished":
        return FINISHED
    if found.has_left:
        return LEFT
    if found.may_renew and found.own is not None and may_renew(cycle, config, found.own, now):
        return None
    if found.process_state == "paused":
        return PAUSED
    refusal = find_refusal(cycle, found, now)
    if refusal is None and not found.is_preferred and is_preferring(cycle, config, now):
        return keep_places(cycle, config, found.num_awaited, now)
    return refusal


def admit(
    cycle: Cycle, found: FoundApplicant, now: dt.datetime
) -> tuple[Cycle, Admitted | AdmissionRefusal | PygridError]:
    """Admit a client to a cycle: the cycle after it, and the outcome. A refusal leaves the cycle as it was.

    A quorum opens a ``hosted`` cycle with the first client that it admits. The requests of a batch are folded one after
    the other, so each sees the places that the earlier ones took.

    Returns:
        As an error: InvalidInput ``plan_variant_unavailable``: the client would be admitted, and cannot train.
    """
    opened, refusal = cycle, decide_admission(cycle, found, now)
    is_opening = found.is_quorum and refusal is not None and refusal.reason == "waiting_for_workers"
    if is_opening:
        opened = open_cycle(cycle, found.config, now)
        refusal = decide_admission(opened, found, now)
    if refusal is not None:
        return cycle, refusal
    if found.obstacle:
        return cycle, InvalidInput(found.obstacle, code=codes.PLAN_VARIANT_UNAVAILABLE)
    if found.own is None or found.own.state is AssignmentState.EXPIRED:
        opened = replace(opened, num_assigned=opened.num_assigned + 1)
    return opened, Admitted(is_opening)


def is_preferring(cycle: Cycle, config: ServerConfig, now: dt.datetime) -> bool:
    """Whether the cycle keeps places for clients that were late in the cycle before."""
    if config.max_workers is None or cycle.opened_at is None or cycle.attempt > 1:
        return False
    return now < cycle.opened_at + dt.timedelta(seconds=config.late_first_s)


def keep_places(cycle: Cycle, config: ServerConfig, num_awaited: int, now: dt.datetime) -> AdmissionRefusal | None:
    """The refusal of a client that was not late, while the last places are kept for those that were; None: admitted.

    Args:
        num_awaited: number of clients that were late in the cycle before and have no place in this one. At most half of
            the places are kept for them, so clients that never report cannot stop a process.
    """
    assert config.max_workers is not None
    assert cycle.opened_at is not None
    kept = min(num_awaited, config.max_workers // 2)
    if cycle.num_assigned + kept < config.max_workers:
        return None
    until = cycle.opened_at + dt.timedelta(seconds=config.late_first_s)
    rest_s = max(1, math.ceil((until - now).total_seconds()))
    return AdmissionRefusal("places_kept", "the last places are kept for clients that were late", rest_s)


def waiting_for_workers(config: ServerConfig) -> AdmissionRefusal:
    """The refusal while too few clients have requested the cycle."""
    return AdmissionRefusal(
        "waiting_for_workers", f"the cycle opens when {config.min_workers} clients request it", POLL_S
    )


def may_renew(cycle: Cycle, config: ServerConfig, own: Assignment, now: dt.datetime) -> bool:
    """Whether an admitted client that has not reported may get a new request key instead of a lost one."""
    return own.state is AssignmentState.ASSIGNED and _takes_reports(cycle, config, now)


def _takes_reports(cycle: Cycle, config: ServerConfig, now: dt.datetime) -> bool:
    if cycle.state is not CycleState.OPEN:
        return False
    if cycle.grace_until is None and config.grace_s > 0:
        return True  # if the deadline has passed, the first transaction that sees it begins the grace period
    return cycle.ends_at is None or now < cycle.ends_at


def _wait_s(cycle: Cycle, now: dt.datetime) -> int:
    """Seconds until the end of the cycle, at least 1; `POLL_S` without a deadline."""
    if cycle.ends_at is None:
        return POLL_S
    return max(1, math.ceil((cycle.ends_at - now).total_seconds()))


@dataclass(frozen=True)
class Redeemed:
    """The request key is valid: the report can be stored, or (``repeated``) is stored already."""

    repeated: bool


def redeem(
    cycle: Cycle, config: ServerConfig, assignment: Assignment, now: dt.datetime, fingerprint: str | None
) -> Redeemed | PygridError:
    """Whether a request key is valid for a report. ``fingerprint`` is None before the bytes are known.

    An accepted report stays accepted in every state of its cycle. Other bytes under the same key are refused.
    """
    if assignment.state is AssignmentState.REPORTED:
        if fingerprint is None or fingerprint == assignment.fingerprint:
            return Redeemed(repeated=True)
        return Conflict("this request key was already used for another report", code=codes.ALREADY_REPORTED)
    if assignment.state is AssignmentState.EXPIRED or not _takes_reports(cycle, config, now):
        return cycle_closed(cycle)
    return Redeemed(repeated=False)


@dataclass(frozen=True)
class FoundReport:
    """A checked report, and the assignment of its key as read under the lock of the cycle."""

    config: ServerConfig
    assignment: Assignment
    fingerprint: str
    """Length and CRC-32 of the bytes."""


@dataclass(frozen=True)
class AcceptedReport:
    """The report counts. ``assignment`` has reported; ``due`` is the transition that the report caused."""

    assignment: Assignment
    due: Due


@dataclass(frozen=True)
class RepeatedReport:
    """The same report was accepted before; nothing changes."""


def accept(
    cycle: Cycle, found: FoundReport, now: dt.datetime
) -> tuple[Cycle, AcceptedReport | RepeatedReport | PygridError]:
    """Accept a report into a cycle: the cycle after it, and the outcome. A refusal leaves the cycle as it was.

    The report that makes the cycle complete closes it, or begins its grace period. The reports of a batch are folded
    one after the other, so a cycle closes in the middle of a batch, and refuses the rest of it.

    Returns:
        As an error: Conflict ``already_reported``; Gone ``cycle_closed``.
    """
    config, assignment = found.config, found.assignment
    redeemed = redeem(cycle, config, assignment, now, found.fingerprint)
    if isinstance(redeemed, PygridError):
        return cycle, redeemed
    if redeemed.repeated:
        return cycle, RepeatedReport()
    counted = count_report(cycle)
    is_due = due(counted, config, now)
    match is_due:
        case Due.CLOSE:
            counted = close(counted)
        case Due.GRACE:
            counted = begin_grace(counted, config, now)
    reported = replace(assignment, state=AssignmentState.REPORTED, fingerprint=found.fingerprint)
    return counted, AcceptedReport(reported, is_due)


def cycle_closed(cycle: Cycle) -> Gone:
    """The error for an expired request key."""
    return Gone(
        "the cycle of this request key is over; request a new one", code=codes.CYCLE_CLOSED, cycle=cycle.sequence
    )
