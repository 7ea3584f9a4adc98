"""The gate: decides whether an untrusted plan may run, without running it.

`check` parses the bytes in this process. A parser of hostile bytes is a risk in itself. So a server calls
`check_in_child` or `check_async`, which run `check` in a child process with hard limits.

A plan that passes uses only operators of the closed list, has no control flow, and reads no file. It makes no tensor
larger than the limits at any batch size. Its inputs and outputs are exactly those of its manifest. It can still compute
something that reveals the data that it runs on: privacy terms, secure aggregation and approval protect against that,
not the gate. The runtime is also a parser of hostile bytes, so plans that passed still run in a sandbox.

Codes of refusals (each an `InvalidPlan`): plan_too_large, plan_malformed, plan_format_unknown, plan_manifest_invalid,
plan_ports_invalid, plan_graph_invalid, plan_version_unsupported, plan_domain_forbidden, plan_operator_forbidden,
plan_feature_forbidden, plan_dtype_forbidden, plan_external_data, plan_too_many_nodes, plan_constants_too_large,
plan_shape_refused, plan_tensor_too_large, plan_memory_too_large, plan_flops_too_large; and plan_check_failed if the
child process did not finish the check.
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import msgspec

from pygrid import codes
from pygrid.errors import InvalidPlan
from pygrid.plans.archive import MAX_PLAN_BYTES, Plan
from pygrid.plans.manifest import Graph, Manifest
from pygrid.plans.operators.values import OPSET
from pygrid.plans.ports import check_manifest
from pygrid.sandbox.child import ChildSandbox
from pygrid.sandbox.process import ChildLimits, run

_CHILD_LIMITS = ChildLimits(memory_bytes=2 * 1024**3, cpu_s=20, wall_s=30.0, max_output_bytes=4 * 1024**2)


MODEL_COPIES = 8
"""Arrays of the model's size that a training step of Adam holds: weights, gradients and two moments, before and after.
"""


class GateLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Limits for a plan. Bytes and operations are for one call with the plan's ``max_batch_size`` examples."""

    max_nodes: int = 24_000
    """Nodes of all graphs together."""
    max_constant_bytes: int = 4 * 1024**2
    """Constants of all graphs together. Weights are inputs and do not count."""
    max_tensor_bytes: int = 256 * 1024**2
    """Size of each tensor that an operator makes; or the size of the model's largest array, if that is more."""
    max_peak_bytes: int = 2 * 1024**3
    """In addition to `MODEL_COPIES` times the model."""
    max_flops: int = 2 * 10**12
    max_diffs: int = 100
    """Number of diffs in one call, for averaging plans that take all diffs at once."""
    max_model_bytes: int = 1024**3
    """Bytes of the model that count for tensors and memory. By default, devices keep no larger model."""


class GraphReport(msgspec.Struct, frozen=True):
    """Results of the gate for one graph."""

    num_nodes: int
    operators: dict[str, int]
    """Operator -> number of nodes."""
    flops_fixed: int
    flops_per_example: int
    peak_bytes: int
    """At the largest batch; an estimate, see `pygrid.plans.costs`."""
    largest_tensor: str
    largest_tensor_bytes: int
    """At the largest batch."""
    constant_bytes: int


class ArraySpec(msgspec.Struct, frozen=True):
    """One array of the model that a plan takes."""

    dtype: str
    shape: tuple[int, ...]


class GateReport(msgspec.Struct, frozen=True):
    """Results of the gate for a plan that passed."""

    plan_id: str
    kind: str
    name: str
    graphs: dict[str, GraphReport]
    model_spec: dict[str, ArraySpec]
    """The arrays of a checkpoint and a diff by bare name, params and buffers together, sorted by name."""
    model_bytes: int
    """Size of those arrays: the download of a device, and the size of a diff."""
    per_example_independent: bool
    """Proven from the graph, whatever the manifest claims; `pygrid.plans.independence` defines it."""
    independence_reason: str
    """The reason, if examples are not independent."""
    value_dependent_time: tuple[str, ...] = ()
    """Graphs with an operator whose time depends on values without bound; private jobs cannot use them."""


