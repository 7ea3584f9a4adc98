"""The tfjs commands that variants may have, in numpy.

Source: tfjs-core 1.7.4. syft.js looks up the last part of a command's name, and a method of the target for `concat` and
`stack`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pygrid.plans.dialects.interpreter import ActionProgram, Array, Command, RunBudget, one_hot, unsound
from pygrid.syft.plans import Action, PlanMessage

_DTYPES = {"float32": np.float32, "int32": np.int32, "bool": np.bool_}
_ERF = np.vectorize(math.erf, otypes=[np.float64])


def tfjs_program(message: PlanMessage) -> ActionProgram:
    """The program of a list of tfjs actions. `ActionProgram.check` refuses unknown commands."""
    return ActionProgram(message, COMMANDS, _key)


def _key(action: Action) -> str:
    """``tf.layers.reshape`` is ``reshape``; with a target only methods are looked up."""
    if action.kwargs:
        return ""
    if action.target is not None:
        return f"method {action.command}"
    head, _, name = action.command.rpartition(".")
    return name if head == "tf" or head.startswith("tf.") else ""


def _array(value: Any) -> Array:
    array = np.asarray(value)
    if array.dtype == np.float64 or (array.dtype == np.int64 and not isinstance(value, np.ndarray)):
        return array.astype(np.float32)  # a number of JavaScript becomes a float32 tensor
    return array


def _unary(function: Callable[[Array], Array]) -> Command:
    def run(budget: RunBudget, x: Any) -> Array:
        x = _array(x)
        budget.take(x.shape, 4)
        result = np.asarray(function(x.astype(np.float32) if x.dtype != np.bool_ else x))
        return result.astype(np.float32) if result.dtype == np.float64 else result

    return run


def _kept(function: Callable[[Array], Array]) -> Command:
    """An operation that keeps the dtype."""

    def run(budget: RunBudget, x: Any) -> Array:
        x = _array(x)
        budget.take(x.shape)
        return function(x)

    return run


def _binary(function: Callable[[Array, Array], Array]) -> Command:
    def run(budget: RunBudget, a: Any, b: Any) -> Array:
        a, b = _array(a), _array(b)
        budget.broadcast(a, b)
        if np.float32 in (a.dtype, b.dtype):
            a, b = a.astype(np.float32), b.astype(np.float32)
        elif np.bool_ in (a.dtype, b.dtype):
            a, b = a.astype(np.int32), b.astype(np.int32)
        return np.asarray(function(a, b))

    return run


def _truth(function: Callable[[Array, Array], Array]) -> Command:
    def run(budget: RunBudget, a: Any, b: Any) -> Array:
        a, b = _array(a), _array(b)
        budget.broadcast(a, b)
        return np.asarray(function(a, b)).astype(np.bool_)

    return run


def _reduction(function: Callable[..., Array]) -> Command:
    def run(budget: RunBudget, x: Any, axes: Any = None, keep: bool = False) -> Array:
        x = _array(x)
        budget.take(x.shape)
        if x.dtype == np.bool_:
            x = x.astype(np.int32)
        along = None if axes is None else (axes,) if isinstance(axes, int) else tuple(axes)
        result = np.asarray(function(x, axis=along, keepdims=bool(keep)))
        return result.astype(np.int32 if x.dtype == np.int32 and result.dtype.kind == "i" else np.float32)

    return run


def _divide(a: Array, b: Array) -> Array:
    return np.floor_divide(a, b) if a.dtype == np.int32 and b.dtype == np.int32 else np.divide(a, b)


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def _step(x: Array) -> Array:
    return np.where(np.isnan(x), x, (x > 0).astype(np.float32))


def _log_softmax(budget: RunBudget, x: Any, axis: int = -1) -> Array:
    x = _array(x).astype(np.float32)
    budget.take(x.shape, 4)
    if axis not in (-1, x.ndim - 1):
        raise unsound("a softmax is over an axis that is not the last one")
    moved = x - x.max(-1, keepdims=True)
    return np.asarray(moved - np.log(np.exp(moved).sum(-1, keepdims=True)))


def _softmax(budget: RunBudget, x: Any, axis: int = -1) -> Array:
    return np.exp(_log_softmax(budget, x, axis))


def _matmul(budget: RunBudget, a: Any, b: Any, flip_a: bool = False, flip_b: bool = False) -> Array:
    a, b = _array(a), _array(b)
    if a.ndim != b.ndim or a.ndim < 2:
        raise unsound("matrices of a product have different ranks")
    a, b = (np.swapaxes(a, -1, -2) if flip_a else a), (np.swapaxes(b, -1, -2) if flip_b else b)
    budget.take((*a.shape[:-1], b.shape[-1]), a.shape[-1])
    return np.asarray(np.matmul(a.astype(np.float32), b.astype(np.float32)))


def _transpose(budget: RunBudget, x: Array, order: Sequence[int] | None = None) -> Array:
    budget.take(np.shape(x))
    return np.transpose(x, order)


def _reshape(budget: RunBudget, x: Any, shape: Sequence[int]) -> Array:
    x = _array(x)
    budget.take(x.shape)
    return np.reshape(x, tuple(shape))


def _broadcast_to(budget: RunBudget, x: Any, shape: Sequence[int]) -> Array:
    return np.array(np.broadcast_to(_array(x), budget.take(shape)))


def _fill(budget: RunBudget, shape: Sequence[int], value: Any, dtype: str | None = None) -> Array:
    kind = np.dtype(_DTYPES[dtype]) if dtype else np.dtype(np.bool_ if isinstance(value, bool) else np.float32)
    return np.full(budget.take(shape), value, kind)


def _where(budget: RunBudget, condition: Array, a: Array, b: Array) -> Array:
    if not np.shape(condition) == np.shape(a) == np.shape(b):
        raise unsound("where needs three arrays of one shape")
    budget.take(np.shape(condition))
    return np.where(condition, a, b)


def _cast(budget: RunBudget, x: Any, dtype: str) -> Array:
    x = _array(x)
    budget.take(x.shape)
    return np.asarray(x.astype(_DTYPES[dtype]))


def _one_hot(budget: RunBudget, index: Array, depth: int) -> Array:
    if np.asarray(index).dtype != np.int32 or np.ndim(index) != 1:
        raise unsound("oneHot needs a list of int32")
    return one_hot(np.asarray(index), budget.take((len(index), depth))[1])


def _arg_max(budget: RunBudget, x: Array, axis: int = 0) -> Array:
    budget.take(np.shape(x))
    return np.asarray(np.argmax(x, axis), np.int32)


def _pad(budget: RunBudget, x: Array, widths: Sequence[Sequence[int]], value: float = 0) -> Array:
    if any(size < 0 for pair in widths for size in pair):
        raise unsound("a pad is negative")
    budget.take([n + before + after for n, (before, after) in zip(x.shape, widths, strict=True)])
    return np.pad(x, tuple((int(a), int(b)) for a, b in widths), constant_values=value)


def _slice(budget: RunBudget, x: Array, begin: Sequence[int], sizes: Sequence[int]) -> Array:
    budget.take(sizes)
    ends = [b + n for b, n in zip(begin, sizes, strict=True)]
    if any(b < 0 or n < 0 or e > have for b, n, e, have in zip(begin, sizes, ends, x.shape, strict=True)):
        raise unsound("a slice is outside of its array")
    return x[tuple(slice(b, e) for b, e in zip(begin, ends, strict=True))]


def _gather(budget: RunBudget, x: Array, index: Array) -> Array:
    if np.asarray(index).dtype != np.int32:
        raise unsound("gather needs indices of int32")
    budget.take((*np.shape(index), *np.shape(x)[1:]))
    return np.asarray(x)[index]


def _segment_sum(budget: RunBudget, x: Array, index: Array, count: int) -> Array:
    result = np.zeros(budget.take((count, *np.shape(x)[1:])), np.float32)
    budget.take(np.shape(x))
    np.add.at(result, np.asarray(index), x)
    return result


def with_defaults(given: Sequence[Any], *defaults: Any) -> tuple[Any, ...]:
    """The arguments that were given, and the defaults of those that were not."""
    return (*given, *defaults[len(given) :])


def _conv2d(budget: RunBudget, x: Array, kernel: Array, strides: Any, *options: Any) -> Array:
    pad, layout, dilations = with_defaults(options, "", "NHWC", (1, 1))
    if pad != "valid" or layout != "NHWC" or x.ndim != 4 or kernel.ndim != 4 or x.shape[3] != kernel.shape[2]:
        raise unsound("conv2d needs NHWC, no padding, and fitting channels")
    strides, dilations = _pair(strides), _pair(dilations)
    spread = [d * (k - 1) + 1 for d, k in zip(dilations, kernel.shape[:2], strict=True)]
    sizes = [(n - k) // s + 1 for n, k, s in zip(x.shape[1:3], spread, strides, strict=True)]
    budget.take((x.shape[0], *sizes, kernel.shape[3]), math.prod(kernel.shape[:3]))
    budget.take((x.shape[0], *sizes, math.prod(kernel.shape[:3])))
    windows = np.lib.stride_tricks.sliding_window_view(x, spread, axis=(1, 2))
    windows = windows[:, :: strides[0], :: strides[1], :, :: dilations[0], :: dilations[1]]
    return np.tensordot(windows, kernel, ([3, 4, 5], [2, 0, 1])).astype(np.float32)


def _conv2d_transpose(
    budget: RunBudget, x: Array, kernel: Array, shape: Sequence[int], strides: Any, pad: str
) -> Array:
    if pad != "valid" or x.ndim != 4 or kernel.ndim != 4 or x.shape[3] != kernel.shape[3]:
        raise unsound("conv2dTranspose needs NHWC, no padding, and fitting channels")
    vertical, horizontal = _pair(strides)
    result = np.zeros(budget.take(shape), np.float32)
    _, rows, columns, _ = x.shape
    if (rows - 1) * vertical + kernel.shape[0] > shape[1] or (columns - 1) * horizontal + kernel.shape[1] > shape[2]:
        raise unsound("conv2dTranspose has a result that is too small")
    for row in range(kernel.shape[0]):
        for column in range(kernel.shape[1]):
            budget.take((*x.shape[:3], kernel.shape[2]), kernel.shape[3])
            part = x @ kernel[row, column].T
            result[:, row : row + rows * vertical : vertical, column : column + columns * horizontal : horizontal] += (
                part
            )
    return result


def _pair(sizes: Any) -> tuple[int, int]:
    pair = (sizes, sizes) if isinstance(sizes, int) else tuple(sizes)
    if len(pair) != 2 or min(pair) < 1:
        raise unsound(f"strides or dilations are {pair}")
    return pair[0], pair[1]


def _concat(budget: RunBudget, a: Array, b: Array, axis: int) -> Array:
    budget.take(np.shape(a))
    budget.take(np.shape(b))
    return np.concatenate([a, b], axis)


def _stack(budget: RunBudget, a: Array, b: Array, axis: int = 0) -> Array:
    budget.take((2, *np.shape(a)))
    return np.stack([a, b], axis)


COMMANDS: dict[str, Command] = {
    "add": _binary(np.add), "sub": _binary(np.subtract), "mul": _binary(np.multiply), "div": _binary(_divide),
    "maximum": _binary(np.maximum), "minimum": _binary(np.minimum), "pow": _binary(np.power),
    "squaredDifference": _binary(lambda a, b: np.square(a - b)),
    "equal": _truth(np.equal), "notEqual": _truth(np.not_equal), "less": _truth(np.less),
    "lessEqual": _truth(np.less_equal), "greater": _truth(np.greater), "greaterEqual": _truth(np.greater_equal),
    "logicalAnd": _truth(np.logical_and), "logicalOr": _truth(np.logical_or),
    "neg": _kept(np.negative), "abs": _kept(np.abs), "sign": _kept(np.sign), "clone": _kept(np.array),
    "square": _kept(np.square), "floor": _kept(np.floor), "ceil": _kept(np.ceil), "round": _kept(np.round),
    "logicalNot": _kept(np.logical_not), "relu": _kept(lambda x: np.maximum(x, x.dtype.type(0))), "step": _kept(_step),
    "exp": _unary(np.exp), "log": _unary(np.log), "log1p": _unary(np.log1p), "expm1": _unary(np.expm1),
    "sqrt": _unary(np.sqrt), "rsqrt": _unary(lambda x: 1 / np.sqrt(x)), "reciprocal": _unary(lambda x: 1 / x),
    "sin": _unary(np.sin), "cos": _unary(np.cos), "tan": _unary(np.tan), "asin": _unary(np.arcsin),
    "acos": _unary(np.arccos), "atan": _unary(np.arctan), "sinh": _unary(np.sinh), "cosh": _unary(np.cosh),
    "tanh": _unary(np.tanh), "sigmoid": _unary(_sigmoid), "erf": _unary(_ERF),
    "logSoftmax": _log_softmax, "softmax": _softmax,
    "zerosLike": _kept(np.zeros_like), "onesLike": _kept(np.ones_like),
    "sum": _reduction(np.sum), "mean": _reduction(np.mean), "max": _reduction(np.max), "min": _reduction(np.min),
    "argMax": _arg_max, "matMul": _matmul, "transpose": _transpose, "reshape": _reshape, "cast": _cast,
    "broadcastTo": _broadcast_to, "fill": _fill, "where": _where, "oneHot": _one_hot, "pad": _pad, "slice": _slice,
    "gather": _gather, "unsortedSegmentSum": _segment_sum, "conv2d": _conv2d, "conv2dTranspose": _conv2d_transpose,
    "method concat": _concat, "method stack": _stack,
}  # fmt: skip
