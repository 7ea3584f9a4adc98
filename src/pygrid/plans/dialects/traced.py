"""Reads and checks plans that PySyft 0.2 traced: they have no ONNX graph, only lists of actions and TorchScript.

The parent sends bytes to a child process, where untrusted bytes are parsed, and gets the variants of each plan.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from pygrid import codes
from pygrid.errors import InvalidInput, InvalidPlan, PygridError
from pygrid.plans.dialects import program_of
from pygrid.plans.dialects.interpreter import MAX_ELEMENTS, Array, RunBudget, one_hot, unsound
from pygrid.plans.dialects.translation import fold_keywords, translate
from pygrid.sandbox.child import ChildSandbox
from pygrid.sandbox.process import ChildLimits, run
from pygrid.syft.plans import PlanMessage, read_plan, write_plan

FIXED_INPUTS = 4
"""``X, y, batch_size, lr``, before the parameters."""
NUM_STEPS = 3
TOLERANCE = 1e-3
"""Allowed difference of tfjs and torch, relative to the largest change of a parameter in the step, or to a result."""
ROUNDING = 1e-6
"""The same, relative to the largest element: both run in float32."""
SUFFIXES: Mapping[str, str] = {"": "", "list": "list", "syft": "", "ts": "torchscript", "torchscript": "torchscript",
                               "tfjs": "tfjs"}  # fmt: skip
"""What follows the name of a plan and a colon -> the dialect; "": a whole plan, from which variants are made."""
_CHILD_LIMITS = ChildLimits(memory_bytes=3 * 1024**3, cpu_s=120, wall_s=150.0, max_output_bytes=96 * 1024**2)


class AveragingSpec(msgspec.Struct, frozen=True):
    """How an averaging plan of 2020 is called."""

    shapes: tuple[tuple[int, ...], ...]
    """Shapes of the model's parameters, in the order of a State."""
    iterative: bool
    """Whether it takes the average so far, one diff and their number; else all diffs at once."""


class TracedPlans(msgspec.Struct, frozen=True):
    """The plans of a process of 2020, as they were sent."""

    plans: dict[str, dict[str, bytes]]
    """Name -> suffix (`SUFFIXES`) -> bytes of a protobuf Plan."""
    averaging: bytes
    """Empty: none."""
    spec: AveragingSpec
    is_lenient: bool = False
    """Whether an averaging plan that does not fit the model is accepted, as in 2020."""


class CheckedPlans(msgspec.Struct, frozen=True):
    """The plans of a process of 2020, as clients get them."""

    plans: dict[str, dict[str, bytes]]
    """Name -> dialect -> bytes of a protobuf Plan."""
    averaging: bytes
    num_diffs: int | None
    """Number of diffs that the averaging plan takes at once; None: any number."""
    unavailable: dict[str, str]
    """Plan -> why it has no form in tfjs."""
    averaging_misfit: str = ""
    """Why the averaging plan does not fit the model; empty if it does."""


def check_traced(source: TracedPlans) -> CheckedPlans:
    """Check plans of 2020, and translate whole plans, in this process.

    Raises:
        InvalidPlan: ``plan_untranslatable``, ``plan_variant_invalid`` or ``plan_variant_deviates``; the message names
            the plan and the operation.
    """
    plans: dict[str, dict[str, bytes]] = {}
    unavailable: dict[str, str] = {}
    for name, parts in source.plans.items():
        found: dict[str, PlanMessage] = {}
        for suffix, data in parts.items():
            found |= _variants_of(name, SUFFIXES[suffix], _read(name, data), unavailable)
        _compare(name, found, source.spec.shapes)
        plans[name] = {dialect: write_plan(message) for dialect, message in found.items()}
    if not source.averaging:
        return CheckedPlans(plans, b"", None, unavailable)
    message = _read("averaging_plan", source.averaging)
    _check_list("averaging_plan", message)
    try:
        num_diffs = _try_averaging(message, source.spec)
    except InvalidPlan as error:
        if not source.is_lenient:
            raise unsound(f"Plan is not valid: averaging_plan: {error.detail}") from error
        return CheckedPlans(plans, write_plan(message), None, unavailable, error.detail)
    return CheckedPlans(plans, write_plan(message), num_diffs, unavailable)


def _read(name: str, data: bytes) -> PlanMessage:
    try:
        return read_plan(data)
    except InvalidInput as error:
        raise unsound(f"Plan is not valid: plan {name!r}: {error.detail}") from error


def _variants_of(name: str, dialect: str, message: PlanMessage, unavailable: dict[str, str]) -> dict[str, PlanMessage]:
    """The variants that one part of a plan has."""
    if dialect == "torchscript":
        if not message.torchscript:
            raise unsound(f"Plan is not valid: the part of plan {name!r} for TorchScript has none")
        return {dialect: PlanMessage(message.name, torchscript=message.torchscript)}
    if dialect == "tfjs" or message.base_framework == "tfjs":
        folded = fold_keywords(message)
        _check_actions(name, "tfjs", folded)
        return {"tfjs": PlanMessage(**{**_fields(folded), "torchscript": b"", "base_framework": "tfjs"})}
    if not message.actions:
        raise unsound(f"Plan is not valid: plan {name!r} has no actions")
    _check_list(name, message)
    found = {"list": PlanMessage(**{**_fields(message), "torchscript": b""})}
    if dialect == "" and message.torchscript:
        found["torchscript"] = PlanMessage(message.name, torchscript=message.torchscript)
    if dialect == "":
        try:
            found["tfjs"] = translate(message)
        except InvalidPlan as error:
            unavailable[name] = error.detail
        else:
            _check_actions(name, "tfjs", found["tfjs"])
    return found


