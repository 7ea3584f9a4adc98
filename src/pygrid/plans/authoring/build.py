"""Builds a plan file from programs: emits the graphs, checks them against eager torch, writes the manifest."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import onnx

from pygrid import codes
from pygrid.errors import AuthoringError, InvalidPlan
from pygrid.plans import Plan, build_archive
from pygrid.plans.authoring.emit import Emitted, emit_programs
from pygrid.plans.authoring.inference import inference_program
from pygrid.plans.authoring.lowering import ClassLimit
from pygrid.plans.authoring.predictions import PREDICT
from pygrid.plans.authoring.programs import LossPrograms
from pygrid.plans.authoring.reference import eager
from pygrid.plans.authoring.selfcheck import BATCH_SIZES, Feeder, check_against_eager
from pygrid.plans.authoring.tracing import Program
from pygrid.plans.costs import Analysis, analyse
from pygrid.plans.gate import check
from pygrid.plans.manifest import BATCH, DataPort, Graph, Manifest, TestVector
from pygrid.plans.operators import OPERATORS
from pygrid.plans.selftest import selftest_graph, selftest_inputs

logger = logging.getLogger(__name__)

MAX_BATCH_SIZES = (1024, 256, 64, 16, 4)
"""Largest batch sizes to try if the author does not choose one."""
_TOO_LARGE = frozenset({"plan_tensor_too_large", "plan_memory_too_large", "plan_flops_too_large"})
_TOO_LONG = frozenset({"plan_too_large", "plan_too_many_nodes", "plan_constants_too_large"})
_TEST_BATCH = 4


def emit(*programs: tuple[Program, Sequence[Program]], symbol_name: str) -> dict[str, Emitted]:
    """The graphs of programs; each program is part of a traced program, which can be the program itself.

    Raises:
        AuthoringError: the message names the author's line.
    """
    graphs: dict[str, Emitted] = {}
    for whole, parts in programs:
        graphs |= emit_programs(whole, parts, symbol_name=symbol_name)
    for name, graph in graphs.items():
        outside = [op for op in graph.ops if op not in OPERATORS]
        if outside:
            raise AuthoringError(
                f"the {name} graph uses {', '.join(outside)}, outside the plan set",
                code=codes.PLAN_OPERATOR_UNSUPPORTED,
            )
    return graphs


def emit_evaluation(programs: LossPrograms) -> dict[str, Emitted]:
    """The graphs ``eval`` and ``predict`` of a loss.

    Without a function of the author for it, ``predict`` is left out if the model's results cannot be part of a plan.

    Raises:
        AuthoringError: the message names the author's line.
    """
    alone = (programs.eval, (programs.eval,))
    if programs.inference is not None:
        program = inference_program(programs.subject, programs.inference, programs.data, programs.hyper)
        return emit(alone, symbol_name=BATCH) | emit_inference(program)
    try:
        return emit((programs.eval_and_predict, (programs.eval, programs.predict)), symbol_name=BATCH)
    except AuthoringError as error:
        logger.info("plan without predictions", extra={"reason": str(error)})
        return emit(alone, symbol_name=BATCH)


def emit_inference(program: Program) -> dict[str, Emitted]:
    """The graph ``predict`` of a function of the model and some data.

    Raises:
        AuthoringError: the message names the author's line; or the function returns no row for each example.
    """
    graphs = emit((program, (program,)), symbol_name=BATCH)
    if not graphs:
        raise AuthoringError(
            "the function for predictions returns no array that has a row for each example and depends on data; "
            "return a tensor of shape [batch, ...], or a dict of such tensors",
            code=codes.PLAN_PREDICT,
        )
    return graphs


def equal_to_eager(graphs: Mapping[str, Emitted], feeder: Feeder, *, needs_predict: bool) -> dict[str, Emitted]:
    """The graphs, after each was compared with eager torch; ``predict`` is left out if it differs and is not needed.

    Raises:
        AuthoringError: a graph differs, or predictions are random.
    """
    equal = {}
    for name, graph in graphs.items():
        try:
            if name == PREDICT and graph.noise:
                raise AuthoringError(
                    "predictions are computed from random numbers; return what is computed before them, with predict= "
                    "of the plan",
                    code=codes.PLAN_PREDICT,
                )
            # The graph of the gradients is a part of the train graph.
            check_against_eager(graph, feeder, BATCH_SIZES[1:3] if name == "grads" else BATCH_SIZES)
        except AuthoringError as error:
            if name != PREDICT or needs_predict:
                raise
            logger.info("plan without predictions", extra={"reason": str(error)})
        else:
            equal[name] = graph
    return equal


def _graph_entry(graph: Emitted, *, max_n: int) -> Graph:
    """The entry of a graph in the manifest."""
    fixed, per_example = work_out(graph, max_n=max_n).flops_split()
    return Graph(
        sha256=hashlib.sha256(graph.data).hexdigest(),
        inputs=graph.inputs,
        outputs=graph.outputs,
        num_nodes=graph.num_nodes,
        flops_fixed=fixed,
        flops_per_example=per_example,
    )


def work_out(graph: Emitted, *, max_n: int) -> Analysis:
    """Shapes and costs of a graph, as the gate computes them.

    Raises:
        AuthoringError: the gate would refuse the graph; with the gate's code and message.
    """
    with _refusals_for_authors():
        return analyse(onnx.load_from_string(graph.data).graph, name=graph.program.name, max_n=max_n)


@contextlib.contextmanager
def _refusals_for_authors() -> Iterator[None]:
    try:
        yield
    except InvalidPlan as error:
        raise AuthoringError(
            f"the gate would refuse this plan: {error.detail}", code=error.code, **error.fields
        ) from error


def with_limits(data: Mapping[str, DataPort], graphs: Mapping[str, Emitted]) -> dict[str, DataPort]:
    """The data ports; an integer port without a number of classes gets that of the operators which read it.

    Raises:
        AuthoringError: ``plan_port``: a port declares values that an operator does not take.
    """
    return {
        name: _limited(name, port, [graph.limits[name] for graph in graphs.values() if name in graph.limits])
        for name, port in data.items()
    }


def _limited(name: str, port: DataPort, limits: Sequence[ClassLimit]) -> DataPort:
    if not limits:
        return port
    num_classes = min(limit.num_classes for limit in limits)
    others = frozenset.intersection(*(limit.others for limit in limits)) - set(range(num_classes))
    if port.num_classes is None:
        return msgspec.structs.replace(port, num_classes=num_classes, ignore=min(others, default=msgspec.UNSET))
    if port.num_classes > num_classes:
        raise AuthoringError(
            f"data {name!r} has values 0 to {port.num_classes - 1}, but the model or the loss takes 0 to "
            f"{num_classes - 1}; declare {num_classes} classes, or make the model wider",
            code=codes.PLAN_PORT,
        )
    return port


def source_of(function: Callable[..., Any]) -> str:
    """The author's function as text, for an owner to read."""
    try:
        return inspect.getsource(inspect.unwrap(function))
    except (OSError, TypeError):  # entered at a prompt, or created by exec
        return f"# the source of {getattr(function, '__qualname__', function)} is not available\n"


