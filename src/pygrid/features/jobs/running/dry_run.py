"""Runs a job on the mock dataset, before a person or the policy of the dataset decides on it."""

from __future__ import annotations

import contextlib
import logging

import msgspec
import sqlalchemy as sa

from pygrid.compute.pools import Slot
from pygrid.core import jobs as rules
from pygrid.core.job_spec import max_evaluations, unit_limit_s
from pygrid.core.job_terms import epsilon_alone
from pygrid.core.jobs import JobRecord, JobState
from pygrid.errors import PygridError, Unavailable
from pygrid.features.jobs.charges import find_shortage
from pygrid.features.jobs.federated.tasks import Federation
from pygrid.features.jobs.running.job_writes import JobWrites
from pygrid.features.jobs.running.results import read_metrics
from pygrid.features.jobs.running.spec_builder import SpecBuilder
from pygrid.storage import jobs as rows
from pygrid.storage.audit import AuditedWrites
from pygrid.storage.blobs.checked import is_damage
from pygrid.storage.columns import ColumnFiles
from pygrid.storage.policies import find_policy

logger = logging.getLogger(__name__)


class DryRun:
    """Takes jobs through ``checking``.

    Args:
        columns: keeps a mock dataset that is drawn for a job, during its dry run.
        federation: decides whether a job's coordinator needs no review by a person.
    """

    def __init__(
        self,
        specs: SpecBuilder,
        columns: ColumnFiles,
        writes: AuditedWrites,
        job_writes: JobWrites,
        federation: Federation,
    ) -> None:
        self._specs = specs
        self._columns = columns
        self._writes = writes
        self._job_writes = job_writes
        self._federation = federation

    async def run(self, job: JobRecord, slot: Slot) -> None:
        """Move a job: ``checking -> waiting | approved | rejected``.

        Raises:
            Unavailable: the job keeps its state, and can be checked again.
        """
        metrics: dict[str, float] = {}
        try:
            with self._columns.draft() as draft, contextlib.ExitStack() as held:
                num_records, specs = await self._specs.of_mock(job, draft, held)
                for number, spec in enumerate(specs):
                    result = await slot.run(msgspec.structs.replace(spec, id=f"{job.id}-mock-{number}"), pad=False)
                    if result.failure is not None:
                        return await self._reject(
                            job, result.failure.code or result.failure.kind, result.failure.detail
                        )
                    if spec.privacy is None:
                        metrics = read_metrics(job, result.payload)
                    elif result.facts.num_zeroed and result.facts.num_zeroed >= spec.privacy.rounds * num_records:
                        return await self._reject(
                            job, "plan_failed", "the plan failed on every record of the mock dataset"
                        )
                    if detail := self._too_slow(job, result.facts.unit_s):
                        return await self._reject(job, "job_too_slow", detail)
        except PygridError as error:
            if isinstance(error, Unavailable) and not is_damage(error):
                raise
            return await self._reject(job, error.code, error.detail)
        except Exception:
            logger.exception("dry run failed", extra={"job_id": job.id})
            return await self._reject(job, "internal", "the Domain failed to check this job; its log has the reason")
        await self._decide_by_policy(job, metrics)

    def _too_slow(self, job: JobRecord, unit_s: float) -> str:
        """Return why a private job cannot finish in time with any data; empty: it can."""
        terms, wall_s = job.terms, self._specs.limits.wall_s
        if terms is None or terms.unit == "domain" or job.request.kind == "statistics":
            return ""
        evaluations = max_evaluations(terms, terms.expected_size / terms.sampling_rate)
        limit_s = unit_limit_s(unit_s)
        if evaluations * limit_s <= wall_s:
            return ""
        return (
            f"the job needs up to {evaluations:,} evaluations of the plan, and each may take up to {limit_s:.2g} s: "
            f"{evaluations * limit_s:,.0f} s together, but a job may take {wall_s:,.0f} s. Use fewer epochs, a smaller "
            "sampling rate or a smaller model, or ask the operator to raise PYGRID_JOB_WALL_S"
        )

    async def _reject(self, job: JobRecord, code: str, detail: str) -> None:
        await self._job_writes.move(job, lambda now: (rules.reject(now, code, detail), "job_rejected"))

    async def _decide_by_policy(self, job: JobRecord, metrics: dict[str, float]) -> None:
        may_dial = not job.is_federated or await self._federation.may_dial(job)

        def transaction(connection: sa.Connection) -> JobRecord | None:
            now_is = rows.get_job(connection, job.id, lock=True)
            if now_is.state is not JobState.CHECKING:
                return None
            if shortage := find_shortage(connection, now_is):
                # The job fitted at its submission. The data owner can deny it, or raise the budget and then approve it.
                presented = rules.present(now_is, metrics, f"{shortage.code}: {shortage.detail}")
                return self._job_writes.write(connection, presented, "job_presented")
            if not may_dial or not _passes(connection, now_is):
                return self._job_writes.write(connection, rules.present(now_is, metrics), "job_presented")
            return self._job_writes.write(connection, rules.admit(now_is, metrics), "job_approved")

        moved = await self._writes.write(transaction)
        if moved is not None:
            self._job_writes.announce(moved)


def _passes(connection: sa.Connection, job: JobRecord) -> bool:
    """Whether the policy approves a job that fits the budget; never if the requester may not see the dataset."""
    holding = rows.get_job_dataset(connection, job).holding
    if holding.visibility == "private" and holding.created_by != job.requested_by:
        return False
    policy = find_policy(connection, job.dataset_id)
    if job.terms is None or policy is None or not policy.auto_approve:
        return False
    return policy.max_epsilon_per_job is None or epsilon_alone(job.terms) <= policy.max_epsilon_per_job
