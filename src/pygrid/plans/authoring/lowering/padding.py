"""Padding by reflection and by replication, in one to three dimensions, with its gradients.

Each axis is padded by itself. Only Slice, Pad, Concat, Expand, ReduceSum and Add are used, which keep each example in
its row: so the gate can prove that a plan with them mixes no examples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pygrid import codes
from pygrid.errors import AuthoringError
from pygrid.plans.authoring.lowering.core import Context, lowers
from pygrid.plans.authoring.lowering.graph import LoweredValue
from pygrid.plans.authoring.lowering.shapes import pad


def _axes(x: LoweredValue, padding: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Axis, padding before and padding after, for each axis that is padded; torch lists the last axis first."""
    for position in range(len(padding) // 2):
        before, after = padding[2 * position], padding[2 * position + 1]
        if min(before, after) < 0:
            raise AuthoringError(
                "negative padding by reflection or replication is not in the plan set; cut with a slice",
                code=codes.PLAN_OPERATOR_UNSUPPORTED,
            )
        if before or after:
            yield x.rank - 1 - position, before, after


def _part(c: Context, x: LoweredValue, axis: int, first: int, count: int, *, backwards: bool = False) -> LoweredValue:
    """``count`` elements of an axis from ``first`` on, in order or in reverse order."""
    last = first + count
    if not backwards:
        return c.graph.slice(x, axis, first, last, size=count)
    stop = first - 1 if first else -(2**63) + 1  # with a negative step, the end is not part of the slice
    shape = (*x.shape[:axis], count, *x.shape[axis + 1 :])
    return c.op("Slice", [x, c.ints([last - 1]), c.ints([stop]), c.ints([axis]), c.ints([-1])], shape)


def _length(x: LoweredValue, axis: int) -> int:
    length = x.shape[axis]
    if not isinstance(length, int):
        raise AuthoringError("the batch cannot be padded", code=codes.PLAN_BATCH_BAKED)
    return length


def _inside(c: Context, part: LoweredValue, axis: int, before: int, after: int) -> LoweredValue:
    """The array with zeros before and after it on one axis."""
    zeros = [0] * part.rank
    return pad(c, part, [*zeros[:axis], before, *zeros[axis + 1 :]], [*zeros[:axis], after, *zeros[axis + 1 :]])


def _padded(c: Context, x: LoweredValue, axis: int, parts: Sequence[LoweredValue | None]) -> LoweredValue:
    kept = [part for part in parts if part is not None]
    total = sum(int(part.shape[axis]) for part in kept)
    return c.op("Concat", kept, (*x.shape[:axis], total, *x.shape[axis + 1 :]), axis=axis)


@lowers("reflection_pad1d.default", "reflection_pad2d.default", "reflection_pad3d.default")
def reflection_pad(c: Context, x: LoweredValue, padding: Sequence[int]) -> LoweredValue:
    x = c.full(x)
    for axis, before, after in _axes(x, padding):
        length = _length(x, axis)
        left = _part(c, x, axis, 1, before, backwards=True) if before else None
        right = _part(c, x, axis, length - 1 - after, after, backwards=True) if after else None
        x = _padded(c, x, axis, [left, x, right])
    return x


@lowers("reflection_pad1d_backward", "reflection_pad2d_backward", "reflection_pad3d_backward")
def reflection_pad_backward(c: Context, grad: LoweredValue, x: LoweredValue, padding: Sequence[int]) -> LoweredValue:
    """The gradient of the middle, plus that of each border, folded back to where its elements came from."""
    grad = c.full(grad)
    for axis, before, after in reversed(list(_axes(grad, padding))):
        length = _length(grad, axis) - before - after
        total = _part(c, grad, axis, before, length)
        if before:
            border = _part(c, grad, axis, 0, before, backwards=True)
            total = c.add(total, _inside(c, border, axis, 1, length - 1 - before))
        if after:
            border = _part(c, grad, axis, before + length, after, backwards=True)
            total = c.add(total, _inside(c, border, axis, length - 1 - after, 1))
        grad = total
    return grad


def _copies(c: Context, x: LoweredValue, axis: int, place: int, count: int) -> LoweredValue | None:
    """``count`` copies of one element of an axis."""
    edge = _part(c, x, axis, place, 1)
    return c.graph.expand_to(edge, (*x.shape[:axis], count, *x.shape[axis + 1 :])) if count else None


@lowers("replication_pad1d.default", "replication_pad2d.default", "replication_pad3d.default")
def replication_pad(c: Context, x: LoweredValue, padding: Sequence[int]) -> LoweredValue:
    x = c.full(x)
    for axis, before, after in _axes(x, padding):
        last = _length(x, axis) - 1
        x = _padded(c, x, axis, [_copies(c, x, axis, 0, before), x, _copies(c, x, axis, last, after)])
    return x


@lowers("replication_pad1d_backward", "replication_pad2d_backward", "replication_pad3d_backward")
def replication_pad_backward(c: Context, grad: LoweredValue, x: LoweredValue, padding: Sequence[int]) -> LoweredValue:
    """The gradient of the middle, plus the sum of that of each border at the edge that was copied."""
    grad = c.full(grad)
    for axis, before, after in reversed(list(_axes(grad, padding))):
        length = _length(grad, axis) - before - after
        total = _part(c, grad, axis, before, length)
        for first, count, place in ((0, before, 0), (before + length, after, length - 1)):
            if count:
                border = c.reduce("ReduceSum", _part(c, grad, axis, first, count), [axis], keepdim=True)
                total = c.add(total, _inside(c, border, axis, place, length - 1 - place))
        grad = total
    return grad
