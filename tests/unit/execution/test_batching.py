"""One call for many records computes what a call for each would: for each operator and model family, and for each alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from handmade import GraphBuilder, f32, logistic_data, logistic_params, logistic_plan
from onnx import TensorProto

from pygrid.errors import InvalidPlan
from pygrid.features.execution.batching import batched_graph
from pygrid.features.execution.contributions import PlanRows
from pygrid.plans import Plan, selftest_inputs
from pygrid.plans.selftest import selftest_graph
from pygrid.plans.sessions import Session

VECTORS = Path(__file__).parents[2] / "vectors" / "plans"
FAMILIES = ("cnn_group_norm", "logistic", "lstm", "transformer")
RECORDS = 7


def family(name: str) -> tuple[Plan, dict[str, Any], dict[str, Any]]:
    """A plan, a model for it and data, made by the formula of the self-test."""
    plan = Plan.load(VECTORS / f"{name}.plan")
    inputs = selftest_inputs(plan.manifest, RECORDS)
    assert selftest_graph(plan.manifest) == "train"
    params = {n.partition("/")[2]: array for n, array in inputs.items() if n.startswith(("params/", "buffers/"))}
    data = {n.removeprefix("data/"): array for n, array in inputs.items() if n.startswith("data/")}
    return plan, params, data


@pytest.mark.parametrize("graph", ["grads", "eval"])
@pytest.mark.parametrize("name", FAMILIES)
def test_model_families(name: str, graph: str) -> None:
    plan, params, data = family(name)
    if graph not in plan.manifest.graphs:
        pytest.skip("the plan has no such graph")
    rows = PlanRows(plan, graph, params, data)
    assert rows.is_batched
    together, num_failed = rows.rows(np.arange(RECORDS))
    assert num_failed == 0
    rows._many = None
    alone, _ = rows.rows(np.arange(RECORDS))
    scale = np.abs(alone).max()
    # float32 sums in another order
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=2e-6 * scale)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_record_reaches_no_row_but_its_own(name: str) -> None:
    """Another record, even one of NaN, changes nothing about the others' rows: not one bit of a row that is computed alike."""
    plan, params, data = family(name)
    rows = PlanRows(plan, "grads", params, data)
    before, _ = rows.rows(np.arange(RECORDS))
    changed = {name: np.array(array) for name, array in data.items()}
    for name, array in changed.items():
        array[3] = np.nan if array.dtype.kind == "f" else (array[3] + 1) % (plan.manifest.data[name].num_classes or 2)
    after, _ = PlanRows(plan, "grads", params, changed).rows(np.arange(RECORDS))
    others = [index for index in range(RECORDS) if index != 3]
    np.testing.assert_array_equal(before[others], after[others])
    assert not np.array_equal(before[3], after[3])


def test_batch_norm_is_refused() -> None:
    plan, params, data = family("cnn_batch_norm")
    with pytest.raises(InvalidPlan, match="GroupNorm") as caught:
        PlanRows(plan, "grads", params, data)
    assert caught.value.code == "plan_mixes_examples"


def x_op(operator: str, *, out: tuple[int, ...] = (3, 4), **attributes: Any) -> Any:
    def build(g: GraphBuilder) -> str:
        return g.op(operator, "data/x", **attributes)

    return build, out