def finish(manifest: Manifest, graphs: Mapping[str, Emitted], source: str, *, sizes: Sequence[int]) -> Plan:
    """The plan of these parts, with a test vector from eager torch, after it passed the gate.

    A ``predict`` graph that would make the plan too large is left out.

    Args:
        manifest: without the entries of the graphs.
        sizes: largest batch sizes to try, in this order; the first one whose cost passes the gate is used.
    Raises:
        AuthoringError: the gate refuses the plan; with the gate's code and message.
    """
    for size in sizes:
        entries = {name: _graph_entry(graph, max_n=size) for name, graph in graphs.items()}
        sized = msgspec.structs.replace(manifest, max_batch_size=size, graphs=entries)
        if manifest.kind == "training":
            sized = msgspec.structs.replace(sized, test_vector=_test_vector(sized, graphs))
        try:
            plan = _pack(sized, graphs, source)
        except AuthoringError as error:
            if error.code in _TOO_LONG and PREDICT in graphs:
                logger.info("plan without predictions", extra={"reason": str(error)})
                training = {name: graph for name, graph in graphs.items() if name != PREDICT}
                return finish(manifest, training, source, sizes=sizes)
            if size == sizes[-1] or error.code not in _TOO_LARGE:
                raise
        else:
            break
    logger.info("plan built", extra={"plan_id": plan.id, "summary": summary(plan)})
    return plan


def _pack(manifest: Manifest, graphs: Mapping[str, Emitted], source: str) -> Plan:
    with _refusals_for_authors():
        plan = Plan.from_bytes(build_archive(manifest, {name: graph.data for name, graph in graphs.items()}, source))
        check(plan.data)
    return plan


def _test_vector(manifest: Manifest, graphs: Mapping[str, Emitted]) -> TestVector | None:
    """None if the loss is not finite for its inputs, for example because of the root of a buffer."""
    inputs = selftest_inputs(manifest, _TEST_BATCH)
    loss = eager(graphs[selftest_graph(manifest)].program, inputs)["metrics/loss"].item()
    # Fewer digits than the tolerance needs: machines differ in the last digits, and a plan's bytes must not.
    return TestVector(batch_size=_TEST_BATCH, loss=float(f"{loss:.5g}")) if math.isfinite(loss) else None


def summary(plan: Plan) -> list[str]:
    """A plan in a few lines: its size; and for each graph the nodes and the cost per example."""
    lines = [f"{plan.manifest.name}: {len(plan.data) / 1000:.1f} kB, {plan.id[:12]}"]
    for name, graph in plan.manifest.graphs.items():
        lines.append(
            f"{name}: {graph.num_nodes} nodes, {len(plan.graph(name)) / 1000:.1f} kB, "
            f"{graph.flops_fixed:,} + {graph.flops_per_example:,} per example operations"
        )
    return lines
