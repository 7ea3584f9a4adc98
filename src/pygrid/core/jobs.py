"""The life of a job on private data, and who may do what with it.

    checking ──present──> waiting    ──admit──> approved         ──reject──> rejected   ──cancel──> cancelled
    waiting  ──approve──> approved   ──deny──> denied                                   ──cancel──> cancelled
    approved ──start──> running      ──revoke──> revoked         ──fail──> failed       ──cancel──> cancelled
    running  ──finish──> released (private) | held (exact)       ──fail──> failed       ──cancel──> cancelled
             ──requeue──> approved: an exact job's Worker was lost, once
             ──depart──> released  ──revoke──> revoked: a federated job
    held     ──sign off──> released  ──deny──> denied

| who | may |
|---|---|
| who asked | cancel it until it has ended or is held |
| the dataset's holder, or who triages requests and may see the dataset; never who asked | approve, deny, revoke, sign
off | | the Domain | everything else; it also cancels the jobs of accounts that were deleted, and denies those on
datasets that were |

A job is **private** if it runs under privacy terms: its result is noisy and may be released as it is. The result of an
**exact** job is held until a person has signed it off. A decision names the hash of what was looked at, and counts for
that alone.

A **federated** job takes part in the cycles of a process elsewhere (`pygrid.core.federated`): it has no result, as what
it may let out, the diff of each cycle, leaves while it runs. Its approval can be taken back until it has ended.

All functions are pure: they take the state of things, and give the next state or refuse it.
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
"""The code of a released job whose result was deleted after it had been kept long enough."""
MAX_ATTEMPTS = 2
"""How often an exact job is started at the most, if its Worker is lost.

A private job is started once: it was paid for once.
"""


class JobState(enum.StrEnum):
    """See the diagram at the top of this module."""

    CHECKING = "checking"
    """It is tried on the mock twin."""
    WAITING = "waiting"
    APPROVED = "approved"
    RUNNING = "running"
    HELD = "held"
    """There is a result, which a person has to sign off."""
    RELEASED = "released"
    REJECTED = "rejected"
    """It failed on the mock twin."""
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
        (
            JobState.RELEASED,
            JobState.REJECTED,
            JobState.DENIED,
            JobState.REVOKED,
            JobState.CANCELLED,
            JobState.FAILED,
        ),
        frozenset(),
    ),
}
"""Where each state may lead."""
WITHDRAWN = frozenset({JobState.WAITING, JobState.HELD})
"""Where a job waits for a person who has nothing to decide any more once its dataset is deleted."""
ENDED = frozenset(state for state, following in TRANSITIONS.items() if not following)


@dataclass(frozen=True)
class Result:
    """What a Worker gave back: where its bytes are, and what they are."""

    hash: str
    """SHA-256 of the bytes."""
    num_bytes: int
    media_type: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Of an exact job: they are part of what has to be signed off."""


@dataclass(frozen=True)
class Change:
    """A state that a job came into, and when."""

    state: JobState
    at: dt.datetime


@dataclass(frozen=True)
class JobRecord:
    """A job as it is now."""

    id: str
    dataset_id: int
    version_id: int
    state: JobState
    request: JobRequest
    request_hash: str
    requested_by: int
    plan_id: str
    """SHA-256 of the plan's file; empty for statistics."""
    plan_name: str
    plan_summary: str
    model_hash: str
    terms: PrivacyTerms | None
    """What the request's privacy comes to; None: exact."""
    created_at: dt.datetime
    updated_at: dt.datetime
    sequence: int = 0
    """Counts its changes."""
    num_attempts: int = 0
    decided_by: int | None = None
    comment: str = ""
    code: str = ""
    detail: str = ""
    """For whoever may see the job."""
    private_detail: str = ""
    """For the owner of the data only: it may depend on single records."""
    mock_metrics: Mapping[str, float] = field(default_factory=dict)
    result: Result | None = None
    facts: Mapping[str, Any] | None = None
    history: tuple[Change, ...] = ()
    """Each state it has been in, the present one last; as many as ``sequence``, and the first."""

    @property
    def is_private(self) -> bool:
        """Whether its result carries noise that protects single units."""
        return self.terms is not None

    @property
    def is_federated(self) -> bool:
        """Whether it takes part in the cycles of a process at another Domain."""
        return self.request.federation is not None

    @property
    def has_ended(self) -> bool:
        return self.state in ENDED


class JobRefusal(enum.StrEnum):
    """Why somebody may not decide on a job."""

    INVISIBLE = "job_not_found"
    """The caller is not to know that there is such a job."""
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
    """SHA-256 over all that an approval is bound to, as canonical JSON: what differs in anything has another."""
    bound = {
        "request": msgspec.to_builtins(request),
        "requested_by": requested_by,
        "version_id": version_id,
        "plan_id": plan_id,
        "model_hash": model_hash,
        "terms": msgspec.to_builtins(terms),
    }
    return hashlib.sha256(msgspec.json.encode(bound, order="deterministic")).hexdigest()


# Who may


