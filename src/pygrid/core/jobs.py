"""The states of a job on private data, and who may change them.

    checking ──present──> waiting    ──admit──> approved         ──reject──> rejected   ──cancel──> cancelled
    waiting  ──approve──> approved   ──deny──> denied                                   ──cancel──> cancelled
    approved ──start──> running      ──revoke──> revoked         ──fail──> failed       ──cancel──> cancelled
    running  ──finish──> released (private) | held (other)       ──fail──> failed       ──cancel──> cancelled
             ──requeue──> approved: a non-private job lost its Worker, once
             ──put_back──> approved: no Worker began the job
             ──depart──> released  ──revoke──> revoked: a federated job
    held     ──release──> released  ──deny──> denied

| person | may |
|---|---|
| the requester | cancel the job until it has ended or is held |
| the data owner, or a user who triages requests and sees the dataset; never the requester | approve, deny, revoke |
| the same persons | release the result of a held job, or deny it |
| the Domain | all other changes; it also cancels jobs of deleted accounts and denies jobs on deleted datasets |

A job is **private** if it has privacy terms: its result is noisy and is released without a person. The result of a
**non-private** job is held until a person releases it. A decision names the hash of the request that the person saw,
and applies to that request only.

A **federated** job takes part in the cycles of a process at another Domain (`pygrid.core.federated`). It has no result:
the diff of each cycle leaves while the job runs. Its approval can be revoked until it has ended.

All functions are pure: they take a state, and return the next state or raise an error.
"""

from __future__ import annotations

import datetime as dt
import enum
import hashlib
from collections.abc import Mapping, Set
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from pygrid import codes
from pygrid.core.access import Permission, Principal
from pygrid.core.datasets import Holding, can_manage, can_see
from pygrid.core.job_spec import PrivacyTerms
from pygrid.errors import Conflict, Forbidden, PygridError
from pygrid.messages.jobs import JobRequest

RESULT_EXPIRED = "result_expired"
"""The code of a released job whose result was deleted after its retention time."""
MAX_ATTEMPTS = 2
"""Maximum number of starts of a non-private job that loses its Worker. A private job starts once, because its cost is
charged once."""


class JobState(enum.StrEnum):
    """See the diagram at the top of this module."""

    CHECKING = "checking"
    """The job runs on the mock dataset."""
    WAITING = "waiting"
    APPROVED = "approved"
    RUNNING = "running"
    HELD = "held"
    """There is a result that a person must release."""
    RELEASED = "released"
    REJECTED = "rejected"
    """The job failed on the mock dataset."""
    DENIED = "denied"
    REVOKED = "revoked"
    CANCELLED = "cancelled"
    FAILED = "failed"


TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    JobState.CHECKING: frozenset({JobState.WAITING, JobState.APPROVED, JobState.REJECTED, JobState.CANCELLED}),
    JobState.WAITING: frozenset({JobState.APPROVED, JobState.DENIED, JobState.CANCELLED}),
    JobState.APPROVED: frozenset({JobState.RUNNING, JobState.REVOKED, JobState.CANCELLED, JobState.FAILED}),
    JobState.RUNNING: frozenset(
        {JobState.HELD, JobState.RELEASED, JobState.FAILED, JobState.CANCELLED, JobState.APPROVED, JobState.REVOKED}
    ),
    JobState.HELD: frozenset({JobState.RELEASED, JobState.DENIED}),
    **dict.fromkeys(
        (JobState.RELEASED, JobState.REJECTED, JobState.DENIED, JobState.REVOKED, JobState.CANCELLED, JobState.FAILED),
        frozenset(),
    ),
}
"""The possible next states of each state."""
WITHDRAWN = frozenset({JobState.WAITING, JobState.HELD})
"""States in which a job waits for a person. They end when the dataset is deleted."""
_NO_FAULT = {"code": "", "detail": ""}
ENDED = frozenset(state for state, following in TRANSITIONS.items() if not following)


