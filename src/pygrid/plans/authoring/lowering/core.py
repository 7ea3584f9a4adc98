"""Walks a traced graph of ATen operators and calls one small function per operator for its ONNX nodes.

A lowering function is registered under the operator's name (``aten.mm.default``). It is called with the operator's own
arguments: arrays as `LoweredValue`, sizes as numbers or sympy expressions. It returns a `LoweredValue`, or a tuple of
them.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import sympy
import torch
from torch import fx

from pygrid import codes
from pygrid.errors import AuthoringError
from pygrid.plans.authoring.diagnostics import SourceLocation, authoring_error, described
from pygrid.plans.authoring.lowering.graph import Dim, Dims, LoweredGraph, LoweredValue, as_dim, as_dims, broadcast
from pygrid.plans.manifest import DType

MAX_CONSTANT_BYTES = 1 << 20
"""A larger folded constant is refused: weights and tables belong in the model, not in the plan."""

_MAX_STORED_BYTES = 1 << 14
"""A larger constant is stored only if no operators can make it."""

_DTYPES: dict[torch.dtype, DType] = {
    torch.float32: "float32",
    torch.int64: "int64",
    torch.int32: "int32",
    torch.bool: "bool",
}

Lowered = LoweredValue | tuple[LoweredValue | None, ...] | None
Lowering = Callable[..., Lowered]
AnyLowering = TypeVar("AnyLowering", bound=Lowering)
REGISTRY: dict[str, Lowering] = {}


def lowers(*names: str) -> Callable[[AnyLowering], AnyLowering]:
    """Register a lowering function for operators, by overload (``mm.default``) or for all overloads (``mm``)."""

    def register(function: AnyLowering) -> AnyLowering:
        for name in names:
            if name in REGISTRY:
                raise ValueError(f"{name} has two lowering functions")
            REGISTRY[name] = function
        return function

    return register


def find_lowering(target: Any) -> Lowering | None:
    """The lowering function for an ATen overload, or None."""
    if not isinstance(target, torch._ops.OpOverload) or target.namespace not in ("aten", "prims"):
        return None
    packet = target._schema.name.split("::")[1]
    return REGISTRY.get(f"{packet}.{target._overloadname}") or REGISTRY.get(packet)


def plan_dtype(dtype: torch.dtype) -> DType:
    if dtype not in _DTYPES:
        name = str(dtype).removeprefix("torch.")
        raise AuthoringError(
            f"{name} is not in the plan set (float32, int64, int32, bool); convert with .float() or .long()",
            code=codes.PLAN_DTYPE,
        )
    return _DTYPES[dtype]


class Context:
    """The tools of a lowering function: the graph, and helpers that know both shapes of a value."""

    def __init__(self, graph: LoweredGraph) -> None:
        self.graph = graph
        self.node: fx.Node
        self.full = graph.full
        self.reshape = graph.reshape
        self.transpose = graph.transpose
        self.cast = graph.cast
        self.ints = graph.ints

    @property
    def shape(self) -> Dims:
        """The shape of the current operator's (first) result."""
        return as_dims(self._meta().shape)

    @property
    def dtype(self) -> DType:
        """The dtype of the current operator's (first) result."""
        return plan_dtype(self._meta().dtype)

    def _meta(self) -> torch.Tensor:
        meta = self.node.meta["val"]
        return meta[0] if isinstance(meta, tuple | list) else meta

    def op(
        self, name: str, inputs: Sequence[LoweredValue | None], dims: Sequence[Any], dtype: DType | None = None,
        **attrs: Any,
    ) -> LoweredValue:  # fmt: skip
        """One operator on exactly these inputs; the caller makes inputs full if the operator does not broadcast."""
        return self.graph.node(name, inputs, dims, dtype, **attrs)

    def number(self, number: Any, dtype: DType) -> LoweredValue:
        """A scalar from a Python number or from an expression in the batch size."""
        if isinstance(number, sympy.Basic) and not number.is_number:
            return self._symbolic(number, dtype)
        plain = bool(number) if dtype == "bool" else float(number) if dtype == "float32" else int(number)
        return self.graph.scalar(plain, dtype)

    def _symbolic(self, expr: sympy.Basic, dtype: DType) -> LoweredValue:
        kind = type(expr).__name__
        if kind in ("ToFloat", "TruncToInt"):
            return self.number(expr.args[0], dtype)
        if kind in ("IntTrueDiv", "FloatTrueDiv"):
            return self.elementwise("Div", [self.number(arg, "float32") for arg in expr.args], "float32")
        if isinstance(expr, sympy.Pow) and expr.exp == -1:
            return self.elementwise("Reciprocal", [self.number(expr.base, "float32")], "float32")
        if isinstance(expr, sympy.Add | sympy.Mul) and dtype == "float32":
            op = "Add" if isinstance(expr, sympy.Add) else "Mul"
            total, *rest = [self.number(arg, dtype) for arg in expr.args]
            for term in rest:
                total = self.elementwise(op, [total, term], dtype)
            return total
        size = self.graph.size_vector(as_dim(expr))
        return self.cast(self.graph.node("Squeeze", [size, self.ints([0])], ()), dtype)

    def value(self, operand: Any, dtype: DType) -> LoweredValue:
        """An operand of an elementwise operator, cast to a dtype."""
        if isinstance(operand, LoweredValue):
            return self.cast(operand, dtype)
        return self.number(operand, dtype)

    def elementwise(self, name: str, inputs: Sequence[LoweredValue], dtype: DType, **attrs: Any) -> LoweredValue:
        """An elementwise operator on inputs as small as broadcasting allows; the result can be small too."""
        shape = broadcast(*[value.shape for value in inputs])
        dims = broadcast(*[value.dims for value in inputs])
        return replace(self.graph.node(name, list(inputs), dims, dtype, **attrs), shape=shape)

    def binary(self, name: str, a: Any, b: Any, dtype: DType | None = None) -> LoweredValue:
        """An arithmetic operator in ``dtype``, by default that of the current result."""
        kind = dtype or self.dtype
        return self.elementwise(name, [self.value(a, kind), self.value(b, kind)], kind)

    def add(self, a: Any, b: Any) -> LoweredValue:
        return self._simplified("Add", a, b, 0.0)

    def sub(self, a: Any, b: Any) -> LoweredValue:
        if is_number(b, 0):
            return self.value(a, self.dtype)
        return self.binary("Sub", a, b)

    def mul(self, a: Any, b: Any) -> LoweredValue:
        return self._simplified("Mul", a, b, 1.0)

    def div(self, a: Any, b: Any) -> LoweredValue:
        if is_number(b, 1):
            return self.value(a, self.dtype)
        return self.binary("Div", a, b)

    def _simplified(self, name: str, a: Any, b: Any, neutral: float) -> LoweredValue:
        for one, other in ((a, b), (b, a)):
            if isinstance(one, LoweredValue) and self._is_scalar(other, neutral):
                return self.value(one, self.dtype)
        return self.binary(name, a, b)

    def _is_scalar(self, operand: Any, number: float) -> bool:
        if isinstance(operand, LoweredValue):
            data = self.graph.array(operand)
            return data is not None and operand.dims == () and bool(data == number)
        return is_number(operand, number)

    def reduce(self, name: str, value: LoweredValue, axes: Sequence[int], *, keepdim: bool = False) -> LoweredValue:
        """A reduction over axes; over all axes if none are given."""
        value = self.full(value)
        wanted = [axis % value.rank for axis in axes] if axes else list(range(value.rank))
        if not wanted:
            return value
        dims = tuple(1 if i in wanted else size for i, size in enumerate(value.shape) if keepdim or i not in wanted)
        if name in ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin"):
            return self.op(name, [value, self.ints(sorted(wanted))], dims, keepdims=int(keepdim))
        raise ValueError(f"{name} is not a reduction")

    def matmul(self, a: LoweredValue, b: LoweredValue) -> LoweredValue:
        """The product of two matrices (transposes of the operands cost nothing), or of two stacks of matrices."""
        a, b = self.full(a), self.full(b)
        dims = (*a.shape[:-1], b.shape[-1])
        if a.rank == 2 and b.rank == 2:
            (a, trans_a), (b, trans_b) = self._untransposed(a), self._untransposed(b)
            if trans_a or trans_b:
                return self.op("Gemm", [a, b], dims, transA=int(trans_a), transB=int(trans_b))
        return self.op("MatMul", [a, b], dims)

    def gemm(self, a: LoweredValue, b: LoweredValue, bias: LoweredValue) -> LoweredValue:
        """``a @ b + bias``; the bias broadcasts."""
        a, b = self.full(a), self.full(b)
        dims = (a.shape[0], b.shape[1])
        (a, trans_a), (b, trans_b) = self._untransposed(a), self._untransposed(b)
        return self.op("Gemm", [a, b, bias], dims, transA=int(trans_a), transB=int(trans_b))

    def _untransposed(self, value: LoweredValue) -> tuple[LoweredValue, bool]:
        node = self.graph.producer(value)
        if node is not None and node.op == "Transpose" and value.rank == 2:
            return self.graph.operand(node, 0), True
        return value, False


