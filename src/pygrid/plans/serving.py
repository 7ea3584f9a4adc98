"""The gate for a complete ONNX model that makes predictions: weights inside, examples in, predictions out.

`check_model_file` checks a file in this process. A server calls `check_model_async`, which does so in a child process
with hard limits. A model that passes has one graph of the operators of plans (`pygrid.plans.operators`). It has no
control flow and no data outside the file, and its costs are bounded at the largest batch. The codes of refusals are
those of `pygrid.plans.gate`.

Shapes may have one open size, the number of examples, and only as the first size of an input or output. Its name
becomes ``batch``. Opsets 18 to 20 are accepted: between them, no operator of the list changed what it computes.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from pygrid import codes
from pygrid.errors import InvalidPlan
from pygrid.plans.manifest import BATCH, Port
from pygrid.plans.operators.values import ITEM_BYTES, OPSET
from pygrid.sandbox.child import ChildSandbox
from pygrid.sandbox.process import ChildLimits, run

if TYPE_CHECKING:
    import onnx

    from pygrid.plans.costs import Analysis

SERVED_OPSETS = range(18, OPSET + 1)
MAX_SERVED_BYTES = 512 * 1024**2
MAX_BATCH_SIZE = 65_536
MAX_PORTS = 64
MAX_NAME = 200
_NAME = "model"
# For the file, its parsed form, and the copies that ONNX's own checker makes of the largest model.
_CHILD_LIMITS = ChildLimits(memory_bytes=6 * 1024**3, cpu_s=60, wall_s=90.0, max_output_bytes=1024**2)


class ServingLimits(msgspec.Struct, frozen=True):
    """Limits for a model. Except the first two, they are for one call with the largest batch."""

    max_model_bytes: int = MAX_SERVED_BYTES
    """Size of the file."""
    max_nodes: int = 20_000
    max_tensor_bytes: int = 256 * 1024**2
    """Size of each tensor that an operator makes."""
    max_peak_bytes: int = 2 * 1024**3
    """Size of everything that is held at once, with the weights."""
    max_flops: int = 2 * 10**12
    max_port_bytes: int = 64 * 1024**2
    """Size of all inputs together, and of all outputs together."""


class ServingReport(msgspec.Struct, frozen=True):
    """Results of the gate for a model that passed."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    num_nodes: int
    operators: dict[str, int]
    num_parameters: int
    """Number of values in its floating-point constants."""
    flops_fixed: int
    flops_per_example: int
    peak_bytes: int
    """At the largest batch."""
    rows_independent: bool
    """Proven: each row of the outputs depends only on the same row of the inputs, so callers can share a batch."""
    independence_reason: str
    """The reason, if rows are not independent."""


def check_model_file(path: Path, max_batch_size: int, limits: ServingLimits | None = None) -> ServingReport:
    """Check the model in this file, in this process.

    Args:
        max_batch_size: largest number of examples in one call, 1 to 65,536.
    Raises:
        InvalidPlan: the model is refused; ``code`` is the reason for programs, and the message is for the author.
    """
    limits = limits or ServingLimits()
    return check_model(read_model(path, limits), max_batch_size, limits)


def read_model(path: Path, limits: ServingLimits) -> bytes:
    """The unchecked bytes of the file. Raises InvalidPlan: ``plan_too_large``."""
    size = path.stat().st_size
    if size > limits.max_model_bytes:
        raise _refused(f"has {size:,} bytes; {limits.max_model_bytes:,} are allowed", "plan_too_large")
    return path.read_bytes()


