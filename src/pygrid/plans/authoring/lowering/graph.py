"""A builder of small, deterministic ONNX graphs.

Nodes are kept in the order in which they are made. Equal nodes on equal inputs exist once, and equal constants exist
once. At the end, everything that no output needs is dropped. Names follow from the order alone, so equal builds make
equal bytes.

A value has two shapes. ``shape`` is what the traced program sees. ``dims`` is what the ONNX value has. It can be
smaller if broadcasting leads to ``shape`` anyway: the gradient of a mean is one number, not a matrix of copies.
`LoweredGraph.full` makes the copies only where an operator needs them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
import sympy
from onnx import TensorProto, helper, numpy_helper

from pygrid import codes
from pygrid.errors import AuthoringError
from pygrid.plans.manifest import DType, Port

OPSET = 20
IR_VERSION = 10

Dim: TypeAlias = int | Any
"""A size: a number, or a sympy expression in the batch symbol."""
Dims: TypeAlias = tuple[Dim, ...]
Array = npt.NDArray[np.generic]

_ONNX_DTYPES: dict[DType, int] = {
    "float32": TensorProto.FLOAT,
    "int64": TensorProto.INT64,
    "int32": TensorProto.INT32,
    "bool": TensorProto.BOOL,
}
_INT64_MAX = 2**63 - 1
MAX_COPIED_BYTES = 1024
"""Repeated constants up to this size are stored; an operator makes larger ones when the plan runs."""
_MAX_KEPT_BYTES = 1 << 20
"""Repeated numbers above this size are made in each run, not once when a runtime loads the graph."""


@dataclass(frozen=True)
class LoweredValue:
    """A named array of the graph; the module's docstring explains the two shapes."""

    name: str
    dtype: DType
    dims: Dims
    shape: Dims

    @property
    def rank(self) -> int:
        return len(self.shape)


@dataclass(frozen=True)
class Node:
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class ClassLimit:
    """The integers that an operator takes as classes or as rows of a table."""

    num_classes: int
    others: frozenset[int]
    """Values outside ``[0, num_classes)`` that it takes, too: the ``ignore_index`` of a loss."""


def as_dim(size: Any) -> Dim:
    """A size from a number, a torch symbol or a sympy expression; plain numbers become ``int``."""
    expr = getattr(getattr(size, "node", None), "expr", size)
    if isinstance(expr, int):
        return expr
    if isinstance(expr, sympy.Integer):
        return int(expr)
    return expr


def as_dims(sizes: Sequence[Any]) -> Dims:
    return tuple(as_dim(size) for size in sizes)


def broadcast(*shapes: Dims) -> Dims:
    """The shape that these shapes broadcast to; they are known to fit."""
    rank = max((len(shape) for shape in shapes), default=0)
    result: list[Dim] = [1] * rank
    for shape in shapes:
        for axis, size in enumerate(shape, start=rank - len(shape)):
            if result[axis] == 1:
                result[axis] = size
    return tuple(result)


