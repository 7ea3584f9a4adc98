"""Converts an exported ONNX model to a form that the gate for served models accepts (`pygrid.plans.serving`).

The sender of a model runs it. It removes what exporters add for people and tools. It replaces some operators that the
gate does not accept by operators that it accepts:

    Flatten (axis 1)        Reshape
    Dropout                 Identity: nothing is dropped when a model predicts
    BatchNormalization      Mul, Add, with computed constants
    LayerNormalization      ReduceMean, Sub, Mul, Add, Sqrt, Div
    Gelu (exact)            Div, Erf, Add, Mul

Source: the definitions in the operator documentation of ONNX, https://onnx.ai/onnx/operators/.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from google.protobuf.message import DecodeError
from onnx import NodeProto, helper, numpy_helper

from pygrid import codes
from pygrid.errors import InvalidPlan

Constants = dict[str, npt.NDArray[Any]]


def tidy_model(data: bytes) -> bytes:
    """The same model with the operators above replaced, and without what the gate does not need.

    Removes types of inner tensors, metadata, and operator sets that no node uses. Weights in other files must be loaded
    into the model before (``onnx.load`` does this). An operator that cannot be replaced stays.

    Raises:
        InvalidPlan: ``plan_graph_invalid``: the bytes are not an ONNX model.
    """
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except (DecodeError, ValueError, RecursionError) as error:
        raise InvalidPlan("this is not an ONNX model", code=codes.PLAN_GRAPH_INVALID) from error
    model.DiscardUnknownFields()
    _write_out(model)
    _strip(model)
    return bytes(model.SerializeToString(deterministic=True))


def _strip(model: onnx.ModelProto) -> None:
    graph = model.graph
    used = {node.domain for node in graph.node} | {""}
    opsets = [opset for opset in model.opset_import if opset.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(opsets)
    for message in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        if "metadata_props" in message.DESCRIPTOR.fields_by_name:
            message.ClearField("metadata_props")
    for info in (*graph.input, *graph.output):
        info.type.ClearField("denotation")
    del graph.value_info[:]
    called = {(node.domain, node.op_type) for node in graph.node}
    if not any((function.domain, function.name) in called for function in model.functions):
        del model.functions[:]
    for tensor in graph.initializer:
        # Data is inside the file by default; some writers repeat the default.
        if tensor.data_location == onnx.TensorProto.DEFAULT:
            tensor.ClearField("data_location")


def _write_out(model: onnx.ModelProto) -> None:
    if not any(node.op_type in _WRITERS and not node.domain for node in model.graph.node):
        return
    writer = _Writer(model)
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        written = _WRITERS[node.op_type](writer, node) if node.op_type in _WRITERS and not node.domain else None
        nodes += [node] if written is None else written
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in writer.added.items())
    used = {name for node in nodes for name in node.input} | {info.name for info in model.graph.output}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


class _Writer:
    """The facts about a model that the rules need, and the constants that they add."""

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self._names = {name for node in graph.node for name in (*node.input, *node.output)} | self._constants.keys()
        self._ranks: dict[str, int] | None = None
        self._model = model
        self.added: Constants = {}

    def name(self, node: NodeProto, what: str) -> str:
        """A name that is not used yet in the model."""
        name = f"{node.output[0]}/{what}"
        while name in self._names:
            name += "_"
        self._names.add(name)
        return name

    def constant(self, node: NodeProto, what: str, value: npt.ArrayLike) -> str:
        """Add a constant and return its name."""
        name = self.name(node, what)
        self.added[name] = np.asarray(value)
        return name

    def find(self, name: str) -> npt.NDArray[Any] | None:
        """The value of a constant of the model; None for other names."""
        tensor = self._constants.get(name)
        return None if tensor is None else np.asarray(numpy_helper.to_array(tensor))

    def rank(self, name: str) -> int | None:
        """The number of axes of a tensor; None if unknown."""
        if self._ranks is None:
            inferred = onnx.shape_inference.infer_shapes(self._model).graph
            infos = (*inferred.input, *inferred.value_info, *inferred.output)
            self._ranks = {
                info.name: len(info.type.tensor_type.shape.dim)
                for info in infos
                if info.type.tensor_type.HasField("shape")
            }
        return self._ranks.get(name)


def _attribute(node: NodeProto, name: str, default: Any) -> Any:
    found = next((attribute for attribute in node.attribute if attribute.name == name), None)
    return default if found is None else helper.get_attribute_value(found)


def _flatten(writer: _Writer, node: NodeProto) -> list[NodeProto] | None:
    if _attribute(node, "axis", 1) != 1 or (writer.rank(node.input[0]) or 0) < 2:
        return None
    shape = writer.constant(node, "shape", np.array([0, -1], np.int64))
    return [helper.make_node("Reshape", [node.input[0], shape], list(node.output), name=node.name)]


def _dropout(writer: _Writer, node: NodeProto) -> list[NodeProto] | None:
    training = node.input[2] if len(node.input) > 2 else ""
    mode = writer.find(training) if training else np.array(False)
    if mode is None or bool(mode) or len([name for name in node.output if name]) > 1:
        return None
    return [helper.make_node("Identity", [node.input[0]], [node.output[0]], name=node.name)]


def _batch_norm(writer: _Writer, node: NodeProto) -> list[NodeProto] | None:
    rank = writer.rank(node.input[0])
    given = [writer.find(name) for name in node.input[1:]]
    if rank is None or rank < 2 or _attribute(node, "training_mode", 0) or len(node.output) > 1:
        return None
    if any(array is None or array.dtype != np.float32 for array in given):
        return None
    scale, shift, mean, variance = (np.asarray(array, np.float64) for array in given)
    factor = scale / np.sqrt(variance + _attribute(node, "epsilon", 1e-5))
    side = (-1, *(1,) * (rank - 2))
    product = writer.name(node, "product")
    factors = writer.constant(node, "factor", factor.reshape(side).astype(np.float32))
    offsets = writer.constant(node, "offset", (shift - mean * factor).reshape(side).astype(np.float32))
    return [
        helper.make_node("Mul", [node.input[0], factors], [product], name=node.name),
        helper.make_node("Add", [product, offsets], [node.output[0]]),
    ]


def _layer_norm(writer: _Writer, node: NodeProto) -> list[NodeProto] | None:
    rank, axis = writer.rank(node.input[0]), _attribute(node, "axis", -1)
    if rank is None or len([name for name in node.output if name]) > 1 or _attribute(node, "stash_type", 1) != 1:
        return None
    axes = writer.constant(node, "axes", np.arange(axis % rank, rank, dtype=np.int64))
    epsilon = writer.constant(node, "epsilon", np.float32(_attribute(node, "epsilon", 1e-5)))
    mean, centred, squared, variance, padded, deviation, normal = (
        writer.name(node, what) for what in ("mean", "centred", "squared", "variance", "padded", "deviation", "normal")
    )
    bias = node.input[2] if len(node.input) > 2 else ""
    scaled = writer.name(node, "scaled") if bias else node.output[0]
    nodes = [
        helper.make_node("ReduceMean", [node.input[0], axes], [mean], name=node.name, keepdims=1),
        helper.make_node("Sub", [node.input[0], mean], [centred]),
        helper.make_node("Mul", [centred, centred], [squared]),
        helper.make_node("ReduceMean", [squared, axes], [variance], keepdims=1),
        helper.make_node("Add", [variance, epsilon], [padded]),
        helper.make_node("Sqrt", [padded], [deviation]),
        helper.make_node("Div", [centred, deviation], [normal]),
        helper.make_node("Mul", [normal, node.input[1]], [scaled]),
    ]
    return [*nodes, helper.make_node("Add", [scaled, bias], [node.output[0]])] if bias else nodes


def _gelu(writer: _Writer, node: NodeProto) -> list[NodeProto] | None:
    if _attribute(node, "approximate", b"none") != b"none":
        return None
    root = writer.constant(node, "root", np.float32(math.sqrt(2)))
    one, half = writer.constant(node, "one", np.float32(1)), writer.constant(node, "half", np.float32(0.5))
    scaled, erf, risen, halved = (writer.name(node, what) for what in ("scaled", "erf", "risen", "halved"))
    return [
        helper.make_node("Div", [node.input[0], root], [scaled], name=node.name),
        helper.make_node("Erf", [scaled], [erf]),
        helper.make_node("Add", [erf, one], [risen]),
        helper.make_node("Mul", [node.input[0], half], [halved]),
        helper.make_node("Mul", [halved, risen], [node.output[0]]),
    ]


_WRITERS: dict[str, Callable[[_Writer, NodeProto], list[NodeProto] | None]] = {
    "Flatten": _flatten,
    "Dropout": _dropout,
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
    "Gelu": _gelu,
}
"""Operator -> the function that replaces it, which returns None if it cannot."""
