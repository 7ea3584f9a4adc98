"""Operators on elements, shapes, matrices and losses as tfjs commands."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pygrid.plans.authoring.variants.tfjs import Emission, emits
from pygrid.plans.authoring.variants.tfjs_graph import Value

# -- Elementwise -------------------------------------------------------------------------------------------------------

_UNARY = {
    "neg": "neg", "exp": "exp", "log": "log", "log1p": "log1p", "expm1": "expm1", "sqrt": "sqrt", "rsqrt": "rsqrt",
    "reciprocal": "reciprocal", "abs": "abs", "sign": "sign", "sin": "sin", "cos": "cos", "tanh": "tanh",
    "sigmoid": "sigmoid", "erf": "erf", "relu": "relu", "floor": "floor", "sinh": "sinh", "cosh": "cosh",
    "atan": "atan", "asin": "asin", "acos": "acos", "tan": "tan", "ceil": "ceil", "round": "round",
}  # fmt: skip
_COMPARISONS = {
    "eq": "equal", "ne": "notEqual", "lt": "less", "le": "lessEqual", "gt": "greater", "ge": "greaterEqual",
}  # fmt: skip


def _register_simple() -> None:
    for name, command in _UNARY.items():
        emits(f"{name}.default")(lambda e, x, _command=command: e.unary(_command, x))
    for name, command in _COMPARISONS.items():
        emits(name)(lambda e, a, b, _command=command: _compare(e, _command, a, b))
    for name, command in (("logical_and", "logicalAnd"), ("logical_or", "logicalOr")):
        emits(name, name.replace("logical", "bitwise"))(
            lambda e, a, b, _command=command: e.elementwise(_command, a, b, dtype="bool")
        )


_register_simple()


def _compare(e: Emission, command: str, a: Any, b: Any) -> Value:
    kinds = [one.dtype for one in (a, b) if isinstance(one, Value)]
    kind = "float32" if "float32" in kinds or any(isinstance(one, float) for one in (a, b)) else kinds[0]
    values = [e.value(one, kind) for one in (a, b)]
    return replace(e.graph.elementwise(command, values, e.shape, "bool"), dtype="bool")


@emits("logical_not", "bitwise_not")
def _not(e: Emission, x: Value) -> Value:
    return e.unary("logicalNot", x)


@emits("add")
def _add(e: Emission, a: Any, b: Any, *, alpha: float = 1) -> Value:
    return _sum(e, "add", a, b, alpha)


@emits("sub")
def _sub(e: Emission, a: Any, b: Any, *, alpha: float = 1) -> Value:
    return _sum(e, "sub", a, b, alpha)


@emits("rsub")
def _rsub(e: Emission, a: Any, b: Any, *, alpha: float = 1) -> Value:
    return _sum(e, "sub", b, a, alpha)


def _sum(e: Emission, name: str, a: Any, b: Any, alpha: float) -> Value:
    if alpha != 1:
        b = e.elementwise("mul", b, alpha)
    if _is(b, 0) or (name == "add" and _is(a, 0)):
        return replace(e.value(a if _is(b, 0) else b, e.dtype), shape=e.shape)
    return e.elementwise(name, a, b)


@emits("mul")
def _mul(e: Emission, a: Any, b: Any) -> Value:
    for one, other in ((a, b), (b, a)):
        if _is(other, 1) and isinstance(one, Value):
            return replace(e.value(one, e.dtype), shape=e.shape)
    return e.elementwise("mul", a, b)


@emits("div.Tensor", "div.Scalar", "true_divide")
def _div(e: Emission, a: Any, b: Any) -> Value:
    if _is(b, 1) and isinstance(a, Value):
        return replace(e.value(a, e.dtype), shape=e.shape)
    return e.elementwise("div", a, b)


def _is(operand: Any, number: float) -> bool:
    if isinstance(operand, Value):
        operand = operand.number
    return isinstance(operand, int | float) and not isinstance(operand, bool) and operand == number


@emits("pow")
def _pow(e: Emission, a: Any, b: Any) -> Value:
    if _is(b, 2):
        return e.unary("square", a)
    return e.elementwise("pow", a, b)


@emits("maximum.default", "clamp_min")
def _maximum(e: Emission, a: Any, b: Any) -> Value:
    return e.elementwise("maximum", a, b)


@emits("minimum.default", "clamp_max")
def _minimum(e: Emission, a: Any, b: Any) -> Value:
    return e.elementwise("minimum", a, b)


@emits("clamp")
def _clamp(e: Emission, x: Value, low: Any = None, high: Any = None) -> Value:
    if low is not None:
        x = e.elementwise("maximum", x, low)
    return x if high is None else e.elementwise("minimum", x, high)


@emits("threshold_backward.default")
def _threshold_backward(e: Emission, grad: Value, x: Value, threshold: float) -> Value:
    moved = x if threshold == 0 else e.elementwise("sub", x, threshold)
    return e.elementwise("mul", grad, e.unary("step", moved))


@emits("where.self", "where.ScalarOther", "where.ScalarSelf", "where.Scalar")
def _where(e: Emission, condition: Value, a: Any, b: Any) -> Value:
    parts = [
        replace(e.value(one, kind), shape=e.shape) for one, kind in ((condition, "bool"), (a, e.dtype), (b, e.dtype))
    ]
    return e.graph.call("where", [e.graph.full(one) for one in parts], e.shape, e.dtype)


@emits("detach", "alias", "clone", "lift_fresh_copy", "lift_fresh", "contiguous")
def _same(e: Emission, x: Value, **_: Any) -> Value:
    return x


@emits("_to_copy.default", "convert_element_type")
def _to_copy(e: Emission, x: Value, *_: Any, **__: Any) -> Value:
    return e.cast(x, e.dtype)


@emits("full", "new_full", "full_like")
def _full(e: Emission, first: Any, *rest: Any, **_: Any) -> Value:
    return e.graph.number(rest[-1], e.shape, e.dtype)


@emits("zeros", "zeros_like", "new_zeros", "empty", "empty_like", "new_empty", "empty_strided")
def _zeros(e: Emission, *_: Any, **__: Any) -> Value:
    return e.graph.number(0, e.shape, e.dtype)


@emits("ones", "ones_like", "new_ones")
def _ones(e: Emission, *_: Any, **__: Any) -> Value:
    return e.graph.number(1, e.shape, e.dtype)


@emits("scalar_tensor")
def _scalar_tensor(e: Emission, number: Any, **_: Any) -> Value:
    return e.graph.number(number, (), e.dtype)


# -- Shapes ------------------------------------------------------------------------------------------------------------


@emits("view", "_unsafe_view", "reshape", "squeeze", "unsqueeze", "view_copy", "_reshape_alias")
def _view(e: Emission, x: Value, *_: Any) -> Value:
    return e.graph.reshape(x, e.shape)


@emits("t", "permute", "transpose.int")
def _permute(e: Emission, x: Value, *axes: Any) -> Value:
    rank = len(x.shape)
    order = list(range(rank))
    if not axes:
        order.reverse()
    elif len(axes) == 1:
        order = [axis % rank for axis in axes[0]]
    elif rank:
        a, b = axes[0] % rank, axes[1] % rank
        order[a], order[b] = b, a
    return e.graph.transpose(x, order)


@emits("expand")
def _expand(e: Emission, x: Value, *_: Any, **__: Any) -> Value:
    if x.is_transposed and len(e.shape) > 2:
        x = e.graph.straight(x)
    return (
        replace(x, shape=e.shape)
        if not x.is_transposed or e.shape == x.shape
        else replace(e.graph.straight(x), shape=e.shape)
    )


@emits("slice.Tensor")
def _slice(
    e: Emission, x: Value, axis: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Value:
    if step != 1:
        raise ValueError("the slice has a step")
    axis, begin = axis % len(x.shape), [0] * len(x.shape)
    start = 0 if start is None else start
    begin[axis] = min(max(start + x.shape[axis] if start < 0 else start, 0), x.shape[axis])
    return e.slice(x, begin, e.shape)


@emits("select.int")
def _select(e: Emission, x: Value, axis: int, index: int) -> Value:
    axis, begin, sizes = axis % len(x.shape), [0] * len(x.shape), list(x.shape)
    begin[axis], sizes[axis] = index % x.shape[axis], 1
    return e.graph.reshape(e.slice(x, begin, sizes), e.shape)


@emits("split_with_sizes")
def _split(e: Emission, x: Value, sizes: Sequence[int], axis: int = 0) -> tuple[Value, ...]:
    axis, parts, begin = axis % len(x.shape), [], 0
    for size in sizes:
        first, shape = [0] * len(x.shape), list(x.shape)
        first[axis], shape[axis] = begin, size
        parts.append(e.slice(x, first, shape))
        begin += size
    return tuple(parts)


@emits("cat")
def _cat(e: Emission, parts: Sequence[Value], axis: int = 0) -> Value:
    """Lists of arrays cannot be arguments, but a method takes the second array as one."""
    joined, *rest = [one for one in parts if math.prod(one.shape)]
    axis %= len(joined.shape)
    for one in rest:
        shape = list(joined.shape)
        shape[axis] += one.shape[axis]
        joined = e.graph.method("concat", joined, [e.graph.full(one), axis], tuple(shape), joined.dtype)
    return joined


@emits("constant_pad_nd")
def _constant_pad(e: Emission, x: Value, pads: Sequence[int], value: float = 0) -> Value:
    rank = len(x.shape)
    before, after = [0] * rank, [0] * rank
    for place in range(len(pads) // 2):
        before[rank - 1 - place], after[rank - 1 - place] = pads[2 * place], pads[2 * place + 1]
    return e.pad(x, before, after, value)


# -- Reductions --------------------------------------------------------------------------------------------------------


def _register_reductions() -> None:
    for name, command in (("sum", "sum"), ("mean", "mean"), ("amax", "max"), ("amin", "min")):
        emits(name)(
            lambda e, x, axes=None, keepdim=False, _command=command, **_: _reduce(e, _command, x, axes, keepdim)
        )


def _reduce(e: Emission, name: str, x: Value, axes: Sequence[int] | None, keep: bool) -> Value:
    return e.reduce(name, e.cast(x, e.dtype), axes, keep, e.dtype)


_register_reductions()


@emits("var_mean.correction")
def _var_mean(
    e: Emission, x: Value, axes: Sequence[int] | None = None, *, correction: float | None = None, keepdim: bool = False
) -> tuple[Value, Value]:
    wide = e.reduce("mean", x, axes, True)
    spread = e.graph.elementwise("squaredDifference", [x, wide], x.shape, "float32")
    variance = e.reduce("mean", spread, axes, keepdim)
    count = math.prod(x.shape) // max(math.prod(variance.shape), 1)
    factor = count / (count - (1 if correction is None else correction))
    if factor != 1:
        variance = e.graph.elementwise(
            "mul", [variance, e.graph.number(factor, (), "float32")], variance.shape, "float32"
        )
    return variance, e.graph.reshape(wide, variance.shape)


@emits("var.correction")
def _var(e: Emission, x: Value, axes: Sequence[int] | None = None, **options: Any) -> Value:
    return _var_mean(e, x, axes, **options)[0]


@emits("argmax")
def _argmax(e: Emission, x: Value, axis: int | None = None, keepdim: bool = False) -> Value:
    if axis is None:
        x, axis = e.graph.reshape(x, (math.prod(x.shape),)), 0
    axis %= len(x.shape)
    found = e.graph.call(
        "argMax", [e.graph.full(x), axis], tuple(n for i, n in enumerate(x.shape) if i != axis), "int32"
    )
    return e.graph.reshape(found, e.shape)


# -- Matrices and losses -----------------------------------------------------------------------------------------------


@emits("mm.default", "bmm.default")
def _mm(e: Emission, a: Value, b: Value) -> Value:
    return e.matmul(a, b)


@emits("addmm.default")
def _addmm(e: Emission, bias: Value, a: Value, b: Value, *, beta: float = 1, alpha: float = 1) -> Value:
    product = e.matmul(a, b)
    if alpha != 1:
        product = e.elementwise("mul", product, alpha)
    return e.elementwise("add", product, bias if beta == 1 else e.elementwise("mul", bias, beta))


def _along_last(e: Emission, name: str, x: Value, axis: int) -> Value:
    """A function over the last axis, applied over any axis."""
    rank = len(x.shape)
    axis %= rank
    order = [*(i for i in range(rank) if i != axis), axis]
    moved = e.graph.full(e.graph.transpose(x, order))
    result = e.graph.call(name, [moved], moved.shape)
    return e.graph.transpose(result, [order.index(i) for i in range(rank)])


@emits("_log_softmax.default")
def _log_softmax(e: Emission, x: Value, axis: int, _half: bool) -> Value:
    return _along_last(e, "logSoftmax", x, axis)


@emits("_softmax.default")
def _softmax(e: Emission, x: Value, axis: int, _half: bool) -> Value:
    return _along_last(e, "softmax", x, axis)


@emits("nll_loss_forward.default")
def _nll_loss(
    e: Emission, x: Value, target: Value, weight: Value | None, reduction: int, _ignored: int
) -> tuple[Value, Value]:
    """The loss and the total weight. A class number is the place of a one, so none is ignored."""
    chosen, total = _chosen(e, x, target, weight)
    loss = e.graph.elementwise("mul", [x, chosen], x.shape, "float32")
    if reduction == 0:
        loss = e.reduce("sum", loss, [1], False)
        return e.graph.call("neg", [loss], loss.shape), total
    scale = e.graph.number(-1.0, (), "float32")
    loss = e.graph.elementwise("mul", [e.reduce("sum", loss, None, False), scale], (), "float32")
    if reduction == 1:
        loss = e.graph.elementwise("div", [loss, total], (), "float32")
    return loss, total


@emits("nll_loss_backward.default")
def _nll_loss_backward(e: Emission, grad: Value, x: Value, target: Value, *options: Any) -> Value:
    weight, reduction, _, total = options
    chosen, _ = _chosen(e, x, target, weight)
    if reduction == 0:
        grad = e.graph.reshape(grad, (x.shape[0], 1))
    factor = (
        e.graph.elementwise("mul", [grad, e.graph.number(-1.0, (), "float32")], grad.shape, "float32")
        if (grad.number is None)
        else e.graph.number(-float(grad.number), grad.shape, "float32")
    )
    if reduction == 1:
        if factor.number is not None and total.number is not None:
            factor = e.graph.number(float(factor.number) / float(total.number), (), "float32")
        else:
            factor = e.graph.elementwise("div", [factor, total], factor.shape, "float32")
    return e.graph.elementwise("mul", [chosen, factor], x.shape, "float32")


def _chosen(e: Emission, x: Value, target: Value, weight: Value | None) -> tuple[Value, Value]:
    """For each row the one-hot class, times its weight; and the sum of all weights."""
    hot = e.one_hot(target, x.shape[1])
    if weight is None:
        return hot, e.graph.number(x.shape[0], (), "float32")
    weighted = e.graph.elementwise("mul", [hot, weight], hot.shape, "float32")
    return weighted, e.reduce("sum", weighted, None, False)


@emits("gather.default")
def _gather(e: Emission, x: Value, axis: int, index: Value) -> Value:
    if axis % len(x.shape) != len(x.shape) - 1 or index.shape[-1] != 1 or index.shape[:-1] != x.shape[:-1]:
        raise ValueError("only one element of each row of the last axis can be gathered")
    hot = e.one_hot(e.graph.reshape(index, index.shape[:-1]), x.shape[-1])
    chosen = e.graph.elementwise("mul", [x, e.cast(hot, "float32")], x.shape, "float32")
    return e.cast(e.reduce("sum", chosen, [-1], True), e.dtype)


@emits("scatter.value")
def _scatter(e: Emission, x: Value, axis: int, index: Value, value: float) -> Value:
    if axis % len(x.shape) != len(x.shape) - 1 or index.shape[-1] != 1 or index.shape[:-1] != x.shape[:-1]:
        raise ValueError("only one element of each row of the last axis can be scattered")
    hot = e.cast(e.one_hot(e.graph.reshape(index, index.shape[:-1]), x.shape[-1]), "bool")
    parts = [hot, e.graph.full(e.graph.number(value, x.shape, x.dtype)), e.graph.full(x)]
    return e.graph.call("where", parts, x.shape, x.dtype)


@emits("embedding.default")
def _embedding(e: Emission, weight: Value, index: Value, *_: Any) -> Value:
    return e.graph.call("gather", [e.graph.full(weight), e.cast(e.graph.full(index), "int32")], e.shape)


@emits("embedding_dense_backward.default")
def _embedding_backward(e: Emission, grad: Value, index: Value, rows: int, padding: int, by_frequency: bool) -> Value:
    if by_frequency or padding >= 0:
        raise ValueError("the embedding has padding_idx or scale_grad_by_freq")
    count = math.prod(index.shape)
    flat = e.graph.reshape(e.cast(e.graph.full(index), "int32"), (count,))
    values = e.graph.full(e.graph.reshape(grad, (count, e.shape[-1])))
    return e.graph.call("unsortedSegmentSum", [values, flat, rows], e.shape)
