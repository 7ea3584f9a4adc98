"""Checks a variant against the plan's own ``train`` graph, where there is no PyTorch.

A list of actions runs in a numpy interpreter, the graph on ONNX Runtime, both from the same random inputs over several
steps. TorchScript is opaque here: its size is bounded, and nothing opens it.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from typing import Any

import numpy as np

from pygrid import codes
from pygrid.errors import InvalidInput, InvalidPlan, PygridError
from pygrid.plans.archive import Plan
from pygrid.plans.dialects import program_of
from pygrid.plans.dialects.interpreter import ActionProgram, Array, one_hot, unsound
from pygrid.plans.manifest import Manifest
from pygrid.plans.variants import Variant, read_variant
from pygrid.sandbox.child import ChildSandbox
from pygrid.sandbox.process import ChildLimits, run
from pygrid.syft.plans import PlanMessage, read_plan

NUM_STEPS = 3
TRIES = 3
"""Random inputs that are tried before a variant is refused: rounding can move a value across the kink of a ReLU."""
TOLERANCE = 1e-3
"""Allowed difference of a new parameter, relative to the largest change of its array in the step."""
ROUNDING = 1e-6
"""The same, relative to the largest element."""
FIXED_INPUTS = 4
"""``X, y, batch_size, lr``, before the parameters."""
_CHILD_LIMITS = ChildLimits(memory_bytes=3 * 1024**3, cpu_s=120, wall_s=150.0, max_output_bytes=64 * 1024)


def find_misfit(manifest: Manifest) -> str:
    """Why a plan does not fit the contract of clients of 2020, from its manifest; empty if it does."""
    train = manifest.graphs.get("train")
    if train is None:
        return "it has no train graph"
    names = [port.name for port in train.inputs]
    for prefix, what in (("state/", "optimizer state"), ("buffers/", "buffers"), ("noise/", "random numbers")):
        if any(name.startswith(prefix) for name in names):
            return f"it has {what}, which clients of 2020 do not have"
    if set(manifest.hyper) != {"lr"}:
        return "its hyperparameters are not lr alone"
    if len(manifest.data) != 2:
        return "it does not read exactly two data ports, X and y"
    return ""


def parameter_order(manifest: Manifest) -> tuple[str, ...]:
    """The names of a plan's parameters in the order of a State."""
    names = [port.name for port in manifest.graphs["train"].inputs]
    return tuple(name.removeprefix("params/") for name in names if name.startswith("params/"))


def check_variant(plan: Plan, variant: Variant, seed: int | None = None) -> None:
    """Check a variant of a plan, in this process.

    Args:
        seed: of the random inputs, which an author cannot know; None: a new one.
    Raises:
        InvalidPlan: ``plan_variant_invalid``; ``plan_variant_deviates``: it computes something else than the plan.
    """
    if variant.plan_id != plan.id:
        raise unsound("the variant belongs to another plan; build the plan and its variants together")
    if reason := find_misfit(plan.manifest):
        raise unsound(f"the plan cannot have the variant {variant.dialect}: {reason}")
    random = np.random.default_rng(secrets.randbits(64) if seed is None else seed)
    if max(variant.batch_sizes) > (largest := plan.manifest.max_batch_size):
        raise unsound(f"the variant is for batches of {max(variant.batch_sizes)}; the plan takes at most {largest}")
    for one in variant.plans:
        try:
            message = read_plan(one.plan)
        except InvalidInput as error:
            raise unsound(f"variant {variant.dialect} for batches of {one.batch_size}: {error.detail}") from error
        if variant.dialect == "torchscript":
            _check_opaque(message)
        else:
            _compare(plan, variant.dialect, message, _BothSides(plan, one.batch_size, random))


def _check_opaque(message: PlanMessage) -> None:
    if not message.torchscript or message.actions:
        raise unsound("the variant torchscript must hold TorchScript, and no actions")


def _compare(plan: Plan, dialect: str, message: PlanMessage, sides: _BothSides) -> None:
    if message.torchscript:
        raise unsound(f"the variant {dialect} holds TorchScript, which only the variant torchscript may")
    program = program_of(dialect, message)
    program.check()
    names = parameter_order(plan.manifest)
    if len(message.inputs) != FIXED_INPUTS + len(names) or len(message.outputs) != 2 + len(names):
        raise unsound(
            f"the variant {dialect} has {len(message.inputs)} inputs and {len(message.outputs)} outputs; it needs "
            f"X, y, batch_size, lr and {len(names)} parameters, and loss, metric and {len(names)} parameters"
        )
    reasons = []
    for _ in range(TRIES):
        if not (reason := sides.differ(program)):
            return
        reasons.append(reason)
    raise unsound(
        f"the variant {dialect} for batches of {sides.batch} does not compute what the plan does: {reasons[-1]}",
        codes.PLAN_VARIANT_DEVIATES,
    )