def is_number(operand: Any, number: float) -> bool:
    return isinstance(operand, int | float) and not isinstance(operand, bool) and operand == number


def numel(shape: Sequence[Dim]) -> Dim:
    return as_dim(math.prod(shape, start=sympy.Integer(1)))


def fixed(size: Dim) -> int:
    """A size that must be a plain number.

    Raises:
        AuthoringError: the size depends on the batch size.
    """
    if not isinstance(size, int):
        raise AuthoringError(
            f"an axis of size {size} depends on the batch size, and this operator needs a fixed one here; move the "
            "batch to the first axis",
            code=codes.PLAN_SHAPE,
        )
    return size


def fixed_size(value: LoweredValue, axis: int) -> int:
    """The size of an axis, which must be a plain number."""
    return fixed(value.shape[axis])


class Interpreter:
    """Lowers one traced graph. Parts that depend on no input are computed immediately, by torch."""

    def __init__(self, graph: LoweredGraph, module: fx.GraphModule, places: Mapping[str, SourceLocation]) -> None:
        """Prepare to lower ``module`` into ``graph``; ``places`` are the author's lines by operator, for errors."""
        self.graph = graph
        self.module = module
        self.places = places
        self.context = Context(graph)
        self._done: dict[fx.Node, Any] = {}
        self._folded: dict[int, fx.Node] = {}
        """The node of each tensor in ``_done`` that torch computed, by the tensor's ``id``."""
        self._made_from_numbers: dict[fx.Node, bool] = {}

    def run(self, arguments: Sequence[LoweredValue]) -> list[LoweredValue]:
        """The values that the traced function returns, for these values of its arguments."""
        given = iter(arguments)
        results: list[LoweredValue] = []
        for node in self.module.graph.nodes:
            self.context.node = node
            try:
                if node.op == "placeholder":
                    self._done[node] = next(given)
                elif node.op == "get_attr":
                    self._done[node] = _attribute(self.module, node.target)
                elif node.op == "output":
                    results = [self._value(self._resolve(item)) for item in node.args[0]]
                else:
                    self._done[node] = self._call(node)
            except AuthoringError as error:
                if "line" in error.fields:
                    raise
                raise authoring_error(error.detail, self._place(node), code=error.code, **error.fields) from error
            except Exception as error:  # a case that the lowering function does not know; it is chained as the cause
                way_out = "Use other operators here, and report this"
                why = f"cannot become part of a plan in this use: {described(error)}. {way_out}"
                if "truth value of Relational" in str(error):  # of sizes
                    why = "takes a number that depends on the batch size here; take a fixed number"
                raise authoring_error(
                    f"operator {operator_name(node.target)} {why}",
                    self._place(node),
                    code=codes.PLAN_OPERATOR_UNSUPPORTED,
                    operator=operator_name(node.target),
                ) from error
        return results

    def _call(self, node: fx.Node) -> Any:
        meta = node.meta.get("val")
        if isinstance(meta, torch.SymInt | torch.SymFloat):
            return as_dim(meta)
        if isinstance(meta, int | float):
            return meta
        args = tuple(self._resolve(arg) for arg in node.args)
        kwargs = {key: self._resolve(arg) for key, arg in node.kwargs.items()}
        if node.target is operator.getitem:
            return args[0][args[1]]
        if not _depends(args) and not _depends(kwargs):
            return self._fold(node, args, kwargs)
        lowering = find_lowering(node.target)
        if lowering is None and operator_name(node.target) == "copy_":
            raise authoring_error(
                "the code changes data or weights in place; a plan has them as inputs: work on a copy, x = x + 1",
                self._first_place_in_place(),
                code=codes.PLAN_OPERATOR_UNSUPPORTED,
            )
        if lowering is None:
            raise AuthoringError(unsupported_operator(node.target), code=codes.PLAN_OPERATOR_UNSUPPORTED)
        result = lowering(self.context, *self._as_values(args), **self._as_values(kwargs))
        if isinstance(result, LoweredValue):
            return replace(result, shape=self.context.shape)
        return result

    def _place(self, node: fx.Node) -> SourceLocation | None:
        """The author's line for a node; for a backward operator, the line of the forward operator."""
        if not isinstance(node.target, torch._ops.OpOverload):
            return None
        name = node.target._schema.name
        return self.places.get(name) or self.places.get(name.removesuffix("_backward"))

    def _first_place_in_place(self) -> SourceLocation | None:
        """The author's first line with an operator that works in place."""
        return next((place for name, place in self.places.items() if name.endswith("_")), None)

    def _fold(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        kwargs.pop("pin_memory", None)
        result = node.target(*args, **kwargs)
        if isinstance(result, torch.Tensor):
            self._folded[id(result)] = node
        return result

    def _has_operators(self, node: fx.Node) -> bool:
        """Whether operators of the plan can make a folded tensor from numbers alone."""
        if node not in self._made_from_numbers:
            self._made_from_numbers[node] = find_lowering(node.target) is not None and all(
                self._has_operators(source) for source in node.all_input_nodes
            )
        return self._made_from_numbers[node]

    def _made_by_operators(self, node: fx.Node) -> LoweredValue | None:
        """A folded tensor, computed by operators when the plan runs; None if its operator has several results."""
        lowering = find_lowering(node.target)
        if lowering is None:
            return None
        outer, self.context.node = self.context.node, node
        try:
            result = lowering(
                self.context,
                *self._as_values(tuple(self._resolve(arg) for arg in node.args)),
                **self._as_values({key: self._resolve(arg) for key, arg in node.kwargs.items()}),
            )
            return replace(result, shape=self.context.shape) if isinstance(result, LoweredValue) else None
        finally:
            self.context.node = outer

    def _resolve(self, arg: Any) -> Any:
        """An argument with nodes replaced by their results: `LoweredValue`, folded tensor, number or expression."""
        return fx.node.map_arg(arg, lambda n: self._done[n])

    def _as_values(self, args: Any) -> Any:
        if isinstance(args, torch.Tensor):
            return self._value(args)
        if isinstance(args, tuple | list):
            return type(args)(self._as_values(arg) for arg in args)
        if isinstance(args, dict):
            return {key: self._as_values(arg) for key, arg in args.items()}
        return args

    def _value(self, item: Any) -> LoweredValue:
        """A constant for a folded tensor; a scalar if all elements are equal."""
        if isinstance(item, LoweredValue):
            return item
        tensor: torch.Tensor = item.detach()
        dtype = plan_dtype(tensor.dtype)
        data = tensor.numpy()
        shape = tuple(data.shape)
        if data.size and (data == data.flat[0]).all():
            return replace(self.graph.constant(data.reshape(-1)[0], dtype), shape=shape)
        source = self._folded.get(id(item))
        if data.nbytes > _MAX_STORED_BYTES and source is not None and self._has_operators(source):
            made = self._made_by_operators(source)
            if made is not None:
                return made
        if data.nbytes > MAX_CONSTANT_BYTES:
            raise AuthoringError(
                f"a constant of shape {list(shape)} ({data.nbytes} bytes) would become part of the plan; "
                f"at most {MAX_CONSTANT_BYTES} bytes are allowed: register it as a buffer of the model",
                code=codes.PLAN_CONSTANT_TOO_LARGE,
            )
        return self.graph.constant(np.array(data, dtype=dtype))


def operator_name(target: Any) -> str:
    name = target._schema.name.split("::")[1] if isinstance(target, torch._ops.OpOverload) else str(target)
    return name.removeprefix("_").removesuffix("_ex")


def unsupported_operator(target: Any) -> str:
    return (
        f"operator {operator_name(target)} is not in the plan set; use operators of the set "
        "(docs/reference/plan-format.md lists them), or compute the result before training and take it as data"
    )


def _attribute(module: fx.GraphModule, target: Any) -> Any:
    found: Any = module
    for part in str(target).split("."):
        found = getattr(found, part)
    return found


def _depends(item: Any) -> bool:
    """Whether an argument holds something that is only known when the plan runs."""
    if isinstance(item, tuple | list):
        return any(_depends(part) for part in item)
    if isinstance(item, dict):
        return any(_depends(part) for part in item.values())
    return isinstance(item, LoweredValue) or (isinstance(item, sympy.Basic) and not item.is_number)
