"""The life of one job's process: read the specification, map the data, close the sandbox, run, answer, end."""

from __future__ import annotations

import gc
import os
import time
import traceback

import msgspec

from pygrid import sandbox
from pygrid.compute.runtime.inputs import MappedColumns, open_inputs
from pygrid.core.job_spec import (
    MAX_SPEC_BYTES,
    OUTCOME,
    PLANNED,
    PROGRESS,
    RESULT,
    SPEC,
    Facts,
    Failure,
    FailureKind,
    JobLimits,
    JobSpec,
    Outcome,
    Progress,
)
from pygrid.errors import InvalidInput, InvalidPlan, PygridError
from pygrid.sandbox.frames import FRAME_HEADER_BYTES, frame, frame_header, parse_frame_header

_MAX_DETAIL = 2000
_PROGRESS_EVERY_S = 0.1


def preload() -> None:
    """Import everything that a job needs: inside the sandbox no file can be opened."""
    import numpy.random  # noqa: F401
    import onnx.numpy_helper  # noqa: F401
    import onnxruntime  # noqa: F401

    import pygrid.compute.runtime.execute  # noqa: F401


def run_job(stream: int, limits: JobLimits, *, empty: int | None, allow_weak: bool) -> None:
    """Run the job whose specification arrives on ``stream``; the outcome is sent there, also if the job fails."""
    started = time.monotonic()
    try:
        spec = _read_spec(stream)
        inputs = open_inputs(spec)
        gc.disable()  # a short life; a collection would copy the pages that are shared with the fork server
        layers = sandbox.apply(
            # A private job has a thread that ends evaluations which take too long.
            sandbox.Limits(limits.memory_bytes, limits.cpu_s, threads=spec.num_threads > 1 or spec.privacy is not None),
            keep={stream},
            empty=empty,
            allow_weak=allow_weak,
        )
    except (PygridError, OSError) as error:
        _answer(stream, Outcome(Facts(), Failure("refused", str(error)[:_MAX_DETAIL], getattr(error, "code", ""))), b"")
        return
    outcome, payload = _run(spec, inputs, stream, started, layers.names)
    if len(payload) > limits.max_result_bytes:
        detail = f"the result has {len(payload):,} bytes; {limits.max_result_bytes:,} are allowed"
        outcome, payload = Outcome(outcome.facts, Failure("result_too_large", detail)), b""
    _answer(stream, outcome, payload)


def _run(
    spec: JobSpec, inputs: MappedColumns, stream: int, started: float, layers: tuple[str, ...]
) -> tuple[Outcome, bytes]:
    from pygrid.compute.runtime.execute import run

    def announce(planned_s: float) -> None:
        _write(stream, frame(PLANNED, msgspec.json.encode(planned_s)))

    try:
        outcome, payload = run(spec, inputs, _Reporter(stream), started=started, announce=announce)
    except MemoryError:
        return Outcome(Facts(sandbox=layers), Failure("out_of_memory", "the job needs more memory than its limit")), b""
    except PygridError as error:
        kind: FailureKind = "plan_failed" if isinstance(error, InvalidPlan) else "refused"
        return Outcome(Facts(sandbox=layers), Failure(kind, error.detail[:_MAX_DETAIL], error.code)), b""
    except Exception as error:  # a fault of this code, which the log of the data owner shows
        where = traceback.extract_tb(error.__traceback__)[-1]
        detail = f"{type(error).__name__}: {error} ({where.filename}, line {where.lineno})"
        return Outcome(Facts(sandbox=layers), Failure("crashed", detail[:_MAX_DETAIL])), b""
    return msgspec.structs.replace(outcome, facts=msgspec.structs.replace(outcome.facts, sandbox=layers)), payload


class _Reporter:
    """Sends progress, at most ten times a second."""

    def __init__(self, stream: int) -> None:
        self._stream = stream
        self._last = 0.0

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if progress.done >= progress.total or now - self._last >= _PROGRESS_EVERY_S:
            self._last = now
            _write(self._stream, frame(PROGRESS, msgspec.json.encode(progress)))


def _read_spec(stream: int) -> JobSpec:
    kind, length = parse_frame_header(_read(stream, FRAME_HEADER_BYTES))
    if kind != SPEC or length > MAX_SPEC_BYTES:
        raise InvalidInput("the first message is not the specification of a job")
    try:
        return msgspec.json.decode(_read(stream, length), type=JobSpec)
    except msgspec.DecodeError as error:
        raise InvalidInput(f"the specification of the job cannot be read: {error}") from error


def _answer(stream: int, outcome: Outcome, payload: bytes) -> None:
    _write(stream, frame(OUTCOME, msgspec.json.encode(outcome)))
    if outcome.failure is None:
        _write(stream, frame_header(RESULT, len(payload)))
        _write(stream, payload)


def _read(stream: int, length: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        chunk = os.read(stream, length - len(data))
        if not chunk:
            raise InvalidInput("the specification of the job is cut off")
        data += chunk
    return bytes(data)


def _write(stream: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(stream, rest) :]
