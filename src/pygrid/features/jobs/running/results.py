"""Stores the results and failures of Workers, with texts that may leave the Domain."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from pygrid.core import jobs as rules
from pygrid.core.job_checks import metrics_of, name_groups
from pygrid.core.job_spec import Facts, Failure, FailureKind, JobResult
from pygrid.core.jobs import JobRecord, Result
from pygrid.errors import InvalidInput, InvalidTensors, StorageFull, Unavailable
from pygrid.features.jobs.running.job_writes import JobWrites
from pygrid.messages import media
from pygrid.messages.jobs import JobKind
from pygrid.privacy.ledger import ChargeState
from pygrid.storage.job_files import JobFiles
from pygrid.tensors import read_layout

logger = logging.getLogger(__name__)

FIRST_RETRY_S = 1.0
MAX_RETRY_S = 30.0
"""Shortest and longest pause between attempts to store the end of a job; each attempt doubles it."""

_WORDS: dict[FailureKind, str] = {
    "refused": "the Worker refused the job",
    "plan_failed": "the plan failed on the data",
    "out_of_memory": "the job needs more memory than is allowed",
    "out_of_cpu": "the job took more computing time than is allowed",
    "out_of_time": "the job took longer than is allowed",
    "crashed": "the job's process ended without a result",
    "cancelled": "the job was ended",
    "result_too_large": "the result is larger than is allowed",
    "lost": "the job's Worker was lost",
}
_MEDIA_TYPES: dict[JobKind, str] = {
    "train": media.TENSORS,
    "evaluate": "application/json",
    "statistics": "application/json",
    "predict": media.TENSORS,
}
_NO_RESULT = "the job ended without a result; what it was charged stays charged"
"""The only text on a failed private job, because its failure can depend on single records."""
_NOT_BEGUN = "no Worker received the job; nothing was charged"
"""The text on a private job that failed before a Worker received it: no record has a part in the failure."""


class ResultSummary(msgspec.Struct, frozen=True):
    """Stored with the bytes of a result until the row is written."""

    media_type: str
    facts: dict[str, Any]


class Results:
    """Ends running jobs with a result or with a failure."""

    def __init__(self, files: JobFiles, job_writes: JobWrites) -> None:
        self._files = files
        self._job_writes = job_writes

    async def keep(self, job: JobRecord, result: JobResult, bytes_in: int) -> None:
        """Store the bytes of a result once, then finish the job.

        The size of the data does not come from the Worker, because the data owner's approval of a release uses it.
        """
        try:
            payload = await asyncio.to_thread(_finished, job, result.payload)
        except (InvalidInput, msgspec.DecodeError, ValueError, KeyError) as error:
            # The result of a Worker is untrusted.
            return await self.fail(job, Failure("crashed", f"the result cannot be read: {error}"), result.facts)
        facts = msgspec.structs.replace(result.facts, bytes_in=bytes_in, bytes_out=len(payload))
        shown = {**_facts(facts), "bytes_out_ratio": len(payload) / bytes_in if bytes_in else None}
        outcome = msgspec.json.encode(ResultSummary(_MEDIA_TYPES[job.request.kind], shown))

        async def store() -> None:
            name = await asyncio.to_thread(self._files.put_result, job.id, payload, outcome)
            # The folder is not listed: a former leader may have stored a result there, too.
            await self.finish(job, (name, payload, outcome))

        await until_stored(job, store)

    async def finish(self, job: JobRecord, stored: tuple[str, bytes, bytes] | None = None) -> bool:
        """Move a job by its stored result: ``running -> released | held``; False if there is none."""
        found = stored or await asyncio.to_thread(self._files.find_result, job.id)
        if found is None:
            return False
        name, payload, raw = found
        outcome = msgspec.json.decode(raw, type=ResultSummary)
        metrics = await asyncio.to_thread(read_metrics, job, payload)
        result = Result(name, len(payload), outcome.media_type, metrics)

        def step(now: JobRecord) -> tuple[JobRecord, str]:
            return rules.finish(now, result, outcome.facts), "job_released" if now.is_private else "job_held"

        if await self._job_writes.move(job, step, ChargeState.RELEASED) is None:
            self._files.drop_result(job.id)  # the job was cancelled meanwhile
        return True

    async def fail(self, job: JobRecord, failure: Failure, facts: Facts | None, *, has_begun: bool = True) -> None:
        """Fail a job: ``running -> failed``. The data owner gets the full reason, others only the allowed text.

        Args:
            has_begun: whether a Worker may have received the job; if not, its charge is refunded.
        """
        code = "job_failed" if job.is_private else failure.kind
        words = _WORDS[failure.kind]
        if job.request.kind == "predict":
            words = words.replace("the plan", "the model")
        detail = words
        if job.is_private:
            detail = _NO_RESULT if has_begun else _NOT_BEGUN
        private = f"{words}: {failure.detail}"
        shown = None if facts is None else _facts(facts)
        # The details of a private job can depend on single records, so only its page has them, for the data owner.
        reason = words if job.is_private else private
        logger.warning("Worker failed", extra={"job_id": job.id, "code": failure.kind, "reason": reason})

        async def store() -> None:
            await self._job_writes.move(
                job, lambda now: (rules.fail(now, code, detail, private, shown), "job_failed"), ChargeState.FAILED
            )

        await until_stored(job, store)


async def until_stored(job: JobRecord, store: Callable[[], Awaitable[None]]) -> None:
    """Store the end of a job, with retries while the disk is full or the database is away, so that no work is lost.

    Args:
        store: idempotent.
    """
    for attempt in itertools.count():
        try:
            return await store()
        except (OSError, Unavailable, StorageFull) as error:
            retry_s = min(MAX_RETRY_S, FIRST_RETRY_S * 2.0**attempt)
            logger.warning(
                "end of job not stored",
                extra={"job_id": job.id, "retry_s": retry_s, "reason": str(error)},
                exc_info=error,
            )
            await asyncio.sleep(retry_s)


def _facts(facts: Facts) -> dict[str, Any]:
    shown: dict[str, Any] = msgspec.to_builtins(facts)
    return shown


def _finished(job: JobRecord, payload: bytes) -> bytes:
    """Return the bytes that may leave: groups have their declared keys instead of codes."""
    if job.request.kind != "statistics":
        return payload
    answers = msgspec.json.decode(payload, type=dict[str, list[dict[str, Any]]])["answers"]
    return msgspec.json.encode({"answers": name_groups(answers, job.request)})


def read_metrics(job: JobRecord, payload: bytes) -> dict[str, float]:
    """Return the metrics in a result; empty if it has none, or is malformed."""
    try:
        if job.request.kind == "train":
            return metrics_of(
                msgspec.json.decode(read_layout(payload).metadata.get("metrics", "{}"), type=dict[str, Any])
            )
        if job.request.kind == "evaluate":
            return metrics_of(msgspec.json.decode(payload, type=dict[str, Any]).get("metrics", {}))
    except (InvalidTensors, msgspec.DecodeError, AttributeError):
        return {}
    return {}
