"""Rewrites a graph so that one call computes it for many records, each for itself: ``vmap`` for the operators of plans.

The graph of a plan takes a batch; a private job needs its outputs for batches of one record each, and a call for every record
is slow. Here every tensor that depends on data gets one more axis in front, over the records, and every node is replaced by
nodes that compute, at each position of that axis, what the node would compute from the inputs at this position:

    output[b] = node(inputs[b])        for each b, and for no other reason does output[b] depend on anything

So independence holds by construction, one operator at a time, and not because the author says so: whatever the plan computes, a
row of the result is a function of one record. Shapes are those of a batch of one, which are numbers, so that nothing that the
plan says about shapes is left in the graph. An operator without a rule below means no such graph: the caller goes record by
record.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from pygrid.errors import InvalidPlan
from pygrid.plans.costs import Step, analyse
from pygrid.plans.operators import Value, padded, reduced_axes, slice_bounds
from pygrid.plans.sizes import Poly, at

_DATA = ("data/", "noise/")
_ELEMENTWISE = frozenset(
    {"Abs", "Add", "And", "Cast", "Clip", "Cos", "Div", "Elu", "Equal", "Erf", "Exp", "Floor", "Greater", "GreaterOrEqual"}
    | {"Identity", "LeakyRelu", "Less", "LessOrEqual", "Log", "Max", "Min", "Mod", "Mul", "Neg", "Not", "Or", "Pow"}
    | {"Reciprocal", "Relu", "Sigmoid", "Sign", "Sin", "Softplus", "Sqrt", "Sub", "Sum", "Tanh", "Where"}
)
_VIEWS = frozenset({"Reshape", "Squeeze", "Unsqueeze"})


class _NoRuleError(Exception):
    """This node can't be rewritten."""


def batched_graph(model: onnx.ModelProto, *, keep: Sequence[str]) -> bytes | None:
    """The graph for many records at once, or None where there is no rule for a node.

    Args:
        model: a graph that passed the gate.
        keep: the outputs that the new graph gives, ``[records, *shape]`` each; its inputs are those of the old one.
    """
    try:
        return bytes(_Rewriter(model, keep).model().SerializeToString())
    except (_NoRuleError, InvalidPlan):
        return None


