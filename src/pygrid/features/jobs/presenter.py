"""Descriptions of jobs for the requester and for the data owner."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import sqlalchemy as sa

from pygrid.core import jobs as rules
from pygrid.core.access import Principal
from pygrid.core.datasets import Schema
from pygrid.core.federated import PartState, without_secrets
from pygrid.core.federated import num_spent as num_spent_of
from pygrid.core.job_review import ReviewThresholds
from pygrid.core.job_spec import Statistic
from pygrid.core.jobs import JobRecord, JobState
from pygrid.features.jobs.charges import Account, describe_cost, find_account, needs_account
from pygrid.features.jobs.evidence import ROWS_MIX, Evidence
from pygrid.messages.jobs import FederationInfo, FederationRequest, JobInfo, JobRequest
from pygrid.plans.archive import Plan
from pygrid.plans.gate import GateReport
from pygrid.plans.inspect import describe
from pygrid.plans.manifest import Port
from pygrid.plans.serving import ServingReport, port_bytes
from pygrid.plans.text import human_bytes, human_count, one_line
from pygrid.storage import jobs as rows
from pygrid.storage.accounts import find_emails
from pygrid.storage.federated import list_parts
from pygrid.units import decimal

_MAX_KEYS_SHOWN = 10
_MAX_NAME = 80
_MAX_WORDS = 500
"""Longest description of a plan by its author, in characters."""
_LEAVES = "\nWhat leaves: "
"""Begin of the last line in the summary of a job that returns a row for each record."""


class Describer:
    """Describes jobs as one caller may see them, for one transaction. Values that several jobs share are read once.

    Args:
        progress: `job id -> progress` of a running job, 0 to 1.
        doing: `job id -> text` on the present step of a federated job.
        thresholds: from which values on a fact becomes a flag.
        model_bytes: `job -> size` of its submitted model; None: it has none, or it was removed.
    """

    def __init__(
        self,
        connection: sa.Connection,
        principal: Principal,
        progress: Callable[[str], float],
        doing: Callable[[str], str],
        thresholds: ReviewThresholds | None = None,
        model_bytes: Callable[[JobRecord], int | None] = lambda _: None,
    ) -> None:
        self._connection = connection
        self._principal = principal
        self._progress = progress
        self._doing = doing
        self._model_bytes = model_bytes
        self._evidence = Evidence(connection, thresholds or ReviewThresholds())
        self._accounts: dict[tuple[int, int], Account | None] = {}
        self._waiting: dict[int, int] = {}
        self._emails: dict[int, str] = {}
        self._datasets: dict[int, rows.JobDataset] = {}

    def describe(self, job: JobRecord) -> JobInfo:
        """Return a job as the caller may see it."""
        if job.version_id not in self._datasets:
            self._datasets[job.version_id] = rows.get_job_dataset(self._connection, job)
        dataset = self._datasets[job.version_id]
        sees_all = rules.sees_all(self._principal, job.requested_by, dataset.holding)
        result = job.result if rules.may_have_result(job, is_all_seen=sees_all) else None
        info = JobInfo(
            id=job.id,
            dataset=job.dataset_id,
            dataset_name=dataset.name,
            version=dataset.version,
            kind=job.request.kind,
            state=job.state.value,
            request=job.request,
            request_hash=job.request_hash,
            requested_by=job.requested_by,
            requested_by_email=self._email(job.requested_by),
            reason=job.request.reason,
            created_at=job.created_at,
            updated_at=job.updated_at,
            privacy=job.request.privacy,
            cost=describe_cost(job, self._account(job), sees_all=sees_all),
            detail=job.private_detail if sees_all and job.private_detail else job.detail,
            progress=1.0 if job.state in (JobState.HELD, JobState.RELEASED) else self._progress(job.id),
            metrics=dict(job.mock_metrics if result is None or not result.metrics else result.metrics),
            plan_id=job.plan_id,
            plan_name=job.plan_name,
            result_bytes=None if result is None else result.num_bytes,
            result_media_type="" if result is None else result.media_type,
            decided_by=self._decider(job.decided_by),
            code=job.code,
            comment=job.comment,
        )
        if job.request.federation is not None:
            info = self._with_federation(info, job, job.request.federation)
        return self._with_owners_part(info, job) if sees_all else info

    def _with_federation(self, info: JobInfo, job: JobRecord, federation: FederationRequest) -> JobInfo:
        parts = list_parts(self._connection, job.id)
        num_spent = num_spent_of(parts, is_private=job.is_private)
        return msgspec.structs.replace(
            info,
            request=msgspec.structs.replace(job.request, federation=without_secrets(federation)),
            progress=num_spent / federation.cycles,
            federation=FederationInfo(
                num_begun=len(parts),
                num_spent=num_spent,
                num_reported=sum(part.state is PartState.REPORTED for part in parts),
                cycle=parts[-1].cycle if parts else None,
                doing=self._doing(job.id) if job.state is JobState.RUNNING else "",
            ),
        )

    def _with_owners_part(self, info: JobInfo, job: JobRecord) -> JobInfo:
        summary, leaves = job.plan_summary, ""
        expected = self._evidence.expected_ratio(job, self._model_bytes(job))
        if job.request.kind == "predict":
            summary, _, leaves = summary.partition(_LEAVES)
        return msgspec.structs.replace(
            info,
            plan_summary=summary,
            leaves=leaves or None,
            bytes_out_ratio=None if job.facts is None else job.facts.get("bytes_out_ratio"),
            facts=None if job.facts is None else dict(job.facts),
            waiting_beside=self._num_waiting(job.dataset_id) - (job.state is JobState.WAITING),
            flags=self._evidence.flags_of(job, info.cost, expected),
            expected_ratio=expected,
        )

    def _account(self, job: JobRecord) -> Account | None:
        if not needs_account(job):
            return None
        key = job.dataset_id, job.requested_by
        if key not in self._accounts:
            self._accounts[key] = find_account(self._connection, *key)
        return self._accounts[key]

    def _num_waiting(self, dataset_id: int) -> int:
        if dataset_id not in self._waiting:
            self._waiting[dataset_id] = rows.count_waiting(self._connection, dataset_id)
        return self._waiting[dataset_id]

    def _decider(self, user_id: int | None) -> str | None:
        return None if user_id is None else self._email(user_id) or f"removed account {user_id}"

    def _email(self, user_id: int) -> str:
        if user_id not in self._emails:
            self._emails[user_id] = find_emails(self._connection, [user_id]).get(user_id, "")
        return self._emails[user_id]


def describe_plan(plan: Plan, report: GateReport) -> str:
    """Describe a checked plan to the data owner: the claims of its author, and what its graphs show."""
    found = describe(plan, report)
    lines = [found.summary]
    if found.description:
        lines.append(f"Description of its author: {one_line(found.description, _MAX_WORDS)}")
    lines += [f"It reads {column.name}: {column.what}." for column in found.inputs]
    lines += [
        f"It returns {column.name}: {column.what}{f', {column.meaning}' if column.meaning else ''}."
        for column in found.outputs
    ]
    independent = "Each record is computed by itself." if found.per_example_independent else "Records of a batch mix."
    return "\n".join([*lines, independent])


def describe_model(
    request: JobRequest, report: ServingReport, outputs: Sequence[Port], schema: Schema, num_records: int
) -> str:
    """Describe a checked ONNX model to the data owner: its size, its inputs, and what leaves the Domain."""
    operators = ", ".join(
        f"{name} {count}" for name, count in sorted(report.operators.items(), key=lambda one: -one[1])
    )
    lines = [
        f"An ONNX model of {human_count(report.num_parameters)} parameters and {report.num_nodes} nodes: {operators}. "
        f"{human_count(report.flops_per_example)} operations for each record.",
        *(f"It reads {_named(port)}, from column {request.binding[port.name]}." for port in report.inputs),
        *(
            f"It returns {_named(port)}{'' if port in outputs else ', which does not leave'}."
            for port in report.outputs
        ),
    ]
    if report.rows_independent:
        lines.append("Each record is computed by itself.")
    else:
        why = one_line(report.independence_reason)
        lines.append(f"{ROWS_MIX}{request.batch_size} may mix ({why}), so a row can contain information on others.")
    columns = [column for column in schema.columns if column.name in request.binding.values()]
    bytes_in, bytes_out = (
        num_records * sum(column.record_bytes for column in columns),
        port_bytes(tuple(outputs), num_records),
    )
    ratio = f", {decimal(bytes_out / bytes_in, 2)} times the data that is read" if bytes_in else ""
    rows = ", ".join(map(_named, outputs))
    records = (
        f"each of {num_records:,} records"
        if request.max_records is None
        else f"each of the first {num_records:,} records"
    )
    leaves = f"{rows}, for {records}: {human_bytes(bytes_out)}{ratio}"
    return "\n".join(lines) + _LEAVES + leaves


def _named(port: Port) -> str:
    return f"{one_line(port.name, _MAX_NAME)!r} ({_row(port)})"


def _row(port: Port) -> str:
    """Describe the values of a port for one record: ``one row of 10 numbers, float32``."""
    sizes = [side for side in port.shape[1:] if isinstance(side, int)]
    if not sizes:
        return f"one number, {port.dtype}"
    if len(sizes) == 1:
        return f"one row of {sizes[0]:,} numbers, {port.dtype}"
    return f"{' x '.join(map(str, sizes))} numbers, {port.dtype}"


def _bound(bound: float | str) -> str:
    return bound if isinstance(bound, str) else decimal(bound)


def describe_statistics(statistics: Sequence[Statistic], request: JobRequest) -> str:
    """Describe statistics to the data owner, one line each."""
    lines = []
    for statistic, asked in zip(statistics, request.statistics, strict=True):
        line = f"{statistic.kind} of {statistic.column}" if statistic.column else "number of records"
        if statistic.kind == "count" and statistic.column:
            line = f"number of values of {statistic.column} that are present"
        if statistic.kind in ("sum", "mean", "variance"):
            line += f", values clamped to {_bound(asked.lower)} .. {_bound(asked.upper)}"
        edges = ", ".join(map(_bound, asked.edges[:_MAX_KEYS_SHOWN]))
        edges += ", ..." if len(asked.edges) > _MAX_KEYS_SHOWN else ""
        if statistic.kind == "quantile":
            line += f" at {statistic.quantile:g}, among {len(asked.edges)} candidates: {edges}"
        if statistic.kind == "histogram":
            line += f", in {max(0, len(asked.edges) - 1)} bins with the edges {edges}"
        if statistic.by:
            shown = ", ".join(map(str, asked.keys[:_MAX_KEYS_SHOWN]))
            more = ", ..." if len(asked.keys) > _MAX_KEYS_SHOWN else ""
            line += f", for each of these {asked.per and asked.per + 's '}of {statistic.by}: {shown}{more}"
        lines.append(one_line(line, _MAX_WORDS))
    return "\n".join(lines)
