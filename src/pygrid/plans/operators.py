"""The closed list of operators that a plan may use, each with its shape rule and its cost.

All belong to ONNX's default domain at opset 20. There is no control flow, no random operator, and no operator that
carries a subgraph, a string, a sequence or a file name. Exporters take the names from `OPERATORS`, so both sides agree.

Shapes are exact for every batch size (`pygrid.plans.sizes`). The integer arithmetic that graphs do on shapes is also
computed (`TensorValue.known`). A shape is refused if it depends on data, or if it is not a polynomial in the batch
size.

Cost is counted in operations: one per element that an operator writes, whether the operator computes or moves it. The
table has exceptions: reductions and scatters also count what they read, softmax counts 5 per element, and products
count 2 per multiply-add.
Source of the shape rules: the operator documentation of ONNX, https://onnx.ai/onnx/operators/.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pygrid.plans.sizes import Poly, Size, at_most, bound, compare, divide, is_positive, is_size

OPSET = 20
IR_VERSIONS = range(8, 11)

ITEM_BYTES = {"float32": 4, "int64": 8, "int32": 4, "bool": 1}
ELEMENT_TYPES = {1: "float32", 7: "int64", 6: "int32", 9: "bool"}
"""ONNX's TensorProto.DataType -> name of the dtype; other types are refused."""

MAX_KNOWN = 64
"""Integer arrays with up to this many elements are computed; those of shape arithmetic are far smaller."""
_INT_LIMITS = {"int64": 2**63, "int32": 2**31}
_SLICE_END = 2**31 - 1
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

    def attribute(self, name: str, default: Any) -> Any:
        return self.attributes.get(name, default)

    def axis(self, rank: int, default: int) -> int:
        return normal_axis(self.attribute("axis", default), rank)


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


def _checked(call: OperatorCall, value: TensorValue) -> TensorValue:
    """Drop known elements that a machine integer cannot hold: there the graph would compute something else."""
    if value.known is None:
        return value
    limit = _INT_LIMITS.get(value.dtype, 2**63)
    small = value.known.size <= MAX_KNOWN
    if small and all(bound(item, call.max_n) < limit for item in value.known.reshape(-1)):
        return value
    return TensorValue(value.dtype, value.shape)


def _as_known(items: Any) -> Known:
    array = np.empty(len(items), dtype=object)
    for index, item in enumerate(items):
        array[index] = item
    return array


def _map_known(function: Callable[..., Any], *arrays: Known) -> Known | None:
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


# ---- element by element -------------------------------------------------------------------------------------------


def _same_dtype(values: Sequence[TensorValue]) -> str:
    dtypes = {value.dtype for value in values}
    if len(dtypes) != 1:
        raise ShapeRefused(f"inputs of different dtypes ({', '.join(sorted(dtypes))})")
    return dtypes.pop()


def _elementwise(result: str | None = None, fold: Fold | None = None, first: int = 0) -> Infer:
    """Broadcast all inputs; the dtype is ``result`` or theirs. Inputs before ``first`` can have another dtype."""

    def infer(call: OperatorCall) -> list[TensorValue]:
        values = [value for value in call.inputs if value is not None]
        if len(values) <= first:
            raise ShapeRefused("inputs are missing")
        dtype = _same_dtype(values[first:])
        known = None
        if fold is not None and dtype != "float32" and all(value.known is not None for value in values):
            known = _map_known(fold, *(value.known for value in values if value.known is not None))
        return [_checked(call, TensorValue(result or dtype, broadcast(*(value.shape for value in values)), known))]

    return infer


def _first_shape(call: OperatorCall) -> list[TensorValue]:
    """The shape and dtype of the first input."""
    return [TensorValue(call.get(0).dtype, call.get(0).shape)]


def _clip(call: OperatorCall) -> list[TensorValue]:
    bounds = [value for value in call.inputs[1:] if value is not None]
    if any(value.shape for value in bounds):
        raise ShapeRefused("the bounds must be scalars")
    return _first_shape(call)


def _cast(call: OperatorCall) -> list[TensorValue]:
    to = ELEMENT_TYPES.get(int(call.attribute("to", 0)))
    if to is None:
        raise ShapeRefused(f"casts to a type that plans do not use; allowed are {', '.join(ITEM_BYTES)}")
    source = call.get(0)
    keeps = to in _INT_LIMITS and source.dtype in _INT_LIMITS
    known = source.known if keeps else None
    return [_checked(call, TensorValue(to, source.shape, known))]


def _identity(call: OperatorCall) -> list[TensorValue]:
    return [call.get(0)]


