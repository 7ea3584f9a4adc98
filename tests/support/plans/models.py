"""Models to serve, built node by node, and the form that serves them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

PATH = "/data-centric/models"
SERVE = "/data-centric/serve-model"
TYPES = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}
WEIGHT = np.arange(12, dtype=np.float32).reshape(4, 3) / 10


def graph_model(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, tuple[str, list[Any]]],
    outputs: dict[str, tuple[str, list[Any]]],
    constants: dict[str, npt.NDArray[Any]] | None = None,
    *,
    opset: int = 20,
    domains: tuple[str, ...] = (),
) -> bytes:
    def infos(ports: dict[str, tuple[str, list[Any]]]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(name, TYPES[dtype], shape) for name, (dtype, shape) in ports.items()]

    made = [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()]
    graph = helper.make_graph(nodes, "graph", infos(inputs), infos(outputs), initializer=made)
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString())


def linear(opset: int = 20, weight: npt.NDArray[np.float32] = WEIGHT) -> bytes:
    """x (N, 4) -> y = x @ WEIGHT (N, 3)."""
    return graph_model(
        [helper.make_node("MatMul", ["x", "weight"], ["y"])],
        {"x": ("float32", ["N", weight.shape[0]])},
        {"y": ("float32", ["N", weight.shape[1]])},
        {"weight": weight},
        opset=opset,
    )


def lookup() -> bytes:
    """token (N,) int64 in 0..3 -> the row of WEIGHT: fails on other numbers."""
    return graph_model(
        [helper.make_node("Gather", ["weight", "token"], ["y"], axis=0)],
        {"token": ("int64", ["N"])},
        {"y": ("float32", ["N", 3])},
        {"weight": WEIGHT},
    )


def centred() -> bytes:
    """x (N, 4) -> x - mean over the batch: rows depend on each other."""
    return graph_model(
        [
            helper.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=1),
            helper.make_node("Sub", ["x", "mean"], ["y"]),
        ],
        {"x": ("float32", ["N", 4])},
        {"y": ("float32", ["N", 4])},
        {"axes": np.array([0], np.int64)},
    )


def slow(rounds: int = 60, side: int = 1500) -> bytes:
    """x (side, side) -> x^rounds by products: some seconds of work."""
    nodes = [helper.make_node("MatMul", [f"v{i}" if i else "x", "x"], [f"v{i + 1}"]) for i in range(rounds)]
    nodes.append(helper.make_node("ReduceMax", [f"v{rounds}"], ["y"], keepdims=0))
    return graph_model(nodes, {"x": ("float32", [side, side])}, {"y": ("float32", [])})


def form(model: bytes | None, model_id: str = "scores", **config: Any) -> list[tuple[str, tuple[str, bytes, str]]]:
    """The native form."""
    parts = [("config", ("config", json.dumps({"model_id": model_id, **config}).encode(), "application/json"))]
    if model is not None:
        parts.append(("model", ("model.onnx", model, "application/octet-stream")))
    return parts
