"""Plans of a malicious data scientist, written by hand. Each passes the gate as independent for each example.

Each tries to make the contributions of all records depend on one marked record, or on the place of a record in the
batch, so that the sum moves by far more than one contribution. ``x`` and ``y`` are one number for each record.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto

from pygrid.plans import DataPort, Hyper, Manifest, Plan, Port, build_archive
from pygrid.plans.sessions import OnnxSession
from support.plans.handmade import FORMAT, GraphBuilder, f32, graph_entry

MARK = 999
MODEL = {"w": np.zeros(1, np.float32)}
_PARAMS, _DATA = (f32("params/w", 1),), (f32("data/x", "batch", 1), Port("data/y", "int64", ("batch",)))
_FLOAT = TensorProto.FLOAT


def make_plan(name: str, graphs: dict[str, Any], *, max_batch_size: int = 1024) -> Plan:
    """A training plan of graphs ``{name: (model, inputs, outputs)}``."""
    data = {graph: model.SerializeToString(deterministic=True) for graph, (model, _, _) in graphs.items()}
    manifest = Manifest(
        format=FORMAT,
        kind="training",
        name=name,
        description="",
        author="",
        opset=20,
        graphs={graph: graph_entry(data[graph], *graphs[graph]) for graph in graphs},
        data={"x": DataPort("float32", (1,), ""), "y": DataPort("int64", (), "")},
        hyper={"lr": Hyper(1.0, 1e-5, 1e6)},
        metrics={"loss": "mean"},
        optimizer="",
        max_batch_size=max_batch_size,
    )
    return Plan.from_bytes(build_archive(manifest, data, ""))


def contributing(name: str, build: Any) -> Plan:
    """A plan whose gradient and whose loss are the number ``build(g)`` of each record, of shape ``[batch, 1]``."""
    graphs = {}
    for graph in ("grads", "eval"):
        g = GraphBuilder()
        value = g.op("Add", build(g), g.op("Mul", "params/w", g.const(np.float32(0))))
        outputs: tuple[Port, ...] = (f32("metrics/loss"),)
        if graph == "grads":
            g.op("ReduceSum", value, g.ints(0), keepdims=0, out="grads/w")
            outputs = (f32("grads/w", 1), *outputs)
        g.op("ReduceSum", value, g.ints(0, 1), keepdims=0, out="metrics/loss")
        inputs = (*_PARAMS, *_DATA)
        graphs[graph] = (g.model(inputs, outputs), inputs, outputs)
    return make_plan(name, graphs)


def plus_or_minus(g: GraphBuilder, condition: str) -> str:
    """1 where a condition of shape ``[batch, 1]`` holds, else -1."""
    return g.op("Sub", g.op("Mul", g.op("Cast", condition, to=_FLOAT), g.const(np.float32(2))), g.const(np.float32(1)))


def fallback_plan() -> Plan:
    """A record with ``y = MARK`` fails.

    The others contribute 1 if their sine has the bits that it has within a batch.
    """
    value = np.float32(5.1070514)
    in_batch = _sine(np.full((128, 1), value, np.float32))[0, 0]

    def build(g: GraphBuilder) -> str:
        looked_up = g.op("Gather", g.const(np.zeros(256, np.float32)), "data/y", axis=0)  # fails beyond the table
        same_for_all = g.op("Add", g.op("Mul", "data/x", g.const(np.float32(0))), g.const(value))
        sign = plus_or_minus(g, g.op("Equal", g.op("Sin", same_for_all), g.const(in_batch)))
        return g.op("Add", sign, g.op("Unsqueeze", looked_up, g.ints(1)))

    return contributing("fallback", build)


def position_plan() -> Plan:
    """A record contributes 1 if it lies where its ``y`` says, modulo 4, by the last bits of a sum of constants; else
    -1.
    """
    row, sums = _row_with_sums_by_alignment()

    def build(g: GraphBuilder) -> str:
        same_for_all = g.op("Add", g.op("Mul", "data/x", g.const(np.float32(0))), g.const(row.reshape(1, -1)))
        summed = g.op("ReduceSum", same_for_all, g.ints(1), keepdims=1)
        expected = g.op("Gather", g.const(sums), g.op("Mod", "data/y", g.const(np.array(4, np.int64))), axis=0)
        return plus_or_minus(g, g.op("Equal", summed, g.op("Unsqueeze", expected, g.ints(1))))

    return contributing("position", build)


def slow_plan(*, operator: str = "Mod", width: int = 20_000, repeats: int = 1) -> Plan:
    """A record with ``x = 7`` computes with numbers for which an operator takes many times as long."""

    def build(g: GraphBuilder) -> str:
        marked = g.op("Equal", "data/x", g.const(np.float32(7)))
        large = g.op("Where", marked, g.const(np.float32(3e38)), g.const(np.float32(0.5)))
        small = g.op("Where", marked, g.const(np.float32(1.7e-38)), g.const(np.float32(1.0)))
        wide = g.op("Add", large, g.op("ConstantOfShape", g.ints(1, width)))
        value = None
        for number in range(repeats):
            other = g.op("Mul", small, g.const(np.float32(1 + number / 1024)))  # different, so that no node is merged
            attributes = {"fmod": 1} if operator == "Mod" else {}
            part = g.op("ReduceMax", g.op(operator, wide, other, **attributes), g.ints(1), keepdims=1)
            value = part if value is None else g.op("Add", value, part)
        assert value is not None
        return g.op("Add", g.op("Mul", value, g.const(np.float32(0))), g.const(np.float32(1)))

    return contributing("slow", build)


def honest_plan() -> Plan:
    """A record contributes its ``x``."""
    return contributing("honest", lambda g: g.op("Identity", "data/x"))


def _sine(x: Any) -> Any:
    g = GraphBuilder()
    g.op("Sin", "data/x", out="y")
    model = g.model((f32("data/x", "batch", 1),), (f32("y", "batch", 1),))
    return OnnxSession(model.SerializeToString(), name="sine").run(["y"], {"data/x": x})[0]


def _row_with_sums_by_alignment(width: int = 31) -> tuple[Any, Any]:
    """A row whose sum, in a batch of equal rows, depends on the place of the row modulo 4; and the four sums."""
    g = GraphBuilder()
    g.op("ReduceSum", "data/x", g.ints(1), keepdims=0, out="y")
    model = g.model((f32("data/x", "batch", width),), (f32("y", "batch"),))
    session = OnnxSession(model.SerializeToString(), name="sum")
    rng = np.random.default_rng(0)
    best = None
    for _ in range(2000):
        row = (rng.standard_normal(width) * 10.0 ** rng.integers(-3, 4, width)).astype(np.float32)
        sums = session.run(["y"], {"data/x": np.broadcast_to(row, (64, width)).copy()})[0]
        if (sums == np.tile(sums[:4], 16)).all() and (best is None or len(set(sums[:4])) > len(set(best[1]))):
            best = row, sums[:4].copy()
            if len(set(best[1])) == 4:
                break
    assert best is not None
    return best