def _truncated(a: Size, b: Size) -> Size | None:
    if isinstance(a, Poly) or isinstance(b, Poly):
        return divide(a, b)
    return a // b if a >= 0 else -(-a // b)  # towards zero, as in C; b > 0


def _modulo(a: Size, b: Size) -> Size | None:
    if isinstance(a, Poly) or isinstance(b, Poly):
        return 0 if divide(a, b) is not None else None
    return a % b  # b > 0, so that the sign rules of C and Python agree


def _by_order(*orders: int) -> Callable[[Size, Size], bool | None]:
    def decide(a: Size, b: Size) -> bool | None:
        order = compare(a, b)
        return None if order is None else order in orders

    return decide


def _larger(*items: Size) -> Size | None:
    best = items[0]
    for item in items[1:]:
        order = compare(item, best)
        if order is None:
            return None
        best = item if order > 0 else best
    return best


def _smaller(*items: Size) -> Size | None:
    best = items[0]
    for item in items[1:]:
        order = compare(item, best)
        if order is None:
            return None
        best = item if order < 0 else best
    return best


def _divide(fold: Fold | None) -> Infer:
    """Integers need known positive divisors: the smallest integer divided by -1 ends the process, not only the run."""

    def infer(call: OperatorCall) -> list[TensorValue]:
        divisor = call.get(1)
        if divisor.dtype != "float32":
            known = divisor.known
            if known is None or not all(is_positive(item) for item in known.reshape(-1)):
                raise ShapeRefused("integers may be divided only by constants (or sizes) that are known and positive")
        return _elementwise(fold=None if call.attribute("fmod", 0) else fold)(call)

    return infer


def _where(call: OperatorCall) -> list[TensorValue]:
    if call.get(0).dtype != "bool":
        raise ShapeRefused("the condition must be bool")
    return _elementwise(fold=lambda condition, a, b: a if condition else b, first=1)(call)


def _pow(call: OperatorCall) -> list[TensorValue]:
    return [TensorValue(call.get(0).dtype, broadcast(call.get(0).shape, call.get(1).shape))]


# ---- products -----------------------------------------------------------------------------------------------------


def _equal_sizes(a: Size, b: Size, what: str) -> None:
    if a != b:
        raise ShapeRefused(f"{what} differ: {a} and {b}")


def _matmul(call: OperatorCall) -> list[TensorValue]:
    a, b = call.get(0), call.get(1)
    if not a.shape or not b.shape:
        raise ShapeRefused("a product needs at least one dimension")
    left = a.shape if len(a.shape) > 1 else (1, *a.shape)
    right = b.shape if len(b.shape) > 1 else (*b.shape, 1)
    _equal_sizes(left[-1], right[-2], "the sizes that are summed over")
    shape = [*broadcast(left[:-2] or (), right[:-2] or ())] if len(left) > 2 or len(right) > 2 else []
    if len(a.shape) > 1:
        shape.append(left[-2])
    if len(b.shape) > 1:
        shape.append(right[-1])
    return [TensorValue(_same_dtype([a, b]), tuple(shape))]


def _matmul_cost(call: OperatorCall, outputs: Sequence[TensorValue]) -> Size:
    return 2 * outputs[0].num_elements * call.get(0).shape[-1]


def _gemm(call: OperatorCall) -> list[TensorValue]:
    a, b = call.get(0), call.get(1)
    if len(a.shape) != 2 or len(b.shape) != 2:
        raise ShapeRefused("Gemm takes matrices")
    rows, inner = a.shape[::-1] if call.attribute("transA", 0) else a.shape
    inner_b, columns = b.shape[::-1] if call.attribute("transB", 0) else b.shape
    _equal_sizes(inner, inner_b, "the sizes that are summed over")
    bias = call.find(2)
    if bias is not None and broadcast((rows, columns), bias.shape) != (rows, columns):
        raise ShapeRefused("the third input is larger than the product")
    return [TensorValue(_same_dtype([v for v in call.inputs if v is not None]), (rows, columns))]


def _gemm_cost(call: OperatorCall, outputs: Sequence[TensorValue]) -> Size:
    inner = call.get(0).shape[0 if call.attribute("transA", 0) else 1]
    return outputs[0].num_elements * (2 * inner + 1)


def _spatial(sizes: Sequence[Size]) -> list[int]:
    ints = [size for size in sizes if isinstance(size, int)]
    if len(ints) != len(sizes):
        raise ShapeRefused("an image side must not depend on the batch size")
    return ints


