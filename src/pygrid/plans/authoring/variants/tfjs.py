"""From ATen operators to commands of tfjs-core 1.x, as syft.js 0.1.4 runs them.

Source: the source code of syft.js 0.1.4 and tfjs-core 1.7.4. That version has no gradient of a convolution or a pool
within reach, so both are written with other commands.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import fx

from pygrid import codes
from pygrid.errors import AuthoringError
from pygrid.plans.authoring.diagnostics import authoring_error, described
from pygrid.plans.authoring.variants.specialised import Specialised
from pygrid.plans.authoring.variants.tfjs_graph import Shape, TfjsGraph, Value
from pygrid.syft.plans import PlanMessage

Emitter = Callable[..., Any]
AnyEmitter = TypeVar("AnyEmitter", bound=Emitter)
EMITTERS: dict[str, Emitter] = {}
_DTYPES = {torch.float32: "float32", torch.float64: "float32", torch.int64: "int32", torch.int32: "int32",
           torch.bool: "bool"}  # fmt: skip


def emits(*names: str) -> Callable[[AnyEmitter], AnyEmitter]:
    """Register the function that emits an operator, for one overload (``mm.default``) or for all (``mm``)."""

    def register(function: AnyEmitter) -> AnyEmitter:
        EMITTERS.update(dict.fromkeys(names, function))
        return function

    return register


class Emission:
    """The graph under construction, and the operator that is emitted now."""

    def __init__(self, graph: TfjsGraph) -> None:
        self.graph = graph
        self.node: fx.Node

    def meta(self) -> torch.Tensor:
        found = self.node.meta["val"]
        return found[0] if isinstance(found, tuple | list) else found

    @property
    def shape(self) -> Shape:
        """Shape of the operator's first result."""
        return tuple(int(size) for size in self.meta().shape)

    @property
    def dtype(self) -> str:
        """Dtype of the operator's first result."""
        return dtype_of(self.meta().dtype)

    def value(self, operand: Any, dtype: str | None = None) -> Value:
        """An operand as a value of a dtype."""
        if isinstance(operand, Value):
            return self.cast(operand, dtype or operand.dtype)
        return self.graph.number(operand, (), dtype or self.dtype)

    def cast(self, value: Value, dtype: str) -> Value:
        if value.dtype == dtype:
            return value
        if value.number is not None:
            return self.graph.number(value.number, value.shape, dtype)
        small = self.graph.straight(value)
        return replace(self.graph.call("cast", [small, dtype], small.dims, dtype), shape=value.shape)

    def elementwise(self, name: str, *operands: Any, dtype: str | None = None) -> Value:
        """An operation in one dtype (that of the result, unless given), which also is the dtype of the result."""
        kind = dtype or self.dtype
        return self.graph.elementwise(name, [self.value(one, kind) for one in operands], self.shape, kind)

    def unary(self, name: str, x: Any) -> Value:
        x = self.graph.tensor(self.value(x, self.dtype))
        return replace(self.graph.call(name, [x], x.dims, self.dtype), shape=self.shape)

    def reduce(self, name: str, x: Value, axes: Sequence[int] | None, keep: bool, dtype: str = "float32") -> Value:
        """A reduction over axes; over all if there are none."""
        wanted = sorted(axis % len(x.shape) for axis in axes) if axes else list(range(len(x.shape)))
        shape = tuple(1 if i in wanted else n for i, n in enumerate(x.shape) if keep or i not in wanted)
        if not x.shape:
            return x
        full = self.graph.full(x)
        args = [full] if len(wanted) == len(x.shape) and not keep else [full, tuple(wanted), keep]
        return self.graph.call(name, args, shape, dtype)

    def matmul(self, a: Value, b: Value) -> Value:
        """The product of matrices; transposes of the operands cost nothing."""
        stored = []
        for one in (a, b):
            if one.is_transposed:
                stored.append(replace(one, is_transposed=False, shape=one.shape[::-1], dims=one.dims[::-1]))
            else:
                stored.append(self.graph.full(one))
        flags = [a.is_transposed, b.is_transposed]
        shape = (*a.shape[:-1], b.shape[-1])
        return self.graph.call("matMul", [*stored, *(flags if any(flags) else [])], shape)

    def one_hot(self, index: Value, num_classes: int) -> Value:
        """Rows of zeros with a one at the index."""
        whole = self.cast(self.graph.full(index), "int32")
        flat = self.graph.reshape(whole, (math.prod(index.shape),))
        hot = self.graph.call("oneHot", [flat, num_classes], (*flat.shape, num_classes), "float32")
        return self.graph.reshape(hot, (*index.shape, num_classes))

    def transpose(self, x: Value, *order: int) -> Value:
        return self.graph.straight(self.graph.transpose(x, order))

    def pad(self, x: Value, before: Sequence[int], after: Sequence[int], number: float = 0.0) -> Value:
        """The array with more places around it; negative numbers cut places off."""
        x = self.graph.full(x)
        if any(size < 0 for size in (*before, *after)):
            begin = [max(-size, 0) for size in before]
            sizes = [n - b - max(-a, 0) for n, b, a in zip(x.shape, begin, after, strict=True)]
            x = self.slice(x, begin, sizes)
        widths = tuple((max(b, 0), max(a, 0)) for b, a in zip(before, after, strict=True))
        if not any(map(any, widths)):
            return x
        shape = tuple(n + b + a for n, (b, a) in zip(x.shape, widths, strict=True))
        return self.graph.call("pad", [x, widths, *([number] if number else [])], shape, x.dtype)

    def slice(self, x: Value, begin: Sequence[int], sizes: Sequence[int]) -> Value:
        x = self.graph.full(x)
        if tuple(sizes) == x.shape:
            return x
        return self.graph.call("slice", [x, tuple(begin), tuple(sizes)], tuple(sizes), x.dtype)