def check_model(data: bytes, max_batch_size: int, limits: ServingLimits) -> ServingReport:
    """As `check_model_file`, for the bytes of a file."""
    from pygrid.plans.costs import analyse
    from pygrid.plans.independence import judge_rows
    from pygrid.plans.structure import constant_bytes

    model = _parse(data)
    graph = model.graph
    if len(graph.node) > limits.max_nodes:
        raise _refused(
            f"has {len(graph.node):,} nodes; at most {limits.max_nodes:,} are allowed", "plan_too_many_nodes"
        )
    inputs = _input_ports(graph)
    analysis = analyse(graph, name=_NAME, max_n=max_batch_size, max_tensor_bytes=limits.max_tensor_bytes)
    outputs = _output_ports(analysis)
    # A plan may hold few constants, but a model consists of them: the size of the file bounds them.
    peak, flops = max(analysis.peak_bytes(max_batch_size), constant_bytes(model)), analysis.flops(max_batch_size)
    for what, value, limit, code in (
        ("bytes of memory at once", peak, limits.max_peak_bytes, "plan_memory_too_large"),
        ("operations", flops, limits.max_flops, "plan_flops_too_large"),
        ("bytes of inputs", port_bytes(inputs, max_batch_size), limits.max_port_bytes, "plan_tensor_too_large"),
        ("bytes of outputs", port_bytes(outputs, max_batch_size), limits.max_port_bytes, "plan_tensor_too_large"),
    ):
        if value > limit:
            raise _refused(
                f"has {value:,} {what} at the largest batch ({max_batch_size}); {limit:,} are allowed. Try a "
                "smaller max_batch_size",
                code,
            )
    fixed, per_example = analysis.flops_split()
    verdict = judge_rows(analysis)
    return ServingReport(
        inputs=inputs,
        outputs=outputs,
        num_nodes=len(graph.node),
        operators=analysis.operators,
        num_parameters=_num_parameters(analysis),
        flops_fixed=fixed,
        flops_per_example=per_example,
        peak_bytes=peak,
        rows_independent=verdict.independent,
        independence_reason=verdict.reason,
    )


def check_model_in_child(
    path: Path, max_batch_size: int, limits: ServingLimits | None = None, *, child: ChildLimits = _CHILD_LIMITS
) -> ServingReport:
    """As `check_model_file`, in a child process that cannot use more memory or time than ``child`` allows.

    Raises:
        InvalidPlan: as `check_model_file`; or ``plan_check_failed``: the child crashed, or reached a limit.
    """
    parts = [msgspec.json.encode(limits or ServingLimits()), msgspec.json.encode([str(path), max_batch_size])]
    reply = run(check_parts, parts, limits=child, failed=_failed)
    if reply.error is not None:
        raise InvalidPlan(reply.error.detail, code=reply.error.code, **reply.error.fields)
    try:
        return msgspec.json.decode(reply.value, type=ServingReport)
    except msgspec.DecodeError as error:
        raise _failed("its answer cannot be read") from error


def check_parts(parts: list[bytes], sandbox: ChildSandbox) -> bytes:
    """The child process of `check_model_in_child`. `parts`, as JSON: the limits; path and largest batch."""
    # Everything that a check imports: inside the sandbox no file can be opened.
    import pygrid.plans.costs
    import pygrid.plans.independence
    import pygrid.plans.sizes
    import pygrid.plans.structure  # noqa: F401

    limits = msgspec.json.decode(parts[0], type=ServingLimits)
    path, max_batch_size = msgspec.json.decode(parts[1], type=tuple[str, int])
    data = read_model(Path(path), limits)
    sandbox.enter()
    return msgspec.json.encode(check_model(data, max_batch_size, limits))


async def check_model_async(path: Path, max_batch_size: int, limits: ServingLimits | None = None) -> ServingReport:
    """As `check_model_in_child`, without blocking the event loop.

    A cancelled caller still waits for the child, so that the file exists as long as the child reads it.
    """
    work = asyncio.ensure_future(asyncio.to_thread(check_model_in_child, path, max_batch_size, limits))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        raise


def port_bytes(ports: tuple[Port, ...], num_examples: int) -> int:
    """Bytes of the arrays of these ports with ``num_examples`` examples."""
    total = 0
    for port in ports:
        size = ITEM_BYTES[port.dtype]
        for side in port.shape:
            size *= num_examples if isinstance(side, str) else side
        total += size
    return total


