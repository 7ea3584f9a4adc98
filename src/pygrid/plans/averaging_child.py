"""Runs a hosted averaging plan in a child process with hard limits: the plan is untrusted, its host is not.

`run_averaging_in_child` is for the server; `average_parts` is the child.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, ClassVar

import msgspec
import numpy as np

from pygrid import codes
from pygrid.errors import InvalidPlan, PygridError, Unavailable
from pygrid.plans.archive import Plan
from pygrid.sandbox.child import ChildSandbox
from pygrid.sandbox.process import ChildLimits, run
from pygrid.tensors import Params, decode, encode

if TYPE_CHECKING:
    from pygrid.plans.dialects.traced import AveragingSpec

CODE = "averaging_failed"
_MARGIN_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True)
class DiffRef:
    """The location of a diff's bytes: a safetensors file, or a part of a larger file."""

    path: str | os.PathLike[str]
    offset: int = 0
    length: int | None = None
    """None: up to the end of the file."""


class _AveragingLimits(ChildLimits):
    num_files: ClassVar[int] = 1024


class _Work(msgspec.Struct, frozen=True):
    refs: list[tuple[str, int, int | None]]
    names: list[str] = []
    """The names of the arrays in the order of a State; only for a plan of 2020."""
    spec: bytes = b""
    """The `AveragingSpec` in JSON; only for a plan of 2020."""


def run_averaging_in_child(
    plan_data: bytes,
    diffs: Sequence[DiffRef],
    *,
    memory_bytes: int = 2 * 1024**3,
    wall_s: float = 60.0,
    cpu_s: int | None = None,
) -> Params:
    """The average that a plan computes from diffs, in a child process.

    Args:
        plan_data: a plan of kind ``averaging`` that has passed the gate.
        diffs: at least one, each with exactly the plan's arrays. The child reads them, so the parent holds none.
        memory_bytes: address space of the child. An iterative plan needs a few models and 500 MB; other plans need
            every diff twice.
        wall_s: seconds after which the child is killed.
        cpu_s: CPU seconds; if None, ``wall_s`` rounded up.
    Raises:
        InvalidPlan: the plan failed on these diffs, or returned NaN or wrong arrays (``averaging_failed``).
        Unavailable: the child ran out of memory or time, or died (``averaging_failed``).
    """
    from pygrid.plans.averaging import averaging_spec

    plan = Plan.from_bytes(plan_data)
    if plan.manifest.kind != "averaging":
        raise InvalidPlan(
            f"plan {plan.manifest.name!r} is of kind {plan.manifest.kind!r}, not averaging", code=codes.PLAN_KIND
        )
    child = _Child(plan.manifest.name, averaging_spec(plan.manifest), memory_bytes, wall_s, cpu_s)
    return child.run(_Work(_refs(diffs)), plan_data)


def run_traced_averaging_in_child(
    plan_data: bytes,
    names: Sequence[str],
    spec: AveragingSpec,
    diffs: Sequence[DiffRef],
    *,
    memory_bytes: int = 2 * 1024**3,
    wall_s: float = 60.0,
) -> Params:
    """As `run_averaging_in_child`, for a plan of 2020: a list of torch commands, run with numpy.

    Args:
        names: the names of the arrays in the order of a State.
    """
    shapes = {name: ("float32", tuple(shape)) for name, shape in zip(names, spec.shapes, strict=True)}
    work = _Work(_refs(diffs), list(names), msgspec.json.encode(spec))
    return _Child("averaging_plan", shapes, memory_bytes, wall_s).run(work, plan_data)