def may_see(principal: Principal, requested_by: int, dataset: Holding) -> bool:
    """Whether the caller may know of a job: it is theirs, or they may look after the dataset."""
    return principal.user_id == requested_by or sees_all(principal, requested_by, dataset)


def sees_all(principal: Principal, requested_by: int, dataset: Holding) -> bool:
    """Whether the caller sees of a job what only the owner of the data may: what the Worker saw, and what it
    failed of.
    """
    if can_manage(principal, dataset) is None:
        return True
    return principal.user_id != requested_by and _triages(principal, dataset)


def may_decide(principal: Principal, requested_by: int, dataset: Holding) -> JobRefusal | None:
    """Whether the caller may approve, deny, revoke and sign off.

    Nobody decides on their own request, whatever their role.
    """
    if not may_see(principal, requested_by, dataset):
        return JobRefusal.INVISIBLE
    if can_manage(principal, dataset) is not None and not _triages(principal, dataset):
        return JobRefusal.NOT_YOURS
    return JobRefusal.OWN_REQUEST if principal.user_id == requested_by else None


def _triages(principal: Principal, dataset: Holding) -> bool:
    return principal.may(Permission.TRIAGE_REQUESTS) and can_see(principal, dataset)


def may_cancel(principal: Principal, requested_by: int, dataset: Holding) -> JobRefusal | None:
    """Whether the caller may cancel: only who asked."""
    if principal.user_id == requested_by:
        return None
    return JobRefusal.NOT_YOURS if may_see(principal, requested_by, dataset) else JobRefusal.INVISIBLE


# Transitions


def reject(job: JobRecord, code: str, why: str) -> JobRecord:
    """``checking -> rejected``: it failed on the mock twin, of which all may be told."""
    return _move(job, {JobState.CHECKING}, JobState.REJECTED, code=code, detail=why)


def present(job: JobRecord, metrics: Mapping[str, float], detail: str = "a person has to approve it") -> JobRecord:
    """``checking -> waiting``: it works on the mock twin, and a person has to decide."""
    return _move(job, {JobState.CHECKING}, JobState.WAITING, mock_metrics=metrics, detail=detail)


def admit(job: JobRecord, metrics: Mapping[str, float]) -> JobRecord:
    """``checking -> approved``: the dataset's policy lets it pass without a person."""
    if not job.is_private:
        raise ValueError("an exact job is never approved without a person")
    return _move(
        job, {JobState.CHECKING}, JobState.APPROVED, mock_metrics=metrics, detail="approved by the dataset's policy"
    )


def approve(job: JobRecord, decided_by: int, request_hash: str, comment: str) -> JobRecord:
    """``waiting -> approved``.

    Raises:
        Conflict: ``request_changed``: something else was looked at; ``job_decided``: another decision came first.
    """
    return _decide(job, JobState.WAITING, JobState.APPROVED, decided_by, request_hash, comment)


def check_seen(job: JobRecord, state: str | None) -> None:
    """Refuse a decision on a job that was looked at in another state than it is in.

    Args:
        state: ``waiting`` or ``held``; None: ``waiting``, so only a decision that names ``held`` lets a result leave.
    Raises:
        Conflict: ``state_changed``.
    """
    seen = JobState.WAITING.value if state is None else state
    if job.state in (JobState.WAITING, JobState.HELD) and job.state.value != seen:
        raise Conflict(
            f"the job is {job.state}, and this decision is on one that is {seen}: load the job again, and name its "
            "state",
            code=codes.STATE_CHANGED,
            job_id=job.id,
            state=job.state.value,
        )


def sign_off(job: JobRecord, decided_by: int, request_hash: str, comment: str) -> JobRecord:
    """``held -> released``. Raises as `approve`."""
    return _decide(job, JobState.HELD, JobState.RELEASED, decided_by, request_hash, comment)


def deny(job: JobRecord, decided_by: int, request_hash: str, comment: str) -> JobRecord:
    """``waiting -> denied``, or ``held -> denied``, and then the result is gone. Raises as `approve`."""
    before = JobState.HELD if job.state is JobState.HELD else JobState.WAITING
    return replace(_decide(job, before, JobState.DENIED, decided_by, request_hash, comment), result=None)


def check_deletion(job: JobRecord, *, is_deleted: bool) -> None:
    """Refuse to approve a job, or to let its result leave, whose dataset was deleted.

    Raises:
        Conflict: ``dataset_deleted``.
    """
    if is_deleted:
        raise Conflict(
            "the dataset was deleted, so nothing runs on it and nothing of it leaves any more",
            code=codes.DATASET_DELETED,
            job_id=job.id,
        )


def withdraw(job: JobRecord) -> JobRecord:
    """``waiting, held -> denied``, by the Domain: the dataset was deleted, and a result that nobody let out is gone
    with it.
    """
    gone: dict[str, Any] = {"result": None, "decided_by": None, "comment": ""}
    return _move(job, WITHDRAWN, JobState.DENIED, **gone, detail="its dataset was deleted")