def _window(call: OperatorCall, rank: int) -> tuple[list[int], list[int], list[int]]:
    """Strides, dilations and pads (all begins, then all ends) of a convolution or pooling."""
    if call.attribute("auto_pad", b"NOTSET") not in (b"NOTSET", "NOTSET"):
        raise ShapeRefused("auto_pad is not allowed; set the pads instead")
    strides = list(call.attribute("strides", [1] * rank))
    dilations = list(call.attribute("dilations", [1] * rank))
    pads = list(call.attribute("pads", [0] * (2 * rank)))
    if len(strides) != rank or len(dilations) != rank or len(pads) != 2 * rank:
        raise ShapeRefused("strides, dilations or pads have the wrong length")
    if min(strides) < 1 or min(dilations) < 1 or min(pads) < 0:
        raise ShapeRefused("strides and dilations must be at least 1, pads at least 0")
    return strides, dilations, pads


def _slide(sides: Sequence[int], kernel: Sequence[int], call: OperatorCall) -> list[int]:
    rank = len(sides)
    strides, dilations, pads = _window(call, rank)
    out = []
    for i in range(rank):
        span = sides[i] + pads[i] + pads[rank + i] - dilations[i] * (kernel[i] - 1) - 1
        if span < 0 or kernel[i] < 1:
            raise ShapeRefused("the window is larger than the padded image")
        out.append(span // strides[i] + 1)
    return out


def _conv_parts(call: OperatorCall) -> tuple[TensorValue, TensorValue, int, list[int]]:
    x, w = call.get(0), call.get(1)
    if len(x.shape) < 3 or len(w.shape) != len(x.shape):
        raise ShapeRefused("a convolution takes [batch, channels, ...] and a kernel with the same number of dimensions")
    group = int(call.attribute("group", 1))
    if group < 1:
        raise ShapeRefused("group must be at least 1")
    return x, w, group, _spatial(w.shape[2:])


def _conv(call: OperatorCall) -> list[TensorValue]:
    x, w, group, kernel = _conv_parts(call)
    _equal_sizes(x.shape[1], w.shape[1] * group, "the channels of image and kernel")
    if divide(w.shape[0], group) is None:
        raise ShapeRefused("the output channels are not a multiple of the groups")
    return [TensorValue(_same_dtype([x, w]), (x.shape[0], w.shape[0], *_slide(_spatial(x.shape[2:]), kernel, call)))]


def _conv_cost(call: OperatorCall, outputs: Sequence[TensorValue]) -> Size:
    _, w, _, kernel = _conv_parts(call)
    return outputs[0].num_elements * (2 * w.shape[1] * math.prod(kernel) + 1)


def _conv_transpose(call: OperatorCall) -> list[TensorValue]:
    x, w, group, kernel = _conv_parts(call)
    _equal_sizes(x.shape[1], w.shape[0], "the channels of image and kernel")
    sides = _spatial(x.shape[2:])
    strides, dilations, pads = _window(call, len(sides))
    extra = list(call.attribute("output_padding", [0] * len(sides)))
    if "output_shape" in call.attributes or len(extra) != len(sides):
        raise ShapeRefused("output_shape is not allowed; set output_padding for each side")
    out = [
        strides[i] * (sides[i] - 1) + extra[i] + (kernel[i] - 1) * dilations[i] + 1 - pads[i] - pads[len(sides) + i]
        for i in range(len(sides))
    ]
    if min(out) < 0 or min(extra) < 0:
        raise ShapeRefused("the pads are larger than the image")
    return [TensorValue(_same_dtype([x, w]), (x.shape[0], w.shape[1] * group, *out))]


def _conv_transpose_cost(call: OperatorCall, outputs: Sequence[TensorValue]) -> Size:
    x, w, _, kernel = _conv_parts(call)
    return x.num_elements * (2 * w.shape[1] * math.prod(kernel)) + outputs[0].num_elements


def _pool(call: OperatorCall) -> list[TensorValue]:
    x = call.get(0)
    kernel = list(call.attribute("kernel_shape", []))
    if len(x.shape) < 3 or len(kernel) != len(x.shape) - 2:
        raise ShapeRefused("pooling takes [batch, channels, ...] and a kernel side for each further dimension")
    if call.attribute("ceil_mode", 0) or call.attribute("storage_order", 0):
        raise ShapeRefused("ceil_mode and storage_order must be 0")
    shape = (*x.shape[:2], *_slide(_spatial(x.shape[2:]), kernel, call))
    return [TensorValue(x.dtype, shape), TensorValue("int64", shape)][: call.num_outputs]


def _pool_cost(call: OperatorCall, outputs: Sequence[TensorValue]) -> Size:
    kernel: list[int] = list(call.attribute("kernel_shape", []))
    return outputs[0].num_elements * math.prod(kernel)


def _global_pool(call: OperatorCall) -> list[TensorValue]:
    x = call.get(0)
    if len(x.shape) < 3:
        raise ShapeRefused("pooling takes [batch, channels, ...]")
    return [TensorValue(x.dtype, (*x.shape[:2], *([1] * (len(x.shape) - 2))))]


# ---- along axes ---------------------------------------------------------------------------------------------------


def reduced_axes(call: OperatorCall) -> list[int]:
    """The axes that a Reduce operator sums over; all axes if none are given."""
    rank = len(call.get(0).shape)
    axes = call.known_ints(1) if call.find(1) is not None else []
    if not axes:
        return [] if call.attribute("noop_with_empty_axes", 0) else list(range(rank))
    return sorted({normal_axis(axis, rank) for axis in axes})


def _drop(shape: tuple[Size, ...], axes: Sequence[int], keep: bool) -> tuple[Size, ...]:
    kept = [1 if axis in axes else size for axis, size in enumerate(shape)]
    return tuple(kept) if keep else tuple(size for axis, size in enumerate(shape) if axis not in axes)


def _reduce(fold: Fold | None = None) -> Infer:
    def infer(call: OperatorCall) -> list[TensorValue]:
        value, axes = call.get(0), reduced_axes(call)
        keep = bool(call.attribute("keepdims", 1))
        shape = _drop(value.shape, axes, keep)
        known = None
        if (
            fold is not None
            and value.known is not None
            and value.dtype in _INT_LIMITS
            and len(axes) == value.known.ndim
        ):
            total = fold(list(value.known.reshape(-1)))
            known = None if total is None else np.full([1] * len(shape), total, dtype=object)
        return [_checked(call, TensorValue(value.dtype, shape, known))]

    return infer


def _arg(call: OperatorCall) -> list[TensorValue]:
    value = call.get(0)
    axis = call.axis(len(value.shape), 0)
    if value.shape and value.shape[axis] == 0:
        raise ShapeRefused("an empty axis has no largest or smallest element")
    return [TensorValue("int64", _drop(value.shape, [axis], bool(call.attribute("keepdims", 1))))]


def _softmax(call: OperatorCall) -> list[TensorValue]:
    call.axis(len(call.get(0).shape), -1)
    return _first_shape(call)


# ---- moving elements ----------------------------------------------------------------------------------------------


def _concat(call: OperatorCall) -> list[TensorValue]:
    values = [call.get(i) for i in range(len(call.inputs))]
    axis = call.axis(len(values[0].shape), 0)
    total: Size = 0
    for value in values:
        same = len(value.shape) == len(values[0].shape) and all(
            a == b for i, (a, b) in enumerate(zip(value.shape, values[0].shape, strict=True)) if i != axis
        )
        if not same:
            raise ShapeRefused("the inputs differ in an axis other than the joined one")
        total = total + value.shape[axis]
    shape = (*values[0].shape[:axis], total, *values[0].shape[axis + 1 :])
    parts = [value.known for value in values if value.known is not None]
    small = len(parts) == len(values) and sum(part.size for part in parts) <= MAX_KNOWN
    known = np.concatenate(parts, axis) if small else None
    return [_checked(call, TensorValue(_same_dtype(values), shape, known))]


def _shape_from(items: Sequence[Size]) -> tuple[Size, ...]:
    if not all(is_size(item) for item in items):
        raise ShapeRefused(f"a size is negative, or falls when the batch grows: {[str(item) for item in items]}")
    return tuple(items)


def _expand(call: OperatorCall) -> list[TensorValue]:
    value = call.get(0)
    shape = broadcast(value.shape, _shape_from(call.known(1)))
    known = None
    if (
        value.known is not None
        and all(isinstance(size, int) for size in shape)
        and bound(math.prod(shape), 1) <= MAX_KNOWN
    ):
        known = np.broadcast_to(value.known, [int(size) for size in shape if isinstance(size, int)])
    return [TensorValue(value.dtype, shape, known)]


def _reshape(call: OperatorCall) -> list[TensorValue]:
    value, wanted = call.get(0), call.known(1)
    if not call.attribute("allowzero", 0):
        wanted = [_copied(value, axis) if item == 0 else item for axis, item in enumerate(wanted)]
    if wanted.count(-1) > 1:
        raise ShapeRefused("more than one size is -1")
    if -1 in wanted:
        rest = math.prod(item for item in wanted if item != -1)
        inferred = divide(value.num_elements, rest)
        if inferred is None:
            raise ShapeRefused(f"{value.num_elements} elements cannot be divided by {rest} for every batch size")
        wanted = [inferred if item == -1 else item for item in wanted]
    shape = _shape_from(wanted)
    _equal_sizes(math.prod(shape), value.num_elements, "the numbers of elements before and after")
    return [TensorValue(value.dtype, shape, _reshape_known(value, shape))]


def _copied(value: TensorValue, axis: int) -> Size:
    if axis >= len(value.shape):
        raise ShapeRefused("a size of 0 copies from an axis that does not exist")
    return value.shape[axis]


def _reshape_known(value: TensorValue, shape: tuple[Size, ...]) -> Known | None:
    sizes = [size for size in shape if isinstance(size, int)]
    return None if value.known is None or len(sizes) != len(shape) else value.known.reshape(sizes)


def _squeeze(call: OperatorCall) -> list[TensorValue]:
    value = call.get(0)
    given = call.known_ints(1) if call.find(1) is not None else None
    if given is None:
        raise ShapeRefused("the axes must be given, because the batch size decides which sizes are 1")
    axes = [normal_axis(axis, len(value.shape)) for axis in given]
    if any(value.shape[axis] != 1 for axis in axes):
        raise ShapeRefused("an axis that is not of size 1 for every batch size cannot be dropped")
    shape = _drop(value.shape, axes, keep=False)
    return [TensorValue(value.dtype, shape, _reshape_known(value, shape))]


def _unsqueeze(call: OperatorCall) -> list[TensorValue]:
    value, given = call.get(0), call.known_ints(1)
    rank = len(value.shape) + len(given)
    axes = {normal_axis(axis, rank) for axis in given}
    if len(axes) != len(given):
        raise ShapeRefused("an axis is given twice")
    old = iter(value.shape)
    shape = tuple(1 if axis in axes else next(old) for axis in range(rank))
    return [TensorValue(value.dtype, shape, _reshape_known(value, shape))]


def _transpose(call: OperatorCall) -> list[TensorValue]:
    value = call.get(0)
    rank = len(value.shape)
    order = list(call.attribute("perm", range(rank - 1, -1, -1)))
    if sorted(order) != list(range(rank)):
        raise ShapeRefused("perm is not a permutation of the axes")
    known = None if value.known is None else value.known.transpose(order)
    return [TensorValue(value.dtype, tuple(value.shape[axis] for axis in order), known)]


def _gather(call: OperatorCall) -> list[TensorValue]:
    value, index = call.get(0), call.get(1)
    axis = call.axis(len(value.shape), 0)
    known = None
    if value.known is not None and index.known is not None:
        rows = np.array(call.known_ints(1), np.int64).reshape(index.known.shape)
        size = value.known.shape[axis]
        if rows.size and (rows.min() < -size or rows.max() >= size):
            raise ShapeRefused("an index is out of range")
        known = np.asarray(value.known.take(rows, axis), dtype=object)
    return [
        _checked(call, TensorValue(value.dtype, (*value.shape[:axis], *index.shape, *value.shape[axis + 1 :]), known))
    ]


def _gather_elements(call: OperatorCall) -> list[TensorValue]:
    value, index = call.get(0), call.get(1)
    axis = call.axis(len(value.shape), 0)
    _check_index(value, index, axis)
    return [TensorValue(value.dtype, index.shape)]


def _check_index(value: TensorValue, index: TensorValue, axis: int) -> None:
    if len(index.shape) != len(value.shape):
        raise ShapeRefused("index and data must have the same number of dimensions")
    for other, (a, b) in enumerate(zip(index.shape, value.shape, strict=True)):
        if other != axis and not at_most(a, b):
            raise ShapeRefused("the index is larger than the data")


def _scatter_elements(call: OperatorCall) -> list[TensorValue]:
    value, index, updates = call.get(0), call.get(1), call.get(2)
    _check_index(value, index, call.axis(len(value.shape), 0))
    if index.shape != updates.shape:
        raise ShapeRefused("index and updates must have the same shape")
    return [TensorValue(_same_dtype([value, updates]), value.shape)]


def _scatter_cost(call: OperatorCall, outputs: Sequence[TensorValue]) -> Size:
    return outputs[0].num_elements + call.get(2).num_elements


def slice_bounds(call: OperatorCall) -> list[tuple[int, Size, Size, int]]:
    """For each axis that a Slice cuts: axis, start, end, step; as given, not clamped."""
    rank = len(call.get(0).shape)
    starts, ends = call.known(1), call.known(2)
    axes = call.known_ints(3) if call.find(3) is not None else list(range(len(starts)))
    steps = call.known_ints(4) if call.find(4) is not None else [1] * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        raise ShapeRefused("starts, ends, axes and steps do not fit together")
    axes = [normal_axis(axis, rank) for axis in axes]
    if len(set(axes)) != len(axes):
        raise ShapeRefused("an axis is given twice")
    return list(zip(axes, starts, ends, steps, strict=True))


def is_whole(start: Size, end: Size, step: int, size: Size, max_n: int) -> bool:
    """Whether a slice takes a whole axis, in order, for every batch size."""
    reaches_end = end == size or (isinstance(end, int) and (end >= _SLICE_END or end >= bound(size, max_n)))
    return start == 0 and step == 1 and reaches_end


def _slice(call: OperatorCall) -> list[TensorValue]:
    value = call.get(0)
    shape, picks = list(value.shape), [slice(None)] * len(value.shape)
    for axis, start, end, step in slice_bounds(call):
        size = shape[axis]
        if is_whole(start, end, step, size, call.max_n):
            continue
        if isinstance(size, Poly) or isinstance(start, Poly) or isinstance(end, Poly):
            raise ShapeRefused("an axis that depends on the batch size cannot be cut")
        if step < 0 and start < -size:
            raise ShapeRefused("a slice with a negative step starts before its axis")
        # Python clamps as ONNX does, except for an end before the axis with a negative step: there ONNX means "all".
        stop = None if step < 0 and end < -size else end
        picks[axis] = slice(start, stop, step)
        shape[axis] = len(range(*picks[axis].indices(size)))
    known = None if value.known is None else value.known[tuple(picks)]
    return [TensorValue(value.dtype, tuple(shape), known)]


def _split(call: OperatorCall) -> list[TensorValue]:
    value = call.get(0)
    axis = call.axis(len(value.shape), 0)
    size = value.shape[axis]
    if isinstance(size, Poly):
        raise ShapeRefused("an axis that depends on the batch size cannot be split")
    if call.find(1) is not None:
        parts = call.known_ints(1)
    else:
        each = -(-size // call.num_outputs)
        parts = [each] * (call.num_outputs - 1)
        parts.append(size - sum(parts))
    if len(parts) != call.num_outputs or sum(parts) != size or min(parts) < 0:
        raise ShapeRefused(f"the parts {parts} do not add up to the axis size {size}")
    return [TensorValue(value.dtype, (*value.shape[:axis], part, *value.shape[axis + 1 :])) for part in parts]


def padded(call: OperatorCall) -> list[tuple[int, int]]:
    """For each axis of a Pad: the number of elements added before and after (negative: removed)."""
    rank = len(call.get(0).shape)
    pads = call.known_ints(1)
    axes = call.known_ints(3) if call.find(3) is not None else list(range(rank))
    axes = [normal_axis(axis, rank) for axis in axes]
    if len(pads) != 2 * len(axes) or len(set(axes)) != len(axes):
        raise ShapeRefused("pads and axes do not fit together")
    result = [(0, 0)] * rank
    for i, axis in enumerate(axes):
        result[axis] = (pads[i], pads[len(axes) + i])
    return result


def _pad(call: OperatorCall) -> list[TensorValue]:
    if call.attribute("mode", b"constant") not in (b"constant", "constant"):
        raise ShapeRefused("only constant padding is allowed")
    value = call.get(0)
    shape = [size + before + after for size, (before, after) in zip(value.shape, padded(call), strict=True)]
    return [TensorValue(value.dtype, _shape_from(shape))]


def _tile(call: OperatorCall) -> list[TensorValue]:
    value, repeats = call.get(0), _shape_from(call.known(1))
    if len(repeats) != len(value.shape):
        raise ShapeRefused("one repeat for each axis is needed")
    return [TensorValue(value.dtype, tuple(size * repeat for size, repeat in zip(value.shape, repeats, strict=True)))]


# ---- making tensors -----------------------------------------------------------------------------------------------


def array_value(array: npt.NDArray[Any]) -> TensorValue:
    """The value of a constant."""
    if array.dtype.name not in ITEM_BYTES:
        raise ShapeRefused(f"dtype {array.dtype.name} is not allowed; plans use {', '.join(ITEM_BYTES)}")
    known = None
    if array.dtype.name != "float32" and array.size <= MAX_KNOWN:
        known = _as_known(array.reshape(-1).tolist()).reshape(array.shape)
    return TensorValue(array.dtype.name, tuple(array.shape), known)


def _constant(call: OperatorCall) -> list[TensorValue]:
    forms = {
        "value": None,
        "value_int": np.int64,
        "value_ints": np.int64,
        "value_float": np.float32,
        "value_floats": np.float32,
    }
    given = [name for name in call.attributes if name in forms]
    if len(given) != 1 or len(call.attributes) != 1:
        raise ShapeRefused(f"a constant needs exactly one of {', '.join(forms)}")
    return [array_value(np.asarray(call.attributes[given[0]], forms[given[0]]))]


def _constant_of_shape(call: OperatorCall) -> list[TensorValue]:
    shape = _shape_from(call.known(0))
    fill = np.asarray(call.attribute("value", np.zeros(1, np.float32)))
    if fill.size != 1:
        raise ShapeRefused(f"the value must have one element, not {fill.size}")
    value = array_value(fill.reshape(1))
    known = None
    total = math.prod(shape)
    if value.known is not None and isinstance(total, int) and total <= MAX_KNOWN:
        known = np.full([int(size) for size in shape if isinstance(size, int)], value.known[0], dtype=object)
    return [TensorValue(value.dtype, shape, known)]


def _range(call: OperatorCall) -> list[TensorValue]:
    start, limit, delta = (call.known_number(index) for index in range(3))
    if delta == 1 and is_size(limit - start):
        count = limit - start
    elif isinstance(start, int) and isinstance(limit, int) and isinstance(delta, int) and delta != 0:
        count = max(0, -((start - limit) // delta))
    else:
        raise ShapeRefused("the number of elements depends on the batch size in a way that cannot be bounded")
    known = None
    if isinstance(count, int) and count <= MAX_KNOWN:
        known = _as_known([start + i * delta for i in range(count)])
    return [_checked(call, TensorValue(call.get(0).dtype, (count,), known))]


def _shape(call: OperatorCall) -> list[TensorValue]:
    sizes = call.get(0).shape[call.attribute("start", 0) : call.attribute("end", None)]
    return [_checked(call, TensorValue("int64", (len(sizes),), _as_known(sizes)))]


def _size(call: OperatorCall) -> list[TensorValue]:
    total = np.empty((), dtype=object)
    total[()] = call.get(0).num_elements
    return [_checked(call, TensorValue("int64", (), total))]


# ---- costs --------------------------------------------------------------------------------------------------------


def _written(call: OperatorCall, outputs: Sequence[TensorValue]) -> Size:
    return sum((value.num_elements for value in outputs), start=0)


def _read_and_written(call: OperatorCall, outputs: Sequence[TensorValue]) -> Size:
    return call.get(0).num_elements + outputs[0].num_elements


def _five_written(call: OperatorCall, outputs: Sequence[TensorValue]) -> Size:
    return 5 * outputs[0].num_elements


def _free(call: OperatorCall, outputs: Sequence[TensorValue]) -> Size:
    return 0


def _conv_scratch(call: OperatorCall, outputs: Sequence[TensorValue]) -> Size:
    """The unfolded windows of one image, as in im2col."""
    _, w, _, kernel = _conv_parts(call)
    return w.shape[1] * math.prod(kernel) * math.prod(outputs[0].shape[2:])


def _conv_transpose_scratch(call: OperatorCall, outputs: Sequence[TensorValue]) -> Size:
    x, w, _, kernel = _conv_parts(call)
    return w.shape[1] * math.prod(kernel) * math.prod(x.shape[2:])


def _row(infer: Infer, summary: str, cost: Cost = _written, scratch: Cost = _free) -> Operator:
    return Operator(infer, cost, summary, scratch)


_UNARY = _elementwise()
_ARITHMETIC = "arithmetic"
_FUNCTION = "function of each element"
_COMPARE = "comparison"
_MOVE = "moves elements"
_MAKE = "makes a tensor"
_SHAPE = "shape arithmetic"
_PRODUCT = "product"
_REDUCE = "reduces along axes"
_POOL = "pooling"

OPERATORS: Mapping[str, Operator] = {
    "Abs": _row(_UNARY, _FUNCTION),
    "Add": _row(_elementwise(fold=lambda a, b: a + b), _ARITHMETIC),
    "And": _row(_elementwise("bool", lambda a, b: bool(a and b)), _COMPARE),
    "ArgMax": _row(_arg, "index of the largest", _read_and_written),
    "ArgMin": _row(_arg, "index of the smallest", _read_and_written),
    "AveragePool": _row(_pool, _POOL, _pool_cost),
    "Cast": _row(_cast, "changes the dtype"),
    "Clip": _row(_clip, _FUNCTION),
    "Concat": _row(_concat, _MOVE),
    "Constant": _row(_constant, _MAKE, _free),
    "ConstantOfShape": _row(_constant_of_shape, _MAKE),
    "Conv": _row(_conv, "convolution", _conv_cost, _conv_scratch),
    "ConvTranspose": _row(_conv_transpose, "transposed convolution", _conv_transpose_cost, _conv_transpose_scratch),
    "Cos": _row(_UNARY, _FUNCTION),
    "Div": _row(_divide(_truncated), _ARITHMETIC),
    "Elu": _row(_UNARY, _FUNCTION),
    "Equal": _row(_elementwise("bool", _by_order(0)), _COMPARE),
    "Erf": _row(_UNARY, _FUNCTION),
    "Exp": _row(_UNARY, _FUNCTION),
    "Expand": _row(_expand, _MOVE),
    "Floor": _row(_UNARY, _FUNCTION),
    "Gather": _row(_gather, _MOVE),
    "GatherElements": _row(_gather_elements, _MOVE),
    "Gemm": _row(_gemm, _PRODUCT, _gemm_cost),
    "GlobalAveragePool": _row(_global_pool, _POOL, _read_and_written),
    "Greater": _row(_elementwise("bool", _by_order(1)), _COMPARE),
    "GreaterOrEqual": _row(_elementwise("bool", _by_order(0, 1)), _COMPARE),
    "Identity": _row(_identity, _MOVE),
    "LeakyRelu": _row(_UNARY, _FUNCTION),
    "Less": _row(_elementwise("bool", _by_order(-1)), _COMPARE),
    "LessOrEqual": _row(_elementwise("bool", _by_order(-1, 0)), _COMPARE),
    "Log": _row(_UNARY, _FUNCTION),
    "LogSoftmax": _row(_softmax, "softmax", _five_written),
    "MatMul": _row(_matmul, _PRODUCT, _matmul_cost),
    "Max": _row(_elementwise(fold=_larger), _ARITHMETIC),
    "MaxPool": _row(_pool, _POOL, _pool_cost),
    "Min": _row(_elementwise(fold=_smaller), _ARITHMETIC),
    "Mod": _row(_divide(_modulo), _ARITHMETIC),
    "Mul": _row(_elementwise(fold=lambda a, b: a * b), _ARITHMETIC),
    "Neg": _row(_elementwise(fold=lambda a: -a), _ARITHMETIC),
    "Not": _row(_elementwise("bool", lambda a: not a), _COMPARE),
    "Or": _row(_elementwise("bool", lambda a, b: bool(a or b)), _COMPARE),
    "Pad": _row(_pad, _MOVE),
    "Pow": _row(_pow, _ARITHMETIC),
    "Range": _row(_range, _MAKE),
    "Reciprocal": _row(_UNARY, _ARITHMETIC),
    "ReduceMax": _row(_reduce(lambda items: _larger(*items) if items else None), _REDUCE, _read_and_written),
    "ReduceMean": _row(_reduce(), _REDUCE, _read_and_written),
    "ReduceMin": _row(_reduce(lambda items: _smaller(*items) if items else None), _REDUCE, _read_and_written),
    "ReduceProd": _row(_reduce(math.prod), _REDUCE, _read_and_written),
    "ReduceSum": _row(_reduce(sum), _REDUCE, _read_and_written),
    "ReduceSumSquare": _row(_reduce(), _REDUCE, _read_and_written),
    "Relu": _row(_UNARY, _FUNCTION),
    "Reshape": _row(_reshape, _MOVE),
    "ScatterElements": _row(_scatter_elements, _MOVE, _scatter_cost),
    "Shape": _row(_shape, _SHAPE, _free),
    "Sigmoid": _row(_UNARY, _FUNCTION),
    "Sign": _row(_UNARY, _FUNCTION),
    "Sin": _row(_UNARY, _FUNCTION),
    "Size": _row(_size, _SHAPE, _free),
    "Slice": _row(_slice, _MOVE),
    "Softmax": _row(_softmax, "softmax", _five_written),
    "Softplus": _row(_UNARY, _FUNCTION),
    "Split": _row(_split, _MOVE),
    "Sqrt": _row(_UNARY, _FUNCTION),
    "Squeeze": _row(_squeeze, _MOVE),
    "Sub": _row(_elementwise(fold=lambda a, b: a - b), _ARITHMETIC),
    "Sum": _row(_elementwise(), _ARITHMETIC),
    "Tanh": _row(_UNARY, _FUNCTION),
    "Tile": _row(_tile, _MOVE),
    "Transpose": _row(_transpose, _MOVE),
    "Trilu": _row(_first_shape, _MOVE),
    "Unsqueeze": _row(_unsqueeze, _MOVE),
    "Where": _row(_where, "chooses by a condition"),
}
"""Operator name -> rule. Plans use no other operators."""