@dataclass(frozen=True)
class _Child:
    """One run of a plan in a child process."""

    plan: str
    spec: dict[str, tuple[str, tuple[int, ...]]]
    memory_bytes: int
    wall_s: float
    cpu_s: int | None = None

    def run(self, work: _Work, plan_data: bytes) -> Params:
        model_bytes = sum(4 * int(np.prod(shape, dtype=np.int64)) for _, shape in self.spec.values())
        limits = _AveragingLimits(
            memory_bytes=self.memory_bytes,
            cpu_s=self.cpu_s if self.cpu_s is not None else int(self.wall_s) + 1,
            wall_s=self.wall_s,
            max_output_bytes=model_bytes + _MARGIN_BYTES,
        )
        reply = run(average_parts, [msgspec.json.encode(work), plan_data], limits=limits, failed=_child_failed)
        if reply.error is not None:
            text = f"the averaging plan {self.plan!r} failed: {reply.error.detail}"
            raise InvalidPlan(text, code=CODE, cause=reply.error.code)
        return _checked(self.plan, self.spec, reply.value)


def _refs(diffs: Sequence[DiffRef]) -> list[tuple[str, int, int | None]]:
    return [(os.path.abspath(ref.path), ref.offset, ref.length) for ref in diffs]


async def run_averaging_async(
    plan_data: bytes, diffs: Sequence[DiffRef], *, memory_bytes: int = 2 * 1024**3, wall_s: float = 60.0
) -> Params:
    """As `run_averaging_in_child`, without blocking the event loop."""
    return await asyncio.to_thread(run_averaging_in_child, plan_data, diffs, memory_bytes=memory_bytes, wall_s=wall_s)


def _checked(plan: str, spec: dict[str, tuple[str, tuple[int, ...]]], answer: bytes) -> Params:
    """The arrays of the answer, fully checked: a plan can have taken over the child."""
    from pygrid.plans.runner import check_params

    try:
        average, _ = decode(answer)
        check_params(spec, average)
    except PygridError as error:
        raise InvalidPlan(f"the averaging plan {plan!r} returned a wrong result: {error.detail}", code=CODE) from error
    for name, array in average.items():
        if not np.isfinite(array).all():
            raise InvalidPlan(f"the averaging plan {plan!r} returned NaN or infinity in array {name!r}", code=CODE)
    return {name: np.array(average[name]) for name in spec}


def _child_failed(why: str) -> PygridError:
    return Unavailable(f"the averaging plan could not be run within the limits: {why}", code=CODE)


def _read_diffs(work: _Work, files: Mapping[str, BinaryIO]) -> Iterator[Params]:
    for path, offset, length in work.refs:
        files[path].seek(offset)
        yield decode(files[path].read() if length is None else files[path].read(length))[0]


def _average_traced(plan: bytes, work: _Work, diffs: Iterator[Params]) -> Params:
    from pygrid.plans.dialects.traced import AveragingSpec, average_actions
    from pygrid.syft.plans import read_plan

    spec = msgspec.json.decode(work.spec, type=AveragingSpec)
    lists = ([diff[name] for name in work.names] for diff in diffs)
    return dict(zip(work.names, average_actions(read_plan(plan), spec, lists), strict=True))


def average_parts(parts: list[bytes], sandbox: ChildSandbox) -> bytes:
    """The child process of `run_averaging_in_child`. `parts` are the places of the diffs, as JSON, and the plan."""
    from pygrid.plans.averaging import AveragingRunner

    work = msgspec.json.decode(parts[0], type=_Work)
    if work.spec:
        import pygrid.plans.dialects.traced  # noqa: F401
    # They stay open until this process ends: inside the sandbox no file can be opened again.
    paths = {path for path, _, _ in work.refs}
    files: dict[str, BinaryIO] = {path: Path(path).open("rb") for path in paths}  # noqa: SIM115
    sandbox.enter(keep=[file.fileno() for file in files.values()])
    try:
        if work.spec:
            return encode(_average_traced(parts[1], work, _read_diffs(work, files)))
        return encode(AveragingRunner(Plan.from_bytes(parts[1])).average(_read_diffs(work, files)))
    except PygridError as error:
        if error.code == "out_of_memory":
            raise MemoryError from error
        raise