class _Rewriter:
    def __init__(self, model: onnx.ModelProto, keep: Sequence[str]) -> None:
        self._source, self._keep = model, keep
        self._analysis = analyse(model.graph, name="graph", max_n=1)
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._lifted: set[str] = set()
        """Tensors that have the axis over records."""
        self._count = 0

    def model(self) -> onnx.ModelProto:
        graph = self._source.graph
        kinds = {info.name: info.type.tensor_type.elem_type for info in graph.input}
        inputs = []
        for info in graph.input:
            if not info.name.startswith(_DATA):
                inputs.append(info)
                continue
            shape = self._shape(self._analysis.values[info.name])
            inputs.append(helper.make_tensor_value_info(info.name, kinds[info.name], ["records", *shape[1:]]))
        self._constants = list(graph.initializer)
        names = {name: name for name in self._analysis.values}
        for info in graph.input:
            if info.name.startswith(_DATA):
                value = self._analysis.values[info.name]
                self._lifted.add(info.name)
                names[info.name] = self.reshape(info.name, self._shape(value))
        for node, step in zip(graph.node, self._analysis.steps, strict=True):
            self._translate(node, step, names)
        outputs = []
        for info in graph.output:
            if info.name in self._keep:
                outputs.append(self._output(info, names[info.name]))
        result = helper.make_graph(self._nodes, "records", inputs, outputs, initializer=self._constants)
        return helper.make_model(result, opset_imports=self._source.opset_import, ir_version=self._source.ir_version)

    def _output(self, info: onnx.ValueInfoProto, name: str) -> onnx.ValueInfoProto:
        if name not in self._lifted:
            raise _NoRuleError("an output that does not depend on data")
        final = f"records/{info.name}"
        self._nodes.append(helper.make_node("Identity", [name], [info.name], name=final))
        shape = ["records", *self._shape(self._analysis.values[info.name])]
        return helper.make_tensor_value_info(info.name, info.type.tensor_type.elem_type, shape)

    def _translate(self, node: onnx.NodeProto, step: Step, names: dict[str, str]) -> None:
        known = [item for value in step.outputs if (item := _elements(value)) is not None]
        if known and len(known) == len(step.outputs):
            for name, item in zip(step.output_names, known, strict=True):
                names[name] = self.constant(item)
            return
        inputs = [names[name] if name else "" for name in node.input]
        if not any(name in self._lifted for name in inputs):
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.ClearField("input")
            copy.input.extend(inputs)
            # New names, because an output of the old graph may be made by several nodes of the new one.
            for index, name in enumerate(node.output):
                if name:
                    copy.output[index] = names[name] = self._name()
            self._nodes.append(copy)
            return
        rule = _rule(node.op_type)
        if rule is None:
            raise _NoRuleError(node.op_type)
        results = rule(self, node, step, inputs)
        for name, result in zip([name for name in node.output if name], results, strict=True):
            names[name] = result

    # ---- what the rules are made of

    def is_lifted(self, name: str) -> bool:
        return name in self._lifted

    def emit(self, op: str, inputs: Sequence[str], num_outputs: int = 1, **attributes: Any) -> list[str]:
        outputs = [self._name() for _ in range(num_outputs)]
        if any(name in self._lifted for name in inputs):
            self._lifted.update(outputs)
        self._nodes.append(helper.make_node(op, list(inputs), outputs, name=f"{op}_{len(self._nodes)}", **attributes))
        return outputs

    def ints(self, values: Sequence[int]) -> str:
        return self.constant(np.array(values, np.int64))

    def shape_in(self, step: Step, index: int) -> tuple[int, ...]:
        """The shape of an input without the axis over records."""
        return self._shape(step.call.get(index))

    def shape_out(self, step: Step, index: int = 0) -> tuple[int, ...]:
        return self._shape(step.outputs[index])

    def reshape(self, name: str, shape: Sequence[int]) -> str:
        """Another shape for each record."""
        return self.emit("Reshape", [name, self.ints([-1, *shape])])[0]

    def aligned(self, name: str, shape: Sequence[int], rank: int) -> str:
        """A tensor with ones put between the axis over records and its own, so that numpy's broadcasting keeps them apart."""
        if not self.is_lifted(name) or len(shape) == rank:
            return name
        return self.reshape(name, (*[1] * (rank - len(shape)), *shape))

    def lifted(self, name: str, shape: Sequence[int], like: str) -> str:
        """The tensor with an axis over records; one that is the same for all is repeated, as often as ``like`` has records."""
        if self.is_lifted(name):
            return name
        number = self.emit("Shape", [like], start=0, end=1)[0]
        target = self.emit("Concat", [number, self.ints(shape)], axis=0)[0] if shape else number
        result = self.emit("Expand", [name, target])[0]
        self._lifted.add(result)
        return result

    def constant(self, array: npt.NDArray[Any]) -> str:
        name = self._name()
        self._constants.append(numpy_helper.from_array(array, name))
        return name

    def _name(self) -> str:
        self._count += 1
        return f"records.{self._count}"

    @staticmethod
    def _shape(value: Value) -> tuple[int, ...]:
        return tuple(at(size, 1) for size in value.shape)


def _elements(value: Value) -> npt.NDArray[Any] | None:
    """A tensor that is known beforehand, for a batch of one."""
    if value.known is None:
        return None
    items = [at(item, 1) if isinstance(item, Poly) else item for item in value.known.reshape(-1)]
    shape = tuple(at(size, 1) for size in value.shape)
    return np.array(items, value.dtype).reshape(shape)


Rule = Callable[[_Rewriter, onnx.NodeProto, Step, list[str]], list[str]]


def _attributes(node: onnx.NodeProto, **changed: Any) -> dict[str, Any]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute} | changed


def _elementwise(rewriter: _Rewriter, node: onnx.NodeProto, step: Step, inputs: list[str]) -> list[str]:
    rank = len(rewriter.shape_out(step))
    aligned = [
        rewriter.aligned(name, rewriter.shape_in(step, index), rank) if name else "" for index, name in enumerate(inputs)
    ]
    if node.op_type == "Clip" and any(rewriter.is_lifted(name) for name in inputs[1:]):
        raise _NoRuleError("bounds that depend on data")
    return rewriter.emit(node.op_type, aligned, **_attributes(node))


def _view(rewriter: _Rewriter, node: onnx.NodeProto, step: Step, inputs: list[str]) -> list[str]:
    if any(rewriter.is_lifted(name) for name in inputs[1:]):
        raise _NoRuleError("a shape that depends on data")
    return [rewriter.reshape(inputs[0], rewriter.shape_out(step))]


def _matmul(rewriter: _Rewriter, node: onnx.NodeProto, step: Step, inputs: list[str]) -> list[str]:
    a, b = rewriter.shape_in(step, 0), rewriter.shape_in(step, 1)
    if len(a) < 2 or len(b) < 2:
        raise _NoRuleError("a product with a vector")
    return [_product(rewriter, inputs[0], a, inputs[1], b)]


