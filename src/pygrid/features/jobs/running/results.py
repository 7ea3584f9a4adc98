"""What a Worker returns: kept, and told in words that may leave the Domain."""

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
"""Pauses between attempts to store how a job ended: the first, doubled each time, and the longest."""

_WORDS: dict[FailureKind, str] = {
    "refused": "the Worker refused the job",
    "plan_failed": "the plan failed on the data",
    "out_of_memory": "the job needs more memory than it may use",
    "out_of_cpu": "the job took more computing time than it may",
    "out_of_time": "the job took longer than it may",
    "crashed": "the job's process ended without a result",
    "cancelled": "the job was ended",
    "result_too_large": "the result is larger than it may be",
    "lost": "the job's Worker was lost",
}
_MEDIA_TYPES: dict[JobKind, str] = {
    "train": media.TENSORS,
    "evaluate": "application/json",
    "statistics": "application/json",
    "predict": media.TENSORS,
}
_NO_RESULT = "the job came to no result; what it was charged stays charged"
"""All that is told of a private job that failed: what it failed of may depend on single records."""
_NOT_BEGUN = "the job could not be given to a Worker; nothing was charged"
"""Told of a private job that failed before that: no record has a part in it."""


class ResultSummary(msgspec.Struct, frozen=True):
    """What is kept beside the bytes of a result until the row is written."""

    media_type: str
    facts: dict[str, Any]


class Results:
    """Ends jobs that ran: with a result, or with a failure."""

    def __init__(self, files: JobFiles, job_writes: JobWrites) -> None:
        self._files = files
        self._job_writes = job_writes

    async def keep(self, job: JobRecord, result: JobResult, bytes_in: int) -> None:
        """Store the bytes once, then say so.

        How much data there was is not the Worker's to tell: who signs off looks at it.
        """
        try:
            payload = await asyncio.to_thread(_finished, job, result.payload)
        except (InvalidInput, msgspec.DecodeError, ValueError, KeyError) as error:
            # What came from a Worker may have been in a stranger's hand.
            return await self.fail(job, Failure("crashed", f"the result can't be read: {error}"), result.facts)
        facts = msgspec.structs.replace(result.facts, bytes_in=bytes_in, bytes_out=len(payload))
        told = {**_facts(facts), "bytes_out_ratio": len(payload) / bytes_in if bytes_in else None}
        outcome = msgspec.json.encode(ResultSummary(_MEDIA_TYPES[job.request.kind], told))

        async def store() -> None:
            await asyncio.to_thread(self._files.put_result, job.id, payload, outcome)
            await self.finish(job)

        await until_stored(job, store)

    async def finish(self, job: JobRecord) -> bool:
        """``running -> released | held`` by the result that is stored; False if there is none."""
        found = await asyncio.to_thread(self._files.find_result, job.id)
        if found is None:
            return False
        name, payload, raw = found
        outcome = msgspec.json.decode(raw, type=ResultSummary)
        metrics = await asyncio.to_thread(read_metrics, job, payload)
        result = Result(name, len(payload), outcome.media_type, metrics)

        def step(now: JobRecord) -> tuple[JobRecord, str]:
            return rules.finish(now, result, outcome.facts), "job_released" if now.is_private else "job_held"

        if await self._job_writes.move(job, step, ChargeState.RELEASED) is None:
            self._files.drop_result(job.id)  # cancelled meanwhile
        return True

    async def fail(self, job: JobRecord, failure: Failure, facts: Facts | None, *, has_begun: bool = True) -> None:
        """``running -> failed``: in full for those who own the data, and for others in as many words as may be told.

        Args:
            has_begun: whether a Worker may have been given the job; if not, its charge is given back.
        """
        code = "job_failed" if job.is_private else failure.kind
        words = _WORDS[failure.kind]
        if job.request.kind == "predict":
            words = words.replace("the plan", "the model")
        detail = words
        if job.is_private:
            detail = _NO_RESULT if has_begun else _NOT_BEGUN
        private = f"{words}: {failure.detail}"
        told = None if facts is None else _facts(facts)

        async def store() -> None:
            await self._job_writes.move(
                job, lambda now: (rules.fail(now, code, detail, private, told), "job_failed"), ChargeState.FAILED
            )

        await until_stored(job, store)


async def until_stored(job: JobRecord, store: Callable[[], Awaitable[None]]) -> None:
    """Store how a job ended, again and again while the disk is full or the database is away; its Worker's work is not
    lost.

    Args:
        store: does nothing a second time of what it did before.
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
    told: dict[str, Any] = msgspec.to_builtins(facts)
    return told


def _finished(job: JobRecord, payload: bytes) -> bytes:
    """The bytes as they may leave: groups are called by their declared keys, not by codes."""
    if job.request.kind != "statistics":
        return payload
    answers = msgspec.json.decode(payload, type=dict[str, list[dict[str, Any]]])["answers"]
    return msgspec.json.encode({"answers": name_groups(answers, job.request)})


def read_metrics(job: JobRecord, payload: bytes) -> dict[str, float]:
    """The metrics in a result; none if it holds none, or something else."""
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
