"""Operators that compute each element of their output alone: arithmetic, functions, comparisons, casts."""

from __future__ import annotations

from collections.abc import Callable

from pygrid.plans.operators.values import (
    ELEMENT_TYPES,
    INT_LIMITS,
    ITEM_BYTES,
    Fold,
    Infer,
    OperatorCall,
    ShapeRefused,
    TensorValue,
    broadcast,
    checked,
    first_shape,
    map_known,
    same_dtype,
)
from pygrid.plans.sizes import Poly, Size, compare, divide, is_positive


def elementwise(result: str | None = None, fold: Fold | None = None, first: int = 0) -> Infer:
    """Broadcast all inputs; the dtype is ``result`` or theirs. Inputs before ``first`` can have another dtype."""

    def infer(call: OperatorCall) -> list[TensorValue]:
        values = [value for value in call.inputs if value is not None]
        if len(values) <= first:
            raise ShapeRefused("inputs are missing")
        dtype = same_dtype(values[first:])
        known = None
        if fold is not None and dtype != "float32" and all(value.known is not None for value in values):
            known = map_known(fold, *(value.known for value in values if value.known is not None))
        return [checked(call, TensorValue(result or dtype, broadcast(*(value.shape for value in values)), known))]

    return infer


def infer_clip(call: OperatorCall) -> list[TensorValue]:
    bounds = [value for value in call.inputs[1:] if value is not None]
    if any(value.shape for value in bounds):
        raise ShapeRefused("the bounds must be scalars")
    return first_shape(call)


def infer_cast(call: OperatorCall) -> list[TensorValue]:
    to = ELEMENT_TYPES.get(int(call.attributes.get("to", 0)))
    if to is None:
        raise ShapeRefused(f"casts to a type that plans do not use; allowed are {', '.join(ITEM_BYTES)}")
    source = call.get(0)
    keeps = to in INT_LIMITS and source.dtype in INT_LIMITS
    known = source.known if keeps else None
    return [checked(call, TensorValue(to, source.shape, known))]


def infer_identity(call: OperatorCall) -> list[TensorValue]:
    return [call.get(0)]


def truncated(a: Size, b: Size) -> Size | None:
    if isinstance(a, Poly) or isinstance(b, Poly):
        return divide(a, b)
    return a // b if a >= 0 else -(-a // b)  # towards zero, as in C; b > 0


def modulo(a: Size, b: Size) -> Size | None:
    if isinstance(a, Poly) or isinstance(b, Poly):
        return 0 if divide(a, b) is not None else None
    return a % b  # b > 0, so that the sign rules of C and Python agree


def by_order(*orders: int) -> Callable[[Size, Size], bool | None]:
    def decide(a: Size, b: Size) -> bool | None:
        order = compare(a, b)
        return None if order is None else order in orders

    return decide


def larger(*items: Size) -> Size | None:
    best = items[0]
    for item in items[1:]:
        order = compare(item, best)
        if order is None:
            return None
        best = item if order > 0 else best
    return best


def smaller(*items: Size) -> Size | None:
    best = items[0]
    for item in items[1:]:
        order = compare(item, best)
        if order is None:
            return None
        best = item if order < 0 else best
    return best


def division(fold: Fold | None) -> Infer:
    """Integers need known positive divisors: the smallest integer divided by -1 ends the process, not only the run."""

    def infer(call: OperatorCall) -> list[TensorValue]:
        divisor = call.get(1)
        if divisor.dtype != "float32":
            known = divisor.known
            if known is None or not all(is_positive(item) for item in known.reshape(-1)):
                raise ShapeRefused("integers may be divided only by constants (or sizes) that are known and positive")
        return elementwise(fold=None if call.attributes.get("fmod", 0) else fold)(call)

    return infer


def infer_where(call: OperatorCall) -> list[TensorValue]:
    if call.get(0).dtype != "bool":
        raise ShapeRefused("the condition must be bool")
    return elementwise(fold=lambda condition, a, b: a if condition else b, first=1)(call)


def infer_pow(call: OperatorCall) -> list[TensorValue]:
    return [TensorValue(call.get(0).dtype, broadcast(call.get(0).shape, call.get(1).shape))]


def infer_softmax(call: OperatorCall) -> list[TensorValue]:
    call.axis(len(call.get(0).shape), -1)
    return first_shape(call)