def _product(rewriter: _Rewriter, left: str, a: Sequence[int], right: str, b: Sequence[int]) -> str:
    """Matrix products; where one row meets one column in each, a plain product, which is faster."""
    rank = max(len(a), len(b))
    left, right = rewriter.aligned(left, a, rank), rewriter.aligned(right, b, rank)
    op = "Mul" if a[-1] == 1 and b[-2] == 1 else "MatMul"
    return rewriter.emit(op, [left, right])[0]


def _gemm(rewriter: _Rewriter, node: onnx.NodeProto, step: Step, inputs: list[str]) -> list[str]:
    attributes = _attributes(node)
    sides, shapes = [], []
    for index, flag in ((0, "transA"), (1, "transB")):
        name, shape = inputs[index], rewriter.shape_in(step, index)
        if attributes.get(flag, 0):
            name = _transposed(rewriter, name, shape)
            shape = (shape[1], shape[0])
        sides.append(name)
        shapes.append(shape)
    if shapes[0][0] == 1 and not rewriter.is_lifted(sides[1]):
        # One row for each record and one matrix for all: a single product of two matrices.
        rows = rewriter.emit("Reshape", [sides[0], rewriter.ints([-1, shapes[0][1]])])[0]
        result = rewriter.emit("MatMul", [rows, sides[1]])[0]
        result = rewriter.reshape(result, (1, shapes[1][1]))
    else:
        result = _product(rewriter, sides[0], shapes[0], sides[1], shapes[1])
    result = _scaled(rewriter, result, attributes.get("alpha", 1.0))
    if len(inputs) > 2 and inputs[2]:
        bias = rewriter.aligned(inputs[2], rewriter.shape_in(step, 2), 2)
        result = rewriter.emit("Add", [result, _scaled(rewriter, bias, attributes.get("beta", 1.0))])[0]
    return [result]


def _transposed(rewriter: _Rewriter, name: str, shape: Sequence[int]) -> str:
    if not rewriter.is_lifted(name):
        return rewriter.emit("Transpose", [name], perm=[1, 0])[0]
    if 1 in shape:
        return rewriter.reshape(name, (shape[1], shape[0]))
    return rewriter.emit("Transpose", [name], perm=[0, 2, 1])[0]


def _scaled(rewriter: _Rewriter, name: str, factor: float) -> str:
    return name if factor == 1.0 else rewriter.emit("Mul", [name, rewriter.constant(np.array(factor, np.float32))])[0]


def _transpose(rewriter: _Rewriter, node: onnx.NodeProto, step: Step, inputs: list[str]) -> list[str]:
    rank = len(rewriter.shape_in(step, 0))
    order = list(_attributes(node).get("perm", range(rank - 1, -1, -1)))
    return rewriter.emit("Transpose", inputs, perm=[0, *(axis + 1 for axis in order)])


def _reduce(rewriter: _Rewriter, node: onnx.NodeProto, step: Step, inputs: list[str]) -> list[str]:
    axes = reduced_axes(step.call)
    if not axes:
        return rewriter.emit("Identity", inputs[:1]) if node.op_type != "ReduceSumSquare" else _no_rule("an empty reduction")
    keep = int(step.call.attribute("keepdims", 1))
    return rewriter.emit(node.op_type, [inputs[0], rewriter.ints([axis + 1 for axis in axes])], keepdims=keep)


def _along(default: int) -> Rule:
    """Operators with an ``axis``, whose other inputs, if any, have the shape of the first but along it."""

    def rule(rewriter: _Rewriter, node: onnx.NodeProto, step: Step, inputs: list[str]) -> list[str]:
        axis = step.call.axis(len(rewriter.shape_in(step, 0)), default)
        like = next(name for name in inputs if rewriter.is_lifted(name))
        same = [rewriter.lifted(name, rewriter.shape_in(step, index), like) for index, name in enumerate(inputs)]
        return rewriter.emit(node.op_type, same, **_attributes(node, axis=axis + 1))

    return rule


def _gather(rewriter: _Rewriter, node: onnx.NodeProto, step: Step, inputs: list[str]) -> list[str]:
    data, index = inputs
    axis = step.call.axis(len(rewriter.shape_in(step, 0)), 0)
    if not rewriter.is_lifted(index):
        return rewriter.emit("Gather", inputs, axis=axis + 1)
    if rewriter.is_lifted(data) or axis != 0:
        raise _NoRuleError("data looked up in data")
    return rewriter.emit("Gather", inputs, axis=0)


