"""The answer of a job's process: read up to its limits, and checked before it is used.

An untrusted plan can have taken the process over, so nothing that it reports about itself is trusted.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from pygrid.core.job_spec import (
    MAX_MESSAGE_BYTES,
    OUTCOME,
    PLANNED,
    PROGRESS,
    RESULT,
    Facts,
    Failure,
    FailureKind,
    JobResult,
    JobSpec,
    Outcome,
    Progress,
)
from pygrid.errors import InvalidTensors
from pygrid.sandbox.frames import FRAME_HEADER_BYTES, parse_frame_header
from pygrid.tensors import decode, read_layout

OnProgress = Callable[[Progress], None]


@dataclass(frozen=True)
class Ended:
    """The end of a job's process, as the fork server saw it from outside."""

    status: int
    reason: str
    wall_s: float
    cpu_s: float
    max_rss_bytes: int


@dataclass
class Answer:
    """The messages of a job's process so far."""

    outcome: Outcome | None = None
    """None: the process did not report the outcome."""
    payload: bytes = b""
    planned_s: float = 0.0
    """The time before which the end of a private job must not be visible, for `held_s`."""


class BadAnswerError(Exception):
    """The answer of the process has an unknown form, or is too long."""


async def read_answer(
    reader: asyncio.StreamReader, spec: JobSpec, on_progress: OnProgress | None, answer: Answer
) -> None:
    """Read the outcome of a job, and the bytes of its result, into ``answer``. Progress of a private job is dropped.

    Raises:
        BadAnswerError; asyncio.IncompleteReadError, ConnectionError: the process ended within a message.
    """
    while True:
        try:
            kind, length = parse_frame_header(await reader.readexactly(FRAME_HEADER_BYTES))
        except asyncio.IncompleteReadError:
            return
        if length > (spec.limits.max_result_bytes if kind == RESULT else MAX_MESSAGE_BYTES):
            raise BadAnswerError("an answer is longer than its limit")
        body = await reader.readexactly(length)
        try:
            if kind == PROGRESS and answer.outcome is None:
                progress = msgspec.json.decode(body, type=Progress)
                if on_progress is not None and spec.privacy is None:
                    on_progress(progress)
            elif kind == PLANNED and answer.outcome is None and not answer.planned_s:
                answer.planned_s = min(max(0.0, msgspec.json.decode(body, type=float)), 2 * spec.limits.wall_s)
            elif kind == OUTCOME and answer.outcome is None:
                answer.outcome = msgspec.json.decode(body, type=Outcome)
                if answer.outcome.failure is not None:
                    return
            elif kind == RESULT and answer.outcome is not None:
                answer.payload = body
                return
            else:
                raise BadAnswerError("the answer has an unknown part")
        except msgspec.DecodeError as error:
            raise BadAnswerError("the answer cannot be read") from error


def make_result(spec: JobSpec, answer: Answer, ended: Ended | None, trouble: str) -> JobResult:
    """The result of a job: the view of its process from outside counts more than its own report.

    Args:
        ended: None: the process was lost.
        trouble: why the process was ended, if its answer was the reason.
    """
    outcome, payload = answer.outcome, answer.payload
    facts = outcome.facts if outcome is not None else Facts()
    facts = msgspec.structs.replace(facts, bytes_out=len(payload), planned_s=answer.planned_s)
    if ended is not None:
        facts = msgspec.structs.replace(
            facts, wall_s=ended.wall_s, cpu_s=ended.cpu_s, max_rss_bytes=ended.max_rss_bytes
        )
    failure = _failure(spec, outcome, payload, ended, trouble)
    if failure is not None:
        return JobResult(facts, failure)
    assert outcome is not None
    return JobResult(facts, None, outcome.media_type, payload)


def _failure(
    spec: JobSpec, outcome: Outcome | None, payload: bytes, ended: Ended | None, trouble: str
) -> Failure | None:
    if outcome is not None and outcome.failure is not None:
        return outcome.failure
    if ended is not None and ended.reason and not payload:
        return Failure(_reason(ended.reason), _WORDS[_reason(ended.reason)])
    if trouble:
        return Failure("crashed", trouble)
    if ended is None:
        return Failure("lost", "the Worker's process was lost while the job ran")
    if outcome is None or not payload:
        return _death(spec, ended)
    return find_fault(spec, payload)


_WORDS: dict[FailureKind, str] = {
    "out_of_time": "the job took longer than its limit",
    "out_of_memory": "the job needs more memory than its limit",
    "cancelled": "the job was cancelled",
}


def _reason(text: str) -> FailureKind:
    return "out_of_time" if text == "out_of_time" else "out_of_memory" if text == "out_of_memory" else "cancelled"


def _death(spec: JobSpec, ended: Ended) -> Failure:
    number = os.WTERMSIG(ended.status) if os.WIFSIGNALED(ended.status) else 0
    if number == signal.SIGXCPU or (number == signal.SIGKILL and ended.cpu_s >= spec.limits.cpu_s):
        return Failure("out_of_cpu", f"the job took more than {spec.limits.cpu_s} s of CPU time")
    if number == signal.SIGKILL:
        # Not by the fork server or a limit of the job: by an operator, or by the kernel, which lacks memory elsewhere.
        return Failure("lost", "the job's process was killed from outside (SIGKILL)")
    if number:
        return Failure(
            "crashed", f"the job's process was ended by signal {number} ({signal.strsignal(number) or 'unknown'})"
        )
    return Failure("crashed", f"the job's process ended with code {os.WEXITSTATUS(ended.status)} and without a result")


def find_fault(spec: JobSpec, payload: bytes) -> Failure | None:
    """What is wrong with the bytes of a result; None: nothing."""
    if spec.kind == "predict":
        return _find_fault_in_answers(spec, payload)
    if spec.kind != "train":
        try:
            msgspec.json.decode(payload)
        except msgspec.DecodeError:
            return Failure("crashed", "the result is not JSON")
        return None
    try:
        given = read_layout(payload)
        wanted = read_layout(Path(spec.model_path).read_bytes())
    except InvalidTensors as error:
        return Failure("crashed", f"the result is not a valid model: {error.detail}")
    if {(e.name, e.dtype, e.shape) for e in given.entries} != {(e.name, e.dtype, e.shape) for e in wanted.entries}:
        return Failure("crashed", "the result has other arrays than the model")
    if not all(np.isfinite(array).all() for array in decode(payload)[0].values()):
        return Failure(
            "plan_failed", "the trained model holds NaN or infinity; a smaller learning rate may help", "non_finite"
        )
    return None


def _find_fault_in_answers(spec: JobSpec, payload: bytes) -> Failure | None:
    """As `find_fault`, for a result that has a row for each record. Any values are valid, also NaN."""
    num_records = next(iter(spec.columns.values())).num_records
    wanted = {(port.name, port.dtype, (num_records, *port.shape[1:])) for port in spec.outputs}
    try:
        layout = read_layout(payload)
    except InvalidTensors as error:
        return Failure("crashed", f"the result is not a valid file of answers: {error.detail}")
    if layout.metadata or {(one.name, one.dtype.name, one.shape) for one in layout.entries} != wanted:
        return Failure("crashed", "the result has other arrays than the requested outputs")
    return None
