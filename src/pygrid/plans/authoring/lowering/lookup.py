"""Operators that read or write elements at positions which a tensor holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pygrid import codes
from pygrid.errors import AuthoringError
from pygrid.plans.authoring.lowering.core import Context, lowers, numel
from pygrid.plans.authoring.lowering.graph import Dim, LoweredValue


@lowers("embedding.default")
def embedding(c: Context, weight: LoweredValue, indices: LoweredValue, *_: Any) -> LoweredValue:
    c.graph.limit(indices, weight.shape[0])
    return c.op("Gather", [c.full(weight), c.full(indices)], c.shape, axis=0)


@lowers("embedding_dense_backward.default")
def embedding_dense_backward(
    c: Context, grad: LoweredValue, indices: LoweredValue, num: int, padding_idx: int, by_freq: bool
) -> LoweredValue:
    if by_freq:
        raise AuthoringError(
            "scale_grad_by_freq is not in the plan set; leave it out", code=codes.PLAN_OPERATOR_UNSUPPORTED
        )
    width = grad.shape[-1]
    count = numel(indices.shape)
    if padding_idx >= 0:
        skipped = c.elementwise("Equal", [indices, c.number(padding_idx, indices.dtype)], "bool")
        skipped = c.reshape(skipped, (*indices.shape, 1))
        grad = c.elementwise("Where", [skipped, c.number(0, "float32"), grad], "float32")
    rows = c.reshape(grad, (count, width))
    start = c.graph.expand_to(c.number(0, "float32"), c.shape)
    return add_rows(c, c.reshape(indices, (count, 1)), rows, start)


def add_rows(
    c: Context, index: LoweredValue, rows: LoweredValue, start: LoweredValue, *, reduction: str | None = "add"
) -> LoweredValue:
    """``start`` [m, width] with each row written (or added) at its index: ``index`` [n, 1], ``rows`` [n, width]."""
    wide = (
        c.graph.expand_to(c.cast(index, "int64"), rows.shape) if index.shape != rows.shape else c.cast(index, "int64")
    )
    return c.op("ScatterElements", [c.full(start), wide, c.full(rows)], start.shape, axis=0, reduction=reduction)


@lowers("index_select")
def index_select(c: Context, x: LoweredValue, axis: int, indices: LoweredValue) -> LoweredValue:
    return c.op("Gather", [c.full(x), c.full(indices)], c.shape, axis=axis % x.rank)


@lowers("gather.default")
def gather(c: Context, x: LoweredValue, axis: int, indices: LoweredValue, **_: Any) -> LoweredValue:
    c.graph.limit(indices, x.shape[axis])
    return c.op("GatherElements", [c.full(x), c.full(indices)], c.shape, axis=axis % x.rank)


@lowers("scatter_add")
def scatter_add(c: Context, x: LoweredValue, axis: int, indices: LoweredValue, source: LoweredValue) -> LoweredValue:
    inputs = [c.full(x), c.full(indices), c.full(source)]
    return c.op("ScatterElements", inputs, c.shape, axis=axis % x.rank, reduction="add")


_REDUCTIONS = {"sum": "add", "mean": "add", "amax": "max", "amin": "min"}
_NEUTRAL = {"amax": float("-inf"), "amin": float("inf")}


@lowers("scatter_reduce")
def scatter_reduce(
    c: Context, x: LoweredValue, axis: int, indices: LoweredValue, source: LoweredValue, reduce: str, **options: bool
) -> LoweredValue:
    def combine(start: LoweredValue, added: LoweredValue) -> LoweredValue:
        if not options.get("include_self", True):
            start = scatter(c, start, axis, indices, _NEUTRAL.get(reduce, 0.0))
        inputs = [c.full(start), c.full(indices), c.full(added)]
        return c.op("ScatterElements", inputs, c.shape, axis=axis % x.rank, reduction=_REDUCTIONS[reduce])

    if reduce != "mean":
        return combine(x, source)
    one = c.number(1, x.dtype)
    return c.div(combine(x, source), combine(replace(one, shape=x.shape), replace(one, shape=source.shape)))


@lowers("scatter.src", "scatter.value")
def scatter(c: Context, x: LoweredValue, axis: int, indices: LoweredValue, source: Any, **_: Any) -> LoweredValue:
    updates = (
        source if isinstance(source, LoweredValue) else c.graph.expand_to(c.number(source, x.dtype), indices.shape)
    )
    inputs = [c.full(x), c.full(indices), c.full(updates)]
    return c.op("ScatterElements", inputs, c.shape, axis=axis % x.rank)


def _index_plan(c: Context, indices: Sequence[LoweredValue | None]) -> tuple[int, list[LoweredValue]]:
    """The first indexed axis and the index arrays, which must be integers on neighboring axes."""
    used = [axis for axis, index in enumerate(indices) if index is not None]
    given = [index for index in indices if index is not None]
    if any(index.dtype == "bool" for index in given):
        raise AuthoringError(
            "the size of the result depends on data; multiply by a mask", code=codes.PLAN_DATA_DEPENDENT_SIZE
        )
    if used != list(range(used[0], used[0] + len(used))):
        raise AuthoringError(
            "index arrays on axes that are not neighbors are not in the plan set", code=codes.PLAN_OPERATOR_UNSUPPORTED
        )
    return used[0], [c.cast(index, "int64") for index in given]


@lowers("index.Tensor", "_unsafe_index.Tensor")
def index_(c: Context, x: LoweredValue, indices: Sequence[LoweredValue | None]) -> LoweredValue:
    axis, given = _index_plan(c, indices)
    x = c.full(x)
    if len(given) == 1:
        return c.op("Gather", [x, c.full(given[0])], c.shape, axis=axis)
    sizes = x.shape[axis : axis + len(given)]
    if _is_own_position(c, x, given):  # x[arange(len(x)), y]: each row selects one of its own elements
        index = _own_column(c, x, given[1])
        return c.reshape(c.op("GatherElements", [x, index], index.shape, x.dtype, axis=1), c.shape)
    flat = c.reshape(x, (*x.shape[:axis], numel(sizes), *x.shape[axis + len(given) :]))
    return c.op("Gather", [flat, _flat_index(c, given, sizes)], c.shape, axis=axis)


def _is_own_position(c: Context, x: LoweredValue, given: Sequence[LoweredValue]) -> bool:
    """Whether two index arrays are "row i" and "some column of row i", for every row."""
    node = c.graph.producer(given[0])
    if len(given) != 2 or node is None or node.op != "Range" or given[0].shape != given[1].shape:
        return False
    start, step = (c.graph.array(c.graph.operand(node, position)) for position in (0, 2))
    return (
        given[0].shape == x.shape[:1] and start is not None and step is not None and not start.any() and bool(step == 1)
    )


def _own_column(c: Context, x: LoweredValue, column: LoweredValue) -> LoweredValue:
    """The index of one column of each row, ``[rows, 1, ...]``."""
    index = c.reshape(column, (x.shape[0], 1, *([1] * (x.rank - 2))))
    rest = (x.shape[0], 1, *x.shape[2:])
    return index if index.shape == rest else c.graph.expand_to(index, rest)


def _flat_index(c: Context, given: Sequence[LoweredValue], sizes: Sequence[Dim]) -> LoweredValue:
    """Index arrays on neighboring axes as one index on these axes together (row-major)."""
    total = given[0]
    for index, size in zip(given[1:], sizes[1:], strict=True):
        length = c.number(size, "int64")
        inside = c.elementwise("Mod", [index, length], "int64")  # negative indices count from the end
        total = c.binary("Add", c.binary("Mul", total, length, "int64"), inside, "int64")
    return c.full(total)


@lowers("index_put", "_unsafe_index_put", "_index_put_impl")
def index_put(
    c: Context, x: LoweredValue, indices: Sequence[LoweredValue | None], values: LoweredValue,
    accumulate: bool = False, *_: Any,
) -> LoweredValue:  # fmt: skip
    mask = indices[0]
    if len(indices) == 1 and mask is not None and mask.dtype == "bool" and values.rank == 0 and not accumulate:
        mask = c.reshape(mask, (*mask.shape, *([1] * (x.rank - mask.rank))))
        return c.elementwise("Where", [mask, values, x], x.dtype)
    axis, given = _index_plan(c, indices)
    num = len(given)
    if axis == 0 and _is_own_position(c, x, given) and accumulate:
        column = _own_column(c, x, given[1])
        inputs = [c.full(x), column, c.reshape(values, column.shape)]
        return c.op("ScatterElements", inputs, x.shape, axis=1, reduction="add")
    index = _flat_index(c, given, x.shape[axis : axis + num])
    depth = index.rank
    moved = c.transpose(x, order := [*range(axis, axis + num), *range(axis), *range(axis + num, x.rank)])
    rest = moved.shape[num:]
    if values.rank == depth + len(rest):  # axes before the indexed ones come first in the values
        values = c.transpose(values, [*range(axis, axis + depth), *range(axis), *range(axis + depth, values.rank)])
    rows = c.full(replace(values, shape=(*index.shape, *rest)))
    count, width = numel(index.shape), numel(rest)
    start = c.reshape(moved, (numel(moved.shape[:num]), width))
    reduction = "add" if accumulate else None
    result = add_rows(c, c.reshape(index, (count, 1)), c.reshape(rows, (count, width)), start, reduction=reduction)
    return c.transpose(c.reshape(result, moved.shape), [int(axis) for axis in np.argsort(order)])