CASES: dict[str, Any] = {
    "Softmax by axis 1": x_op("Softmax", axis=1),
    "LogSoftmax by the last axis": x_op("LogSoftmax"),
    "Transpose": (lambda g: g.op("Transpose", "data/x", perm=[0, 2, 1]), (4, 3)),
    "Relu": x_op("Relu"),
    "MatMul by a matrix": (lambda g: g.op("MatMul", "data/x", g.const(np.ones((4, 5), np.float32))), (3, 5)),
    "MatMul of a matrix by data": (lambda g: g.op("MatMul", g.const(np.ones((5, 3), np.float32)), "data/x"), (5, 4)),
    "MatMul of data": (lambda g: g.op("MatMul", g.op("Transpose", "data/x", perm=[0, 2, 1]), "data/x"), (4, 4)),
    "Add by broadcasting": (lambda g: g.op("Add", "data/x", g.const(np.arange(4, dtype=np.float32))), (3, 4)),
    "Mul of different ranks": (
        lambda g: g.op("Mul", g.op("Reshape", g.op("ReduceSum", "data/x", keepdims=0), g.ints(1)), "data/x"),
        (3, 4),
    ),
    "ReduceMean": (lambda g: g.op("ReduceMean", "data/x", g.ints(2), keepdims=0), (3,)),
    "ReduceMax": (lambda g: g.op("ReduceMax", "data/x", g.ints(-1), keepdims=1), (3, 1)),
    "Slice": (lambda g: g.op("Slice", "data/x", g.ints(1), g.ints(4), g.ints(2), g.ints(2)), (3, 2)),
    "Concat with a constant": (
        lambda g: g.op("Concat", "data/x", g.op("ConstantOfShape", g.op("Shape", "data/x")), axis=2),
        (3, 8),
    ),
    "Pad": (lambda g: g.op("Pad", "data/x", g.ints(0, 1, 0, 0, 0, 2), g.const(np.array(5, np.float32))), (4, 6)),
    "Tile": (lambda g: g.op("Tile", "data/x", g.ints(1, 2, 1)), (6, 4)),
    "Expand": (lambda g: g.op("Expand", "data/x", g.ints(2, 1, 1, 1)), None),
    "Gather from data": (lambda g: g.op("Gather", "data/x", g.ints(2, 0), axis=2), (3, 2)),
    "Gather by data": (
        lambda g: g.op(
            "Gather",
            g.const(np.arange(20, dtype=np.float32).reshape(10, 2)),
            g.op("Cast", g.op("Abs", "data/x"), to=TensorProto.INT64),
        ),
        (3, 4, 2),
    ),
    "GatherElements": (
        lambda g: g.op(
            "GatherElements", "data/x", g.op("Cast", g.op("Abs", "data/x"), to=TensorProto.INT64), axis=2
        ),
        (3, 4),
    ),
    "ScatterElements": (
        lambda g: g.op(
            "ScatterElements",
            g.op("ConstantOfShape", g.op("Shape", "data/x")),
            g.op("Cast", g.op("Abs", "data/x"), to=TensorProto.INT64),
            "data/x",
            axis=2,
            reduction="add",
        ),
        (3, 4),
    ),
    "Trilu": x_op("Trilu", upper=0),
    "ArgMax": (lambda g: g.op("Cast", g.op("ArgMax", "data/x", axis=2, keepdims=0), to=TensorProto.FLOAT), (3,)),
    "Where": (
        lambda g: g.op(
            "Where", g.op("Greater", "data/x", g.const(np.array(0, np.float32))), "data/x", g.const(np.ones(4, np.float32))
        ),
        (3, 4),
    ),
    "Clip": (lambda g: g.op("Clip", "data/x", g.const(np.array(-0.5, np.float32)), g.const(np.array(1, np.float32))), (3, 4)),
    "Conv": (
        lambda g: g.op(
            "Conv",
            g.op("Unsqueeze", "data/x", g.ints(1)),
            g.const(np.arange(18, dtype=np.float32).reshape(2, 1, 3, 3)),
            pads=[1, 1, 1, 1],
        ),
        (2, 3, 4),
    ),
    "AveragePool": (
        lambda g: g.op("AveragePool", g.op("Unsqueeze", "data/x", g.ints(1)), kernel_shape=[3, 2]),
        (1, 1, 3),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_operators(case: str) -> None:
    build, shape = CASES[case]
    g = GraphBuilder()
    result = build(g)
    g.op("Identity", result, out="grads/y")
    out = (2, "batch", 3, 4) if shape is None else ("batch", *shape)
    model = g.model((f32("data/x", "batch", 3, 4),), (f32("grads/y", *out),))
    onnx.checker.check_model(model)
    many = batched_graph(model, keep=["grads/y"])
    assert many is not None
    # Magnitudes below 4, so that they are indices too.
    x = np.random.default_rng(0).uniform(-3.9, 3.9, size=(RECORDS, 3, 4)).astype(np.float32)
    single = Session(model.SerializeToString(), name="single")
    expected = np.stack([single.run(["grads/y"], {"data/x": x[i : i + 1]})[0] for i in range(RECORDS)])
    got = Session(many, name="many").run(["grads/y"], {"data/x": x})[0]
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_positions_of_a_pool_count_through_one_record() -> None:
    g = GraphBuilder()
    node = onnx.helper.make_node("MaxPool", ["data/x"], ["m", "i"], kernel_shape=[2, 2], strides=[2, 2], name="pool")
    g.nodes.append(node)
    g.op("Cast", "i", to=TensorProto.FLOAT, out="grads/y")
    model = g.model((f32("data/x", "batch", 2, 4, 4),), (f32("grads/y", "batch", 2, 2, 2),))
    many = batched_graph(model, keep=["grads/y"])
    assert many is not None
    x = np.random.default_rng(0).normal(size=(RECORDS, 2, 4, 4)).astype(np.float32)
    single = Session(model.SerializeToString(), name="single")
    expected = np.stack([single.run(["grads/y"], {"data/x": x[i : i + 1]})[0] for i in range(RECORDS)])
    np.testing.assert_array_equal(Session(many, name="many").run(["grads/y"], {"data/x": x})[0], expected)


def test_what_has_no_rule_is_left_to_the_loop() -> None:
    """A kernel that depends on data."""
    g = GraphBuilder()
    image = g.op("Unsqueeze", "data/x", g.ints(1))
    g.op("Conv", image, image, out="grads/y")
    model = g.model((f32("data/x", "batch", 3, 3),), (f32("grads/y", "batch", "batch", 1, 1),))
    assert batched_graph(model, keep=["grads/y"]) is None


def test_one_record_that_fails_is_zero_and_the_others_are_not() -> None:
    """Labels out of range and NaN; in one call or in many."""
    plan, data = logistic_plan(), logistic_data(20)
    data["y"][4], data["x"][9, 0] = 7, np.nan
    for batched in (True, False):
        rows = PlanRows(plan, "grads", logistic_params(), data)
        if not batched:
            rows._many = None
        result, num_failed = rows.rows(np.arange(20))
        assert num_failed == 2
        assert not result[4].any()
        good = [i for i in range(20) if i not in (4, 9)]
        assert np.isfinite(result[good]).all()
        assert result[good].any(axis=1).all()
