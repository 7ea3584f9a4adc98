"""Jobs in words and numbers, for who asked and for who decides."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import sqlalchemy as sa

from pygrid.core import jobs as rules
from pygrid.core.access import Principal
from pygrid.core.execution import Statistic
from pygrid.core.jobs import Job, JobState
from pygrid.features.jobs.budgets import describe_cost, find_account
from pygrid.messages.jobs import JobInfo, JobRequest
from pygrid.plans.archive import Plan
from pygrid.plans.gate import GateReport
from pygrid.plans.inspect import describe
from pygrid.plans.text import one_line
from pygrid.storage import jobs as rows

_MAX_KEYS_SHOWN = 10
_MAX_WORDS = 500
"""Of the author's description of a plan."""


def describe_job(connection: sa.Connection, principal: Principal, job: Job, progress: float) -> JobInfo:
    """A job as the caller may know it."""
    dataset = rows.get_job_dataset(connection, job)
    sees_all = rules.sees_all(principal, job.requested_by, dataset.holding)
    account = None if job.terms is None else find_account(connection, job.dataset_id, job.requested_by)
    has_result = rules.may_have_result(job, is_all_seen=sees_all)
    metrics = job.result.metrics if job.result is not None and has_result and job.result.metrics else job.mock_metrics
    info = JobInfo(
        id=job.id,
        dataset=job.dataset_id,
        dataset_name=dataset.name,
        version=dataset.version,
        kind=job.request.kind,
        state=job.state.value,
        request_hash=job.request_hash,
        requested_by=job.requested_by,
        requested_by_email=rows.get_emails(connection, [job.requested_by]).get(job.requested_by, ""),
        reason=job.request.reason,
        created_at=job.created_at,
        updated_at=job.updated_at,
        privacy=job.request.privacy,
        cost=describe_cost(job, account, sees_all=sees_all),
        detail=job.private_detail if sees_all and job.private_detail else job.detail,
        progress=1.0 if job.state in (JobState.HELD, JobState.RELEASED) else progress,
        metrics=dict(metrics),
        plan_id=job.plan_id,
        plan_name=job.plan_name,
        result_bytes=job.result.num_bytes if job.result is not None and has_result else None,
        result_media_type=job.result.media_type if job.result is not None and has_result else "",
        decided_by=job.decided_by,
        code=job.code,
        comment=job.comment,
        request=job.request,
    )
    if not sees_all:
        return info
    return msgspec.structs.replace(
        info,
        plan_summary=job.plan_summary,
        bytes_out_ratio=None if job.facts is None else job.facts.get("bytes_out_ratio"),
        facts=None if job.facts is None else dict(job.facts),
        waiting_beside=rows.count_waiting(connection, job.dataset_id, job.id),
    )


def describe_plan(plan: Plan, report: GateReport) -> str:
    """A plan that passed the gate, for who decides: what the author claims, and what was worked out from its graphs."""
    found = describe(plan, report)
    lines = [found.summary]
    if found.description:
        lines.append(f"Its author says: {one_line(found.description, _MAX_WORDS)}")
    lines += [f"It reads {column.name}: {column.what}." for column in found.inputs]
    lines += [
        f"It gives {column.name}: {column.what}{f', {column.meaning}' if column.meaning else ''}." for column in found.outputs
    ]
    independent = "Each record is computed by itself." if found.per_example_independent else "Records of a batch mix."
    return "\n".join([*lines, independent])


def describe_statistics(statistics: Sequence[Statistic], request: JobRequest) -> str:
    """Questions in words, a line each."""
    lines = []
    for statistic, asked in zip(statistics, request.statistics, strict=True):
        line = f"{statistic.kind} of {statistic.column}" if statistic.column else "number of records"
        if statistic.kind in ("sum", "mean", "variance"):
            line += f", values clamped to {statistic.lower:g} .. {statistic.upper:g}"
        if statistic.kind == "quantile":
            line += f" at {statistic.quantile:g}, among {len(statistic.edges)} candidates"
        if statistic.kind == "histogram":
            line += f", in {max(0, len(statistic.edges) - 1)} bins"
        if statistic.by:
            shown = ", ".join(map(str, asked.keys[:_MAX_KEYS_SHOWN]))
            more = ", ..." if len(asked.keys) > _MAX_KEYS_SHOWN else ""
            line += f", for each of these of {statistic.by}: {shown}{more}"
        lines.append(one_line(line, _MAX_WORDS))
    return "\n".join(lines)
