"""A list of tfjs actions under construction. Equal actions are written once, and those without a use not at all.

The client looks up commands in tfjs-core 1.x, and resolves placeholders only as direct arguments. Each action has a
fresh result, because the client disposes what an action overwrites.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from pygrid.syft.ids import Id
from pygrid.syft.plans import Action, Argument, PlanMessage, Ref

Shape: TypeAlias = tuple[int, ...]
Number: TypeAlias = bool | int | float

MAX_CONSTANT_BYTES = 1 << 20


@dataclass(frozen=True)
class Value:
    """An array of the plan: the result ``ref`` of an action, or one number at every place.

    ``dims`` is the shape of ``ref``, which broadcasts to ``shape``. If ``is_transposed``, ``ref`` is the transpose of a
    matrix.
    """

    shape: Shape
    dtype: str
    ref: int = 0
    dims: Shape = ()
    number: Number | None = None
    is_transposed: bool = False


class TfjsGraph:
    """Collects actions. Methods take and return `Value`."""

    def __init__(self) -> None:
        self._actions: list[Action] = []
        self._known: dict[Any, Value] = {}
        self._constants: dict[int, Any] = {}
        self._inputs: list[int] = []
        self._next = 1

    def _new_id(self) -> int:
        self._next += 1
        return self._next - 1

    def input(self, shape: Shape) -> Value:
        """The next argument of the plan; a device passes numbers for those without dimensions."""
        self._inputs.append(self._new_id())
        return Value(shape, "float32", self._inputs[-1], shape)

    def number(self, number: Number, shape: Shape, dtype: str) -> Value:
        """One number at every place of a shape."""
        plain = bool(number) if dtype == "bool" else int(number) if dtype == "int32" else float(number)
        return Value(shape, dtype, number=plain)

    def constant(self, array: Any) -> Value:
        """An array of the plan's own."""
        if array.size and (array == array.flat[0]).all():
            return self.number(array.flat[0].item(), array.shape, array.dtype.name)
        if array.nbytes > MAX_CONSTANT_BYTES:
            raise ValueError(f"a constant of {array.nbytes:,} bytes; at most {MAX_CONSTANT_BYTES:,} are allowed")
        key = ("constant", array.dtype.name, array.shape, array.tobytes())
        if key not in self._known:
            ref = self._new_id()
            self._constants[ref] = np.ascontiguousarray(array)
            self._known[key] = Value(array.shape, array.dtype.name, ref, array.shape)
        return self._known[key]

    def call(self, name: str, args: Sequence[Any], shape: Shape, dtype: str = "float32") -> Value:
        """``tf.NAME(*args)``: arguments are values, numbers, texts or tuples of them."""
        plain = tuple(self._argument(one) for one in args)
        return self._add(Action(f"tf.{name}", plain, 0), shape, dtype)

    def method(self, name: str, target: Value, args: Sequence[Any], shape: Shape, dtype: str = "float32") -> Value:
        """``target.NAME(*args)``, for what takes a list of arrays as a function."""
        plain = tuple(self._argument(one) for one in args)
        return self._add(Action(name, plain, 0, Ref(self.full(target).ref)), shape, dtype)

    def _add(self, action: Action, shape: Shape, dtype: str) -> Value:
        key = (action.command, action.target, _hashable(action.args))
        if key not in self._known:
            ref = self._new_id()
            self._actions.append(replace(action, result=ref))
            self._known[key] = Value(shape, dtype, ref, shape)
        return self._known[key]

    def _argument(self, value: Any) -> Argument:
        if not isinstance(value, Value):
            return value
        return value.number if value.number is not None else Ref(self.straight(value).ref)

    # -- Forms of a value ----------------------------------------------------------------------------------------------

    def straight(self, value: Value) -> Value:
        """The value with no transpose pending."""
        if not value.is_transposed:
            return value
        stored = replace(value, is_transposed=False, shape=value.shape[::-1], dims=value.dims[::-1])
        return self.call("transpose", [stored], value.shape, value.dtype)

    def full(self, value: Value) -> Value:
        """The value as a tensor of its whole shape."""
        if value.number is not None:
            more = [] if value.dtype == "float32" else [value.dtype]
            return self.call("fill", [value.shape, value.number, *more], value.shape, value.dtype)
        value = self.straight(value)
        if value.dims == value.shape:
            return value
        return self.call("broadcastTo", [value, value.shape], value.shape, value.dtype)

    def tensor(self, value: Value) -> Value:
        """The value as a tensor that can be smaller than its shape."""
        if value.number is None:
            return self.straight(value)
        return replace(self.full(replace(value, shape=())), shape=value.shape)

    def elementwise(self, name: str, values: Sequence[Value], shape: Shape, dtype: str) -> Value:
        """An operation that broadcasts, on values as small as they are."""
        plain = [
            self.tensor(value) if value.number is not None and value.dtype == "int32" else value for value in values
        ]
        if all(value.number is not None for value in plain):
            plain[0] = self.tensor(plain[0])
        dims = np.broadcast_shapes(*[() if value.number is not None else value.dims for value in plain])
        return replace(self.call(name, plain, dims, dtype), shape=shape)

    def transpose(self, value: Value, order: Sequence[int]) -> Value:
        """The value with its axes in another order."""
        shape = tuple(value.shape[axis] for axis in order)
        if value.number is not None or list(order) == sorted(order):
            return replace(value, shape=shape)
        if len(shape) == 2 and (value.is_transposed or value.dims == value.shape):
            return replace(value, shape=shape, dims=shape, is_transposed=not value.is_transposed)
        return self.call("transpose", [self.full(value), tuple(order)], shape, value.dtype)

    def reshape(self, value: Value, shape: Shape) -> Value:
        """The value with the same elements in another shape."""
        if value.number is not None:
            return replace(value, shape=shape)
        if value.shape == shape:
            return value
        if math.prod(value.dims) == 1 and not value.is_transposed:
            one = self.call("reshape", [value, ()], (), value.dtype) if value.dims else value
            return replace(one, shape=shape)
        return self.call("reshape", [self.full(value), shape], shape, value.dtype)

    # -- The end -------------------------------------------------------------------------------------------------------

    def finish(self, name: str, outputs: Sequence[Value]) -> PlanMessage:
        """The plan with these outputs, each a tensor of its own."""
        results: list[int] = []
        for value in outputs:
            whole = self.full(value)
            if whole.ref in results or whole.ref in self._inputs or whole.ref in self._constants:
                ref = self._new_id()
                self._actions.append(Action("tf.clone", (Ref(whole.ref),), ref))
                whole = replace(whole, ref=ref)
            results.append(whole.ref)
        needed: set[Id] = set(results)
        kept: list[Action] = []
        for action in reversed(self._actions):
            if action.result in needed:
                kept.append(action)
                needed |= {one.id for one in (*action.args, action.target) if isinstance(one, Ref)}
        constants: dict[Id, Any] = {ref: array for ref, array in self._constants.items() if ref in needed}
        return PlanMessage(
            name, tuple(self._inputs), tuple(results), tuple(reversed(kept)), constants, base_framework="tfjs"
        )


def _hashable(value: Any) -> Any:
    """A key that tells 1, 1.0 and True apart."""
    return tuple(map(_hashable, value)) if isinstance(value, tuple) else (type(value).__name__, value)