def _fields(message: PlanMessage) -> dict[str, Any]:
    return {name: getattr(message, name) for name in PlanMessage.__dataclass_fields__}


def _check_list(name: str, message: PlanMessage) -> None:
    """Check a list of torch commands. Raises InvalidPlan: ``plan_untranslatable``: names an unknown operation."""
    program = program_of("list", message)
    for action in message.actions:
        if program.find(action) not in program.commands:
            raise InvalidPlan(
                f"Failed to translate a Plan: operation {action.command[:60]!r} of plan {name!r} is not known",
                code=codes.PLAN_UNTRANSLATABLE,
            )
    _check_actions(name, "list", message)


def _check_actions(name: str, dialect: str, message: PlanMessage) -> None:
    try:
        program_of(dialect, message).check()
    except InvalidPlan as error:
        raise unsound(f"Plan is not valid: plan {name!r} as {dialect}: {error.detail}") from error


def _compare(name: str, found: Mapping[str, PlanMessage], shapes: tuple[tuple[int, ...], ...]) -> None:
    """Run the lists of a training plan whose shapes are known, on the same random inputs, over several steps."""
    lists = {dialect: message for dialect, message in found.items() if dialect != "torchscript"}
    known = next((message for message in lists.values() if _fits(message, shapes)), None)
    if known is None:
        return
    random = np.random.default_rng(secrets.randbits(64))
    params = [_random_array(random, shape) for shape in shapes]
    for number in range(NUM_STEPS):
        given = [*_draw_inputs(random, known, is_signed=number % 2 == 1), *params]
        results = {dialect: _run(name, dialect, message, given) for dialect, message in lists.items()}
        first = next(iter(results.values()))
        if not all(np.isfinite(one).all() for one in first):  # for example the logarithm of a negative value
            given = [*_draw_inputs(random, known, is_signed=False), *params]
            results = {dialect: _run(name, dialect, message, given) for dialect, message in lists.items()}
            first = next(iter(results.values()))
        for dialect, result in results.items():
            _check_results(name, dialect, result, first, params)
        params = [np.asarray(one, np.float32) for one in first[2:]]


def _draw_inputs(random: np.random.Generator, plan: PlanMessage, *, is_signed: bool) -> list[Any]:
    """``X``, one-hot ``y``, ``batch_size`` and ``lr``. ``X`` is normal if it is signed, else in [0, 1)."""
    x_shape, y_shape = (plan.shapes[one] for one in plan.inputs[:2])
    if max(map(math.prod, (x_shape, y_shape))) > MAX_ELEMENTS:
        raise unsound(
            f"Plan is not valid: plan {plan.name!r} takes data of shapes {list(x_shape)} and {list(y_shape)}; at most "
            f"{MAX_ELEMENTS:,} elements are allowed"
        )
    x = (random.standard_normal if is_signed else random.random)(x_shape, np.float32)
    y = one_hot(random.integers(0, y_shape[-1], y_shape[:-1]), y_shape[-1])
    return [x, y, np.float32(x_shape[0]), np.float32(random.uniform(0.01, 0.2))]


def _run(name: str, dialect: str, message: PlanMessage, given: list[Any]) -> list[Any]:
    try:
        return program_of(dialect, message).run(given)
    except InvalidPlan as error:
        raise unsound(f"Plan is not valid: plan {name!r} as {dialect}: {error.detail}") from error


def _fits(message: PlanMessage, shapes: tuple[tuple[int, ...], ...]) -> bool:
    """Whether a plan has the inputs and outputs of a training plan, and the shapes of its data."""
    data = [message.shapes.get(one, ()) for one in message.inputs[:2]]
    return (
        len(message.inputs) == FIXED_INPUTS + len(shapes)
        and len(message.outputs) == 2 + len(shapes)
        and all(shape and min(shape) > 0 for shape in data)
    )


def _check_results(name: str, dialect: str, found: list[Any], first: list[Any], before: list[Array]) -> None:
    """Check the outputs of one list: the shapes of parameters, and that they are those of the first list."""
    for index, (array, right) in enumerate(zip(found, first, strict=True)):
        start = before[index - 2] if index >= 2 else np.zeros(np.shape(right))
        if index >= 2 and np.shape(array) != np.shape(start):
            raise unsound(
                f"Plan is not valid: plan {name!r} returns parameter {index - 2} with shape {list(np.shape(array))}; "
                f"the model has {list(np.shape(start))}"
            )
        if np.shape(array) != np.shape(right) or not _is_close(array, right, start):
            raise unsound(
                f"Plan is not valid: output {index} of plan {name!r} as {dialect} differs from that of its list",
                codes.PLAN_VARIANT_DEVIATES,
            )