class _BothSides:
    """The plan's graph and a list of actions, for the same inputs."""

    def __init__(self, plan: Plan, batch: int, random: np.random.Generator) -> None:
        from pygrid.plans.sessions import OnnxSession

        self.batch = batch
        self._manifest = plan.manifest
        self._random = random
        self._graph = plan.manifest.graphs["train"]
        self._session = OnnxSession(plan.graph("train"), name="train")
        self._names = parameter_order(plan.manifest)
        metrics = [port.name for port in self._graph.outputs if port.name.startswith("metrics/")]
        self._metric = next((name for name in metrics if name != "metrics/loss"), "metrics/loss")

    def differ(self, program: ActionProgram) -> str:
        """How the two sides differ from random inputs; empty if they do not."""
        random = self._random
        shapes = {port.name: port.shape for port in self._graph.inputs}
        params: dict[str, Array] = {}
        for name in self._names:
            shape = tuple(int(size) for size in shapes[f"params/{name}"])
            fan = max(int(np.prod(shape[1:], dtype=np.int64)), 1)
            params[name] = (random.standard_normal(shape) / np.sqrt(fan) * 0.7).astype(np.float32)
        for number in range(NUM_STEPS):
            rate = self._rate(number)
            x, y, one_hot = self._draw_batch(is_signed=number % 2 == 1)
            expected = self._run_graph(params, x, y, rate)
            if not _is_finite(expected):  # for example the logarithm of a negative value
                x, y, one_hot = self._draw_batch(is_signed=False)
                expected = self._run_graph(params, x, y, rate)
            given = [x, one_hot, np.float32(self.batch), rate, *params.values()]
            loss, metric, *moved = program.run(given)
            if reason := self._difference(expected, params, (loss, metric, moved)):
                return reason
            params = {name: expected[f"new/params/{name}"] for name in self._names}
        return ""

    def _rate(self, number: int) -> np.float32:
        """The default rate first, then others that the author allows."""
        rate = self._manifest.hyper["lr"]
        drawn = rate.default * (1.0 if number == 0 else self._random.uniform(0.25, 4))
        return np.float32(min(max(drawn, rate.min), rate.max))

    def _draw_batch(self, *, is_signed: bool) -> tuple[Array, Array, Array]:
        """``X``, ``y`` of the plan, and ``y`` of the contract. Signed values are normal, others in [0, 1)."""
        random = self._random
        x_port, y_port = self._manifest.data.values()
        draw = random.standard_normal if is_signed else random.random
        x = draw((self.batch, *x_port.shape), np.float32)
        if y_port.num_classes is None:
            y = draw((self.batch, *y_port.shape), np.float32)
            return x, y, y
        classes = random.integers(0, y_port.num_classes, self.batch)
        return x, classes.astype(y_port.dtype), one_hot(classes, y_port.num_classes)

    def _run_graph(self, params: Mapping[str, Array], x: Array, y: Array, rate: np.float32) -> dict[str, Array]:
        x_name, y_name = self._manifest.data
        feed: dict[str, Any] = {f"params/{name}": array for name, array in params.items()}
        feed |= {f"data/{x_name}": x, f"data/{y_name}": y}
        feed["hyper/lr"] = rate
        wanted = {port.name for port in self._graph.inputs}
        outputs = [port.name for port in self._graph.outputs]
        found = self._session.run(outputs, {name: np.asarray(one) for name, one in feed.items() if name in wanted})
        return dict(zip(outputs, found, strict=True))

    def _difference(
        self, expected: Mapping[str, Array], before: Mapping[str, Array], found: tuple[Any, Any, list[Any]]
    ) -> str:
        loss, metric, moved = found
        if np.shape(loss) != () or np.shape(metric) != ():
            return "the loss or the metric is not one number"
        for what, number, name in (("loss", loss, "metrics/loss"), ("metric", metric, self._metric)):
            wanted = float(expected[name])
            if not abs(float(number) - wanted) <= TOLERANCE * max(1.0, abs(wanted)):
                return f"the {what} is {float(number):.6g}, expected {wanted:.6g}"
        for name, array in zip(self._names, moved, strict=True):
            right = expected[f"new/params/{name}"]
            if np.shape(array) != right.shape:
                return f"parameter {name!r} has shape {list(np.shape(array))}, expected {list(right.shape)}"
            allowed = TOLERANCE * _largest(right - before[name]) + ROUNDING * max(_largest(right), 1.0)
            difference = _largest(np.asarray(array, np.float32) - right)
            if not difference <= allowed:
                return f"parameter {name!r} differs by {difference:.3g}; {allowed:.3g} is allowed"
        return ""


def _is_finite(arrays: Mapping[str, Array]) -> bool:
    return all(np.isfinite(one).all() for one in arrays.values())


def _largest(array: Array) -> float:
    return float(np.abs(array).max(initial=0.0))


def check_in_child(plan: bytes, variant: bytes) -> None:
    """As `check_variant`, in a child process that cannot use more memory or time than it may.

    Raises:
        InvalidPlan: as `check_variant`; or ``plan_check_failed``: the child crashed, or ran out of memory or time.
    """
    seed = secrets.token_bytes(8)
    reply = run(check_parts, [bytes(plan), bytes(variant), seed], limits=_CHILD_LIMITS, failed=_failed)
    if reply.error is not None:
        raise InvalidPlan(reply.error.detail, code=reply.error.code)


async def check_async(plan: bytes, variant: bytes) -> None:
    """As `check_in_child`, without blocking the event loop."""
    await asyncio.to_thread(check_in_child, plan, variant)


def check_parts(parts: list[bytes], sandbox: ChildSandbox) -> bytes:
    """The child process of `check_in_child`. `parts` are the plan file, the variant and a seed."""
    # Everything that a check imports: inside the sandbox no file can be opened.
    import numpy.random

    import pygrid.plans.sessions  # noqa: F401

    seed = int.from_bytes(parts[2], "little")
    numpy.random.default_rng(seed)
    sandbox.enter()
    check_variant(Plan.from_bytes(parts[0]), read_variant(parts[1]), seed)
    return b""


def _failed(why: str) -> PygridError:
    return InvalidPlan(f"the variant could not be checked within the limits: {why}", code=codes.PLAN_CHECK_FAILED)
