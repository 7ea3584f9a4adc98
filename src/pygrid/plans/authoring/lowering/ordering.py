"""Sorting and the largest elements of an axis, from operators that a plan has.

No operator of ONNX that sorts is in the plan set: their kernels compare numbers in an order that NaN upsets. Here an
element's place is the number of elements before it, so every comparison has a result, whatever the values are.
"""

from __future__ import annotations

from pygrid.plans.authoring.lowering.core import Context, lowers
from pygrid.plans.authoring.lowering.graph import Dim, LoweredValue

_MAX_ROUNDS = 16
"""Up to this number of largest elements are found one after the other, which takes less memory than sorting."""
_LOWEST = -3.4028234e38


def _positions(c: Context, size: Dim, rank: int, axis: int) -> LoweredValue:
    """0, 1, ... along one axis of an array of this rank."""
    bounds = [c.number(bound, "int64") for bound in (0, size, 1)]
    return c.reshape(c.op("Range", bounds, (size,)), (size, *([1] * (rank - 1 - axis))))


@lowers("sort.default", "sort.stable")
def sort(
    c: Context, x: LoweredValue, dim: int = -1, descending: bool = False, *, stable: bool | None = None
) -> tuple[LoweredValue, LoweredValue]:
    """Values and indices in order; equal elements keep their order."""
    x = c.full(x)
    if x.rank == 0:
        return x, c.number(0, "int64")
    axis = dim % x.rank
    indices = _order(c, x, axis, descending=descending)
    return c.op("GatherElements", [x, indices], x.shape, axis=axis), indices


def _order(c: Context, x: LoweredValue, axis: int, *, descending: bool) -> LoweredValue:
    """The indices that sort an axis."""
    size = x.shape[axis]
    # [..., i, j, ...]: whether element j comes before element i
    mine = c.reshape(x, (*x.shape[: axis + 1], 1, *x.shape[axis + 1 :]))
    other = c.reshape(x, (*x.shape[:axis], 1, *x.shape[axis:]))
    first, second = (mine, other) if descending else (other, mine)
    is_less = c.elementwise("Less", [first, second], "bool")
    is_at_most = c.elementwise("LessOrEqual", [first, second], "bool")
    i, j = (_positions(c, size, mine.rank, place) for place in (axis, axis + 1))
    is_tie_before = c.elementwise("And", [c.elementwise("Less", [j, i], "bool"), is_at_most], "bool")
    before = c.elementwise("Or", [is_less, is_tie_before], "bool")
    place = c.cast(c.reduce("ReduceSum", c.cast(before, "float32"), [axis + 1]), "int64")
    place = c.full(place)
    # Zeros made from the places, not from a shape, so that the gate sees which example each belongs to.
    start = c.binary("Mul", place, 0, "int64")
    positions = c.binary("Add", start, _positions(c, size, x.rank, axis), "int64")
    return c.op("ScatterElements", [start, place, positions], x.shape, axis=axis)


@lowers("topk.default")
def topk(
    c: Context, x: LoweredValue, k: int, axis: int = -1, largest: bool = True, sorted: bool = True
) -> tuple[LoweredValue, LoweredValue]:
    """The k largest (or smallest) elements in order, and their indices; of equal elements the first."""
    x = c.full(x)
    axis %= x.rank
    if k <= _MAX_ROUNDS and x.dtype == "float32":
        indices = _largest(c, x if largest else c.elementwise("Neg", [x], "float32"), k, axis)
    else:
        indices = c.graph.slice(_order(c, x, axis, descending=largest), axis, 0, k, size=k)
    return c.op("GatherElements", [x, indices], indices.shape, axis=axis), indices


def _largest(c: Context, x: LoweredValue, k: int, axis: int) -> LoweredValue:
    """The indices of the k largest elements, found one after the other."""
    left = c.elementwise("Max", [x, c.number(_LOWEST, "float32")], "float32")
    positions = _positions(c, x.shape[axis], x.rank, axis)
    one = (*x.shape[:axis], 1, *x.shape[axis + 1 :])
    found: list[LoweredValue] = []
    for _ in range(k):
        found.append(c.op("ArgMax", [left], one, "int64", axis=axis, keepdims=1))
        is_taken = c.elementwise("Equal", [positions, found[-1]], "bool")
        left = c.elementwise("Where", [is_taken, c.number(float("-inf"), "float32"), left], "float32")
    if k == 1:
        return found[0]
    return c.op("Concat", found, (*x.shape[:axis], k, *x.shape[axis + 1 :]), axis=axis)
