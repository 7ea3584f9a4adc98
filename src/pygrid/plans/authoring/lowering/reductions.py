"""Operators that reduce along axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pygrid.plans.authoring.lowering.core import Context, lowers, numel
from pygrid.plans.authoring.lowering.graph import LoweredValue


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


def arg_reduce(c: Context, op: str, x: LoweredValue, axis: int | None, keepdim: bool) -> LoweredValue:
    if axis is None:
        x, axis, keepdim = c.reshape(x, (numel(x.shape),)), 0, False
    x = c.full(x)
    axis %= x.rank
    dims = tuple(1 if i == axis else size for i, size in enumerate(x.shape) if keepdim or i != axis)
    return c.op(op, [x], dims, "int64", axis=axis, keepdims=int(keepdim))


def _register_extreme(kind: str) -> None:
    reduction, position = f"Reduce{kind}", f"Arg{kind}"

    @lowers(f"a{kind.lower()}", f"{kind.lower()}.default")
    def extreme(c: Context, x: LoweredValue, axes: Sequence[int] = (), keepdim: bool = False) -> LoweredValue:
        return c.reduce(reduction, x, axes, keepdim=keepdim)

    @lowers(f"{kind.lower()}.dim")
    def with_place(c: Context, x: LoweredValue, axis: int, keepdim: bool = False) -> tuple[LoweredValue, LoweredValue]:
        return c.reduce(reduction, x, (axis,), keepdim=keepdim), arg_reduce(c, position, x, axis, keepdim)

    @lowers(f"arg{kind.lower()}")
    def place(c: Context, x: LoweredValue, axis: int | None = None, keepdim: bool = False) -> LoweredValue:
        return arg_reduce(c, position, x, axis, keepdim)


_register_extreme("Max")
_register_extreme("Min")


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
    if order in (float("inf"), -float("inf")):
        return c.reduce("ReduceMax" if order > 0 else "ReduceMin", size, axes or (), keepdim=keepdim)
    if order == 0:
        is_there = c.elementwise("Greater", [size, c.number(0, "float32")], "bool")
        return c.reduce("ReduceSum", c.cast(is_there, "float32"), axes or (), keepdim=keepdim)
    total = c.reduce("ReduceSum", c.binary("Pow", size, float(order), "float32"), axes or (), keepdim=keepdim)
    return c.binary("Pow", total, 1.0 / order, "float32")