def _slice(rewriter: _Rewriter, node: onnx.NodeProto, step: Step, inputs: list[str]) -> list[str]:
    axes, starts, ends, steps = zip(*slice_bounds(step.call), strict=True)
    where = [[at(v, 1) for v in starts], [at(v, 1) for v in ends], [axis + 1 for axis in axes], list(steps)]
    return rewriter.emit("Slice", [inputs[0], *(rewriter.ints(values) for values in where)])


def _split(rewriter: _Rewriter, node: onnx.NodeProto, step: Step, inputs: list[str]) -> list[str]:
    axis = step.call.axis(len(rewriter.shape_in(step, 0)), 0)
    if len(step.outputs) != len(node.output):
        raise _NoRuleError("parts that nobody takes")
    sizes = [rewriter.shape_out(step, index)[axis] for index in range(len(step.outputs))]
    return rewriter.emit("Split", [inputs[0], rewriter.ints(sizes)], len(sizes), axis=axis + 1)


def _pad(rewriter: _Rewriter, node: onnx.NodeProto, step: Step, inputs: list[str]) -> list[str]:
    if any(rewriter.is_lifted(name) for name in inputs[1:]):
        raise _NoRuleError("padding that depends on data")
    before, after = zip(*padded(step.call), strict=True)
    value = inputs[2:3] if len(inputs) > 2 and inputs[2] else []
    return rewriter.emit("Pad", [inputs[0], rewriter.ints([0, *before, 0, *after]), *value], mode="constant")


def _expand(rewriter: _Rewriter, node: onnx.NodeProto, step: Step, inputs: list[str]) -> list[str]:
    if any(rewriter.is_lifted(name) for name in inputs[1:]):
        raise _NoRuleError("a shape that depends on data")
    shape = rewriter.shape_out(step)
    source = rewriter.aligned(inputs[0], rewriter.shape_in(step, 0), len(shape))
    return rewriter.emit("Expand", [source, rewriter.ints([1, *shape])])


def _tile(rewriter: _Rewriter, node: onnx.NodeProto, step: Step, inputs: list[str]) -> list[str]:
    return rewriter.emit("Tile", [inputs[0], rewriter.ints([1, *(at(v, 1) for v in step.call.known(1))])])


def _trilu(rewriter: _Rewriter, node: onnx.NodeProto, step: Step, inputs: list[str]) -> list[str]:
    if any(rewriter.is_lifted(name) for name in inputs[1:]):
        raise _NoRuleError("a diagonal that depends on data")
    return rewriter.emit("Trilu", inputs, **_attributes(node))


def _images(rewriter: _Rewriter, node: onnx.NodeProto, step: Step, inputs: list[str]) -> list[str]:
    """Convolution and pooling: the images of all records are images of one batch; the kernels are the same for all."""
    if any(rewriter.is_lifted(name) for name in inputs[1:]):
        raise _NoRuleError("a kernel that depends on data")
    shape = rewriter.shape_in(step, 0)
    together = rewriter.emit("Reshape", [inputs[0], rewriter.ints([-1, *shape[1:]])])[0]
    results = rewriter.emit(node.op_type, [together, *inputs[1:]], len(step.outputs), **_attributes(node))
    results = [rewriter.reshape(result, rewriter.shape_out(step, index)) for index, result in enumerate(results)]
    if len(results) == 2:
        # Positions count through the whole batch; through one record, they are what is left after its size.
        size = rewriter.constant(np.array(np.prod(shape, dtype=np.int64), np.int64))
        results[1] = rewriter.emit("Mod", [results[1], size])[0]
    return results


def _no_rule(why: str) -> list[str]:
    raise _NoRuleError(why)


def _rule(operator: str) -> Rule | None:
    if operator in _ELEMENTWISE:
        return _elementwise
    return _view if operator in _VIEWS else _RULES.get(operator)


_RULES: dict[str, Rule] = {
    "ArgMax": _along(0),
    "ArgMin": _along(0),
    "AveragePool": _images,
    "Concat": _along(0),
    "Conv": _images,
    "ConvTranspose": _images,
    "Expand": _expand,
    "Gather": _gather,
    "GatherElements": _along(0),
    "Gemm": _gemm,
    "GlobalAveragePool": _images,
    "LogSoftmax": _along(-1),
    "MatMul": _matmul,
    "MaxPool": _images,
    "Pad": _pad,
    "ReduceMax": _reduce,
    "ReduceMean": _reduce,
    "ReduceMin": _reduce,
    "ReduceProd": _reduce,
    "ReduceSum": _reduce,
    "ReduceSumSquare": _reduce,
    "ScatterElements": _along(0),
    "Slice": _slice,
    "Softmax": _along(-1),
    "Split": _split,
    "Tile": _tile,
    "Transpose": _transpose,
    "Trilu": _trilu,
}