@dataclass(frozen=True)
class Result:
    hash: str
    """SHA-256 of the bytes."""
    num_bytes: int
    media_type: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Metrics of a non-private job. They are part of the result that a person releases."""


@dataclass(frozen=True)
class Change:
    """A state of a job and the time at which it began."""

    state: JobState
    at: dt.datetime


@dataclass(frozen=True)
class JobRecord:
    """The current state of a job."""

    id: str
    dataset_id: int
    version_id: int
    state: JobState
    request: JobRequest
    request_hash: str
    requested_by: int
    plan_id: str
    """SHA-256 of the file of the plan; empty for statistics."""
    plan_name: str
    plan_summary: str
    model_hash: str
    terms: PrivacyTerms | None
    """The terms of the requested privacy. None: a non-private job."""
    created_at: dt.datetime
    updated_at: dt.datetime
    sequence: int = 0
    """Number of changes."""
    num_attempts: int = 0
    decided_by: int | None = None
    comment: str = ""
    code: str = ""
    detail: str = ""
    """For everybody who may see the job."""
    private_detail: str = ""
    """For the data owner only: it may depend on single records."""
    mock_metrics: Mapping[str, float] = field(default_factory=dict)
    result: Result | None = None
    facts: Mapping[str, Any] | None = None
    history: tuple[Change, ...] = ()
    """All states in order, the current one last: ``sequence`` changes and the first state."""
    lease_fence: int = 0
    """Number of the newest lease under which it ran. A run ends only under this number."""

    @property
    def is_private(self) -> bool:
        """Whether the result has noise that protects single units."""
        return self.terms is not None

    @property
    def is_federated(self) -> bool:
        """Whether the job takes part in the cycles of a process at another Domain."""
        return self.request.federation is not None

    @property
    def has_ended(self) -> bool:
        return self.state in ENDED


class JobRefusal(enum.StrEnum):
    """Why the caller may not decide on a job."""

    INVISIBLE = "job_not_found"
    """The caller may not know that the job exists."""
    NOT_YOURS = "not_your_dataset"
    OWN_REQUEST = "own_request"


def hash_request(
    request: JobRequest,
    *,
    requested_by: int,
    version_id: int,
    plan_id: str,
    model_hash: str,
    terms: PrivacyTerms | None,
) -> str:
    """SHA-256 of everything that an approval covers, as canonical JSON. Any difference changes it."""
    bound = {
        "request": msgspec.to_builtins(request),
        "requested_by": requested_by,
        "version_id": version_id,
        "plan_id": plan_id,
        "model_hash": model_hash,
        "terms": msgspec.to_builtins(terms),
    }
    return hashlib.sha256(msgspec.json.encode(bound, order="deterministic")).hexdigest()


# Access


def may_see(principal: Principal, requested_by: int, dataset: Holding) -> bool:
    """Whether the caller may see a job: the requester, or a person who may decide on it."""
    return principal.user_id == requested_by or sees_all(principal, requested_by, dataset)


NOBODY = 0
"""In place of a requester; no user has this id."""


def sees_all(principal: Principal, requested_by: int, dataset: Holding) -> bool:
    """Whether the caller sees the parts of a job that are for the data owner: the facts of the Worker and the cause of
    a failure.
    """
    if can_manage(principal, dataset) is None:
        return True
    return principal.user_id != requested_by and _triages(principal, dataset)


def may_decide(principal: Principal, requested_by: int, dataset: Holding) -> JobRefusal | None:
    """Whether the caller may approve, deny, revoke and release. Nobody decides on their own request."""
    if not may_see(principal, requested_by, dataset):
        return JobRefusal.INVISIBLE
    if can_manage(principal, dataset) is not None and not _triages(principal, dataset):
        return JobRefusal.NOT_YOURS
    return JobRefusal.OWN_REQUEST if principal.user_id == requested_by else None


def _triages(principal: Principal, dataset: Holding) -> bool:
    return principal.may(Permission.TRIAGE_REQUESTS) and can_see(principal, dataset)


def may_cancel(principal: Principal, requested_by: int, dataset: Holding) -> JobRefusal | None:
    """Whether the caller may cancel: only the requester."""
    if principal.user_id == requested_by:
        return None
    return JobRefusal.NOT_YOURS if may_see(principal, requested_by, dataset) else JobRefusal.INVISIBLE


# Transitions


def reject(job: JobRecord, code: str, why: str) -> JobRecord:
    """``checking -> rejected``: the job failed on the mock dataset. The cause is not private."""
    return _move(job, {JobState.CHECKING}, JobState.REJECTED, code=code, detail=why)


def present(job: JobRecord, metrics: Mapping[str, float], detail: str = "a person must approve it") -> JobRecord:
    """``checking -> waiting``: the job ran on the mock dataset, and a person must decide."""
    return _move(job, {JobState.CHECKING}, JobState.WAITING, mock_metrics=metrics, detail=detail)


def admit(job: JobRecord, metrics: Mapping[str, float]) -> JobRecord:
    """``checking -> approved``: the policy of the dataset approves the job without a person."""
    if not job.is_private:
        raise ValueError("a non-private job is never approved without a person")
    return _move(
        job,
        {JobState.CHECKING},
        JobState.APPROVED,
        mock_metrics=metrics,
        detail="approved by the policy of the dataset",
    )


def approve(job: JobRecord, decided_by: int, request_hash: str, comment: str) -> JobRecord:
    """``waiting -> approved``.

    Raises:
        Conflict: ``request_changed``: the decision is about another request; ``job_decided``: another decision came
            first.
    """
    return _decide(job, JobState.WAITING, JobState.APPROVED, decided_by, request_hash, comment)


def check_seen(job: JobRecord, state: str | None) -> None:
    """Refuse a decision that was made in another state of the job.

    Args:
        state: ``waiting`` or ``held``. None: ``waiting``, so only a decision that names ``held`` releases a result.
    Raises:
        Conflict: ``state_changed``.
    """
    seen = JobState.WAITING.value if state is None else state
    if job.state in (JobState.WAITING, JobState.HELD) and job.state.value != seen:
        raise Conflict(
            f"the job is {job.state}, but the decision is for the state {seen}: load the job again and name its state",
            code=codes.STATE_CHANGED,
            job_id=job.id,
            state=job.state.value,
        )


def release(job: JobRecord, decided_by: int, request_hash: str, comment: str) -> JobRecord:
    """``held -> released``. Raises as `approve`."""
    return _decide(job, JobState.HELD, JobState.RELEASED, decided_by, request_hash, comment)


def deny(job: JobRecord, decided_by: int, request_hash: str, comment: str) -> JobRecord:
    """``waiting -> denied``, or ``held -> denied``, which deletes the result. Raises as `approve`."""
    before = JobState.HELD if job.state is JobState.HELD else JobState.WAITING
    return replace(_decide(job, before, JobState.DENIED, decided_by, request_hash, comment), result=None)


def check_deletion(job: JobRecord, *, is_deleted: bool) -> None:
    """Refuse to approve a job, or to release its result, if its dataset was deleted.

    Raises:
        Conflict: ``dataset_deleted``.
    """
    if is_deleted:
        raise Conflict(
            "the dataset was deleted: no job runs on it, and no result leaves",
            code=codes.DATASET_DELETED,
            job_id=job.id,
        )


def withdraw(job: JobRecord) -> JobRecord:
    """``waiting, held -> denied`` by the Domain: the dataset was deleted, and a held result is deleted with it."""
    gone: dict[str, Any] = {"result": None, "decided_by": None, "comment": ""}
    return _move(job, WITHDRAWN, JobState.DENIED, **gone, detail="the dataset was deleted")


def revoke(job: JobRecord, decided_by: int) -> JobRecord:
    """``approved -> revoked``, or ``running -> revoked`` for a federated job, whose diffs no longer leave then.

    Raises:
        Conflict: ``job_decided``.
    """
    if job.state is not JobState.APPROVED and not (job.state is JobState.RUNNING and job.is_federated):
        raise _decided(job)
    return _move(job, {job.state}, JobState.REVOKED, decided_by=decided_by, detail="the approval was revoked")


def cancel(job: JobRecord) -> JobRecord:
    """``checking, waiting, approved, running -> cancelled`` by the requester. A charge stays.

    Raises:
        Conflict: ``job_decided``: the job has ended, or its result is held.
    """
    if JobState.CANCELLED not in TRANSITIONS[job.state]:
        raise _decided(job)
    return _move(job, {job.state}, JobState.CANCELLED, detail="cancelled by the requester")


def is_abandoned(job: JobRecord, *, has_requester: bool) -> bool:
    """Whether a job must end because the account of its requester was deleted.

    A running private job is already charged and ends by itself. A held job waits for the person who releases it.
    """
    ends_itself = job.state is JobState.RUNNING and job.is_private and not job.is_federated
    return not has_requester and JobState.CANCELLED in TRANSITIONS[job.state] and not ends_itself


def abandon(job: JobRecord) -> JobRecord:
    """``checking, waiting, approved, running -> cancelled``, if it `is_abandoned`. A charge stays."""
    return _move(
        job, {job.state}, JobState.CANCELLED, detail="cancelled, because the account of the requester was deleted"
    )


def start(job: JobRecord) -> JobRecord:
    """``approved -> running``, in the transaction that charges the cost."""
    return _move(job, {JobState.APPROVED}, JobState.RUNNING, num_attempts=job.num_attempts + 1, **_NO_FAULT)


def requeue(job: JobRecord) -> JobRecord:
    """``running -> approved``: the Worker was lost; see `may_run_again`."""
    assert may_run_again(job)
    return _move(job, {JobState.RUNNING}, JobState.APPROVED, detail="its Worker was lost; it starts once more")


def put_back(job: JobRecord, code: str, why: str) -> JobRecord:
    """``running -> approved``: no Worker began the job; a charge stays reserved for its next start."""
    assert not job.is_federated
    return _move(job, {JobState.RUNNING}, JobState.APPROVED, num_attempts=job.num_attempts - 1, code=code, detail=why)


def may_run_again(job: JobRecord) -> bool:
    """Whether a job that lost its Worker may start again: a non-private job, once.

    A private job has used its charge.
    """
    return not job.is_private and not job.is_federated and job.num_attempts < MAX_ATTEMPTS


def depart(job: JobRecord, detail: str, facts: Mapping[str, Any]) -> JobRecord:
    """``running -> released`` for a federated job: all its diffs have left."""
    assert job.is_federated
    return _move(job, {JobState.RUNNING}, JobState.RELEASED, facts=facts, detail=detail)


def finish(job: JobRecord, result: Result, facts: Mapping[str, Any]) -> JobRecord:
    """``running -> released`` for a private job, ``running -> held`` for a non-private one; not for a federated job."""
    assert not job.is_federated
    if job.is_private:
        return _move(job, {JobState.RUNNING}, JobState.RELEASED, result=result, facts=facts, detail="")
    return _move(
        job, {JobState.RUNNING}, JobState.HELD, result=result, facts=facts, detail="a person must release the result"
    )


def fail(
    job: JobRecord, code: str, detail: str, private_detail: str = "", facts: Mapping[str, Any] | None = None
) -> JobRecord:
    """``running -> failed``, or ``approved -> failed`` if the job can't start. In that case nothing was charged."""
    return _move(
        job,
        {JobState.APPROVED, JobState.RUNNING},
        JobState.FAILED,
        code=code,
        detail=detail,
        private_detail=private_detail,
        facts=facts,
    )