_MAX_PASSED = 256
_passed: dict[tuple[bytes, GateLimits], GateReport] = {}
"""Plans that passed recently, by the SHA-256 of their bytes and the limits; oldest first."""


def check(data: bytes, limits: GateLimits | None = None) -> GateReport:
    """Check the plan in these bytes, in this process.

    Raises:
        InvalidPlan: the plan is refused; ``code`` is the reason for programs, and the message is for the author.
    """
    # Imported here: onnx takes a tenth of a second to load, and the process that calls `check_in_child` never needs it.
    from pygrid.plans.structure import read_graph

    limits = limits or GateLimits()
    plan = Plan.from_bytes(data)
    manifest = plan.manifest
    check_manifest(manifest)
    if manifest.opset != OPSET:
        raise InvalidPlan(
            f"the plan is for opset {manifest.opset}; opset {OPSET} is supported", code=codes.PLAN_VERSION_UNSUPPORTED
        )
    models = {name: read_graph(name, plan.graph(name), manifest.graphs[name]) for name in manifest.graphs}
    num_nodes = sum(len(model.graph.node) for model in models.values())
    if num_nodes > limits.max_nodes:
        raise InvalidPlan(
            f"the plan has {num_nodes:,} nodes; at most {limits.max_nodes:,} are allowed",
            code=codes.PLAN_TOO_MANY_NODES,
        )
    return _report(plan, models, limits)


def check_in_child(data: bytes, limits: GateLimits | None = None, *, child: ChildLimits = _CHILD_LIMITS) -> GateReport:
    """As `check`, in a child process that cannot use more memory or time than ``child`` allows.

    The result depends only on the bytes and the limits, so a plan that passed recently passes without a new check.

    Raises:
        InvalidPlan: as `check`; or ``plan_check_failed``: the child crashed, ran out of memory or took too long.
    """
    if len(data) > MAX_PLAN_BYTES:
        Plan.from_bytes(data)  # raises, and the message has the size
    limits = limits or GateLimits()
    key = (hashlib.sha256(data).digest(), limits)
    passed = _passed.get(key)
    if passed is not None:
        return passed
    reply = run(check_parts, [msgspec.json.encode(limits), bytes(data)], limits=child, failed=_failed)
    if reply.error is not None:
        raise InvalidPlan(reply.error.detail, code=reply.error.code, **reply.error.fields)
    try:
        report = msgspec.json.decode(reply.value, type=GateReport)
    except msgspec.DecodeError as error:
        raise _failed("its answer cannot be read") from error
    _passed[key] = report
    if len(_passed) > _MAX_PASSED:
        _passed.pop(next(iter(_passed)), None)
    return report


async def check_async(
    data: bytes, limits: GateLimits | None = None, *, child: ChildLimits = _CHILD_LIMITS
) -> GateReport:
    """As `check_in_child`, without blocking the event loop."""
    return await asyncio.to_thread(check_in_child, data, limits, child=child)


def check_parts(parts: list[bytes], sandbox: ChildSandbox) -> bytes:
    """The child process of `check_in_child`. `parts` are the limits, as JSON, and the plan."""
    # Everything that a check imports: inside the sandbox no file can be opened.
    import pygrid.plans.costs
    import pygrid.plans.independence
    import pygrid.plans.structure  # noqa: F401

    limits, data = parts
    sandbox.enter()
    return msgspec.json.encode(check(data, msgspec.json.decode(limits, type=GateLimits)))


def _failed(why: str) -> InvalidPlan:
    return InvalidPlan(f"the plan could not be checked within the limits: {why}", code=codes.PLAN_CHECK_FAILED)


