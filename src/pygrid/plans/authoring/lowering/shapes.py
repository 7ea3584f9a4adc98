"""Operators that move, cut and join elements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import sympy

from pygrid import codes
from pygrid.errors import AuthoringError
from pygrid.plans.authoring.lowering.core import Context, fixed, fixed_size, is_number, lowers
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
    c: Context, x: LoweredValue, source: LoweredValue, axis: int = 0, start: int | None = None,
    end: int | None = None, step: int = 1,
) -> LoweredValue:  # fmt: skip
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
