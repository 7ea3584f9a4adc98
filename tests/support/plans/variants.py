"""A good plan, and plans that differ from it by a node, a port or the manifest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx
from onnx import helper

from pygrid.plans import DataPort, Manifest, Port, build_archive
from support.plans.handmade import GraphBuilder, graph_entry, logistic_plan

PLAN = logistic_plan()


def edited(edit: Callable[[onnx.ModelProto], None], graph: str = "train", **changes: Any) -> bytes:
    """A plan file with one graph changed; the manifest's hash and number of nodes follow, its ports do not."""
    return logistic_plan(edit=lambda models: edit(models[graph]), **changes).data


def with_node(op: str, *inputs: str, outputs: int = 1, domain: str = "", **attributes: Any) -> bytes:
    """A plan file whose train graph has one more node, whose outputs nobody uses."""

    def edit(model: onnx.ModelProto) -> None:
        names = [f"extra{i}" for i in range(outputs)]
        model.graph.node.append(helper.make_node(op, list(inputs), names, domain=domain, name="extra", **attributes))

    return edited(edit)


def with_nodes(build: Callable[[GraphBuilder], None]) -> bytes:
    def edit(model: onnx.ModelProto) -> None:
        g = GraphBuilder()
        build(g)
        for node in g.nodes:
            for side in (node.input, node.output):
                side[:] = [name if "/" in name else f"extra_{name}" for name in side]
        for tensor in g.initializers:
            tensor.name = f"extra_{tensor.name}"
        model.graph.node.extend(g.nodes)
        model.graph.initializer.extend(g.initializers)

    return edited(edit)


def make_plan(graphs: dict[str, tuple[GraphBuilder, tuple[Port, ...], tuple[Port, ...]]], **changes: Any) -> bytes:
    models = {name: g.model(inputs, outputs) for name, (g, inputs, outputs) in graphs.items()}
    data = {name: model.SerializeToString(deterministic=True) for name, model in models.items()}
    entries = {name: graph_entry(data[name], models[name], *graphs[name][1:]) for name in graphs}
    values: dict[str, Any] = {
        "format": 1,
        "kind": "training",
        "name": "made",
        "description": "",
        "author": "",
        "opset": 20,
        "graphs": entries,
        "data": {"x": DataPort("float32", (4,))},
        "metrics": {"loss": "mean"},
    }
    return build_archive(Manifest(**{**values, **changes}), data, "")