def _decide(
    job: JobRecord, before: JobState, after: JobState, decided_by: int, request_hash: str, comment: str
) -> JobRecord:
    assert decided_by != job.requested_by
    if request_hash != job.request_hash:
        raise Conflict(
            "the job has another request than the decision names: load the job again and decide on its present request",
            code=codes.REQUEST_CHANGED,
            job_id=job.id,
        )
    if job.state is not before:
        raise _decided(job)
    return _move(job, {before}, after, decided_by=decided_by, comment=comment, detail="")


def _decided(job: JobRecord) -> Conflict:
    return Conflict(f"the job is {job.state}, so this is not possible", code=codes.JOB_DECIDED, state=job.state.value)


def _move(job: JobRecord, before: Set[JobState], after: JobState, **changes: Any) -> JobRecord:
    if job.state not in before:
        raise Conflict(f"a job that is {job.state} cannot become {after}", code=codes.JOB_STATE, state=job.state.value)
    assert after in TRANSITIONS[job.state]
    return replace(job, state=after, sequence=job.sequence + 1, **changes)


def may_have_result(job: JobRecord, *, is_all_seen: bool) -> bool:
    """Whether the caller may download the result.

    After the release everybody may who sees the job. Before it only the persons may who see all of it, to decide on
    its release.
    """
    return job.result is not None and (job.state is JobState.RELEASED or (job.state is JobState.HELD and is_all_seen))


def refusal_error(refusal: JobRefusal, job_id: str) -> PygridError:
    if refusal is JobRefusal.OWN_REQUEST:
        return Forbidden(
            "nobody decides on their own request; ask another person who may decide", code=str(refusal), job_id=job_id
        )
    return Forbidden(
        "not for you: the requester may cancel, and the data owner decides", code=str(refusal), job_id=job_id
    )