class LoweredGraph:
    """One ONNX graph under construction."""

    def __init__(
        self, symbols: Mapping[sympy.Symbol, str], *, bounded: Set[str] = frozenset(), noise_prefix: str = "noise/"
    ) -> None:
        """Start with an empty graph.

        Args:
            symbols: names of the symbolic sizes that can appear, for example ``{s0: "batch"}``.
            bounded: integer inputs whose values are never negative.
            noise_prefix: begin of the names of inputs for noise; graphs that share names share shapes.
        """
        self.symbols = dict(symbols)
        self.noise_prefix = noise_prefix
        self.bounded = bounded
        self.nodes: list[Node] = []
        self.inputs: list[Port] = []
        self.outputs: list[Port] = []
        self.limits: dict[str, ClassLimit] = {}
        """What operators require of integer inputs, by name."""
        self._constants: dict[str, Array] = {}
        self._exact: dict[str, float] = {}
        self.exact: dict[str, float] = {}
        """For the constants of a finished graph that are one float32 number: the number before it was rounded."""
        self._made: dict[tuple[Any, ...], tuple[LoweredValue, ...]] = {}
        self._producer: dict[str, Node] = {}
        self._values: dict[str, LoweredValue] = {}
        self._sources: dict[sympy.Symbol, tuple[LoweredValue, int]] = {}
        self._results: list[tuple[str, LoweredValue]] = []

    # -- inputs, constants, outputs -----------------------------------------------------------------------------------

    def input(self, name: str, dtype: DType, shape: Sequence[Any], *, listed: bool = True) -> LoweredValue:
        """An input; if it is not listed, no output may need it in the end."""
        dims = as_dims(shape)
        value = LoweredValue(name, dtype, dims, dims)
        if listed:
            self.inputs.append(Port(name, dtype, self._port_shape(dims)))
        self._values[name] = value
        for axis, size in enumerate(dims):
            if isinstance(size, sympy.Symbol) and listed:
                self._sources.setdefault(size, (value, axis))
        return value

    def constant(self, array: Any, dtype: DType | None = None) -> LoweredValue:
        """A constant; equal constants are stored once."""
        data = np.asarray(array, dtype=dtype)
        kind: DType = str(data.dtype)  # type: ignore[assignment]
        if kind not in _ONNX_DTYPES:
            raise AuthoringError(
                f"a constant has dtype {kind}; a plan supports float32, int64, int32 and bool", code=codes.PLAN_DTYPE
            )
        key = ("constant", kind, data.shape, data.tobytes())
        if key not in self._made:
            name = f"c{len(self._constants)}"
            self._constants[name] = data
            value = LoweredValue(name, kind, data.shape, data.shape)
            self._values[name] = value
            self._made[key] = (value,)
        return self._made[key][0]

    def _recast(self, value: LoweredValue, data: Array) -> LoweredValue:
        """A constant of the same numbers in another shape."""
        made = self.constant(data)
        if value.name in self._exact:
            self._exact.setdefault(made.name, self._exact[value.name])
        return made

    def array(self, value: LoweredValue) -> Array | None:
        """The content of a constant, or None if the value is computed."""
        return self._constants.get(value.name)

    def scalar(self, number: float | int | bool, dtype: DType) -> LoweredValue:
        value = self.constant(np.array(number, dtype=dtype))
        if dtype == "float32":
            self._exact.setdefault(value.name, float(number))
        return value

    def ints(self, numbers: Sequence[int]) -> LoweredValue:
        """A constant int64 vector, for shapes and axes of operators."""
        return self.constant(np.array(list(numbers), dtype=np.int64))

    def output(self, name: str, value: LoweredValue) -> None:
        value = self.full(value)
        self._results.append((name, value))
        self.outputs.append(Port(name, value.dtype, self._port_shape(value.shape)))

    def _port_shape(self, dims: Dims) -> tuple[int | str, ...]:
        shape: list[int | str] = []
        for size in dims:
            if isinstance(size, int):
                shape.append(size)
            elif size in self.symbols:
                shape.append(self.symbols[size])
            else:
                raise AuthoringError(
                    f"a port of the plan has size {size}; only plain numbers and the batch size are possible",
                    code=codes.PLAN_SHAPE,
                )
        return tuple(shape)

    # -- nodes --------------------------------------------------------------------------------------------------------

    def node(
        self, op: str, inputs: Sequence[LoweredValue | None], dims: Sequence[Any], dtype: DType | None = None,
        **attributes: Any,
    ) -> LoweredValue:  # fmt: skip
        """The single output of an operator, by default of the first input's dtype; attributes of None are left out."""
        return self.multi(op, inputs, [(as_dims(dims), dtype)], **attributes)[0]

    def multi(
        self, op: str, inputs: Sequence[LoweredValue | None], outputs: Sequence[tuple[Dims, DType | None]],
        **attributes: Any,
    ) -> tuple[LoweredValue, ...]:  # fmt: skip
        """The outputs of an operator that has several."""
        names = tuple("" if value is None else value.name for value in inputs)
        kept = tuple(
            sorted((k, tuple(v) if isinstance(v, list) else v) for k, v in attributes.items() if v is not None)
        )
        key = (op, names, kept, len(outputs))
        if key in self._made:
            return self._made[key]
        first = next((value.dtype for value in inputs if value is not None), None)
        values: list[LoweredValue] = []
        for position, (dims, dtype) in enumerate(outputs):
            kind = dtype or first
            if kind is None:
                raise ValueError(f"{op} has no input, so its dtype must be given")
            values.append(LoweredValue(f"t{len(self.nodes)}_{position}", kind, dims, dims))
        node = Node(op, names, tuple(value.name for value in values), kept)
        self.nodes.append(node)
        for value in values:
            self._producer[value.name] = node
            self._values[value.name] = value
        self._made[key] = tuple(values)
        return self._made[key]

    def producer(self, value: LoweredValue) -> Node | None:
        """The node that computes a value; None for inputs and constants."""
        return self._producer.get(value.name)

    def operand(self, node: Node, position: int) -> LoweredValue:
        """An input of a node, as a value."""
        return self._values[node.inputs[position]]

    def is_never_negative(self, value: LoweredValue) -> bool:
        """Whether integers are known to be >= 0: elements of a class input, only moved and picked, not computed."""
        return self._origin(value) in self.bounded

    def limit(self, value: LoweredValue, num_classes: Dim, *others: int) -> None:
        """Note that integers must be in ``[0, num_classes)``, or one of others, if they are elements of an input."""
        name = self._origin(value)
        if isinstance(num_classes, int) and name in {port.name for port in self.inputs}:
            known = self.limits.get(name, ClassLimit(num_classes, frozenset(others)))
            self.limits[name] = ClassLimit(min(known.num_classes, num_classes), known.others.intersection(others))

    def _origin(self, value: LoweredValue) -> str:
        """The name of the value whose elements these are, only moved and picked, not computed."""
        while (node := self.producer(value)) is not None and node.op in (
            "Reshape",
            "Transpose",
            "Slice",
            "Gather",
            "Cast",
        ):
            value = self.operand(node, 0)
        return value.name

    def refine_sigmoid(self, value: LoweredValue) -> None:
        """Make a sigmoid ``1 / (1 + exp(-x))``, before its logarithm is taken.

        Below -17, ONNX Runtime's operator is 0, and torch's is not: the logarithm and the gradient would be others.
        """
        node = self._producer.get(self._origin(value))
        if node is None or node.op != "Sigmoid":
            return
        (result,) = node.outputs
        steps = ("Neg", node.inputs), ("Exp", ()), ("Add", (self.scalar(1.0, "float32").name,)), ("Reciprocal", ())
        names = [f"{result}_{number}" for number in range(3)] + [result]
        made = [
            Node(op, (*names[place - 1 : place], *others), (names[place],), ())
            for place, (op, others) in enumerate(steps)
        ]
        place = self.nodes.index(node)
        self.nodes[place : place + 1] = made
        self._producer[result] = made[-1]

    # -- shapes -------------------------------------------------------------------------------------------------------

    def full(self, value: LoweredValue) -> LoweredValue:
        """The value with all copies that broadcasting saved: ``dims == shape``."""
        if value.dims == value.shape:
            return value
        return self.expand_to(value, value.shape)

    def expand_to(self, value: LoweredValue, shape: Dims) -> LoweredValue:
        """The value, repeated to a shape. Copies of a constant are stored only if they are few."""
        data = self.array(value)
        if data is not None and all(isinstance(size, int) for size in shape):
            num_bytes = math.prod(shape) * data.itemsize
            if num_bytes <= MAX_COPIED_BYTES:
                return self._recast(value, np.broadcast_to(data, [int(size) for size in shape]).copy())
            if num_bytes > _MAX_KEPT_BYTES and data.size == 1:
                value = self._made_in_each_run(value)
        return self.node("Expand", [value, self.shape_vector(shape)], shape)

    def _made_in_each_run(self, value: LoweredValue) -> LoweredValue:
        """The same number, plus zero times the batch size.

        A runtime computes what depends on constants alone when it loads a graph, and keeps the result: zeros of the
        size of an embedding would take its memory twice. The batch size is only known in a run.
        """
        if value.dtype == "bool" or not self._sources:
            return value
        size = self.node("Squeeze", [self.size_vector(next(iter(self._sources))), self.ints([0])], ())
        nothing = self.node("Mul", [self.cast(size, value.dtype), self.scalar(0, value.dtype)], ())
        if not self._constants[value.name].any():
            return nothing
        return self.node("Add", [nothing, replace(value, shape=value.dims)], value.dims)

    def shape_vector(self, dims: Dims) -> LoweredValue:
        """A shape as an int64 vector, computed from the batch size where needed."""
        if all(isinstance(size, int) for size in dims):
            return self.ints([int(size) for size in dims])
        parts: list[LoweredValue] = []
        run: list[int] = []
        for size in dims:
            if isinstance(size, int):
                run.append(size)
                continue
            if run:
                parts.append(self.ints(run))
                run = []
            parts.append(self.size_vector(size))
        if run:
            parts.append(self.ints(run))
        return parts[0] if len(parts) == 1 else self.node("Concat", parts, [len(dims)], axis=0)

    def size_vector(self, size: Dim) -> LoweredValue:
        """One size as an int64 vector of length 1."""
        if isinstance(size, int) or size.is_Integer:
            return self.ints([int(size)])
        if isinstance(size, sympy.Symbol):
            source, axis = self._sources[size]
            return self.node("Shape", [source], [1], "int64", start=axis, end=axis + 1)
        if isinstance(size, sympy.Add | sympy.Mul):
            op = "Add" if isinstance(size, sympy.Add) else "Mul"
            terms = [self.size_vector(arg) for arg in size.args]
            total = terms[0]
            for term in terms[1:]:
                total = self.node(op, [total, term], [1])
            return total
        if type(size).__name__ == "FloorDiv":
            return self.node("Div", [self.size_vector(arg) for arg in size.args], [1])
        if isinstance(size, sympy.Pow) and size.exp.is_Integer and size.exp > 1:
            base = self.size_vector(size.base)
            total = base
            for _ in range(int(size.exp) - 1):
                total = self.node("Mul", [total, base], [1])
            return total
        raise AuthoringError(
            f"the size {size} depends on the batch size in a way that a plan cannot compute", code=codes.PLAN_SHAPE
        )

    def reshape(self, value: LoweredValue, shape: Dims) -> LoweredValue:
        """The same elements in another shape; a symbolic size costs nothing where -1 or 0 can represent it."""
        value = self.full(value)
        while (node := self.producer(value)) is not None and node.op == "Reshape":
            value = self.operand(node, 0)
        if value.shape == shape:
            return value
        data = self.array(value)
        if data is not None:
            return self._recast(value, data.reshape([int(size) for size in shape]))
        target: list[int] = []
        for axis, size in enumerate(shape):
            if isinstance(size, int):
                target.append(size)
            elif axis < value.rank and value.shape[axis] == size:
                target.append(0)
            else:
                target.append(-1)
        if target.count(-1) > 1:
            return self.node("Reshape", [value, self.shape_vector(shape)], shape)
        if -1 not in target and target.count(0) == 1:
            target[target.index(0)] = -1  # one spelling per meaning, so that equal reshapes are found equal
        return self.node("Reshape", [value, self.ints(target)], shape)

    def transpose(self, value: LoweredValue, perm: Sequence[int]) -> LoweredValue:
        value = self.full(value)
        order = list(perm)
        node = self.producer(value)
        if node is not None and node.op == "Transpose":
            inner = dict(node.attributes)["perm"]
            value, order = self.operand(node, 0), [inner[axis] for axis in order]
        if order == list(range(len(order))):
            return value
        data = self.array(value)
        if data is not None:
            return self.constant(np.asarray(data.transpose(order), order="C"))
        shape = tuple(value.shape[axis] for axis in order)
        moved = [axis for axis in order if value.shape[axis] != 1]
        if moved == sorted(moved):
            return self.reshape(value, shape)  # only axes of length 1 move: the bytes stay
        return self.node("Transpose", [value], shape, perm=order)

    def slice(
        self, value: LoweredValue, axis: int, start: int, end: int | None, step: int = 1, *, size: Dim
    ) -> LoweredValue:
        value = self.full(value)
        if start == 0 and step == 1 and size == value.shape[axis]:
            return value
        shape = (*value.shape[:axis], size, *value.shape[axis + 1 :])
        stop = _INT64_MAX if end is None else end
        return self.node(
            "Slice", [value, self.ints([start]), self.ints([stop]), self.ints([axis]), self.ints([step])], shape
        )

    def cast(self, value: LoweredValue, dtype: DType) -> LoweredValue:
        if value.dtype == dtype:
            return value
        data = self.array(value)
        if data is not None:
            made = self.constant(data.astype(dtype))
        else:
            made = self.node("Cast", [value], value.dims, dtype, to=_ONNX_DTYPES[dtype])
        return replace(made, shape=value.shape)

    # -- the end ------------------------------------------------------------------------------------------------------

    def finish(self, name: str) -> onnx.ModelProto:
        """The model, without dead nodes; values are named by their position, outputs have their own names."""
        needed = {value.name for _, value in self._results}
        live: list[Node] = []
        for node in reversed(self.nodes):
            if any(output in needed for output in node.outputs):
                live.append(node)
                needed.update(name for name in node.inputs if name)
        live.reverse()

        names = {port.name: port.name for port in self.inputs}
        identities: list[tuple[str, str]] = []
        for output, value in self._results:
            if value.name in self._producer and value.name not in names:
                names[value.name] = output
            else:
                identities.append((value.name, output))
        constants = [key for key in self._constants if key in needed]
        names.update({key: f"const/{index}" for index, key in enumerate(constants)})
        self.exact = {names[key]: self._exact[key] for key in constants if key in self._exact}
        protos: list[onnx.NodeProto] = []
        for index, node in enumerate(live):
            for position, output in enumerate(node.outputs):
                names.setdefault(output, f"v{index}" if position == 0 else f"v{index}.{position}")
            protos.append(_proto(node, names, needed, index))
        for value_name, output in identities:
            protos.append(helper.make_node("Identity", [names[value_name]], [output], name=f"n{len(protos)}"))
        graph = helper.make_graph(
            protos,
            name,
            [_value_info(port) for port in self.inputs],
            [_value_info(port) for port in self.outputs],
            [numpy_helper.from_array(np.asarray(self._constants[key], order="C"), names[key]) for key in constants],
        )
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="pygrid"
        )


def _proto(node: Node, names: Mapping[str, str], needed: set[str], index: int) -> onnx.NodeProto:
    inputs = [names[name] if name else "" for name in node.inputs]
    outputs = [names[name] for name in node.outputs]
    while len(outputs) > 1 and node.outputs[len(outputs) - 1] not in needed and node.op != "Split":
        outputs.pop()  # trailing optional outputs that no node reads
    attributes = {key: list(value) if isinstance(value, tuple) else value for key, value in node.attributes}
    return helper.make_node(node.op, inputs, outputs, name=f"n{index}", **attributes)


def _value_info(port: Port) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(port.name, _ONNX_DTYPES[port.dtype], list(port.shape))
