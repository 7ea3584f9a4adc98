"""Reads the ONNX bytes of a graph and refuses every part that plans do not use."""

from __future__ import annotations

from typing import Any

import onnx
from google.protobuf.message import DecodeError

from pygrid.errors import InvalidPlan
from pygrid.plans.costs import Analysis, node_label, tensor_value
from pygrid.plans.manifest import Graph, Port
from pygrid.plans.operators import OPERATORS
from pygrid.plans.operators.values import ELEMENT_TYPES, IR_VERSIONS, OPSET
from pygrid.plans.sizes import SYMBOL, Size
from pygrid.plans.text import one_line

_FIELDS: dict[str, frozenset[str]] = {
    "ModelProto": frozenset(
        {
            "ir_version",
            "opset_import",
            "producer_name",
            "producer_version",
            "domain",
            "model_version",
            "doc_string",
            "graph",
        }
    ),
    "GraphProto": frozenset({"node", "name", "initializer", "doc_string", "input", "output"}),
    "NodeProto": frozenset({"input", "output", "name", "op_type", "domain", "attribute", "doc_string"}),
    "AttributeProto": frozenset({"name", "type", "doc_string", "f", "i", "s", "t", "floats", "ints"}),
    "TensorProto": frozenset(
        {"dims", "data_type", "float_data", "int32_data", "int64_data", "name", "doc_string", "raw_data"}
    ),
    "ValueInfoProto": frozenset({"name", "type", "doc_string"}),
    "TypeProto": frozenset({"tensor_type"}),
    "Tensor": frozenset({"elem_type", "shape"}),
    "TensorShapeProto": frozenset({"dim"}),
    "Dimension": frozenset({"dim_value", "dim_param"}),
    "OperatorSetIdProto": frozenset({"domain", "version"}),
}
"""The fields that may be set, by message type. Every other field of ONNX, present or future, is refused: functions,
subgraphs, sparse and external tensors, strings, sequences, optional values, training info, quantization, metadata,
device placement."""

_PLAN_OPSETS = range(OPSET, OPSET + 1)
_ATTRIBUTE_KINDS = frozenset({"FLOAT", "INT", "STRING", "TENSOR", "FLOATS", "INTS"})


def read_graph(name: str, data: bytes, entry: Graph) -> onnx.ModelProto:
    """The parsed graph, after checks of its structure and of its ports against the manifest.

    Raises:
        InvalidPlan: the graph is refused; `pygrid.plans.gate` lists the codes.
    """
    model = parse_graph(name, data, _PLAN_OPSETS)
    _check_ports(name, model.graph, entry)
    check_valid(name, model)
    return model


def parse_graph(name: str, data: bytes, opsets: range) -> onnx.ModelProto:
    """The parsed graph, after a check of its structure; its ports and its validity by ONNX are not checked here.

    Raises:
        InvalidPlan: the graph is refused; `pygrid.plans.gate` lists the codes.
    """
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except (DecodeError, ValueError, RecursionError) as error:
        raise _refused(name, "is not an ONNX model", "plan_graph_invalid") from error
    _check_encoding(name, model, data)
    _check_fields(name, model)
    _check_versions(name, model, opsets)
    for index, node in enumerate(model.graph.node):
        _check_node(name, index, node)
    for tensor in model.graph.initializer:
        tensor_value(name, tensor)
    return model


def check_valid(name: str, model: onnx.ModelProto) -> None:
    """Check the model with ONNX's own checker. Raises InvalidPlan: ``plan_graph_invalid``."""
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        raise _refused(name, f"is not valid ONNX: {one_line(str(error))}", "plan_graph_invalid") from error


def constant_bytes(model: onnx.ModelProto) -> int:
    """Bytes of all constants of a graph, as initializers or in attributes."""
    tensors = list(model.graph.initializer)
    tensors += [a.t for node in model.graph.node for a in node.attribute if a.type == onnx.AttributeProto.TENSOR]
    return sum(tensor.ByteSize() for tensor in tensors)


def check_outputs(analysis: Analysis, entry: Graph) -> None:
    """Check that each output has the dtype and shape that the manifest declares, at every batch size."""
    for port in entry.outputs:
        value = analysis.values[port.name]
        shape: tuple[Size, ...] = tuple(SYMBOL if isinstance(size, str) else size for size in port.shape)
        if (value.dtype, value.shape) != (port.dtype, shape):
            raise _refused(
                analysis.name,
                f"computes {port.name!r} as {value.dtype} {[str(size) for size in value.shape]}, but declares "
                f"{port.dtype} {[str(size) for size in shape]} (n is the batch size)",
                "plan_ports_invalid",
            )


def _refused(graph: str, detail: str, code: str) -> InvalidPlan:
    return InvalidPlan(f"graph {graph!r} {detail}", code=code, graph=graph)


