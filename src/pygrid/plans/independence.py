"""Proves from the graph, where possible, that the examples of a batch do not influence each other.

**What it means.** Each output of the ``grads`` graph (the gradients and ``metrics/loss``) is, for every batch,

    fixed + factor * sum over examples i of f(example i, params, position i),

where ``fixed`` and ``factor`` depend on params and the batch size only. So a call on one example returns that example's
contribution. A private job calls the plan once per example, and trains the same model. BatchNorm, or a loss such as the
root of a mean, does not have this form. The proof does not protect anybody: a private job shows the plan one example at
a time, whatever the plan is. It assures the author that the private job means what the non-private job means.

**How.** Each tensor gets a place. It is free of data; or it holds rows, and its part at position i depends on example i
alone; or it is a sum over examples, which only linear operators may use; or it is mixed. The rules below are
conservative: what they do not know is mixed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from pygrid.plans.costs import Analysis, Step
from pygrid.plans.operators.moves import padded, reduced_axes
from pygrid.plans.operators.values import OperatorCall, TensorValue
from pygrid.plans.sizes import SYMBOL, Size, divide


@dataclass(frozen=True)
class Free:
    """Does not depend on data."""


@dataclass(frozen=True)
class Rows:
    """Along ``axis``, of size ``outer * n * inner``, element ``(o * n + i) * inner + k`` depends on example i alone."""

    axis: int
    outer: Size = 1
    inner: Size = 1

    def moved(self, axis: int) -> Rows:
        return Rows(axis, self.outer, self.inner)


@dataclass(frozen=True)
class Sum:
    """A sum over examples, which can be multiplied by free tensors and added to them."""


@dataclass(frozen=True)
class Mixed:
    """Depends on several examples in another way, first at the node that ``where`` names."""

    where: str


Place: TypeAlias = Free | Rows | Sum | Mixed

FREE, SUM = Free(), Sum()
_UNKNOWN = Mixed("")
_LINEAR = frozenset({"Add", "Sub", "Sum", "Neg", "Identity"})
_VIEWS = frozenset({"Reshape", "Squeeze", "Unsqueeze"})
_KEEP_AXES = frozenset({"Slice", "Split", "Trilu"})


@dataclass(frozen=True)
class RowIndependence:
    """Whether examples are independent, and if not, the reason."""

    independent: bool
    reason: str


def judge(grads: Analysis) -> RowIndependence:
    """Whether the examples of a grads graph are independent."""
    places = _places(grads, {name: Rows(0) if name.startswith(("data/", "noise/")) else FREE for name in grads.inputs})
    for name in grads.outputs:
        place = places[name]
        if isinstance(place, Mixed):
            return RowIndependence(False, f"{name} mixes examples at {place.where}")
        if isinstance(place, Rows):
            return RowIndependence(False, f"{name} is not summed over the examples")
    return RowIndependence(True, "")


def judge_rows(graph: Analysis) -> RowIndependence:
    """Whether row i of each output depends only on row i of the inputs, for each i and each batch size.

    Then the batches of several callers can be joined, run at once, and separated again: no row depends on a row of
    another caller. This requires more than `judge`, where a tensor can depend on position and batch size. Here, a value
    computed from the batch size may only set the shape to which rows are brought, or for how many rows a constant is
    repeated, such as the first state of a recurrent layer.
    """
    if any(not graph.values[name].shape or graph.values[name].shape[0] != SYMBOL for name in graph.inputs):
        return RowIndependence(False, "an input has no batch axis")
    places = _places(graph, {name: Rows(0) for name in graph.inputs}, repeats=True)
    counts: set[str] = set()
    for step in graph.steps:
        counting = [index for index, name in enumerate(step.input_names) if name in counts]
        if step.call.op_type in ("Shape", "Size") or (
            counting and all(places[name] == FREE for name in step.output_names)
        ):
            counts.update(step.output_names)
        elif counting and (step.call.op_type not in ("Reshape", "Expand") or counting != [1]):
            return RowIndependence(False, f"{step.label} computes with the batch size")
    for name in graph.outputs:
        place = places[name]
        if isinstance(place, Mixed):
            return RowIndependence(False, f"{name} mixes examples at {place.where}")
        if place != Rows(0):
            return RowIndependence(False, f"{name} does not have one row per example")
    return RowIndependence(True, "")


def _places(graph: Analysis, inputs: Mapping[str, Place], *, repeats: bool = False) -> dict[str, Place]:
    """The place of every tensor of the graph; ``repeats``: one constant row, repeated for each example, is rows."""
    places: dict[str, Place] = {**inputs, **dict.fromkeys(graph.initializers, FREE)}
    for step in graph.steps:
        given = [places[name] for name in step.input_names]
        for name, value in zip(step.output_names, step.outputs, strict=True):
            place = _place(step, given, value)
            if repeats and place == FREE and step.call.op_type == "Expand":
                place = _repeated(step.call.get(0), value)
            places[name] = _settle(place, value, step.label)
    return places


def _repeated(before: TensorValue, after: TensorValue) -> Place:
    """Rows, if the operator repeats one constant along a single axis, once for each example."""
    axes = [axis for axis, size in enumerate(after.shape) if not isinstance(size, int)]
    if len(axes) != 1 or after.shape[axes[0]] != SYMBOL:
        return FREE
    axis = axes[0] + len(before.shape) - len(after.shape)
    return Rows(axes[0]) if axis < 0 or before.shape[axis] == 1 else FREE


def _settle(place: Place, value: TensorValue, label: str) -> Place:
    """Check rows against the shape, and name the node where examples were mixed."""
    if isinstance(place, Rows):
        fits = 0 <= place.axis < len(value.shape) and value.shape[place.axis] == place.outer * SYMBOL * place.inner
        return place if fits else Mixed(label)
    return Mixed(label) if place == _UNKNOWN else place


def _place(step: Step, inputs: Sequence[Place], output: TensorValue) -> Place:
    call = step.call
    op = call.op_type
    mixed = next((place for place in inputs if isinstance(place, Mixed)), None)
    if op in ("Shape", "Size") or all(place == FREE for place in inputs):
        return FREE
    if mixed is not None:
        return mixed
    places = _by_position(call, inputs)
    rule = _RULES.get(op)
    if rule is not None:
        return rule(call, places, output)
    if op in _VIEWS:
        return _view(call, places, output)
    if op in _KEEP_AXES:
        return places[0] if all(place == FREE for place in places[1:]) else _UNKNOWN
    return _elementwise(call, places, output)


def _by_position(call: OperatorCall, inputs: Sequence[Place]) -> list[Place]:
    """The places by input position; inputs that were left out are free."""
    given = iter(inputs)
    return [FREE if value is None else next(given) for value in call.inputs]


def _aligned(place: Rows, value: TensorValue, output: TensorValue) -> Rows:
    return place.moved(place.axis + len(output.shape) - len(value.shape))


def _elementwise(call: OperatorCall, places: Sequence[Place], output: TensorValue) -> Place:
    rows = {
        _aligned(place, value, output)
        for place, value in zip(places, call.inputs, strict=True)
        if isinstance(place, Rows) and value is not None
    }
    if SUM not in places:
        return rows.pop() if len(rows) == 1 else _UNKNOWN
    if rows:
        return _UNKNOWN
    op = call.op_type
    linear = (
        op in _LINEAR
        or (op == "Mul" and list(places).count(SUM) == 1)
        or (op == "Div" and places[1] == FREE)
        or (op == "Where" and places[0] == FREE)
    )
    return SUM if linear else _UNKNOWN


def _view(call: OperatorCall, places: Sequence[Place], output: TensorValue) -> Place:
    place = places[0]
    return _relocated(place, call.get(0), output) if isinstance(place, Rows) else place


def _relocated(place: Rows, before: TensorValue, after: TensorValue) -> Place:
    """The place of the examples after a change of shape that keeps the elements and their order."""
    stride = place.inner * math.prod(before.shape[place.axis + 1 :])
    suffix: Size = 1
    for axis in range(len(after.shape) - 1, -1, -1):
        inner = divide(stride, suffix)
        outer = None if inner is None else divide(after.shape[axis], inner * SYMBOL)
        if inner is not None and outer is not None and outer != 0:
            return Rows(axis, outer, inner)
        suffix = suffix * after.shape[axis]
    return _UNKNOWN


def _reduce(call: OperatorCall, places: Sequence[Place], output: TensorValue) -> Place:
    place, op = places[0], call.op_type
    if place == SUM:
        return SUM if op in ("ReduceSum", "ReduceMean") else _UNKNOWN
    if not isinstance(place, Rows):
        return _UNKNOWN
    axes = reduced_axes(call)
    if place.axis in axes:
        return SUM if op in ("ReduceSum", "ReduceMean", "ReduceSumSquare") else _UNKNOWN
    return _after_drop(place, axes, bool(call.attributes.get("keepdims", 1)))


def _arg(call: OperatorCall, places: Sequence[Place], output: TensorValue) -> Place:
    place, axis = places[0], call.axis(len(call.get(0).shape), 0)
    if not isinstance(place, Rows) or place.axis == axis:
        return _UNKNOWN
    return _after_drop(place, [axis], bool(call.attributes.get("keepdims", 1)))


def _after_drop(place: Rows, axes: Sequence[int], keep: bool) -> Rows:
    return place if keep else place.moved(place.axis - sum(axis < place.axis for axis in axes))


def _softmax(call: OperatorCall, places: Sequence[Place], output: TensorValue) -> Place:
    place = places[0]
    mixes = not isinstance(place, Rows) or place.axis == call.axis(len(output.shape), -1)
    return _UNKNOWN if mixes else place


def _transpose(call: OperatorCall, places: Sequence[Place], output: TensorValue) -> Place:
    place, rank = places[0], len(output.shape)
    order = list(call.attributes.get("perm", range(rank - 1, -1, -1)))
    return place.moved(order.index(place.axis)) if isinstance(place, Rows) else place


def _product(a: Place, b: Place, rank_a: int, rank_b: int) -> Place:
    """The place of the product of matrices, ``[..., rows, k] x [..., k, columns]``; its rank is the larger one."""
    rank = max(rank_a, rank_b)
    if isinstance(a, Rows) and isinstance(b, Rows):
        if a.axis == rank_a - 1 and b.axis == rank_b - 2:
            return SUM if (a.outer, a.inner) == (b.outer, b.inner) else _UNKNOWN
        batch_a, batch_b = a.moved(a.axis + rank - rank_a), b.moved(b.axis + rank - rank_b)
        return batch_a if batch_a == batch_b and batch_a.axis < rank - 2 else _UNKNOWN
    if isinstance(a, Rows) and b == FREE:
        return SUM if a.axis == rank_a - 1 else a.moved(a.axis + rank - rank_a)
    if isinstance(b, Rows) and a == FREE:
        return SUM if b.axis == rank_b - 2 else b.moved(b.axis + rank - rank_b)
    return SUM if {a, b} == {SUM, FREE} else _UNKNOWN


def _matmul(call: OperatorCall, places: Sequence[Place], output: TensorValue) -> Place:
    rank_a, rank_b = len(call.get(0).shape), len(call.get(1).shape)
    a, b = places
    if rank_a == 1 and isinstance(a, Rows):
        a = a.moved(1)
    place = _product(a, b, max(rank_a, 2), max(rank_b, 2))
    if isinstance(place, Rows) and rank_a == 1:
        return place.moved(place.axis - (place.axis == max(rank_b, 2) - 1))
    return place


def _gemm(call: OperatorCall, places: Sequence[Place], output: TensorValue) -> Place:
    a, b = (
        place.moved(1 - place.axis) if isinstance(place, Rows) and call.attributes.get(flag, 0) else place
        for place, flag in zip(places[:2], ("transA", "transB"), strict=True)
    )
    product = FREE if a == b == FREE else _product(a, b, 2, 2)
    bias, value = (places[2], call.find(2)) if len(places) > 2 else (FREE, None)
    if isinstance(bias, Rows) and value is not None:
        bias = _aligned(bias, value, output)
    if bias in (FREE, product):
        return product
    return bias if product == FREE else _UNKNOWN


def _conv(call: OperatorCall, places: Sequence[Place], output: TensorValue) -> Place:
    x, w = places[:2]
    if any(place != FREE for place in places[2:]):
        return _UNKNOWN
    in_axis = 1 if call.op_type == "Conv" else 0
    plain = call.attributes.get("group", 1) == 1
    if isinstance(x, Rows) and w == FREE:
        return x if x.axis == 0 else SUM if x.axis == 1 and plain else _UNKNOWN
    if isinstance(w, Rows) and x == FREE:
        return (
            SUM
            if w.axis == in_axis and plain
            else Rows(1, w.outer, w.inner)
            if w.axis == 1 - in_axis and plain
            else _UNKNOWN
        )
    if isinstance(x, Rows) and isinstance(w, Rows):
        same = x.axis == 1 and w.axis == in_axis and (x.outer, x.inner) == (w.outer, w.inner)
        return SUM if same and plain else _UNKNOWN
    return SUM if {x, w} == {SUM, FREE} else _UNKNOWN


def _pool(call: OperatorCall, places: Sequence[Place], output: TensorValue) -> Place:
    place = places[0]
    if place == SUM:
        return _UNKNOWN if call.op_type == "MaxPool" else SUM
    return place if isinstance(place, Rows) and place.axis < 2 else _UNKNOWN


def _concat(call: OperatorCall, places: Sequence[Place], output: TensorValue) -> Place:
    kinds = {place for place in places if place != FREE}
    place = kinds.pop() if len(kinds) == 1 else _UNKNOWN
    joined = call.axis(len(output.shape), 0)
    return _UNKNOWN if isinstance(place, Rows) and place.axis == joined else place


def _expand(call: OperatorCall, places: Sequence[Place], output: TensorValue) -> Place:
    place = places[0]
    return _aligned(place, call.get(0), output) if isinstance(place, Rows) else place


def _tile(call: OperatorCall, places: Sequence[Place], output: TensorValue) -> Place:
    # Repeated rows do not fit their shape, which `_settle` notices.
    return places[0]


def _pad(call: OperatorCall, places: Sequence[Place], output: TensorValue) -> Place:
    place = places[0]
    if any(other != FREE for other in places[1:]):
        return _UNKNOWN
    return _UNKNOWN if isinstance(place, Rows) and padded(call)[place.axis] != (0, 0) else place


def _gather(call: OperatorCall, places: Sequence[Place], output: TensorValue) -> Place:
    data, index = places
    axis, index_rank = call.axis(len(call.get(0).shape), 0), len(call.get(1).shape)
    if data == FREE and isinstance(index, Rows):
        return index.moved(axis + index.axis)
    if index != FREE:
        return _UNKNOWN
    if isinstance(data, Rows):
        if data.axis == axis:
            return _UNKNOWN
        return data if data.axis < axis else data.moved(data.axis - 1 + index_rank)
    return data


def _gather_elements(call: OperatorCall, places: Sequence[Place], output: TensorValue) -> Place:
    data, index = places
    axis = call.axis(len(output.shape), 0)
    if data == FREE:
        return index if isinstance(index, Rows) else _UNKNOWN
    if data == SUM:
        return SUM if index == FREE else _UNKNOWN
    fits = isinstance(data, Rows) and data.axis != axis and index in (FREE, data)
    return data if fits else _UNKNOWN


def _scatter(call: OperatorCall, places: Sequence[Place], output: TensorValue) -> Place:
    data, index, _ = places
    axis = call.axis(len(output.shape), 0)
    rows = {place for place in places if isinstance(place, Rows)}
    reduction = call.attributes.get("reduction", b"none")
    adds = reduction in (b"add", "add")
    if SUM in places:
        is_linear = adds or reduction in (b"none", "none")
        return SUM if not rows and index == FREE and is_linear else _UNKNOWN
    if len(rows) != 1:
        return _UNKNOWN
    place = rows.pop()
    if place.axis != axis:
        # Elements stay in their row only if index and data have the same rows, which the shapes show.
        same = call.get(1).shape[place.axis] == call.get(0).shape[place.axis]
        return place if same else _UNKNOWN
    return SUM if adds and data == FREE else _UNKNOWN


_RULES = {
    "ArgMax": _arg,
    "ArgMin": _arg,
    "AveragePool": _pool,
    "Concat": _concat,
    "Conv": _conv,
    "ConvTranspose": _conv,
    "Expand": _expand,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "Gemm": _gemm,
    "GlobalAveragePool": _pool,
    "LogSoftmax": _softmax,
    "MatMul": _matmul,
    "MaxPool": _pool,
    "Pad": _pad,
    "ReduceMax": _reduce,
    "ReduceMean": _reduce,
    "ReduceMin": _reduce,
    "ReduceProd": _reduce,
    "ReduceSum": _reduce,
    "ReduceSumSquare": _reduce,
    "ScatterElements": _scatter,
    "Softmax": _softmax,
    "Tile": _tile,
    "Transpose": _transpose,
}
