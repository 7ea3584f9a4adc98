"""Operators that work element by element, and the creation of filled arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from pygrid import codes
from pygrid.errors import AuthoringError
from pygrid.plans.authoring.lowering.core import Context, is_number, lowers, plan_dtype
from pygrid.plans.authoring.lowering.graph import Dim, LoweredValue
from pygrid.plans.manifest import DType

_POSITIVE = (1.1754944e-38, 3.4028234e38)
"""The smallest and the largest positive float32."""
_UNARY = {
    "abs": "Abs",
    "cos": "Cos",
    "erf": "Erf",
    "exp": "Exp",
    "floor": "Floor",
    "neg": "Neg",
    "reciprocal": "Reciprocal",
    "relu": "Relu",
    "sigmoid": "Sigmoid",
    "sign": "Sign",
    "sgn": "Sign",
    "sin": "Sin",
    "sqrt": "Sqrt",
    "tanh": "Tanh",
}


def _register_unary(name: str, op: str) -> None:
    @lowers(f"{name}.default")
    def unary(c: Context, x: LoweredValue) -> LoweredValue:
        return c.elementwise(op, [c.value(x, c.dtype)], c.dtype)


for _name, _op in _UNARY.items():
    _register_unary(_name, _op)


@lowers("rsqrt.default")
def rsqrt(c: Context, x: LoweredValue) -> LoweredValue:
    return inverse_root(c, x)


def inverse_root(c: Context, x: LoweredValue) -> LoweredValue:
    return c.elementwise("Reciprocal", [c.elementwise("Sqrt", [x], "float32")], "float32")


@lowers("log.default")
def log(c: Context, x: LoweredValue) -> LoweredValue:
    c.graph.refine_sigmoid(x)
    return c.elementwise("Log", [c.value(x, c.dtype)], c.dtype)


@lowers("log1p.default")
def log1p(c: Context, x: LoweredValue) -> LoweredValue:
    """``log(1 + x)`` without loss of small x; for an exponential it is a softplus, which also cannot overflow."""
    node = c.graph.producer(x)
    if node is not None and node.op == "Exp":
        return replace(c.elementwise("Softplus", [c.graph.operand(node, 0)], "float32"), shape=x.shape)
    # log(u) - ((u - 1) - x) / u with u = 1 + x undoes the rounding of the sum (Higham, Accuracy and Stability, 1.14.1).
    u = c.binary("Add", x, 1.0)
    bounded = clamp(c, u, *_POSITIVE)  # so that x = -1 leads to -inf and infinity to infinity, as in torch
    lost = c.binary("Div", c.binary("Sub", c.binary("Sub", bounded, 1.0), x), bounded)
    return c.binary("Sub", c.elementwise("Log", [u], "float32"), lost)


@lowers("softplus.default")
def softplus(c: Context, x: LoweredValue, beta: float = 1, threshold: float = 20) -> LoweredValue:
    scaled = c.mul(x, beta)
    soft = c.div(c.elementwise("Softplus", [scaled], "float32"), beta)
    linear = c.elementwise("Greater", [scaled, c.number(threshold, "float32")], "bool")
    return c.elementwise("Where", [linear, x, soft], "float32")


@lowers("elu.default")
def elu(c: Context, x: LoweredValue, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> LoweredValue:
    if input_scale != 1:
        raise AuthoringError("elu with input_scale is not in the plan set", code=codes.PLAN_OPERATOR_UNSUPPORTED)
    return c.mul(c.elementwise("Elu", [x], "float32", alpha=float(alpha)), scale)


@lowers("threshold_backward.default")
def threshold_backward(c: Context, grad: LoweredValue, x: LoweredValue, threshold: float) -> LoweredValue:
    node = c.graph.producer(x)
    if node is not None and node.op == "Relu" and threshold == 0:
        x = replace(x, name=node.inputs[0])  # relu(x) > 0 exactly where x > 0: the comparison needs no relu
    kept = c.elementwise("Greater", [x, c.number(threshold, x.dtype)], "bool")
    return c.elementwise("Where", [kept, grad, c.number(0, grad.dtype)], grad.dtype)


# -- two operands ----------------------------------------------------------------------------------------------------


@lowers("add")
def add(c: Context, a: Any, b: Any, *, alpha: Any = 1) -> LoweredValue:
    return c.add(a, b if is_number(alpha, 1) else c.mul(b, alpha))


@lowers("sub")
def sub(c: Context, a: Any, b: Any, *, alpha: Any = 1) -> LoweredValue:
    return c.sub(a, b if is_number(alpha, 1) else c.mul(b, alpha))


@lowers("rsub")
def rsub(c: Context, a: Any, b: Any, alpha: Any = 1) -> LoweredValue:
    return c.sub(b, a if is_number(alpha, 1) else c.mul(a, alpha))


@lowers("mul")
def mul(c: Context, a: Any, b: Any) -> LoweredValue:
    if c.dtype == "bool":
        return c.binary("And", a, b, "bool")
    return c.mul(a, b)


@lowers("div")
def div(c: Context, a: Any, b: Any, *, rounding_mode: str | None = None) -> LoweredValue:
    if rounding_mode is None:
        return c.div(a, b)
    if c.dtype != "float32":
        if rounding_mode == "floor":
            return _floor_divide_ints(c, a, b)
        return c.binary("Div", a, b)
    quotient = c.div(a, b)
    if rounding_mode == "floor":
        return c.elementwise("Floor", [quotient], "float32")
    sign = c.elementwise("Sign", [quotient], "float32")
    return c.binary("Mul", sign, c.elementwise("Floor", [c.elementwise("Abs", [quotient], "float32")], "float32"))


def _floor_divide_ints(c: Context, a: Any, b: Any) -> LoweredValue:
    rest = c.elementwise("Mod", [c.value(a, c.dtype), c.value(b, c.dtype)], c.dtype)  # has the sign of the divisor
    return c.binary("Div", c.binary("Sub", a, rest), b)


@lowers("remainder")
def remainder(c: Context, a: Any, b: Any) -> LoweredValue:
    if c.dtype != "float32":
        return c.elementwise("Mod", [c.value(a, c.dtype), c.value(b, c.dtype)], c.dtype)
    floor = c.elementwise("Floor", [c.div(a, b)], "float32")
    return c.binary("Sub", a, c.binary("Mul", b, floor))


@lowers("pow")
def power(c: Context, base: Any, exponent: Any) -> LoweredValue:
    if is_number(exponent, 1):
        return c.value(base, c.dtype)
    if is_number(exponent, 2):
        return c.binary("Mul", base, base)
    if is_number(exponent, 3):
        return c.binary("Mul", c.binary("Mul", base, base), base)
    if is_number(exponent, 0.5):
        return c.elementwise("Sqrt", [base], "float32")
    if is_number(exponent, -1):
        return c.elementwise("Reciprocal", [base], "float32")
    if is_number(exponent, -0.5):
        return inverse_root(c, base)
    return c.binary("Pow", base, exponent)


def _register_extreme(name: str, op: str) -> None:
    @lowers(name)
    def extreme(c: Context, a: LoweredValue, b: Any) -> LoweredValue:
        return c.binary(op, a, b)


for _name, _op in {"maximum.default": "Max", "clamp_min": "Max", "minimum.default": "Min", "clamp_max": "Min"}.items():
    _register_extreme(_name, _op)


@lowers("clamp")
def clamp(c: Context, x: LoweredValue, low: Any = None, high: Any = None) -> LoweredValue:
    if low is not None:
        x = replace(c.binary("Max", x, low), shape=x.shape)
    if high is not None:
        x = c.binary("Min", x, high)
    return x


# -- comparisons and logic -------------------------------------------------------------------------------------------

_COMPARISONS = {"gt": "Greater", "ge": "GreaterOrEqual", "lt": "Less", "le": "LessOrEqual", "eq": "Equal"}


def _common(c: Context, a: Any, b: Any) -> DType:
    """The dtype in which torch compares two operands."""
    metas = [arg.meta["val"] if isinstance(arg, torch.fx.Node) else arg for arg in c.node.args[:2]]
    dtype = torch.result_type(*metas)
    return "int32" if dtype == torch.bool else plan_dtype(dtype)


def _never_equal(c: Context, a: Any, b: Any) -> bool:
    """Whether an array of classes is compared with a marker that no class has, such as -100."""
    return isinstance(a, LoweredValue) and isinstance(b, int) and b < 0 and c.graph.is_never_negative(a)


def _register_comparison(name: str, op: str) -> None:
    @lowers(name)
    def comparison(c: Context, a: Any, b: Any) -> LoweredValue:
        if name == "eq" and _never_equal(c, a, b):
            return c.number(False, "bool")
        kind = _common(c, a, b)
        return c.elementwise(op, [c.value(a, kind), c.value(b, kind)], "bool")


for _name, _op in _COMPARISONS.items():
    _register_comparison(_name, _op)


@lowers("ne")
def ne(c: Context, a: Any, b: Any) -> LoweredValue:
    if _never_equal(c, a, b):
        return c.number(True, "bool")
    kind = _common(c, a, b)
    return c.elementwise("Not", [c.elementwise("Equal", [c.value(a, kind), c.value(b, kind)], "bool")], "bool")


_LOGIC = {"logical_and": "And", "logical_or": "Or", "bitwise_and": "And", "bitwise_or": "Or"}


def _register_logic(name: str, op: str) -> None:
    @lowers(name)
    def logic(c: Context, a: Any, b: Any) -> LoweredValue:
        _check_bool(c)
        return c.elementwise(op, [c.value(a, "bool"), c.value(b, "bool")], "bool")


def _check_bool(c: Context) -> None:
    if c.dtype != "bool":
        raise AuthoringError("bit operators on integers are not in the plan set", code=codes.PLAN_OPERATOR_UNSUPPORTED)


for _name, _op in _LOGIC.items():
    _register_logic(_name, _op)


@lowers("logical_xor", "bitwise_xor")
def logical_xor(c: Context, a: Any, b: Any) -> LoweredValue:
    _check_bool(c)
    same = c.elementwise("Equal", [c.cast(c.value(side, "bool"), "int32") for side in (a, b)], "bool")
    return c.elementwise("Not", [same], "bool")


@lowers("logical_not.default", "bitwise_not.default")
def logical_not(c: Context, x: LoweredValue) -> LoweredValue:
    _check_bool(c)
    return c.elementwise("Not", [c.value(x, "bool")], "bool")


@lowers("where.self", "where.ScalarOther", "where.ScalarSelf", "where.Scalar")
def where(c: Context, condition: LoweredValue, a: Any, b: Any) -> LoweredValue:
    if c.dtype == "bool":  # ONNX Runtime has no Where for it
        other = c.elementwise("Not", [condition], "bool")
        sides = [c.elementwise("And", [side, c.value(x, "bool")], "bool") for side, x in ((condition, a), (other, b))]
        return c.elementwise("Or", sides, "bool")
    return c.elementwise("Where", [condition, c.value(a, c.dtype), c.value(b, c.dtype)], c.dtype)


@lowers("masked_fill")
def masked_fill(c: Context, x: LoweredValue, mask: LoweredValue, filler: Any) -> LoweredValue:
    return c.elementwise("Where", [mask, c.value(filler, c.dtype), x], c.dtype)


@lowers("_assert_async", "_assert_scalar", "_assert_tensor_metadata")
def checked_elsewhere(c: Context, *_: Any, **__: Any) -> None:
    """The runner checks data, because it knows the ports."""


# -- copies, casts, filled arrays ------------------------------------------------------------------------------------


@lowers(
    "alias", "detach", "clone", "contiguous", "lift_fresh", "lift_fresh_copy", "_conj", "resolve_conj", "resolve_neg"
)
def same(c: Context, x: LoweredValue, **_: Any) -> LoweredValue:
    return x


@lowers("copy")
def copy(c: Context, target: LoweredValue, source: LoweredValue, *_: Any) -> LoweredValue:
    return c.value(source, c.dtype)


@lowers("_to_copy.default", "to.dtype")
def to_copy(c: Context, x: LoweredValue, *_: Any, **__: Any) -> LoweredValue:
    return c.cast(x, c.dtype)


@lowers("convert_element_type")
def convert(c: Context, x: LoweredValue, dtype: torch.dtype) -> LoweredValue:
    return c.cast(x, plan_dtype(dtype))


@lowers("full", "new_full", "full_like", "fill", "scalar_tensor")
def full(c: Context, *args: Any, **_: Any) -> LoweredValue:
    return c.value(args[-1], c.dtype)


@lowers("zeros", "zeros_like", "new_zeros", "empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided")
def zeros(c: Context, *_: Any, **__: Any) -> LoweredValue:
    """Also for uninitialized arrays: their content is overwritten before it is read."""
    return c.number(0, c.dtype)


@lowers("ones", "ones_like", "new_ones")
def ones(c: Context, *_: Any, **__: Any) -> LoweredValue:
    return c.number(1, c.dtype)


@lowers("rand.default")
def noise(c: Context, size: Sequence[Dim], *, dtype: torch.dtype | None = None, **_: Any) -> LoweredValue:
    """Noise as an input of the plan, ``[batch, ...]``; the runner draws it for each example."""
    kind = f"{c.graph.noise_prefix}{'dropout' if dtype is None else 'uniform'}"
    number = sum(port.name.startswith(kind) for port in c.graph.inputs)
    return c.graph.input(f"{kind}{number}", "float32", c.shape)


@lowers("arange.start_step", "arange.default", "arange.start")
def arange(c: Context, *args: Any, **_: Any) -> LoweredValue:
    start, end, step = {1: (0, args[0], 1), 2: (*args[:2], 1)}.get(len(args), args[:3])
    if c.dtype == "float32":  # the length of a range of floats is only known when it runs
        places = c.cast(_numbers(c, c.shape[0]), "float32")
        return c.add(c.mul(places, step), start)
    bounds = [c.number(bound, c.dtype) for bound in (start, end, step)]
    return c.op("Range", bounds, c.shape, c.dtype)


def _numbers(c: Context, count: Dim) -> LoweredValue:
    """The whole numbers below ``count``."""
    return c.op("Range", [c.number(number, "int64") for number in (0, count, 1)], (count,), "int64")


@lowers("eye.default", "eye.m")
def eye(c: Context, *_: Any, **__: Any) -> LoweredValue:
    rows, columns = c.shape
    row = c.reshape(_numbers(c, rows), (rows, 1))
    return c.cast(c.elementwise("Equal", [row, _numbers(c, columns)], "bool"), c.dtype)