def _parse(data: bytes) -> onnx.ModelProto:
    from pygrid.plans.structure import check_valid, parse_graph

    model = parse_graph(_NAME, data, SERVED_OPSETS)
    check_valid(_NAME, model)
    opset = model.opset_import[0].version
    if opset != OPSET:
        # The rules for shapes are those of one opset, so a model that is not valid in that opset is refused.
        model.opset_import[0].version = OPSET
        check_valid(_NAME, model)
        model.opset_import[0].version = opset
    return model


def _input_ports(graph: onnx.GraphProto) -> tuple[Port, ...]:
    from pygrid.plans.structure import read_port

    constants = {tensor.name for tensor in graph.initializer}
    ports = []
    symbols: set[str] = set()
    for info in graph.input:
        if info.name in constants:
            raise _refused(f"has {info.name[:80]!r} both as input and as constant", "plan_ports_invalid")
        port = read_port(_NAME, info)
        for axis, side in enumerate(port.shape):
            if isinstance(side, str):
                symbols.add(side)
                if axis:
                    raise _refused(
                        f"leaves size {axis} of input {info.name[:80]!r} open ({side[:40]!r}); only the first size, "
                        "the number of examples, may be open",
                        "plan_ports_invalid",
                    )
            elif side < 1:
                raise _refused(f"has input {info.name[:80]!r} with a side of {side}", "plan_ports_invalid")
        ports.append(_named(port.name, port.dtype, port.shape))
    if len(symbols) > 1:
        names = ", ".join(repr(symbol[:40]) for symbol in sorted(symbols))
        raise _refused(
            f"has several open sizes ({names}); only one, the number of examples, may be open", "plan_ports_invalid"
        )
    return _checked(ports, "inputs")


def _output_ports(analysis: Analysis) -> tuple[Port, ...]:
    """The outputs as computed from the nodes, not as the file declares them."""
    from pygrid.plans.sizes import SYMBOL

    ports = []
    for name in analysis.outputs:
        value = analysis.values.get(name)
        if value is None:
            raise _refused(f"has output {name[:80]!r}, which no node makes", "plan_graph_invalid")
        shape: list[int | str] = []
        for axis, size in enumerate(value.shape):
            if isinstance(size, int):
                shape.append(size)
            elif size == SYMBOL and axis == 0:
                shape.append(BATCH)
            else:
                raise _refused(
                    f"computes {name[:80]!r} with size {axis} of {size} (n is the batch size); only the first size may "
                    "depend on n, and it must be n",
                    "plan_ports_invalid",
                )
        ports.append(_named(name, value.dtype, tuple(shape)))
    return _checked(ports, "outputs")


def _named(name: str, dtype: Any, shape: tuple[int | str, ...]) -> Port:
    if not name or len(name) > MAX_NAME or not name.isprintable():
        raise _refused(f"has a port without a printable name of up to {MAX_NAME} characters", "plan_ports_invalid")
    return Port(name, dtype, tuple(BATCH if isinstance(side, str) else side for side in shape))


def _checked(ports: list[Port], what: str) -> tuple[Port, ...]:
    if not 1 <= len(ports) <= MAX_PORTS:
        raise _refused(f"has {len(ports)} {what}; 1 to {MAX_PORTS} are allowed", "plan_ports_invalid")
    if len({port.name for port in ports}) != len(ports):
        raise _refused(f"lists one of its {what} twice", "plan_ports_invalid")
    return tuple(ports)


def _num_parameters(analysis: Analysis) -> int:
    from pygrid.plans.sizes import at

    values = [analysis.values[name] for name in analysis.initializers]
    return sum(at(value.num_elements, 1) for value in values if value.dtype == "float32")


def _refused(detail: str, code: str) -> InvalidPlan:
    return InvalidPlan(f"the model {detail}", code=code)


def _failed(why: str) -> InvalidPlan:
    return InvalidPlan(f"the model could not be checked within the limits: {why}", code=codes.PLAN_CHECK_FAILED)
