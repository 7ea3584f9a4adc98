"""Operators along axes: reductions, and those that move elements."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from pygrid.plans.operators.values import (
    INT_LIMITS,
    MAX_KNOWN,
    SLICE_END,
    Fold,
    Infer,
    Known,
    OperatorCall,
    ShapeRefused,
    TensorValue,
    broadcast,
    check_equal,
    checked,
    first_shape,
    normal_axis,
    same_dtype,
    shape_from,
    without_axes,
)
from pygrid.plans.sizes import Poly, Size, at_most, bound, divide


def reduced_axes(call: OperatorCall) -> list[int]:
    """The axes that a Reduce operator sums over; all axes if none are given."""
    rank = len(call.get(0).shape)
    axes = call.known_ints(1) if call.find(1) is not None else []
    if not axes:
        return [] if call.attributes.get("noop_with_empty_axes", 0) else list(range(rank))
    return sorted({normal_axis(axis, rank) for axis in axes})


def reduction(fold: Fold | None = None) -> Infer:
    def infer(call: OperatorCall) -> list[TensorValue]:
        value, axes = call.get(0), reduced_axes(call)
        keep = bool(call.attributes.get("keepdims", 1))
        shape = without_axes(value.shape, axes, keep)
        known = None
        if fold is not None and value.known is not None and value.dtype in INT_LIMITS and len(axes) == value.known.ndim:
            total = fold(list(value.known.reshape(-1)))
            known = None if total is None else np.full([1] * len(shape), total, dtype=object)
        return [checked(call, TensorValue(value.dtype, shape, known))]

    return infer


def infer_arg(call: OperatorCall) -> list[TensorValue]:
    value = call.get(0)
    axis = call.axis(len(value.shape), 0)
    if value.shape and value.shape[axis] == 0:
        raise ShapeRefused("an empty axis has no largest or smallest element")
    return [TensorValue("int64", without_axes(value.shape, [axis], bool(call.attributes.get("keepdims", 1))))]


def infer_concat(call: OperatorCall) -> list[TensorValue]:
    values = [call.get(i) for i in range(len(call.inputs))]
    axis = call.axis(len(values[0].shape), 0)
    total: Size = 0
    for value in values:
        same = len(value.shape) == len(values[0].shape) and all(
            a == b for i, (a, b) in enumerate(zip(value.shape, values[0].shape, strict=True)) if i != axis
        )
        if not same:
            raise ShapeRefused("the inputs differ in an axis other than the joined one")
        total = total + value.shape[axis]
    shape = (*values[0].shape[:axis], total, *values[0].shape[axis + 1 :])
    parts = [value.known for value in values if value.known is not None]
    small = len(parts) == len(values) and sum(part.size for part in parts) <= MAX_KNOWN
    known = np.concatenate(parts, axis) if small else None
    return [checked(call, TensorValue(same_dtype(values), shape, known))]


def infer_expand(call: OperatorCall) -> list[TensorValue]:
    value = call.get(0)
    shape = broadcast(value.shape, shape_from(call.known(1)))
    known = None
    if (
        value.known is not None
        and all(isinstance(size, int) for size in shape)
        and bound(math.prod(shape), 1) <= MAX_KNOWN
    ):
        known = np.broadcast_to(value.known, [int(size) for size in shape if isinstance(size, int)])
    return [TensorValue(value.dtype, shape, known)]


def infer_reshape(call: OperatorCall) -> list[TensorValue]:
    value, wanted = call.get(0), call.known(1)
    if not call.attributes.get("allowzero", 0):
        wanted = [_copied(value, axis) if item == 0 else item for axis, item in enumerate(wanted)]
    if wanted.count(-1) > 1:
        raise ShapeRefused("more than one size is -1")
    if -1 in wanted:
        rest = math.prod(item for item in wanted if item != -1)
        inferred = divide(value.num_elements, rest)
        if inferred is None:
            raise ShapeRefused(f"{value.num_elements} elements cannot be divided by {rest} for every batch size")
        wanted = [inferred if item == -1 else item for item in wanted]
    shape = shape_from(wanted)
    check_equal(math.prod(shape), value.num_elements, "the numbers of elements before and after")
    return [TensorValue(value.dtype, shape, _reshape_known(value, shape))]


def _copied(value: TensorValue, axis: int) -> Size:
    if axis >= len(value.shape):
        raise ShapeRefused("a size of 0 copies from an axis that does not exist")
    return value.shape[axis]


def _reshape_known(value: TensorValue, shape: tuple[Size, ...]) -> Known | None:
    sizes = [size for size in shape if isinstance(size, int)]
    return None if value.known is None or len(sizes) != len(shape) else value.known.reshape(sizes)


def infer_squeeze(call: OperatorCall) -> list[TensorValue]:
    value = call.get(0)
    given = call.known_ints(1) if call.find(1) is not None else None
    if given is None:
        raise ShapeRefused("the axes must be given, because the batch size decides which sizes are 1")
    axes = [normal_axis(axis, len(value.shape)) for axis in given]
    if any(value.shape[axis] != 1 for axis in axes):
        raise ShapeRefused("an axis that is not of size 1 for every batch size cannot be dropped")
    shape = without_axes(value.shape, axes, keep=False)
    return [TensorValue(value.dtype, shape, _reshape_known(value, shape))]


def infer_unsqueeze(call: OperatorCall) -> list[TensorValue]:
    value, given = call.get(0), call.known_ints(1)
    rank = len(value.shape) + len(given)
    axes = {normal_axis(axis, rank) for axis in given}
    if len(axes) != len(given):
        raise ShapeRefused("an axis is given twice")
    old = iter(value.shape)
    shape = tuple(1 if axis in axes else next(old) for axis in range(rank))
    return [TensorValue(value.dtype, shape, _reshape_known(value, shape))]


def infer_transpose(call: OperatorCall) -> list[TensorValue]:
    value = call.get(0)
    rank = len(value.shape)
    order = list(call.attributes.get("perm", range(rank - 1, -1, -1)))
    if sorted(order) != list(range(rank)):
        raise ShapeRefused("perm is not a permutation of the axes")
    known = None if value.known is None else value.known.transpose(order)
    return [TensorValue(value.dtype, tuple(value.shape[axis] for axis in order), known)]


def infer_gather(call: OperatorCall) -> list[TensorValue]:
    value, index = call.get(0), call.get(1)
    axis = call.axis(len(value.shape), 0)
    known = None
    if value.known is not None and index.known is not None:
        rows = np.array(call.known_ints(1), np.int64).reshape(index.known.shape)
        size = value.known.shape[axis]
        if rows.size and (rows.min() < -size or rows.max() >= size):
            raise ShapeRefused("an index is out of range")
        known = np.asarray(value.known.take(rows, axis), dtype=object)
    return [
        checked(call, TensorValue(value.dtype, (*value.shape[:axis], *index.shape, *value.shape[axis + 1 :]), known))
    ]


def infer_gather_elements(call: OperatorCall) -> list[TensorValue]:
    value, index = call.get(0), call.get(1)
    axis = call.axis(len(value.shape), 0)
    _check_index(value, index, axis)
    return [TensorValue(value.dtype, index.shape)]


def _check_index(value: TensorValue, index: TensorValue, axis: int) -> None:
    if len(index.shape) != len(value.shape):
        raise ShapeRefused("index and data must have the same number of dimensions")
    for other, (a, b) in enumerate(zip(index.shape, value.shape, strict=True)):
        if other != axis and not at_most(a, b):
            raise ShapeRefused("the index is larger than the data")


def infer_scatter_elements(call: OperatorCall) -> list[TensorValue]:
    value, index, updates = call.get(0), call.get(1), call.get(2)
    _check_index(value, index, call.axis(len(value.shape), 0))
    if index.shape != updates.shape:
        raise ShapeRefused("index and updates must have the same shape")
    return [TensorValue(same_dtype([value, updates]), value.shape)]


def slice_bounds(call: OperatorCall) -> list[tuple[int, Size, Size, int]]:
    """For each axis that a Slice cuts: axis, start, end, step; as given, not clamped."""
    rank = len(call.get(0).shape)
    starts, ends = call.known(1), call.known(2)
    axes = call.known_ints(3) if call.find(3) is not None else list(range(len(starts)))
    steps = call.known_ints(4) if call.find(4) is not None else [1] * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        raise ShapeRefused("starts, ends, axes and steps do not fit together")
    axes = [normal_axis(axis, rank) for axis in axes]
    if len(set(axes)) != len(axes):
        raise ShapeRefused("an axis is given twice")
    return list(zip(axes, starts, ends, steps, strict=True))


def is_whole(start: Size, end: Size, step: int, size: Size, max_n: int) -> bool:
    """Whether a slice takes a whole axis, in order, for every batch size."""
    reaches_end = end == size or (isinstance(end, int) and (end >= SLICE_END or end >= bound(size, max_n)))
    return start == 0 and step == 1 and reaches_end


def infer_slice(call: OperatorCall) -> list[TensorValue]:
    value = call.get(0)
    shape, picks = list(value.shape), [slice(None)] * len(value.shape)
    for axis, start, end, step in slice_bounds(call):
        size = shape[axis]
        if is_whole(start, end, step, size, call.max_n):
            continue
        if isinstance(size, Poly) or isinstance(start, Poly) or isinstance(end, Poly):
            raise ShapeRefused("an axis that depends on the batch size cannot be cut")
        if step < 0 and start < -size:
            raise ShapeRefused("a slice with a negative step starts before its axis")
        # Python clamps as ONNX does, except for an end before the axis with a negative step: there ONNX means "all".
        stop = None if step < 0 and end < -size else end
        picks[axis] = slice(start, stop, step)
        shape[axis] = len(range(*picks[axis].indices(size)))
    known = None if value.known is None else value.known[tuple(picks)]
    return [TensorValue(value.dtype, tuple(shape), known)]


def infer_split(call: OperatorCall) -> list[TensorValue]:
    value = call.get(0)
    axis = call.axis(len(value.shape), 0)
    size = value.shape[axis]
    if isinstance(size, Poly):
        raise ShapeRefused("an axis that depends on the batch size cannot be split")
    if call.find(1) is not None:
        parts = call.known_ints(1)
    else:
        each = -(-size // call.num_outputs)
        parts = [each] * (call.num_outputs - 1)
        parts.append(size - sum(parts))
    if len(parts) != call.num_outputs or sum(parts) != size or min(parts) < 0:
        raise ShapeRefused(f"the parts {parts} do not add up to the axis size {size}")
    return [TensorValue(value.dtype, (*value.shape[:axis], part, *value.shape[axis + 1 :])) for part in parts]


def padded(call: OperatorCall) -> list[tuple[int, int]]:
    """For each axis of a Pad: the number of elements added before and after (negative: removed)."""
    rank = len(call.get(0).shape)
    pads = call.known_ints(1)
    axes = call.known_ints(3) if call.find(3) is not None else list(range(rank))
    axes = [normal_axis(axis, rank) for axis in axes]
    if len(pads) != 2 * len(axes) or len(set(axes)) != len(axes):
        raise ShapeRefused("pads and axes do not fit together")
    result = [(0, 0)] * rank
    for i, axis in enumerate(axes):
        result[axis] = (pads[i], pads[len(axes) + i])
    return result


def infer_pad(call: OperatorCall) -> list[TensorValue]:
    if call.attributes.get("mode", b"constant") not in (b"constant", "constant"):
        raise ShapeRefused("only constant padding is allowed")
    value = call.get(0)
    shape = [size + before + after for size, (before, after) in zip(value.shape, padded(call), strict=True)]
    return [TensorValue(value.dtype, shape_from(shape))]


def infer_trilu(call: OperatorCall) -> list[TensorValue]:
    """The diagonal must be known: with one that is far away, ONNX Runtime writes outside its memory."""
    diagonal = call.known_number(1) if call.find(1) is not None else 0
    if not isinstance(diagonal, int) or abs(diagonal) > SLICE_END:
        raise ShapeRefused(f"the diagonal is {diagonal}: use one within the matrix")
    return first_shape(call)


def infer_tile(call: OperatorCall) -> list[TensorValue]:
    value, repeats = call.get(0), shape_from(call.known(1))
    if len(repeats) != len(value.shape):
        raise ShapeRefused("one repeat for each axis is needed")
    return [TensorValue(value.dtype, tuple(size * repeat for size, repeat in zip(value.shape, repeats, strict=True)))]


def scatter_cost(call: OperatorCall, outputs: Sequence[TensorValue]) -> Size:
    return outputs[0].num_elements + call.get(2).num_elements
