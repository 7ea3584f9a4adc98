"""Translates a list of torch commands, as PySyft 0.2 traced it, into a list of tfjs commands.

The table has the operations of PySyft's own plans of 2020: those of its layers, losses and backward rules. A shape that
the list does not write is not known here, so an operation that needs one has no form.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pygrid.plans.dialects.interpreter import unsound
from pygrid.plans.dialects.torch_list import command_name, positional
from pygrid.syft.ids import Id
from pygrid.syft.plans import Action, Argument, PlanMessage, Ref

SAME: Mapping[str, str] = {
    **{name: name for name in (
        "add", "sub", "mul", "div", "pow", "neg", "exp", "log", "log1p", "expm1", "sqrt", "rsqrt", "reciprocal", "abs",
        "sign", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "sigmoid", "erf", "floor", "ceil",
        "round", "relu", "square", "where", "clone")},
    "eq": "equal", "ne": "notEqual", "lt": "less", "le": "lessEqual", "gt": "greater", "ge": "greaterEqual",
    "mm": "matMul", "matmul": "matMul", "bmm": "matMul", "t": "transpose", "detach": "clone", "copy": "clone",
    "zeros_like": "zerosLike", "ones_like": "onesLike",
}  # fmt: skip
"""Torch command -> tfjs command with the same arguments."""
_REDUCTIONS = {"sum": "sum", "mean": "mean", "max": "max", "min": "min"}


def translate(plan: PlanMessage) -> PlanMessage:
    """The plan as tfjs commands, with the same inputs and outputs.

    Raises:
        InvalidPlan: an operation has no form; the message names it.
    """
    work = _Translation(plan)
    for action in plan.actions:
        work.add(action)
    return replace(plan, actions=tuple(work.actions), torchscript=b"", base_framework="tfjs")


def fold_keywords(plan: PlanMessage) -> PlanMessage:
    """The plan with the values of keywords after the other arguments, which is how syft.js calls a function."""
    folded = (
        one if one.target is not None else replace(one, args=(*one.args, *one.kwargs.values()), kwargs={})
        for one in plan.actions
    )
    return replace(plan, actions=tuple(folded))


@dataclass
class _Translation:
    plan: PlanMessage
    actions: list[Action] = field(default_factory=list)
    _num_new: int = 0

    def __post_init__(self) -> None:
        plan = self.plan
        self._taken: set[Id] = {*plan.inputs, *plan.constants, *(one.result for one in plan.actions)}

    def add(self, action: Action) -> None:
        action = positional(action)
        given = list(action.args) if action.target is None else [action.target, *action.args]
        try:
            self._emit(command_name(action), given, dict(action.kwargs), action.result)
        except ValueError as error:  # also of Python and numpy: too few arguments, or an array in place of a number
            why = str(error) if isinstance(error, _NoFormError) else "with these arguments"
            raise unsound(f"operation {action.command[:60]!r} has no form in tfjs: {why}".removesuffix(": ")) from None

    def call(self, name: str, *args: Argument) -> Ref:
        """The result of a command, in a placeholder of its own."""
        while self._num_new in self._taken:
            self._num_new += 1
        self._taken.add(self._num_new)
        return self.finish(name, self._num_new, *args)

    def finish(self, name: str, result: Id, *args: Argument) -> Ref:
        self.actions.append(Action(f"tf.{name}", tuple(args), result))
        return Ref(result)

    def _emit(self, name: str, given: list[Any], kwargs: dict[str, Any], result: Id) -> None:
        if name in SAME and not kwargs:
            self.finish(SAME[name], result, *given)
        elif name in _REDUCTIONS:
            x, dim, keep = _bind(given, kwargs, ("input", "dim", "keepdim"), (None, False))
            if dim is not None and name in ("max", "min"):
                raise _NoFormError("with a dimension it has two results")
            axes = [] if dim is None else [dim, keep] if keep else [dim]
            self.finish(_REDUCTIONS[name], result, x, *axes)
        elif (form := _FORMS.get(name)) is not None:
            form(self, given, kwargs, result)
        else:
            raise _NoFormError("")


class _NoFormError(ValueError):
    """Why an operation has no form in tfjs."""


def _bind(given: list[Any], kwargs: dict[str, Any], names: tuple[str, ...], defaults: tuple[Any, ...]) -> list[Any]:
    """The arguments by position, from those given by position and by name."""
    values = dict(zip(names, given, strict=False))
    if len(given) > len(names) or kwargs.keys() & values.keys() or not kwargs.keys() <= set(names):
        raise _NoFormError("with these arguments")
    values |= kwargs
    required = names[: len(names) - len(defaults)]
    if any(name not in values for name in required):
        raise _NoFormError("an argument is missing")
    return [values.get(name, default) for name, default in zip(names, (*required, *defaults), strict=True)]


def _swapped(name: str) -> Form:
    def emit(work: _Translation, given: list[Any], kwargs: dict[str, Any], result: Id) -> None:
        a, b = _bind(given, kwargs, ("input", "other"), ())
        work.finish(name, result, b, a)

    return emit


def _reshape(work: _Translation, given: list[Any], kwargs: dict[str, Any], result: Id) -> None:
    x, *shape = given
    sizes = shape[0] if len(shape) == 1 and isinstance(shape[0], tuple) else tuple(shape)
    if kwargs or not all(isinstance(size, int) for size in sizes):
        raise _NoFormError("its shape is not made of numbers")
    work.finish("reshape", result, x, sizes)


def _argmax(work: _Translation, given: list[Any], kwargs: dict[str, Any], result: Id) -> None:
    x, dim, keep = _bind(given, kwargs, ("input", "dim", "keepdim"), (None, False))
    if keep:
        raise _NoFormError("with keepdim")
    work.finish("argMax", result, *((work.call("reshape", x, (-1,)), 0) if dim is None else (x, dim)))


def _softmax(name: str) -> Form:
    def emit(work: _Translation, given: list[Any], kwargs: dict[str, Any], result: Id) -> None:
        work.finish(name, result, *_bind(given, kwargs, ("input", "dim"), (-1,)))

    return emit


def _cast(dtype: str) -> Form:
    def emit(work: _Translation, given: list[Any], kwargs: dict[str, Any], result: Id) -> None:
        work.finish("cast", result, *_bind(given, kwargs, ("input",), ()), dtype)

    return emit


def _addmm(work: _Translation, given: list[Any], kwargs: dict[str, Any], result: Id) -> None:
    c, a, b = _bind(given, kwargs, ("input", "mat1", "mat2"), ())
    work.finish("add", result, work.call("matMul", a, b), c)


def _linear(work: _Translation, given: list[Any], kwargs: dict[str, Any], result: Id) -> None:
    x, weight, bias = _bind(given, kwargs, ("input", "weight", "bias"), (None,))
    if bias is None:
        work.finish("matMul", result, x, weight, False, True)
    else:
        work.finish("add", result, work.call("matMul", x, weight, False, True), bias)


Form = Callable[[_Translation, list[Any], dict[str, Any], Id], None]
_FORMS: Mapping[str, Form] = {
    "rsub": _swapped("sub"),
    "rdiv": _swapped("div"),
    "reshape": _reshape,
    "view": _reshape,
    "argmax": _argmax,
    "softmax": _softmax("softmax"),
    "log_softmax": _softmax("logSoftmax"),
    "float": _cast("float32"),
    "long": _cast("int32"),
    "addmm": _addmm,
    "linear": _linear,
}