def revoke(job: JobRecord, decided_by: int) -> JobRecord:
    """``approved -> revoked``: an approval is taken back, which is too late once the job runs; ``running -> revoked``
    for a federated job, of which nothing leaves any more then.

    Raises:
        Conflict: ``job_decided``.
    """
    if job.state is not JobState.APPROVED and not (job.state is JobState.RUNNING and job.is_federated):
        raise _decided(job)
    return _move(job, {job.state}, JobState.REVOKED, decided_by=decided_by, detail="the approval was taken back")


def cancel(job: JobRecord) -> JobRecord:
    """``checking, waiting, approved, running -> cancelled``, by who asked. What was charged stays charged.

    Raises:
        Conflict: ``job_decided``: it is over, or its result waits to be signed off.
    """
    if JobState.CANCELLED not in TRANSITIONS[job.state]:
        raise _decided(job)
    return _move(job, {job.state}, JobState.CANCELLED, detail="cancelled by who asked")


def is_abandoned(job: JobRecord, *, has_asker: bool) -> bool:
    """Whether a job has to end because who asked has no account any more. A private job that runs ends by itself, paid
    for; one whose result is held is left to who signs it off.
    """
    ends_itself = job.state is JobState.RUNNING and job.is_private and not job.is_federated
    return not has_asker and JobState.CANCELLED in TRANSITIONS[job.state] and not ends_itself


def abandon(job: JobRecord) -> JobRecord:
    """``checking, waiting, approved, running -> cancelled``, if it `is_abandoned`. What was charged stays charged."""
    return _move(job, {job.state}, JobState.CANCELLED, detail="cancelled, as who asked has no account any more")


def start(job: JobRecord) -> JobRecord:
    """``approved -> running``, in the transaction that debits it."""
    return _move(job, {JobState.APPROVED}, JobState.RUNNING, num_attempts=job.num_attempts + 1, detail="")


def requeue(job: JobRecord) -> JobRecord:
    """``running -> approved``: the Worker was lost; see `may_run_again`."""
    assert may_run_again(job)
    return _move(job, {JobState.RUNNING}, JobState.APPROVED, detail="its Worker was lost; it is started once more")


def may_run_again(job: JobRecord) -> bool:
    """Whether a job whose Worker was lost may have another: exact ones, once. A private one has used up its charge."""
    return not job.is_private and not job.is_federated and job.num_attempts < MAX_ATTEMPTS


def depart(job: JobRecord, detail: str, facts: Mapping[str, Any]) -> JobRecord:
    """``running -> released`` for a federated job: all that it may let out has left."""
    assert job.is_federated
    return _move(job, {JobState.RUNNING}, JobState.RELEASED, facts=facts, detail=detail)


def finish(job: JobRecord, result: Result, facts: Mapping[str, Any]) -> JobRecord:
    """``running -> released`` for a private job, ``running -> held`` for an exact one; not for a federated one."""
    assert not job.is_federated
    if job.is_private:
        return _move(job, {JobState.RUNNING}, JobState.RELEASED, result=result, facts=facts, detail="")
    return _move(
        job, {JobState.RUNNING}, JobState.HELD, result=result, facts=facts, detail="the result waits to be signed off"
    )


def fail(
    job: JobRecord, code: str, detail: str, private_detail: str = "", facts: Mapping[str, Any] | None = None
) -> JobRecord:
    """``running -> failed``; or ``approved -> failed``, if it can't be started: then nothing was charged."""
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
            "this is not the request that was looked at: load the job again, and decide on what it says now",
            code=codes.REQUEST_CHANGED,
            job_id=job.id,
        )
    if job.state is not before:
        raise _decided(job)
    return _move(job, {before}, after, decided_by=decided_by, comment=comment, detail="")


def _decided(job: JobRecord) -> Conflict:
    return Conflict(
        f"the job is {job.state}, so this cannot be done (any more)", code=codes.JOB_DECIDED, state=job.state.value
    )


def _move(job: JobRecord, before: Set[JobState], after: JobState, **changes: Any) -> JobRecord:
    if job.state not in before:
        raise Conflict(
            f"a job that is {job.state} does not become {after} in this way",
            code=codes.JOB_STATE,
            state=job.state.value,
        )
    assert after in TRANSITIONS[job.state]
    return replace(job, state=after, sequence=job.sequence + 1, **changes)


def may_have_result(job: JobRecord, *, is_all_seen: bool) -> bool:
    """Whether the caller may have the bytes of a result: everybody who may see the job once it is released; before that
    those alone who see all of it, to decide whether it leaves.
    """
    return job.result is not None and (job.state is JobState.RELEASED or (job.state is JobState.HELD and is_all_seen))


def refusal_error(refusal: JobRefusal, job_id: str) -> PygridError:
    """The error that tells of a refusal."""
    if refusal is JobRefusal.OWN_REQUEST:
        return Forbidden(
            "nobody decides on their own request; ask somebody else who may", code=str(refusal), job_id=job_id
        )
    return Forbidden(
        "this is for others: who asked may cancel, who holds the dataset decides", code=str(refusal), job_id=job_id
    )
