"""What the rules of the operators work on: values known before a graph runs, calls of operators, and shapes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pygrid.plans.sizes import Poly, Size, bound, is_size

OPSET = 20
IR_VERSIONS = range(8, 11)

ITEM_BYTES = {"float32": 4, "int64": 8, "int32": 4, "bool": 1}
ELEMENT_TYPES = {1: "float32", 7: "int64", 6: "int32", 9: "bool"}
"""ONNX's TensorProto.DataType -> name of the dtype; other types are refused."""

MAX_KNOWN = 64
"""Integer arrays with up to this many elements are computed; those of shape arithmetic are far smaller."""
INT_LIMITS = {"int64": 2**63, "int32": 2**31}
SLICE_END = 2**31 - 1
"""From this value on, an end of a slice means the end of the axis."""

Known = npt.NDArray[np.object_]


class ShapeRefused(Exception):
    """The output shape of a node is wrong, unknown or unbounded. The gate raises an InvalidPlan that names the node."""


@dataclass(frozen=True)
class TensorValue:
    """The known facts about a tensor before the graph runs."""

    dtype: str
    shape: tuple[Size, ...]
    known: Known | None = None
    """The elements (int, bool or Poly), if they do not depend on data."""
    number: float | None = None
    """The element of a float constant that has one."""

    @property
    def num_elements(self) -> Size:
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> Size:
        return self.num_elements * ITEM_BYTES[self.dtype]


@dataclass(frozen=True)
class OperatorCall:
    """One node: the operator, its input values, and its attributes as Python values."""

    op_type: str
    inputs: tuple[TensorValue | None, ...]
    attributes: Mapping[str, Any]
    num_outputs: int
    max_n: int
    """The largest batch size; bounds the integers of shape arithmetic."""

    def find(self, index: int) -> TensorValue | None:
        return self.inputs[index] if index < len(self.inputs) else None

    def get(self, index: int) -> TensorValue:
        value = self.find(index)
        if value is None:
            raise ShapeRefused(f"input {index} is missing")
        return value

    def known(self, index: int) -> list[Size]:
        """The elements of a one-dimensional (or scalar) input that must be known before the graph runs."""
        value = self.get(index)
        if value.known is None:
            raise ShapeRefused(
                f"input {index} decides a shape, but is not known before the graph runs; it depends on data, or on the "
                "batch size in a way that cannot be bounded"
            )
        return [item if isinstance(item, Poly) else int(item) for item in value.known.reshape(-1)]

    def known_ints(self, index: int) -> list[int]:
        """As `known`; no element may depend on the batch size."""
        items = self.known(index)
        if any(isinstance(item, Poly) for item in items):
            raise ShapeRefused(f"input {index} must not depend on the batch size")
        return [int(item) for item in items if not isinstance(item, Poly)]

    def known_number(self, index: int) -> Size:
        """The one element of an input that must be known before the graph runs."""
        items = self.known(index)
        if len(items) != 1:
            raise ShapeRefused(f"input {index} must have one element, not {len(items)}")
        return items[0]

    def axis(self, rank: int, default: int) -> int:
        return normal_axis(self.attributes.get("axis", default), rank)


Infer = Callable[[OperatorCall], list[TensorValue]]
Cost = Callable[[OperatorCall, Sequence[TensorValue]], Size]
Fold = Callable[..., Any]


@dataclass(frozen=True)
class Operator:
    """A row of the table: the rules for one operator."""

    infer: Infer
    cost: Cost
    summary: str
    """Description for people who read what a plan does."""
    scratch: Cost
    """Elements that the runtime needs in addition to inputs and outputs."""


def normal_axis(axis: int, rank: int) -> int:
    """The axis, counted from the front."""
    if not -rank <= axis < rank:
        raise ShapeRefused(f"axis {axis} does not exist in {rank} dimensions")
    return axis % rank if rank else 0


def broadcast(*shapes: tuple[Size, ...]) -> tuple[Size, ...]:
    """The common shape of numpy's broadcasting; refused unless the shapes fit for every batch size."""
    rank = max(len(shape) for shape in shapes)
    result: list[Size] = []
    for axis in range(-rank, 0):
        size: Size = 1
        for shape in shapes:
            other = shape[axis] if -axis <= len(shape) else 1
            if other == 1 or other == size:
                continue
            if size != 1:
                raise ShapeRefused(f"sizes {size} and {other} do not fit together for every batch size")
            size = other
        result.append(size)
    return tuple(result)


def checked(call: OperatorCall, value: TensorValue) -> TensorValue:
    """Drop known elements that a machine integer cannot hold: there the graph would compute something else."""
    if value.known is None:
        return value
    limit = INT_LIMITS.get(value.dtype, 2**63)
    small = value.known.size <= MAX_KNOWN
    if small and all(bound(item, call.max_n) < limit for item in value.known.reshape(-1)):
        return value
    return TensorValue(value.dtype, value.shape)


def as_known(items: Any) -> Known:
    array = np.empty(len(items), dtype=object)
    for index, item in enumerate(items):
        array[index] = item
    return array


def map_known(function: Callable[..., Any], *arrays: Known) -> Known | None:
    """Apply a function to each tuple of broadcast elements; None if one of the results is unknown."""
    try:
        grid = np.broadcast_arrays(*arrays)
    except ValueError as error:
        raise ShapeRefused("shapes do not fit together") from error
    if grid[0].size > MAX_KNOWN:
        return None
    result = np.empty(grid[0].shape, dtype=object)
    for index in np.ndindex(grid[0].shape):
        item = function(*(array[index] for array in grid))
        if item is None:
            return None
        result[index] = item
    return result


def same_dtype(values: Sequence[TensorValue]) -> str:
    dtypes = {value.dtype for value in values}
    if len(dtypes) != 1:
        raise ShapeRefused(f"inputs of different dtypes ({', '.join(sorted(dtypes))})")
    return dtypes.pop()


def check_equal(a: Size, b: Size, what: str) -> None:
    if a != b:
        raise ShapeRefused(f"{what} differ: {a} and {b}")


def without_axes(shape: tuple[Size, ...], axes: Sequence[int], keep: bool) -> tuple[Size, ...]:
    kept = [1 if axis in axes else size for axis, size in enumerate(shape)]
    return tuple(kept) if keep else tuple(size for axis, size in enumerate(shape) if axis not in axes)


def shape_from(items: Sequence[Size]) -> tuple[Size, ...]:
    if not all(is_size(item) for item in items):
        raise ShapeRefused(f"a size is negative, or falls when the batch grows: {[str(item) for item in items]}")
    return tuple(items)


def first_shape(call: OperatorCall) -> list[TensorValue]:
    """The shape and dtype of the first input."""
    return [TensorValue(call.get(0).dtype, call.get(0).shape)]


def array_value(array: npt.NDArray[Any]) -> TensorValue:
    """The value of a constant."""
    if array.dtype.name not in ITEM_BYTES:
        raise ShapeRefused(f"dtype {array.dtype.name} is not allowed; plans use {', '.join(ITEM_BYTES)}")
    known = None
    if array.dtype.name != "float32" and array.size <= MAX_KNOWN:
        known = as_known(array.reshape(-1).tolist()).reshape(array.shape)
    number = float(array.item()) if array.dtype.name == "float32" and array.size == 1 else None
    return TensorValue(array.dtype.name, tuple(array.shape), known, number)
