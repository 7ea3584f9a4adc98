"""The inference model of a training plan: its ``predict`` graph with the weights of a trained model inside.

The result is an ordinary ONNX file. Its inputs and outputs have bare names (``x``, ``output``), its weights are
constants, and hyperparameters have their defaults. A Domain serves such a file (`pygrid.plans.serving`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pygrid import codes
from pygrid.errors import InvalidInput, InvalidPlan
from pygrid.plans.archive import Plan
from pygrid.plans.runner import check_params, model_spec

MAX_ONNX_BYTES = 2**31 - 2**20
"""Protobuf cannot hold a message of 2 GiB; the graph itself has its share."""
_GRAPH = "predict"


def export_onnx(plan: Plan, params: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """The ONNX file that predicts as the trained model does in evaluation mode.

    Args:
        plan: the training plan of the model. It needs no check by the gate before: nothing of it is run.
        params: the trained model, for example of `Process.download` or `Job.params`; float32.
    Raises:
        InvalidPlan: the plan has no graph for predictions (``plan_graph_missing``), or it cannot be parsed.
        ShapeMismatch: the model is not one of this plan.
        InvalidInput: the weights are too large for an ONNX file (``model_too_large``).
    """
    from onnx import numpy_helper

    graph_bytes = _predict_graph(plan)
    check_params(model_spec(plan.manifest), params)
    num_bytes = sum(array.nbytes for array in params.values())
    if num_bytes > MAX_ONNX_BYTES:
        raise InvalidInput(
            f"the weights have {num_bytes:,} bytes; an ONNX file can hold {MAX_ONNX_BYTES:,}. Save the weights with "
            "download(path=...) instead",
            code=codes.MODEL_TOO_LARGE,
        )
    model = _parsed(graph_bytes)
    used = {name for node in model.graph.node for name in node.input}
    ports = [info for info in model.graph.input if info.name.startswith("data/")]
    constants = [name for name in (info.name for info in model.graph.input) if name in used]
    for name in constants:
        array = _constant(plan, params, name)
        if array is not None:
            model.graph.initializer.append(numpy_helper.from_array(array, name))
    del model.graph.input[:]
    model.graph.input.extend(ports)
    _use_bare_names(model)
    return bytes(model.SerializeToString(deterministic=True))


def _predict_graph(plan: Plan) -> bytes:
    if _GRAPH in plan.manifest.graphs:
        return plan.graph(_GRAPH)
    raise InvalidPlan(
        f"plan {plan.manifest.name!r} has no graph for predictions. Build it with a function for them: "
        "@pygrid.plan(..., predict=lambda model, x: model(x)), and host the new plan",
        code=codes.PLAN_GRAPH_MISSING,
        graph=_GRAPH,
    )


def _parsed(data: bytes) -> Any:
    import onnx
    from google.protobuf.message import DecodeError

    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except (DecodeError, ValueError, RecursionError) as error:
        raise InvalidPlan(
            f"graph {_GRAPH!r} is not an ONNX model", code=codes.PLAN_GRAPH_INVALID, graph=_GRAPH
        ) from error
    return model


def _constant(plan: Plan, params: Mapping[str, npt.NDArray[Any]], name: str) -> npt.NDArray[Any] | None:
    """The array of a weight or hyperparameter; None for data."""
    kind, _, bare = name.partition("/")
    if kind in ("params", "buffers"):
        return np.ascontiguousarray(params[bare], np.float32)
    if kind == "hyper":
        return np.array(plan.manifest.hyper[bare].default, np.float32)
    return None


def _use_bare_names(model: Any) -> None:
    """Rename ``data/NAME`` and ``predictions/NAME``; inner values that have such a name get another one."""
    graph = model.graph
    outside = {info.name: info.name.partition("/")[2] for info in graph.input}
    for info in graph.output:
        bare = info.name.partition("/")[2]
        outside[info.name] = bare if bare not in outside.values() else f"{bare}.output"
    taken = set(outside.values())
    inside = {name: f"inner/{name}" for node in graph.node for name in (*node.input, *node.output) if name in taken}
    names = inside | outside
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for named in (*graph.input, *graph.output, *graph.initializer):
        named.name = names.get(named.name, named.name)