def _is_close(array: Any, right: Any, start: Array) -> bool:
    """Whether an output is the right one, to a part of its largest change; NaN where the right one is NaN."""
    array, right = np.asarray(array, np.float64), np.asarray(right, np.float64)
    change, largest = (float(np.nan_to_num(np.abs(one)).max(initial=0.0)) for one in (right - start, right))
    allowed = TOLERANCE * change + ROUNDING * max(largest, 1.0)
    return bool(((np.abs(array - right) <= allowed) | (np.isnan(array) & np.isnan(right)) | (array == right)).all())


def _random_array(random: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return (0.1 * random.standard_normal(shape)).astype(np.float32)


# -- Averaging ---------------------------------------------------------------------------------------------------------


def _try_averaging(message: PlanMessage, spec: AveragingSpec) -> int | None:
    """Run an averaging plan on random diffs; returns the number of diffs that it takes at once.

    Raises:
        InvalidPlan: it has another number of inputs or outputs, or returns other shapes.
    """
    count = len(spec.shapes)
    num_diffs = None
    if not spec.iterative:
        num_diffs, rest = divmod(len(message.inputs), count)
        if rest or not num_diffs:
            raise unsound(
                f"the averaging plan takes {len(message.inputs)} arrays, which is not a number of "
                f"whole diffs of {count} arrays; for one diff after the other set iterative_plan"
            )
    random = np.random.default_rng(secrets.randbits(64))
    diffs = [[_random_array(random, shape) for shape in spec.shapes] for _ in range(num_diffs or 2)]
    average_actions(message, spec, diffs)
    return num_diffs


def average_actions(message: PlanMessage, spec: AveragingSpec, diffs: Any) -> list[Array]:
    """The average that a plan of 2020 computes, in the order of a State.

    An iterative plan takes ``avg``, ``item`` and ``num``, the number of diffs in ``avg``; the last may be missing.
    Other plans take all arrays of the first diff, then those of the second, and so on.

    Args:
        diffs: an iterable of diffs, each a list of float32 arrays.
    Raises:
        InvalidPlan: the plan fails, takes another number of arrays, or returns other shapes.
    """
    program = program_of("list", message)
    if spec.iterative:
        average: list[Any] = []
        for number, diff in enumerate(diffs):
            average = [np.array(one) for one in diff] if number == 0 else _call(program, spec, average, diff, number)
    else:
        given = [one for diff in diffs for one in diff]
        average = _checked(program.run(given, RunBudget()), spec)
    return [np.asarray(one, np.float32) for one in average]


def _call(program: Any, spec: AveragingSpec, average: list[Any], diff: list[Any], number: int) -> list[Any]:
    given = [*average, *diff, np.array([number], np.int64)]
    num_inputs = len(program.message.inputs)
    if num_inputs not in (len(given) - 1, len(given)):
        raise unsound(
            f"the averaging plan takes {num_inputs} arrays; an iterative one takes {len(given)}: avg, item and num"
        )
    return _checked(program.run(given[:num_inputs], RunBudget()), spec)


def _checked(found: list[Any], spec: AveragingSpec) -> list[Any]:
    shapes = [tuple(np.shape(one)) for one in found]
    if shapes != [tuple(shape) for shape in spec.shapes]:
        raise unsound(f"the averaging plan returns the shapes {shapes[:8]}, not those of the model")
    return found


# -- The child ---------------------------------------------------------------------------------------------------------


async def check_traced_async(source: TracedPlans) -> CheckedPlans:
    """As `check_traced`, in a child process, without blocking the event loop.

    Raises:
        InvalidPlan: as `check_traced`; or ``plan_check_failed``: the child crashed, or ran out of memory or time.
    """
    return await asyncio.to_thread(check_traced_in_child, source)


def check_traced_in_child(source: TracedPlans) -> CheckedPlans:
    """As `check_traced`, in a child process that cannot use more memory or time than it may."""
    reply = run(check_traced_parts, [msgspec.msgpack.encode(source)], limits=_CHILD_LIMITS, failed=_failed)
    if reply.error is not None:
        raise InvalidPlan(reply.error.detail, code=reply.error.code)
    try:
        return msgspec.msgpack.decode(reply.value, type=CheckedPlans)
    except msgspec.DecodeError as error:
        raise _failed("its answer cannot be read") from error


def check_traced_parts(parts: list[bytes], sandbox: ChildSandbox) -> bytes:
    """The child process of `check_traced_in_child`."""
    import numpy.random  # everything that a check imports: inside the sandbox no file can be opened

    numpy.random.default_rng(0)
    sandbox.enter()
    return msgspec.msgpack.encode(check_traced(msgspec.msgpack.decode(parts[0], type=TracedPlans)))


def _failed(why: str) -> PygridError:
    return InvalidPlan(f"the plans could not be checked within the limits: {why}", code=codes.PLAN_CHECK_FAILED)
