"""A plan in words and numbers, for the person who decides whether it may use their data."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from pygrid.plans.archive import Plan
from pygrid.plans.gate import GateReport
from pygrid.plans.manifest import Manifest
from pygrid.plans.operators import OPERATORS
from pygrid.plans.text import human_bytes, human_count
from pygrid.units import decimal


class PlanInput(msgspec.Struct, frozen=True):
    """An input or output of a plan: a data column, noise, a hyperparameter, or a result."""

    name: str
    what: str
    meaning: str


class PlanCost(msgspec.Struct, frozen=True):
    """The cost of one graph."""

    num_nodes: int
    flops_fixed: int
    flops_per_example: int
    peak_bytes: int
    """At the largest batch."""


class PlanDescription(msgspec.Struct, frozen=True):
    """A description of a plan. Texts of the author are claims; everything else was computed from the graphs."""

    plan_id: str
    name: str
    description: str
    author: str
    summary: str
    size_bytes: int
    model: dict[str, tuple[str, tuple[int, ...]]]
    num_parameters: int
    inputs: tuple[PlanInput, ...]
    hyper: tuple[PlanInput, ...]
    outputs: tuple[PlanInput, ...]
    """What the machine that runs the plan sends back."""
    bytes_out: int
    """Size of the outputs of one run, without the few numbers of metrics."""
    bytes_in_per_example: int
    operators: dict[str, tuple[int, str]]
    """Operator -> number of nodes in all graphs, and its summary."""
    costs: dict[str, PlanCost]
    max_batch_size: int
    per_example_independent: bool
    independence_reason: str
    source: str


def describe(plan: Plan, report: GateReport) -> PlanDescription:
    """Describe a plan that passed the gate.

    Args:
        report: the gate's report on the same plan.
    """
    manifest = plan.manifest
    counts: dict[str, int] = {}
    for graph in report.graphs.values():
        for name, count in graph.operators.items():
            counts[name] = counts.get(name, 0) + count
    return PlanDescription(
        plan_id=plan.id,
        name=manifest.name,
        description=manifest.description,
        author=manifest.author,
        summary=_summary(manifest, report),
        size_bytes=len(plan.data),
        model={name: (array.dtype, array.shape) for name, array in report.model_spec.items()},
        num_parameters=sum(math.prod(array.shape) for array in report.model_spec.values()),
        inputs=_inputs(manifest),
        hyper=tuple(
            PlanInput(name, f"{decimal(hyper.default)}, allowed {decimal(hyper.min)} to {decimal(hyper.max)}", "")
            for name, hyper in manifest.hyper.items()
        ),
        outputs=_outputs(manifest, report),
        bytes_out=report.model_bytes,
        bytes_in_per_example=sum(_item_bytes(port.dtype) * math.prod(port.shape) for port in manifest.data.values()),
        operators={
            name: (counts[name], OPERATORS[name].summary) for name in sorted(counts, key=lambda n: (-counts[n], n))
        },
        costs={
            name: PlanCost(graph.num_nodes, graph.flops_fixed, graph.flops_per_example, graph.peak_bytes)
            for name, graph in report.graphs.items()
        },
        max_batch_size=manifest.max_batch_size,
        per_example_independent=report.per_example_independent,
        independence_reason=report.independence_reason,
        source=plan.source,
    )


def _item_bytes(dtype: str) -> int:
    return {"float32": 4, "int32": 4, "int64": 8, "bool": 1}[dtype]


def _shape(dtype: str, shape: tuple[int, ...]) -> str:
    return f"{dtype} {' x '.join(map(str, shape))}" if shape else f"{dtype} number"


def _summary(manifest: Manifest, report: GateReport) -> str:
    elements = sum(math.prod(array.shape) for array in report.model_spec.values())
    size = f"{human_count(elements)} parameters in {len(report.model_spec)} arrays, {human_bytes(report.model_bytes)}"
    if manifest.kind == "averaging":
        how = "one diff after the other" if manifest.iterative else "all diffs at once"
        return f"Averages the diffs of a model of {size}, {how}. It runs on the server and sees no data."
    uses = []
    if "train" in manifest.graphs:
        uses.append(f"trains with {manifest.optimizer}" if manifest.optimizer else "trains")
    if "grads" in manifest.graphs:
        uses.append("computes gradients for private jobs" if report.per_example_independent else "computes gradients")
    if "eval" in manifest.graphs:
        uses.append("evaluates")
    return f"For a model of {size}: {', '.join(uses)}."


def _inputs(manifest: Manifest) -> tuple[PlanInput, ...]:
    columns = [PlanInput(name, _shape(port.dtype, port.shape), port.meaning) for name, port in manifest.data.items()]
    columns += [
        PlanInput(name, _shape("float32", port.shape), "seeded random numbers in 0..1, made by the runner")
        for name, port in manifest.noise.items()
    ]
    return tuple(columns)


def _outputs(manifest: Manifest, report: GateReport) -> tuple[PlanInput, ...]:
    size = human_bytes(report.model_bytes)
    rows: list[PlanInput] = []
    if manifest.kind == "averaging":
        return (PlanInput("average", size, "one array for each of the model"),)
    if "train" in manifest.graphs:
        rows.append(PlanInput("trained model, or its diff", size, "after all updates of a run"))
    if "grads" in manifest.graphs:
        rows.append(PlanInput("gradients", size, "in a private job clipped, summed and noised before they leave"))
    for name, how in manifest.metrics.items():
        rows.append(
            PlanInput(f"metric {name}", "float32 number", "mean over examples" if how == "mean" else "sum over batches")
        )
    return tuple(rows)


def to_json(description: PlanDescription) -> dict[str, Any]:
    """The description as plain values."""
    plain: dict[str, Any] = msgspec.to_builtins(description)
    return plain
