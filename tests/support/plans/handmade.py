"""Plans built by hand, node by node, so that format, gate and runner are tested without the tracer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from pygrid.plans import DataPort, Graph, Hyper, Manifest, Plan, Port, TestVector, build_archive
from pygrid.plans.manifest import FORMAT

OPSET = 20
_ELEM = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64, "int32": TensorProto.INT32, "bool": TensorProto.BOOL}


class GraphBuilder:
    """Nodes in order, each named after its operator and number."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def op(self, op_type: str, *inputs: str, out: str | None = None, **attributes: Any) -> str:
        name = f"{op_type}_{len(self.nodes)}"
        output = out or f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, list(inputs), [output], name=name, **attributes))
        return output

    def ints(self, *values: int) -> str:
        return self.const(np.array(values, np.int64))

    def const(self, array: npt.NDArray[Any]) -> str:
        name = f"c{len(self.initializers)}"
        self.initializers.append(onnx.numpy_helper.from_array(np.asarray(array), name))
        return name

    def model(self, inputs: tuple[Port, ...], outputs: tuple[Port, ...]) -> onnx.ModelProto:
        def info(port: Port) -> onnx.ValueInfoProto:
            return helper.make_tensor_value_info(port.name, _ELEM[port.dtype], list(port.shape))

        graph = helper.make_graph(
            self.nodes, "graph", [info(p) for p in inputs], [info(p) for p in outputs], initializer=self.initializers
        )
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10, producer_name="handmade"
        )


def f32(name: str, *shape: int | str) -> Port:
    return Port(name, "float32", shape)


def logistic_ports(features: int, classes: int) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    params = (f32("params/weight", classes, features), f32("params/bias", classes))
    data = (f32("data/x", "batch", features), Port("data/y", "int64", ("batch",)))
    return params, data


def _forward(g: GraphBuilder, classes: int) -> tuple[str, str, str]:
    """Loss, logits and the gradient of the loss by the logits: softmax regression with cross entropy, mean over the
    batch.
    """
    logits = g.op("Gemm", "data/x", "params/weight", "params/bias", transB=1)
    log_probs = g.op("LogSoftmax", logits, axis=1)
    picked = g.op("GatherElements", log_probs, g.op("Unsqueeze", "data/y", g.ints(1)), axis=1)
    loss = g.op("Neg", g.op("ReduceMean", picked, keepdims=0), out="metrics/loss")
    classes_row = g.const(np.arange(classes, dtype=np.int64).reshape(1, classes))
    one_hot = g.op("Cast", g.op("Equal", g.op("Unsqueeze", "data/y", g.ints(1)), classes_row), to=TensorProto.FLOAT)
    size = g.op("Cast", g.op("Squeeze", g.op("Shape", "data/y"), g.ints(0)), to=TensorProto.FLOAT)
    d_logits = g.op("Div", g.op("Sub", g.op("Exp", log_probs), one_hot), size)
    return loss, logits, d_logits


def _accuracy(g: GraphBuilder, logits: str) -> None:
    hits = g.op("Cast", g.op("Equal", g.op("ArgMax", logits, axis=1, keepdims=0), "data/y"), to=TensorProto.FLOAT)
    g.op("ReduceMean", hits, keepdims=0, out="metrics/accuracy")


