"""The torch commands that lists of actions may have, in numpy: variants, and plans that PySyft 0.2 traced.

Source: the operators of PyTorch 1.4. PySyft writes a function as ``torch.add`` and a method as a command with a target.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pygrid.plans.dialects.interpreter import ActionProgram, Array, Command, RunBudget, unsound
from pygrid.syft.plans import Action, PlanMessage

_OF_PYTHON = {"truediv": "div", "radd": "add", "rmul": "mul", "rtruediv": "rdiv"}
"""Operators of Python whose name is not that of a command."""
_POSITIONS = {"input": 0, "self": 0, "other": 1, "exponent": 1, "mat1": 1, "weight": 1, "mat2": 2, "bias": 2}
"""Positions of arguments that PySyft can write by name."""
_ERF = np.vectorize(math.erf, otypes=[np.float64])


def list_program(message: PlanMessage) -> ActionProgram:
    """The program of a list of torch commands. `ActionProgram.check` refuses unknown commands."""
    return ActionProgram(replace(message, actions=tuple(map(positional, message.actions))), COMMANDS, command_name)


def positional(action: Action) -> Action:
    """The action with its arrays as positional arguments, as far as it names them, and ``axis`` as ``dim``."""
    if not action.kwargs:
        return action
    kwargs = {("dim" if name == "axis" else name): value for name, value in action.kwargs.items()}
    args, num_before = list(action.args), 0 if action.target is None else 1
    for name in sorted(kwargs.keys() & _POSITIONS.keys(), key=_POSITIONS.__getitem__):
        if _POSITIONS[name] == len(args) + num_before:
            args.append(kwargs.pop(name))
    return replace(action, args=tuple(args), kwargs=kwargs)


def command_name(action: Action) -> str:
    """The name of a function or method: ``torch.add``, ``add`` and ``__add__`` are ``add``."""
    name = action.command
    if action.target is None:
        head, _, name = name.rpartition(".")
        if head not in ("torch", "torch.Tensor", "torch.nn.functional"):
            return ""
    if name.startswith("__") and name.endswith("__"):
        name = name.strip("_")
        name = _OF_PYTHON.get(name, name)
    return name


def _array(value: Any) -> Array:
    if isinstance(value, np.ndarray | np.generic):
        return np.asarray(value)
    return np.asarray(value, np.float32 if isinstance(value, float) else None)


def _binary(function: Callable[[Array, Array], Array], *, is_truth: bool = False) -> Command:
    def run(budget: RunBudget, a: Any, b: Any) -> Array:
        a, b = _array(a), _array(b)
        budget.broadcast(a, b)
        if np.float32 in (a.dtype, b.dtype):
            a, b = a.astype(np.float32), b.astype(np.float32)
        result = np.asarray(function(a, b))
        return result if is_truth or result.dtype != np.float64 else result.astype(np.float32)

    return run


def _unary(function: Callable[[Array], Array]) -> Command:
    def run(budget: RunBudget, x: Any) -> Array:
        x = _array(x)
        budget.take(x.shape, 4)
        result = np.asarray(function(x))
        return result.astype(np.float32) if result.dtype == np.float64 else result

    return run


def _reduction(function: Callable[..., Array]) -> Command:
    def run(budget: RunBudget, x: Any, dim: Any = None, keepdim: bool = False) -> Array:
        x = _array(x)
        budget.take(x.shape)
        along = None if dim is None else (dim,) if isinstance(dim, int) else tuple(dim)
        result = np.asarray(function(x, axis=along, keepdims=bool(keepdim)))
        return result.astype(np.float32) if result.dtype == np.float64 else result

    return run


def _reshape(budget: RunBudget, x: Any, *shape: Any) -> Array:
    x = _array(x)
    budget.take(x.shape)
    sizes = shape[0] if len(shape) == 1 and isinstance(shape[0], tuple) else shape
    return np.reshape(x, tuple(int(size) for size in sizes))


def _matmul(budget: RunBudget, a: Array, b: Array) -> Array:
    if np.ndim(a) < 1 or np.ndim(b) < 1:
        raise unsound("a product needs vectors or matrices")
    rows = np.shape(a)[:-1] if np.ndim(a) > 1 else ()
    columns = np.shape(b)[-1:] if np.ndim(b) > 1 else ()
    budget.take((*rows, *columns), np.shape(a)[-1])
    return np.asarray(np.matmul(a, b))


def _addmm(budget: RunBudget, c: Array, a: Array, b: Array) -> Array:
    product = _matmul(budget, a, b)
    budget.broadcast(product, c)
    return np.asarray(product + c)


def _linear(budget: RunBudget, x: Array, weight: Array, bias: Array | None = None) -> Array:
    turned = np.transpose(weight)
    return _matmul(budget, x, turned) if bias is None else _addmm(budget, bias, x, turned)


def _transpose(budget: RunBudget, x: Array, a: int = 0, b: int = 1) -> Array:
    budget.take(np.shape(x))
    return np.swapaxes(x, a, b)


def _t(budget: RunBudget, x: Array) -> Array:
    budget.take(np.shape(x))
    return np.transpose(x)


def _argmax(budget: RunBudget, x: Array, dim: int | None = None, keepdim: bool = False) -> Array:
    budget.take(np.shape(x))
    return np.asarray(np.argmax(x, dim, keepdims=bool(keepdim)))


def _full(budget: RunBudget, shape: Sequence[int], value: Any) -> Array:
    return np.full(budget.take(shape), value, np.float32)


def _ones(budget: RunBudget, *shape: Any) -> Array:
    sizes = shape[0] if len(shape) == 1 and isinstance(shape[0], tuple) else shape
    return np.ones(budget.take(sizes), np.float32)


def _zeros_like(budget: RunBudget, x: Array) -> Array:
    return np.zeros(budget.take(np.shape(x)), np.asarray(x).dtype)


def _ones_like(budget: RunBudget, x: Array) -> Array:
    return np.ones(budget.take(np.shape(x)), np.asarray(x).dtype)


def _arange(budget: RunBudget, count: int) -> Array:
    return np.arange(budget.take((count,))[0])


def _where(budget: RunBudget, condition: Array, a: Array, b: Array) -> Array:
    budget.broadcast(condition, a, b)
    return np.where(condition, a, b)


def _log_softmax(budget: RunBudget, x: Array, dim: int = -1) -> Array:
    budget.take(np.shape(x), 4)
    moved = x - x.max(dim, keepdims=True)
    return np.asarray(moved - np.log(np.exp(moved).sum(dim, keepdims=True)))


def _softmax(budget: RunBudget, x: Array, dim: int = -1) -> Array:
    return np.exp(_log_softmax(budget, x, dim))


def _stack(budget: RunBudget, arrays: Sequence[Array], dim: int = 0) -> Array:
    for one in arrays:
        budget.take(np.shape(one))
    return np.stack(list(arrays), dim)


def _cat(budget: RunBudget, arrays: Sequence[Array], dim: int = 0) -> Array:
    for one in arrays:
        budget.take(np.shape(one))
    return np.concatenate(list(arrays), dim)


def _float(budget: RunBudget, x: Any) -> Array:
    budget.take(np.shape(x))
    return np.asarray(x, np.float32)


def _long(budget: RunBudget, x: Any) -> Array:
    budget.take(np.shape(x))
    return np.asarray(x, np.int64)


COMMANDS: dict[str, Command] = {
    "add": _binary(np.add), "sub": _binary(np.subtract), "mul": _binary(np.multiply), "div": _binary(np.true_divide),
    "rsub": _binary(lambda a, b: b - a), "rdiv": _binary(lambda a, b: b / a), "pow": _binary(np.power),
    "eq": _binary(np.equal, is_truth=True), "ne": _binary(np.not_equal, is_truth=True),
    "lt": _binary(np.less, is_truth=True), "le": _binary(np.less_equal, is_truth=True),
    "gt": _binary(np.greater, is_truth=True), "ge": _binary(np.greater_equal, is_truth=True),
    "neg": _unary(np.negative), "exp": _unary(np.exp), "log": _unary(np.log), "log1p": _unary(np.log1p),
    "expm1": _unary(np.expm1), "sqrt": _unary(np.sqrt), "rsqrt": _unary(lambda x: 1 / np.sqrt(x)),
    "reciprocal": _unary(lambda x: 1 / x), "abs": _unary(np.abs), "sign": _unary(np.sign), "sin": _unary(np.sin),
    "cos": _unary(np.cos), "tan": _unary(np.tan), "asin": _unary(np.arcsin), "acos": _unary(np.arccos),
    "atan": _unary(np.arctan), "sinh": _unary(np.sinh), "cosh": _unary(np.cosh), "tanh": _unary(np.tanh),
    "sigmoid": _unary(lambda x: 1 / (1 + np.exp(-x))), "erf": _unary(_ERF), "floor": _unary(np.floor),
    "ceil": _unary(np.ceil), "round": _unary(np.round), "relu": _unary(lambda x: np.maximum(x, 0)),
    "sum": _reduction(np.sum), "mean": _reduction(np.mean), "max": _reduction(np.max), "min": _reduction(np.min),
    "reshape": _reshape, "view": _reshape, "mm": _matmul, "matmul": _matmul, "bmm": _matmul, "transpose": _transpose,
    "t": _t, "argmax": _argmax, "full": _full, "ones": _ones, "zeros_like": _zeros_like, "ones_like": _ones_like,
    "arange": _arange, "where": _where, "log_softmax": _log_softmax, "softmax": _softmax, "stack": _stack, "cat": _cat,
    "float": _float, "long": _long, "clone": _unary(np.array), "detach": _unary(np.array), "copy": _unary(np.array),
    "addmm": _addmm, "linear": _linear, "square": _unary(np.square),
}  # fmt: skip