def _report(plan: Plan, models: dict[str, Any], limits: GateLimits) -> GateReport:
    from pygrid.plans.costs import analyse
    from pygrid.plans.independence import RowIndependence, judge
    from pygrid.plans.structure import check_outputs, constant_bytes

    manifest = plan.manifest
    max_n = limits.max_diffs if manifest.kind == "averaging" else manifest.max_batch_size
    graphs: dict[str, GraphReport] = {}
    spec = _model_spec(manifest)
    arrays = [4 * _num_elements(array.shape) for array in spec.values()]
    counted = limits.max_model_bytes if manifest.kind == "training" else 0
    max_tensor_bytes = max(limits.max_tensor_bytes, min(max(arrays, default=0), counted))
    max_peak_bytes = limits.max_peak_bytes + MODEL_COPIES * min(sum(arrays), counted)
    verdict = RowIndependence(False, "the plan has no grads graph")
    slow: list[str] = []
    constants_left = limits.max_constant_bytes
    for name, model in models.items():
        num_constant_bytes = constant_bytes(model)
        constants_left -= num_constant_bytes
        if constants_left < 0:
            raise InvalidPlan(
                f"the constants of the plan's graphs have more than {limits.max_constant_bytes:,} bytes together; move "
                "weights to the model, which is an input",
                code=codes.PLAN_CONSTANTS_TOO_LARGE,
            )
        analysis = analyse(model.graph, name=name, max_n=max_n, max_tensor_bytes=max_tensor_bytes)
        check_outputs(analysis, manifest.graphs[name])
        peak, flops = analysis.peak_bytes(max_n), analysis.flops(max_n)
        _check_cost(name, "bytes of memory at once", peak, max_peak_bytes, max_n, "plan_memory_too_large")
        _check_cost(name, "operations", flops, limits.max_flops, max_n, "plan_flops_too_large")
        fixed, per_example = analysis.flops_split()
        largest, largest_bytes = analysis.largest(max_n)
        graphs[name] = GraphReport(
            len(model.graph.node),
            analysis.operators,
            fixed,
            per_example,
            peak,
            largest,
            largest_bytes,
            num_constant_bytes,
        )
        if analysis.value_dependent_time:
            slow.append(name)
        if name == "grads":
            verdict = judge(analysis)
    changed = _changed_buffer(manifest)
    if changed and verdict.independent:
        verdict = RowIndependence(
            False, f"the buffer {changed!r} changes while it trains, which a private job leaves out"
        )
    return GateReport(
        plan_id=plan.id,
        kind=manifest.kind,
        name=manifest.name,
        graphs=graphs,
        model_spec=spec,
        model_bytes=sum(arrays),
        per_example_independent=verdict.independent,
        independence_reason=verdict.reason,
        value_dependent_time=tuple(slow),
    )


def _changed_buffer(manifest: Manifest) -> str:
    """The first buffer that the train graph changes; empty if it changes none."""
    train = manifest.graphs.get("train")
    names = [port.name for port in train.outputs] if train else []
    return next((name.removeprefix("new/buffers/") for name in names if name.startswith("new/buffers/")), "")


def _check_cost(graph: str, what: str, value: int, limit: int, max_n: int, code: str) -> None:
    if value > limit:
        raise InvalidPlan(
            f"graph {graph!r} needs {value:,} {what} at the largest batch ({max_n}); {limit:,} are allowed. Try a "
            "smaller max_batch_size",
            code=code,
            graph=graph,
        )


def _model_spec(manifest: Manifest) -> dict[str, ArraySpec]:
    prefixes = ("params/", "buffers/") if manifest.kind == "training" else ("diffs/", "item/")
    drop = 0 if manifest.kind == "training" or manifest.iterative else 1
    spec: dict[str, ArraySpec] = {}
    for graph in manifest.graphs.values():
        for bare, dtype, shape in _ports_under(graph, prefixes):
            spec[bare] = ArraySpec(dtype, shape[drop:])
    return dict(sorted(spec.items()))


def _ports_under(graph: Graph, prefixes: tuple[str, ...]) -> list[tuple[str, str, tuple[int, ...]]]:
    return [
        (port.name.partition("/")[2], port.dtype, tuple(0 if isinstance(size, str) else size for size in port.shape))
        for port in graph.inputs
        if port.name.startswith(prefixes)
    ]


def _num_elements(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total