def logistic_graphs(
    features: int = 4, classes: int = 3, momentum: float | None = 0.9
) -> dict[str, tuple[onnx.ModelProto, tuple[Port, ...], tuple[Port, ...]]]:
    """The train, grads and eval graphs of softmax regression with SGD, with their ports.

    Args:
        momentum: None: plain SGD, without state.
    """
    params, data = logistic_ports(features, classes)
    names = [p.name for p in params]
    loss, accuracy = f32("metrics/loss"), f32("metrics/accuracy")
    graphs = {}

    g = GraphBuilder()
    _, logits, d_logits = _forward(g, classes)
    _accuracy(g, logits)
    grads = [g.op("Gemm", d_logits, "data/x", transA=1), g.op("ReduceSum", d_logits, g.ints(0), keepdims=0)]
    for name, grad in zip(names, grads, strict=True):
        velocity = grad
        if momentum is not None:
            state = "state/momentum/" + name.removeprefix("params/")
            factor = g.const(np.array(momentum, np.float32))
            velocity = g.op("Add", g.op("Mul", state, factor), grad, out=f"new/{state}")
        g.op("Sub", name, g.op("Mul", velocity, "hyper/lr"), out=f"new/{name}")
    kept = params if momentum is not None else ()
    states = tuple(f32("state/momentum/" + p.name.removeprefix("params/"), *p.shape) for p in kept)
    inputs = (*params, *states, f32("hyper/lr"), *data)
    outputs = (*(f32(f"new/{p.name}", *p.shape) for p in (*params, *states)), loss, accuracy)
    graphs["train"] = (g.model(inputs, outputs), inputs, outputs)

    g = GraphBuilder()
    _, _, d_logits = _forward(g, classes)
    g.op("Gemm", d_logits, "data/x", transA=1, out="grads/weight")
    g.op("ReduceSum", d_logits, g.ints(0), keepdims=0, out="grads/bias")
    inputs = (*params, *data)
    outputs = (f32("grads/weight", classes, features), f32("grads/bias", classes), loss)
    graphs["grads"] = (g.model(inputs, outputs), inputs, outputs)

    g = GraphBuilder()
    log_probs = g.op("LogSoftmax", g.op("Gemm", "data/x", "params/weight", "params/bias", transB=1), axis=1)
    picked = g.op("GatherElements", log_probs, g.op("Unsqueeze", "data/y", g.ints(1)), axis=1)
    g.op("Neg", g.op("ReduceMean", picked, keepdims=0), out="metrics/loss")
    _accuracy(g, log_probs)
    outputs = (loss, accuracy)
    graphs["eval"] = (g.model(inputs, outputs), inputs, outputs)
    return graphs


def graph_entry(data: bytes, model: onnx.ModelProto, inputs: tuple[Port, ...], outputs: tuple[Port, ...]) -> Graph:
    return Graph(
        sha256=hashlib.sha256(data).hexdigest(),
        inputs=inputs,
        outputs=outputs,
        num_nodes=len(model.graph.node),
        flops_fixed=0,
        flops_per_example=0,
    )


def logistic_manifest(
    models: Mapping[str, tuple[onnx.ModelProto, tuple[Port, ...], tuple[Port, ...]]],
    *,
    features: int = 4,
    classes: int = 3,
    **changes: Any,
) -> tuple[Manifest, dict[str, bytes]]:
    data = {name: model.SerializeToString(deterministic=True) for name, (model, _, _) in models.items()}
    values: dict[str, Any] = {
        "format": FORMAT,
        "kind": "training",
        "name": "logistic",
        "description": "softmax regression",
        "author": "the tests",
        "opset": OPSET,
        "graphs": {name: graph_entry(data[name], *models[name]) for name in models},
        "data": {
            "x": DataPort("float32", (features,), "features"),
            "y": DataPort("int64", (), f"label 0..{classes - 1}", classes),
        },
        "hyper": {"lr": Hyper(0.1, 1e-5, 1.0)},
        "metrics": {"loss": "mean", "accuracy": "mean"},
        "optimizer": "SGD(momentum=0.9)",
    }
    return Manifest(**{**values, **changes}), data


def logistic_plan(
    *,
    features: int = 4,
    classes: int = 3,
    momentum: float | None = 0.9,
    edit: Callable[[dict[str, onnx.ModelProto]], None] | None = None,
    source: str = "def loss(model, x, y): ...\n",
    **changes: Any,
) -> Plan:
    """A valid training plan; ``edit`` may change the graphs in place and ``changes`` the manifest before the file is
    made.
    """
    models = logistic_graphs(features, classes, momentum)
    if edit is not None:
        edit({name: model for name, (model, _, _) in models.items()})
    manifest, graphs = logistic_manifest(models, features=features, classes=classes, **changes)
    return Plan.from_bytes(build_archive(manifest, graphs, source))


def logistic_params(features: int = 4, classes: int = 3, seed: int = 0) -> dict[str, npt.NDArray[np.float32]]:
    generator = np.random.default_rng(seed)
    return {
        "weight": generator.normal(size=(classes, features)).astype(np.float32),
        "bias": generator.normal(size=classes).astype(np.float32),
    }


def logistic_data(size: int = 50, features: int = 4, classes: int = 3, seed: int = 1) -> dict[str, npt.NDArray[Any]]:
    generator = np.random.default_rng(seed)
    return {
        "x": generator.normal(size=(size, features)).astype(np.float32),
        "y": generator.integers(0, classes, size=size),
    }


__all__ = [
    "GraphBuilder",
    "Plan",
    "TestVector",
    "f32",
    "logistic_data",
    "logistic_graphs",
    "logistic_params",
    "logistic_plan",
]