def dtype_of(dtype: torch.dtype) -> str:
    """The dtype of tfjs for one of torch."""
    if dtype not in _DTYPES:
        raise AuthoringError(f"{dtype} has no dtype of tfjs", code=codes.PLAN_VARIANT_UNAVAILABLE)
    return _DTYPES[dtype]


def find_emitter(target: Any) -> Emitter | None:
    """The function that emits an ATen overload, or None."""
    if not isinstance(target, torch._ops.OpOverload) or target.namespace not in ("aten", "prims"):
        return None
    name = target._schema.name.split("::")[1]
    return EMITTERS.get(f"{name}.{target._overloadname}") or EMITTERS.get(name)


def emit_tfjs(step: Specialised, name: str) -> PlanMessage:
    """The step as a plan of tfjs commands.

    Raises:
        AuthoringError: ``plan_variant_unavailable``: an operator is not in the table; the message names the author's
            line.
    """
    graph = TfjsGraph()
    emission = Emission(graph)
    done: dict[fx.Node, Any] = {}
    outputs: list[Value] = []
    for node in step.module.graph.nodes:
        emission.node = node
        try:
            if node.op == "placeholder":
                done[node] = graph.input(tuple(node.meta["val"].shape))
            elif node.op == "get_attr":
                done[node] = _constant(graph, getattr(step.module, str(node.target)))
            elif node.op == "output":
                outputs = [_value_of(graph, done[one]) for one in node.args[0]]
            else:
                done[node] = _emit(emission, node, done)
        except AuthoringError as error:
            raise authoring_error(error.detail, step.place(node), code=codes.PLAN_VARIANT_UNAVAILABLE) from error
        except (ValueError, TypeError, IndexError) as error:
            reason = f"operator {_name(node)} has no form in tfjs in this use: {described(error)}"
            raise authoring_error(reason, step.place(node), code=codes.PLAN_VARIANT_UNAVAILABLE) from error
    return graph.finish(name, outputs)


def _emit(emission: Emission, node: fx.Node, done: Mapping[fx.Node, Any]) -> Any:
    args = fx.node.map_arg(node.args, lambda one: done[one])
    kwargs = fx.node.map_arg(dict(node.kwargs), lambda one: done[one])
    if node.target is operator.getitem:
        return args[0][args[1]]
    emitter = find_emitter(node.target)
    if emitter is None:
        raise AuthoringError(
            f"operator {_name(node)} has no form in tfjs; use simpler operators, or build without the target tfjs",
            code=codes.PLAN_VARIANT_UNAVAILABLE,
        )
    return emitter(emission, *args, **kwargs)


def _name(node: fx.Node) -> str:
    return (
        node.target._schema.name.split("::")[1] if isinstance(node.target, torch._ops.OpOverload) else str(node.target)
    )


def _constant(graph: TfjsGraph, tensor: torch.Tensor) -> Value:
    dtype = dtype_of(tensor.dtype)
    return graph.constant(tensor.detach().numpy().astype(dtype))


def _value_of(graph: TfjsGraph, item: Any) -> Value:
    return item if isinstance(item, Value) else graph.number(item, (), "float32")