def _check_encoding(name: str, model: onnx.ModelProto, data: bytes) -> None:
    """Refuse bytes that two parsers could read differently: unknown fields, repeated fields, padded numbers."""
    model.DiscardUnknownFields()
    if model.ByteSize() != len(data):
        raise _refused(
            name,
            "has fields that ONNX does not know, or is encoded in an unusual way; write it with onnx",
            "plan_graph_invalid",
        )


def _check_fields(name: str, message: Any) -> None:
    kind = message.DESCRIPTOR.name
    allowed = _FIELDS.get(kind, frozenset())
    for descriptor, value in message.ListFields():
        if descriptor.name not in allowed:
            if descriptor.name in ("external_data", "data_location"):
                raise _refused(name, "refers to data outside the plan file", "plan_external_data")
            raise _refused(name, f"uses {kind}.{descriptor.name}, which is not part of plans", "plan_feature_forbidden")
        if descriptor.message_type is not None:
            for item in value if _is_repeated(value) else (value,):
                _check_fields(name, item)


def _is_repeated(value: Any) -> bool:
    return not hasattr(value, "DESCRIPTOR")


def _check_versions(name: str, model: onnx.ModelProto, opsets: range) -> None:
    if model.ir_version not in IR_VERSIONS:
        raise _refused(
            name,
            f"has IR version {model.ir_version}; {IR_VERSIONS.start} to {IR_VERSIONS.stop - 1} are supported",
            "plan_version_unsupported",
        )
    domains = [opset.domain for opset in model.opset_import]
    if domains != [""]:
        foreign = next((domain for domain in domains if domain), "")
        raise _refused(
            name,
            f"imports operators of {foreign[:80]!r}; plans import only the default domain, and import it once",
            "plan_domain_forbidden",
        )
    if model.opset_import[0].version not in opsets:
        first, last = opsets.start, opsets.stop - 1
        supported = f"{last} is supported" if first == last else f"{first} to {last} are supported"
        raise _refused(name, f"is for opset {model.opset_import[0].version}; {supported}", "plan_version_unsupported")


def _check_node(name: str, index: int, node: onnx.NodeProto) -> None:
    label = node_label(index, node)
    if node.domain:
        raise _refused(
            name, f"{label}: operators of domain {node.domain[:80]!r} are not part of plans", "plan_domain_forbidden"
        )
    if node.op_type not in OPERATORS:
        raise _refused(name, f"{label}: operator {node.op_type[:80]!r} is not part of plans", "plan_operator_forbidden")
    for attribute in node.attribute:
        if onnx.AttributeProto.AttributeType.Name(attribute.type) not in _ATTRIBUTE_KINDS:
            raise _refused(
                name, f"{label}: attribute {attribute.name[:40]!r} is not a number or tensor", "plan_feature_forbidden"
            )
        if attribute.type == onnx.AttributeProto.TENSOR:
            tensor_value(name, attribute.t)


def _check_ports(name: str, graph: onnx.GraphProto, entry: Graph) -> None:
    if len(graph.node) != entry.num_nodes:
        raise _refused(
            name, f"has {len(graph.node)} nodes, but the manifest declares {entry.num_nodes}", "plan_ports_invalid"
        )
    inputs = {info.name for info in graph.input}
    for tensor in graph.initializer:
        if tensor.name in inputs:
            raise _refused(name, f"has {tensor.name[:80]!r} both as input and as constant", "plan_ports_invalid")
    for what, infos, ports in (("inputs", graph.input, entry.inputs), ("outputs", graph.output, entry.outputs)):
        found = tuple(read_port(name, info) for info in infos)
        if found != ports:
            differing = next((a for a, b in zip(found, ports, strict=False) if a != b), None)
            where = f"{differing.name[:80]!r} differs" if differing else f"there are {len(found)}, not {len(ports)}"
            raise _refused(name, f"has {what} that differ from the manifest's: {where}", "plan_ports_invalid")


def read_port(graph: str, info: onnx.ValueInfoProto) -> Port:
    """An input or output, as the graph declares it. Raises InvalidPlan: no shape, an open size, or a wrong dtype."""
    tensor = info.type.tensor_type
    dtype = ELEMENT_TYPES.get(tensor.elem_type)
    if dtype is None or not tensor.HasField("shape"):
        raise _refused(graph, f"port {info.name[:80]!r} has no shape or a wrong dtype", "plan_dtype_forbidden")
    shape: list[int | str] = []
    for dim in tensor.shape.dim:
        if not dim.WhichOneof("value"):
            raise _refused(graph, f"port {info.name[:80]!r} has a size that is left open", "plan_ports_invalid")
        shape.append(dim.dim_param or dim.dim_value)
    return Port(info.name, dtype, tuple(shape))  # type: ignore[arg-type]
