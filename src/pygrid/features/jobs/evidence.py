"""Collects the facts on which the flags of a request rest."""

from __future__ import annotations

import datetime as dt

import sqlalchemy as sa

from pygrid.core.associations import AssociationState
from pygrid.core.job_checks import used_columns
from pygrid.core.job_review import EarlierApproval, ReviewFacts, ReviewThresholds, review
from pygrid.core.jobs import JobRecord, JobState
from pygrid.messages.jobs import JobCost, JobFlag
from pygrid.storage import datasets as dataset_rows
from pygrid.storage import job_reviews as rows
from pygrid.storage.accounts import list_emails
from pygrid.storage.associations import list_networks
from pygrid.transport.address import RelayedAddress, parse_address

UNDECIDED = frozenset({JobState.CHECKING, JobState.WAITING, JobState.HELD})
"""States in which a decision is ahead, so that a job has flags."""
ROWS_MIX = "Records of a batch of "
"""Begin of the line in the summary of a model whose answers may depend on other records."""
_DAY = dt.timedelta(hours=24)


class Evidence:
    """Finds the flags of jobs, for one transaction. Values that several jobs share are read once."""

    def __init__(self, connection: sa.Connection, thresholds: ReviewThresholds) -> None:
        self._connection = connection
        self._thresholds = thresholds
        self._subjects: dict[int, str | None] = {}
        self._account_times: dict[int, dt.datetime | None] = {}
        self._networks: frozenset[str] | None = None

    def expected_ratio(self, job: JobRecord, model_bytes: int | None) -> float | None:
        """Return the bytes of the model of a training for each byte of the columns that it reads.

        Args:
            model_bytes: size of the submitted model; None: unknown.
        """
        if job.request.kind != "train" or model_bytes is None or job.facts is not None:
            return None
        schema = dataset_rows.get_schema(self._connection, job.version_id)
        read = set(used_columns(job.request, schema))
        bytes_in = schema.num_records * sum(one.record_bytes for one in schema.columns if one.name in read)
        return model_bytes / bytes_in if bytes_in else None

    def flags_of(self, job: JobRecord, cost: JobCost | None, expected_ratio: float | None) -> tuple[JobFlag, ...]:
        """Return the flags of a job; none if nobody can decide on it any longer."""
        if job.state not in UNDECIDED:
            return ()
        made_at = self._account_made_at(job.requested_by)
        facts = ReviewFacts(
            request=job.request,
            cost=cost,
            result_ratio=expected_ratio if job.facts is None else job.facts.get("bytes_out_ratio"),
            rows_mix=job.request.kind == "predict"
            and any(line.startswith(ROWS_MIX) for line in job.plan_summary.splitlines()),
            subject_bound=self._bound_subject(job),
            is_coordinator_known=self._knows_coordinator(job),
            account_age=None if made_at is None else job.created_at - made_at,
            num_similar=0
            if job.is_private
            else rows.count_exact(self._connection, job.dataset_id, job.created_at - _DAY, job.created_at),
            earlier=self._earlier(job),
        )
        return review(facts, self._thresholds)

    def _account_made_at(self, user_id: int) -> dt.datetime | None:
        if user_id not in self._account_times:
            self._account_times[user_id] = rows.list_account_times(self._connection, [user_id]).get(user_id)
        return self._account_times[user_id]

    def _bound_subject(self, job: JobRecord) -> str:
        """Return the column of the job that tells persons apart by the newest version, which may be a later one."""
        if job.dataset_id not in self._subjects:
            newest = dataset_rows.get_version(self._connection, job.dataset_id)
            self._subjects[job.dataset_id] = dataset_rows.get_schema(self._connection, newest.id).subject
        subject, request = self._subjects[job.dataset_id], job.request
        read = {*request.binding.values(), *(one.column for one in request.statistics)}
        return subject if subject is not None and subject in read else ""

    def _knows_coordinator(self, job: JobRecord) -> bool:
        if job.request.federation is None:
            return True
        if self._networks is None:
            joined = list_networks(self._connection)
            accepted = (one.url.rstrip("/") for one in joined if one.state is AssociationState.ACCEPTED)
            self._networks = frozenset(accepted)
        address = parse_address(job.request.federation.coordinator)
        return isinstance(address, RelayedAddress) and address.network_url in self._networks

    def _earlier(self, job: JobRecord) -> EarlierApproval | None:
        found = rows.find_approved_plan(self._connection, job)
        if found is None or found.decided_by is None:
            return None
        times = [change.at for change in found.history if change.state is JobState.APPROVED]
        email = list_emails(self._connection, [found.decided_by])[found.decided_by]
        return EarlierApproval(email, times[0] if times else found.updated_at)
