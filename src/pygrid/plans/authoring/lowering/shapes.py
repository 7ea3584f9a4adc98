"""Operators that move, select and join elements, and reductions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import sympy

from pygrid import codes
from pygrid.errors import AuthoringError
from pygrid.plans.authoring.lowering.core import Context, fixed, fixed_size, is_number, lowers, numel
from pygrid.plans.authoring.lowering.graph import Dim, LoweredValue, as_dim

_INT64_MAX = 2**63 - 1


@lowers(
    "view.default", "_unsafe_view", "reshape", "_reshape_alias", "unsqueeze", "squeeze", "flatten", "unflatten",
    "view_copy.default", "squeeze_copy", "unsqueeze_copy",
)  # fmt: skip
def view(c: Context, x: LoweredValue, *_: Any) -> LoweredValue:
    if x.dims == ():
        return x  # one number broadcasts to any shape
    return c.reshape(x, c.shape)


@lowers("t", "t_copy")
def t(c: Context, x: LoweredValue) -> LoweredValue:
    return c.transpose(x, list(reversed(range(x.rank))))


@lowers("permute", "permute_copy")
def permute(c: Context, x: LoweredValue, dims: Sequence[int]) -> LoweredValue:
    return c.transpose(x, [axis % x.rank for axis in dims])


@lowers("transpose.int", "transpose_copy.int")
def transpose(c: Context, x: LoweredValue, a: int, b: int) -> LoweredValue:
    order = list(range(x.rank))
    if order:
        order[a], order[b] = order[b], order[a]
    return c.transpose(x, order)


@lowers("expand", "expand_copy")
def expand(c: Context, x: LoweredValue, size: Sequence[Dim], *, implicit: bool = False) -> LoweredValue:
    return x  # the result's shape has the rest; copies are made where they are needed


def _position(size: Dim, position: Any) -> int:
    """A slice bound as a number; only bounds on an axis of known length can be negative or open."""
    if not isinstance(position, int):
        raise AuthoringError(
            "a slice bound depends on the batch size; slice axes other than the batch", code=codes.PLAN_SHAPE
        )
    if isinstance(size, int):
        position = position + size if position < 0 else position
        return int(max(0, min(position, size)))
    return position


@lowers("slice.Tensor", "slice_copy.Tensor")
def slice_(
    c: Context, x: LoweredValue, axis: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> LoweredValue:
    axis %= x.rank
    size = x.shape[axis]
    if end == size or end is None or _is_open(end):
        end = size if isinstance(size, int) else None
    if not isinstance(size, int):
        return _cut_batch(c, x, axis, start or 0, size if end is None else end, step)
    begin = _position(size, start or 0)
    return c.graph.slice(x, axis, begin, None if end is None else _position(size, end), step, size=c.shape[axis])


def _cut_batch(c: Context, x: LoweredValue, axis: int, start: Dim, end: Dim, step: int) -> LoweredValue:
    """Part of an axis that is longer than the batch, by look-up: ``z[:n]`` and ``z[n:]`` where z has 2 n rows."""
    size, length = c.shape[axis], x.shape[axis]
    if size == length:
        return x
    if step != 1 or not _is_inside(c, start, end, length):
        raise AuthoringError(
            "the batch cannot be cut; work on whole batches (multiply by a mask)", code=codes.PLAN_BATCH_BAKED
        )
    rows = c.op("Range", [c.number(bound, "int64") for bound in (start, end, 1)], (size,), "int64")
    return c.op("Gather", [c.full(x), rows], c.shape, axis=axis)


def _is_inside(c: Context, start: Dim, end: Dim, length: Dim) -> bool:
    """Whether ``start:end`` is part of an axis, and not empty, at every batch size; all three are linear in it."""

    def at(size: Dim, batch: int) -> Any:
        return sympy.sympify(size).subs(dict.fromkeys(c.graph.symbols, batch))

    return all(0 <= at(start, n) < at(end, n) <= at(length, n) for n in (1, 2, 1_000_000))


@lowers("select.int", "select_copy.int")
def select(c: Context, x: LoweredValue, axis: int, index: Any) -> LoweredValue:
    axis %= x.rank
    x = c.full(x)
    if not isinstance(index, int):
        raise AuthoringError("an index depends on the batch size", code=codes.PLAN_SHAPE)
    size = x.shape[axis]
    if index < 0 and isinstance(size, int):
        index += size
    return c.op("Gather", [x, c.number(index, "int64")], c.shape, axis=axis)


@lowers("unbind", "unbind_copy.int")
def unbind(c: Context, x: LoweredValue, axis: int = 0) -> tuple[LoweredValue, ...]:
    axis %= x.rank
    x = c.full(x)
    shape = x.shape[:axis] + x.shape[axis + 1 :]
    count = x.shape[axis]
    if not isinstance(count, int):
        raise AuthoringError(
            "the batch cannot be taken apart; keep the operations on whole batches", code=codes.PLAN_BATCH_BAKED
        )
    return tuple(c.op("Gather", [x, c.number(i, "int64")], shape, axis=axis) for i in range(count))


@lowers("split_with_sizes", "split_with_sizes_copy")
def split_with_sizes(c: Context, x: LoweredValue, sizes: Sequence[int], axis: int = 0) -> tuple[LoweredValue, ...]:
    axis %= x.rank
    x = c.full(x)
    shapes = [(*x.shape[:axis], size, *x.shape[axis + 1 :]) for size in sizes]
    return c.graph.multi("Split", [x, c.ints(sizes)], [(shape, None) for shape in shapes], axis=axis)


@lowers("split.Tensor", "unsafe_split.Tensor")
def split(c: Context, x: LoweredValue, size: int, axis: int = 0) -> tuple[LoweredValue, ...]:
    length = x.shape[axis]
    if not isinstance(length, int):
        raise AuthoringError(
            "the batch cannot be split; keep the operations on whole batches", code=codes.PLAN_BATCH_BAKED
        )
    sizes = [min(size, length - start) for start in range(0, length, size)]
    return split_with_sizes(c, x, sizes, axis)


@lowers("cat")
def cat(c: Context, parts: Sequence[LoweredValue], axis: int = 0) -> LoweredValue:
    kept = [c.cast(c.full(part), c.dtype) for part in parts if part.shape != (0,)]
    return kept[0] if len(kept) == 1 else c.op("Concat", kept, c.shape, axis=axis % kept[0].rank)


@lowers("stack")
def stack(c: Context, parts: Sequence[LoweredValue], axis: int = 0) -> LoweredValue:
    axis %= parts[0].rank + 1
    shape = (*parts[0].shape[:axis], 1, *parts[0].shape[axis:])
    return c.op("Concat", [c.reshape(c.cast(part, c.dtype), shape) for part in parts], c.shape, axis=axis)


@lowers("slice_scatter")
def slice_scatter(
    c: Context,
    x: LoweredValue,
    source: LoweredValue,
    axis: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> LoweredValue:
    """The array with a replaced slice: the part before it, the new part, the part after it."""
    axis %= x.rank
    size = x.shape[axis]
    if source.shape == x.shape:
        return source
    if not isinstance(size, int) or step != 1:
        raise AuthoringError(
            "writing to part of the batch, or with a step, is not in the plan set", code=codes.PLAN_OPERATOR_UNSUPPORTED
        )
    first, last = _position(size, start or 0), _position(size, size if end is None else end)
    x = c.full(x)
    parts = [c.full(source)]
    if first > 0:
        parts.insert(0, c.graph.slice(x, axis, 0, first, size=first))
    if last < size:
        parts.append(c.graph.slice(x, axis, last, None, size=size - last))
    return c.op("Concat", parts, c.shape, axis=axis)


@lowers("unfold.default")
def unfold(c: Context, x: LoweredValue, axis: int, size: int, step: int) -> LoweredValue:
    axis %= x.rank
    windows = fixed(c.shape[axis])
    places = np.arange(size)[None, :] + step * np.arange(windows)[:, None]
    picked = c.op(
        "Gather",
        [c.full(x), c.graph.constant(places)],
        (*x.shape[:axis], windows, size, *x.shape[axis + 1 :]),
        axis=axis,
    )
    order = [i for i in range(picked.rank) if i != axis + 1]
    return c.transpose(picked, [*order, axis + 1])


@lowers("flip")
def flip(c: Context, x: LoweredValue, axes: Sequence[int]) -> LoweredValue:
    for axis in axes:
        x = c.full(x)
        size = x.shape[axis]
        if not isinstance(size, int):
            order = c.op("Range", [c.number(bound, "int64") for bound in (0, size, 1)], (size,), "int64")
            order = c.binary("Sub", c.number(size - 1, "int64"), order, "int64")
            x = c.op("Gather", [x, order], x.shape, axis=axis % x.rank)
            continue
        ends = [c.ints([-1]), c.ints([-_INT64_MAX]), c.ints([axis % x.rank]), c.ints([-1])]
        x = c.op("Slice", [x, *ends], x.shape)
    return x


@lowers("repeat")
def repeat(c: Context, x: LoweredValue, repeats: Sequence[Dim]) -> LoweredValue:
    x = c.reshape(x, (1,) * (len(repeats) - x.rank) + x.shape)
    return c.op("Tile", [x, c.graph.shape_vector(tuple(repeats))], c.shape)


@lowers("constant_pad_nd")
def constant_pad_nd(c: Context, x: LoweredValue, padding: Sequence[int], number: Any = 0) -> LoweredValue:
    x = c.full(x)
    before, after = [0] * x.rank, [0] * x.rank
    for i in range(len(padding) // 2):
        before[-1 - i], after[-1 - i] = padding[2 * i], padding[2 * i + 1]
    for axis, (first, last) in enumerate(zip(before, after, strict=True)):
        if first < 0 or last < 0:  # negative padding cuts off
            size, begin, cut = x.shape[axis], max(-first, 0), max(-last, 0)
            if not isinstance(size, int):
                raise AuthoringError("the batch cannot be cut", code=codes.PLAN_BATCH_BAKED)
            x = c.graph.slice(x, axis, begin, size - cut, size=size - cut - begin)
    return pad(c, x, [max(size, 0) for size in before], [max(size, 0) for size in after], number)


def pad(c: Context, x: LoweredValue, before: Sequence[int], after: Sequence[int], number: Any = 0) -> LoweredValue:
    """Add ``number`` around an array; padding of length zero adds no node."""
    x = c.full(x)
    if not any(before) and not any(after):
        return x
    shape = [size + b + a for size, b, a in zip(x.shape, before, after, strict=True)]
    inputs = [x, c.ints([*before, *after])]
    if not is_number(number, 0):
        inputs.append(c.number(number, x.dtype))
    return c.op("Pad", inputs, shape)


@lowers("select_backward")
def select_backward(c: Context, grad: LoweredValue, sizes: Sequence[Dim], axis: int, index: int) -> LoweredValue:
    axis %= len(sizes)
    length = sizes[axis]
    if not isinstance(length, int):
        raise AuthoringError(
            "one example is picked out of the batch; keep the operations on whole batches", code=codes.PLAN_BATCH_BAKED
        )
    grad = c.reshape(grad, (*sizes[:axis], 1, *sizes[axis + 1 :]))
    before, after = [0] * grad.rank, [0] * grad.rank
    before[axis], after[axis] = index % length, length - 1 - index % length
    return pad(c, grad, before, after)


@lowers("slice_backward")
def slice_backward(
    c: Context, grad: LoweredValue, sizes: Sequence[Dim], axis: int, start: int, end: int, step: int
) -> LoweredValue:
    axis %= len(sizes)
    length = sizes[axis]
    if grad.shape == tuple(sizes):
        return grad
    grad = c.full(grad)
    if not isinstance(length, int):
        return _uncut_batch(c, grad, sizes, axis, start, length if _is_open(end) else end)
    first = _position(length, start)
    count = fixed_size(grad, axis)
    if step != 1:  # put step - 1 zeros after each element, then drop the last ones
        wide = c.reshape(grad, (*grad.shape[: axis + 1], 1, *grad.shape[axis + 1 :]))
        after = [0] * wide.rank
        after[axis + 1] = step - 1
        wide = pad(c, wide, [0] * wide.rank, after)
        spread = count * step
        grad = c.reshape(wide, (*grad.shape[:axis], spread, *grad.shape[axis + 1 :]))
        keep = min(spread, length - first)
        grad = c.graph.slice(grad, axis, 0, keep, size=keep)
        count = keep
    before, behind = [0] * grad.rank, [0] * grad.rank
    before[axis], behind[axis] = first, length - first - count
    return pad(c, grad, before, behind)


def _is_open(end: Dim) -> bool:
    return isinstance(end, int) and end >= _INT64_MAX


def _uncut_batch(c: Context, grad: LoweredValue, sizes: Sequence[Dim], axis: int, start: Dim, end: Dim) -> LoweredValue:
    """The gradient of `_cut_batch`: zeros before and after."""
    zero = c.number(0, grad.dtype)
    before, after = (
        [c.graph.expand_to(zero, (*grad.shape[:axis], size, *grad.shape[axis + 1 :]))] if size != 0 else []
        for size in (start, as_dim(sizes[axis] - end))
    )
    parts = [*before, grad, *after]
    return c.op("Concat", parts, tuple(sizes), axis=axis)


# -- look-up ---------------------------------------------------------------------------------------------------------


@lowers("embedding.default")
def embedding(c: Context, weight: LoweredValue, indices: LoweredValue, *_: Any) -> LoweredValue:
    c.graph.limit(indices, weight.shape[0])
    return c.op("Gather", [c.full(weight), c.full(indices)], c.shape, axis=0)


@lowers("embedding_dense_backward.default")
def embedding_dense_backward(
    c: Context, grad: LoweredValue, indices: LoweredValue, num: int, padding_idx: int, by_freq: bool
) -> LoweredValue:
    if by_freq:
        raise AuthoringError("scale_grad_by_freq is not in the plan set", code=codes.PLAN_OPERATOR_UNSUPPORTED)
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


@lowers("scatter")
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
        column = c.reshape(given[1], (x.shape[0], 1, *([1] * (x.rank - 2))))
        rest = (x.shape[0], 1, *x.shape[2:])
        index = column if column.shape == rest else c.graph.expand_to(column, rest)
        return c.reshape(c.op("GatherElements", [x, index], index.shape, x.dtype, axis=1), c.shape)
    flat = c.reshape(x, (*x.shape[:axis], numel(sizes), *x.shape[axis + len(given) :]))
    return c.op("Gather", [flat, _flat_index(c, given, sizes)], c.shape, axis=axis)


def _is_own_position(c: Context, x: LoweredValue, given: Sequence[LoweredValue]) -> bool:
    """Whether two index arrays are "row i" and "some column of row i", for every row."""
    node = c.graph.producer(given[0])
    if len(given) != 2 or node is None or node.op != "Range" or given[0].shape != given[1].shape:
        return False
    start, step = (c.array_of(c.graph.operand(node, position)) for position in (0, 2))
    return (
        given[0].shape == x.shape[:1] and start is not None and step is not None and not start.any() and bool(step == 1)
    )


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
    c: Context,
    x: LoweredValue,
    indices: Sequence[LoweredValue | None],
    values: LoweredValue,
    accumulate: bool = False,
    *_: Any,
) -> LoweredValue:
    if (
        len(indices) == 1
        and indices[0] is not None
        and indices[0].dtype == "bool"
        and values.rank == 0
        and not accumulate
    ):
        mask = indices[0]
        mask = c.reshape(mask, (*mask.shape, *([1] * (x.rank - mask.rank))))
        return c.elementwise("Where", [mask, values, x], x.dtype)
    axis, given = _index_plan(c, indices)
    num = len(given)
    if axis == 0 and _is_own_position(c, x, given) and accumulate:
        rest = (x.shape[0], 1, *x.shape[2:])
        column = c.reshape(given[1], (x.shape[0], 1, *([1] * (x.rank - 2))))
        column = column if column.shape == rest else c.graph.expand_to(column, rest)
        return c.op("ScatterElements", [c.full(x), column, c.reshape(values, rest)], x.shape, axis=1, reduction="add")
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


# -- reductions ------------------------------------------------------------------------------------------------------


@lowers("sum")
def sum_(
    c: Context, x: LoweredValue, axes: Sequence[int] | None = None, keepdim: bool = False, **_: Any
) -> LoweredValue:
    return c.reduce("ReduceSum", c.cast(x, c.dtype), axes or (), keepdim=keepdim)


@lowers("mean")
def mean(
    c: Context, x: LoweredValue, axes: Sequence[int] | None = None, keepdim: bool = False, **_: Any
) -> LoweredValue:
    return c.reduce("ReduceMean", c.cast(x, c.dtype), axes or (), keepdim=keepdim)


@lowers("amax")
def amax(c: Context, x: LoweredValue, axes: Sequence[int] = (), keepdim: bool = False) -> LoweredValue:
    return c.reduce("ReduceMax", x, axes, keepdim=keepdim)


@lowers("amin")
def amin(c: Context, x: LoweredValue, axes: Sequence[int] = (), keepdim: bool = False) -> LoweredValue:
    return c.reduce("ReduceMin", x, axes, keepdim=keepdim)


@lowers("max.default")
def max_all(c: Context, x: LoweredValue) -> LoweredValue:
    return c.reduce("ReduceMax", x, ())


@lowers("min.default")
def min_all(c: Context, x: LoweredValue) -> LoweredValue:
    return c.reduce("ReduceMin", x, ())


@lowers("max.dim")
def max_dim(c: Context, x: LoweredValue, axis: int, keepdim: bool = False) -> tuple[LoweredValue, LoweredValue]:
    return c.reduce("ReduceMax", x, (axis,), keepdim=keepdim), arg_reduce(c, "ArgMax", x, axis, keepdim)


@lowers("min.dim")
def min_dim(c: Context, x: LoweredValue, axis: int, keepdim: bool = False) -> tuple[LoweredValue, LoweredValue]:
    return c.reduce("ReduceMin", x, (axis,), keepdim=keepdim), arg_reduce(c, "ArgMin", x, axis, keepdim)


def arg_reduce(c: Context, op: str, x: LoweredValue, axis: int | None, keepdim: bool) -> LoweredValue:
    if axis is None:
        x, axis, keepdim = c.reshape(x, (numel(x.shape),)), 0, False
    x = c.full(x)
    axis %= x.rank
    dims = tuple(1 if i == axis else size for i, size in enumerate(x.shape) if keepdim or i != axis)
    return c.op(op, [x], dims, "int64", axis=axis, keepdims=int(keepdim))


@lowers("argmax")
def argmax(c: Context, x: LoweredValue, axis: int | None = None, keepdim: bool = False) -> LoweredValue:
    return arg_reduce(c, "ArgMax", x, axis, keepdim)


@lowers("argmin")
def argmin(c: Context, x: LoweredValue, axis: int | None = None, keepdim: bool = False) -> LoweredValue:
    return arg_reduce(c, "ArgMin", x, axis, keepdim)


@lowers("any", "all")
def any_all(c: Context, x: LoweredValue, axis: Any = None, keepdim: bool = False) -> LoweredValue:
    axes = () if axis is None else (axis,) if isinstance(axis, int) else tuple(axis)
    op = "ReduceMax" if "any" in str(c.node.target) else "ReduceMin"
    return c.cast(c.reduce(op, c.cast(c.cast(x, "bool"), "int32"), axes, keepdim=keepdim), "bool")


def variance(
    c: Context, x: LoweredValue, axes: Sequence[int], correction: float, keepdim: bool
) -> tuple[LoweredValue, LoweredValue]:
    """Variance and mean over axes, in two passes as torch does."""
    axes = [axis % x.rank for axis in axes] or list(range(x.rank))
    average = c.reduce("ReduceMean", x, axes, keepdim=True)
    centred = c.binary("Sub", x, average, "float32")
    squares = c.binary("Mul", centred, centred, "float32")
    if correction == 0:
        spread = c.reduce("ReduceMean", squares, axes, keepdim=keepdim)
    else:
        count = c.number(numel([x.shape[axis] for axis in axes]), "float32")
        divisor = c.binary("Sub", count, float(correction), "float32")
        spread = c.binary("Div", c.reduce("ReduceSum", squares, axes, keepdim=keepdim), divisor, "float32")
    if not keepdim:
        average = c.reshape(average, tuple(size for i, size in enumerate(x.shape) if i not in axes))
    return spread, average


@lowers("var.correction")
def var(
    c: Context, x: LoweredValue, axes: Sequence[int] | None = None, *, correction: Any = 1, keepdim: bool = False
) -> LoweredValue:
    return variance(c, x, axes or (), 1 if correction is None else correction, keepdim)[0]


@lowers("var_mean.correction")
def var_mean(
    c: Context, x: LoweredValue, axes: Sequence[int] | None = None, *, correction: Any = 1, keepdim: bool = False
) -> tuple[LoweredValue, LoweredValue]:
    return variance(c, x, axes or (), 1 if correction is None else correction, keepdim)


@lowers("linalg_vector_norm")
def vector_norm(
    c: Context, x: LoweredValue, order: float = 2, axes: Sequence[int] | None = None, keepdim: bool = False, **_: Any
) -> LoweredValue:
    if order == 2:
        squares = c.binary("Mul", x, x, "float32")
        return c.elementwise("Sqrt", [c.reduce("ReduceSum", squares, axes or (), keepdim=keepdim)], "float32")
    size = c.elementwise("Abs", [x], "float32")
    if order == 1:
        return c.reduce("ReduceSum", size, axes or (), keepdim=keepdim)
    if order == float("inf"):
        return c.reduce("ReduceMax", size, axes or (), keepdim=keepdim)
    total = c.reduce("ReduceSum", c.binary("Pow", size, float(order), "float32"), axes or (), keepdim=keepdim)
    return c.binary("Pow", total, 1.0 / order, "float32")
