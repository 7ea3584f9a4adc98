"""Shapes, memory and operations of a graph, computed without running it.

All results hold for each number of examples n from 1 to the largest; see `pygrid.plans.sizes`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from pygrid import codes
from pygrid.errors import InvalidPlan
from pygrid.plans.operators import OPERATORS
from pygrid.plans.operators.values import ELEMENT_TYPES, OperatorCall, ShapeRefused, TensorValue, array_value
from pygrid.plans.sizes import SYMBOL, Size, at, bound, is_positive

_MAX_SIDE = 2**31
_INDEXING = frozenset({"Gather", "GatherElements", "ScatterElements"})
_SLOW = frozenset({"Cos", "Mod", "Sin"})
_FAST_POWERS = (2.0, 3.0)
_IN_CACHE_BYTES = 256 * 1024
"""A tensor of this size stays in a processor's own cache, where access to each place takes about the same time."""
_LINE_BYTES = 64


@dataclass(frozen=True)
class Step:
    """One node with the known facts about its inputs and outputs."""

    label: str
    call: OperatorCall
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    outputs: tuple[TensorValue, ...]
    flops: Size
    scratch_bytes: Size


@dataclass(frozen=True)
class Analysis:
    """The results for a graph."""

    name: str
    steps: tuple[Step, ...]
    values: Mapping[str, TensorValue]
    """Every tensor of the graph, by name."""
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    initializers: tuple[str, ...]
    max_n: int

    @property
    def operators(self) -> dict[str, int]:
        """Number of nodes of each operator, sorted by name."""
        return dict(sorted(Counter(step.call.op_type for step in self.steps).items()))

    @cached_property
    def fixed(self) -> frozenset[str]:
        """Names of the tensors that a runtime can compute when it loads the graph, and then keep."""
        fixed = set(self.initializers)
        for step in self.steps:
            if fixed.issuperset(step.input_names):
                fixed.update(step.output_names)
        return frozenset(fixed)

    @property
    def value_dependent_time(self) -> str:
        """The label of the first node whose time depends on values without bound; empty if there is none.

        The remainder of floats divides bit by bit, so its time grows with the difference of the exponents.
        """
        return next((step.label for step in self.steps if step.call.attributes.get("fmod")), "")

    def scattered_reads(self, n: int) -> int:
        """Cache lines of large tensors that a call with n examples reads or writes at places that data can decide.

        Their time depends on whether the places are close together: each can miss every cache.
        """
        total = 0
        for step in self.steps:
            if step.call.op_type not in _INDEXING:
                continue
            table, index = step.call.get(0), step.call.get(1)
            if index.known is not None or at(table.num_bytes, n) <= _IN_CACHE_BYTES:
                continue
            num_places = at(index.num_elements, n)
            moved = at(step.outputs[0].num_bytes, n) if step.call.op_type == "Gather" else num_places
            total += num_places + moved // _LINE_BYTES
        return total

    def slow_operations(self, n: int) -> int:
        """Operations of a call with n examples that take much longer for some values than for others.

        These are powers other than the square and the cube, remainders, sines and cosines, and maxima of windows that
        have gaps or whose places are also returned; eight elements of a window count as one.
        """
        total = 0
        for step in self.steps:
            call = step.call
            if self.fixed.issuperset(step.output_names):
                continue
            if call.op_type in _SLOW or (call.op_type == "Pow" and call.get(1).number not in _FAST_POWERS):
                total += at(step.outputs[0].num_elements, n)
            elif call.op_type == "MaxPool" and (call.num_outputs > 1 or max(call.attributes.get("dilations", [1])) > 1):
                total += at(step.flops, n) // 8 + at(step.outputs[0].num_elements, n)
        return total

    def flops(self, n: int) -> int:
        """Operations of one call with n examples; `pygrid.plans.operators` defines what counts as one."""
        return sum(at(step.flops, n) for step in self.steps)

    def flops_split(self) -> tuple[int, int]:
        """Fixed operations of a call, and operations per example: the line through n = 1 and the largest n.

        Exact if the cost is linear in n, which holds for every plan that does not compare examples with each other.
        """
        one, most = self.flops(1), self.flops(self.max_n)
        per_example = -(-(most - one) // (self.max_n - 1)) if self.max_n > 1 else one
        return max(0, one - per_example), per_example

    def peak_bytes(self, n: int) -> int:
        """Most bytes held at once if the nodes run in the given order and each tensor is freed after its last use.

        Inputs, constants and values computed from constants are held all the time. This is an estimate: a runtime can
        reuse buffers (less) or reorder nodes (more).
        """
        last_use = {name: index for index, step in enumerate(self.steps) for name in step.input_names}
        last_use.update(dict.fromkeys(self.outputs, len(self.steps)))
        kept = {*self.inputs, *self.fixed}
        held = sum(at(self.values[name].num_bytes, n) for name in kept)
        peak = held
        for index, step in enumerate(self.steps):
            held += sum(at(self.values[name].num_bytes, n) for name in step.output_names if name not in kept)
            peak = max(peak, held + at(step.scratch_bytes, n))
            done = {*step.input_names, *step.output_names} - kept
            held -= sum(at(self.values[name].num_bytes, n) for name in done if last_use.get(name, index) <= index)
        return peak

    def largest(self, n: int) -> tuple[str, int]:
        """Name and bytes of the largest tensor that a node makes."""
        made = ((name, at(self.values[name].num_bytes, n)) for step in self.steps for name in step.output_names)
        return max(made, key=lambda pair: pair[1], default=("", 0))


@dataclass
class _Worker:
    name: str
    max_n: int
    max_tensor_bytes: int
    values: dict[str, TensorValue] = field(default_factory=dict)

    def step(self, index: int, node: onnx.NodeProto) -> Step:
        label = node_label(index, node)
        operator = OPERATORS.get(node.op_type)
        if operator is None:
            raise InvalidPlan(
                f"graph {self.name!r}, {label}: operator {node.op_type[:80]!r} is not part of plans",
                code=codes.PLAN_OPERATOR_FORBIDDEN,
                graph=self.name,
            )
        missing = [name for name in node.input if name and name not in self.values]
        if missing:
            raise InvalidPlan(
                f"graph {self.name!r}, {label}: no earlier node makes input {missing[0][:80]!r}",
                code=codes.PLAN_GRAPH_INVALID,
                graph=self.name,
            )
        names = tuple(node.output)
        try:
            inputs = tuple(self.values[name] if name else None for name in node.input)
            call = OperatorCall(node.op_type, inputs, _attributes(node), len(names), self.max_n)
            outputs = tuple(operator.infer(call))
            flops, scratch = operator.cost(call, outputs), operator.scratch(call, outputs)
            if len(outputs) < len([name for name in names if name]):
                raise ShapeRefused(f"it has {len(names)} outputs; plans use at most {len(outputs)} of this operator")
        except ShapeRefused as error:
            raise InvalidPlan(
                f"graph {self.name!r}, {label}: {error}", code=codes.PLAN_SHAPE_REFUSED, graph=self.name
            ) from error
        made = tuple((name, value) for name, value in zip(names, outputs, strict=False) if name)
        for name, value in made:
            # Kernels are little tested with empty tensors, so empty tensors are refused; a shape can be the empty list.
            if value.known is None and not all(is_positive(size) for size in value.shape):
                shape = [str(size) for size in value.shape]
                raise InvalidPlan(
                    f"graph {self.name!r}, {label}: makes an empty tensor, {shape}, for some batch size",
                    code=codes.PLAN_SHAPE_REFUSED,
                    graph=self.name,
                )
            if name in self.values:
                raise InvalidPlan(
                    f"graph {self.name!r}, {label}: two nodes write {name[:80]!r}",
                    code=codes.PLAN_GRAPH_INVALID,
                    graph=self.name,
                )
            self._check_size(label, value)
            self.values[name] = value
        return Step(
            label,
            call,
            tuple(name for name in node.input if name),
            tuple(name for name, _ in made),
            tuple(value for _, value in made),
            flops,
            4 * scratch,
        )

    def _check_size(self, label: str, value: TensorValue) -> None:
        # n is at least 2: otherwise a power of the symbol could grow without bound where the largest batch is 1.
        n = max(self.max_n, 2)
        num_bytes = bound(value.num_bytes, n)
        if num_bytes > self.max_tensor_bytes or any(bound(size, n) > _MAX_SIDE for size in value.shape):
            raise InvalidPlan(
                f"graph {self.name!r}, {label}: makes a tensor of {num_bytes:,} bytes at the largest batch "
                f"({self.max_n}); {self.max_tensor_bytes:,} are allowed. Try a smaller max_batch_size",
                code=codes.PLAN_TENSOR_TOO_LARGE,
                graph=self.name,
            )


def analyse(graph: onnx.GraphProto, *, name: str, max_n: int, max_tensor_bytes: int = 2**40) -> Analysis:
    """The shapes and costs of a graph.

    Args:
        graph: its input shapes are static except for one symbolic dimension; its nodes are in an order that can run.
        name: name of the graph, for error messages.
        max_n: the largest value of the symbol.
        max_tensor_bytes: limit for each tensor at ``max_n``.
    Raises:
        InvalidPlan: an operator is not on the list, a shape is wrong or unbounded, or a tensor is too large; the
            message names the node.
    """
    worker = _Worker(name, max_n, max_tensor_bytes)
    for info in graph.input:
        worker.values[info.name] = _input_value(name, info)
    for tensor in graph.initializer:
        worker.values[tensor.name] = tensor_value(name, tensor)
    steps = tuple(worker.step(index, node) for index, node in enumerate(graph.node))
    return Analysis(
        name=name,
        steps=steps,
        values=worker.values,
        inputs=tuple(info.name for info in graph.input),
        outputs=tuple(info.name for info in graph.output),
        initializers=tuple(tensor.name for tensor in graph.initializer),
        max_n=max_n,
    )


def node_label(index: int, node: onnx.NodeProto) -> str:
    """The name of a node in error messages."""
    operator = node.op_type if node.op_type in OPERATORS else repr(node.op_type[:40])
    return f"node {index} ({operator}{f' {node.name[:80]!r}' if node.name else ''})"


def tensor_value(graph: str, tensor: onnx.TensorProto) -> TensorValue:
    """The value of a constant. Raises InvalidPlan: its bytes do not fit its shape, or its dtype is not one of plans."""
    try:
        return array_value(_to_array(tensor))
    except ShapeRefused as error:
        raise InvalidPlan(
            f"graph {graph!r}, constant {tensor.name[:80]!r}: {error}", code=codes.PLAN_DTYPE_FORBIDDEN, graph=graph
        ) from error


def _to_array(tensor: onnx.TensorProto) -> np.ndarray[Any, Any]:
    if tensor.data_type not in ELEMENT_TYPES:
        raise ShapeRefused(
            f"element type {tensor.data_type} is not allowed; plans use {', '.join(ELEMENT_TYPES.values())}"
        )
    try:
        return np.asarray(numpy_helper.to_array(tensor))
    except (ValueError, TypeError, OverflowError) as error:
        raise ShapeRefused(f"the data does not fit the shape ({error})") from error


def _input_value(graph: str, info: onnx.ValueInfoProto) -> TensorValue:
    tensor = info.type.tensor_type
    if tensor.elem_type not in ELEMENT_TYPES:
        raise InvalidPlan(
            f"graph {graph!r}, input {info.name[:80]!r}: element type {tensor.elem_type} is not allowed; plans use "
            f"{', '.join(ELEMENT_TYPES.values())}",
            code=codes.PLAN_DTYPE_FORBIDDEN,
            graph=graph,
        )
    shape: tuple[Size, ...] = tuple(SYMBOL if dim.dim_param else int(dim.dim_value) for dim in tensor.shape.dim)
    return TensorValue(ELEMENT_TYPES[tensor.elem_type], shape)


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {attribute.name: _attribute(attribute) for attribute in node.attribute}


def _attribute(attribute: onnx.AttributeProto) -> Any:
    kinds = onnx.AttributeProto
    if attribute.type == kinds.TENSOR:
        return _to_array(attribute.t)
    if attribute.type == kinds.INT:
        return int(attribute.i)
    if attribute.type == kinds.FLOAT:
        return float(attribute.f)
    if attribute.type == kinds.STRING:
        return bytes(attribute.s)
    repeated: Iterable[Any] = attribute.ints if attribute.type == kinds.INTS else attribute.floats
    if attribute.type not in (kinds.INTS, kinds.FLOATS):
        raise ShapeRefused(f"attribute {attribute.name[:40]!r} is of a kind that plans do not use")
    return list(repeated)
