"""Builds a plan file from programs: emits the graphs, checks them against eager torch, writes the manifest."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import onnx

from pygrid import codes
from pygrid.errors import AuthoringError, InvalidPlan
from pygrid.plans import Plan, build_archive
from pygrid.plans.authoring.emit import Emitted, emit_programs
from pygrid.plans.authoring.selfcheck import eager
from pygrid.plans.authoring.tracing import Program
from pygrid.plans.costs import Analysis, analyse
from pygrid.plans.gate import check
from pygrid.plans.manifest import Graph, Manifest, TestVector
from pygrid.plans.operators import OPERATORS
from pygrid.plans.selftest import selftest_graph, selftest_inputs

logger = logging.getLogger(__name__)

MAX_BATCH_SIZES = (1024, 256, 64, 16)
"""Largest batch sizes to try if the author does not choose one."""
_TOO_LARGE = frozenset({"plan_tensor_too_large", "plan_memory_too_large", "plan_flops_too_large"})
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


def source_of(function: Callable[..., Any]) -> str:
    """The author's function as text, for an owner to read."""
    try:
        return inspect.getsource(inspect.unwrap(function))
    except (OSError, TypeError):  # entered at a prompt, or created by exec
        return f"# the source of {getattr(function, '__qualname__', function)} is not available\n"


def finish(manifest: Manifest, graphs: Mapping[str, Emitted], source: str, *, sizes: Sequence[int]) -> Plan:
    """The plan of these parts, with a test vector from eager torch, after it passed the gate.

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


def _test_vector(manifest: Manifest, graphs: Mapping[str, Emitted]) -> TestVector:
    inputs = selftest_inputs(manifest, _TEST_BATCH)
    loss = eager(graphs[selftest_graph(manifest)].program, inputs)["metrics/loss"].item()
    # Fewer digits than the tolerance needs: machines differ in the last digits, and a plan's bytes must not.
    return TestVector(batch_size=_TEST_BATCH, loss=float(f"{loss:.5g}"))


def summary(plan: Plan) -> list[str]:
    """A plan in a few lines: its size; and for each graph the nodes and the cost per example."""
    lines = [f"{plan.manifest.name}: {len(plan.data) / 1000:.1f} kB, {plan.id[:12]}"]
    for name, graph in plan.manifest.graphs.items():
        lines.append(
            f"{name}: {graph.num_nodes} nodes, {len(plan.graph(name)) / 1000:.1f} kB, "
            f"{graph.flops_fixed:,} + {graph.flops_per_example:,} per example operations"
        )
    return lines
