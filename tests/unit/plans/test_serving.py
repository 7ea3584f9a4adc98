"""The gate for whole models: what it takes, and what it finds out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from pygrid.errors import InvalidPlan
from pygrid.plans.manifest import Port
from pygrid.plans.serving import ServingLimits, check_model_file, check_model_in_child, port_bytes
from pygrid.sandbox.process import ChildLimits
from support.plans.models import centred, graph_model, linear, lookup

N4 = {"x": ("float32", ["N", 4])}
SHAPE = helper.make_node("Shape", ["x"], ["shape"])


def verdict(folder: Path, data: bytes) -> bool:
    path = folder / "model"
    path.write_bytes(data)
    return check_model_file(path, 16).rows_independent


def refusal(folder: Path, data: bytes, limits: ServingLimits | None = None, max_batch_size: int = 16) -> str:
    path = folder / "model"
    path.write_bytes(data)
    with pytest.raises(InvalidPlan) as caught:
        check_model_file(path, max_batch_size, limits)
    return caught.value.code


def test_the_child_finds_the_same(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_bytes(linear())
    report = check_model_in_child(path, 16)
    assert report == check_model_file(path, 16)
    assert report.inputs == (Port("x", "float32", ("batch", 4)),)
    assert (report.num_parameters, report.flops_per_example, report.operators) == (12, 24, {"MatMul": 1})
    assert port_bytes(report.inputs, 16) == 16 * 4 * 4
    path.write_bytes(b"no model")
    with pytest.raises(InvalidPlan) as caught:
        check_model_in_child(path, 16)
    assert caught.value.code == "plan_graph_invalid"


@pytest.mark.fresh_processes
def test_a_child_without_memory_is_a_refusal(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_bytes(linear(weight=np.zeros((4096, 8192), np.float32)))
    child = ChildLimits(memory_bytes=400 * 1024**2, cpu_s=20, wall_s=30.0, max_output_bytes=1024**2)
    with pytest.raises(InvalidPlan) as caught:
        check_model_in_child(path, 16, child=child)
    assert caught.value.code == "plan_check_failed"


def test_rows_that_follow_from_the_same_row_alone(tmp_path: Path) -> None:
    assert verdict(tmp_path, linear())
    assert verdict(tmp_path, lookup())
    flat = graph_model(
        [
            SHAPE,
            helper.make_node("Reshape", ["x", "shape"], ["same"]),
            helper.make_node("Softmax", ["same"], ["y"], axis=1),
        ],
        N4,
        {"y": ("float32", ["N", 4])},
    )
    assert verdict(tmp_path, flat)
    assert verdict(tmp_path, repeated({"start": np.zeros((1, 4), np.float32)}))
    assert verdict(tmp_path, repeated({"start": np.float32(2.0)}))


def repeated(constants: dict[str, Any], *before: onnx.NodeProto) -> bytes:
    """Adds to each row a constant that is repeated as often as there are rows, as recurrent layers begin."""
    nodes = [
        SHAPE,
        *before,
        helper.make_node("Expand", ["start", "shape"], ["rows"]),
        helper.make_node("Tanh", ["rows"], ["changed"]),
        helper.make_node("Add", ["x", "changed"], ["y"]),
    ]
    return graph_model(nodes, N4, {"y": ("float32", ["N", 4])}, constants)


def test_what_looks_at_other_rows_the_position_or_the_batch_size_is_not_independent(tmp_path: Path) -> None:
    assert not verdict(tmp_path, centred())
    softmax = graph_model([helper.make_node("Softmax", ["x"], ["y"], axis=0)], N4, {"y": ("float32", ["N", 4])})
    assert not verdict(tmp_path, softmax)
    first_row = graph_model(
        [helper.make_node("Gather", ["x", "zero"], ["first"], axis=0), helper.make_node("Sub", ["x", "first"], ["y"])],
        N4,
        {"y": ("float32", ["N", 4])},
        {"zero": np.array([0], np.int64)},
    )
    assert not verdict(tmp_path, first_row)
    by_count = graph_model(
        [
            SHAPE,
            helper.make_node("Gather", ["shape", "zero"], ["n"], axis=0),
            helper.make_node("Cast", ["n"], ["count"], to=onnx.TensorProto.FLOAT),
            helper.make_node("Div", ["x", "count"], ["y"]),
        ],
        N4,
        {"y": ("float32", ["N", 4])},
        {"zero": np.array(0, np.int64)},
    )
    assert not verdict(tmp_path, by_count)
    count = helper.make_node("Cast", ["shape"], ["sizes"], to=onnx.TensorProto.FLOAT)
    start = helper.make_node("ReduceSum", ["sizes"], ["start"], keepdims=0)
    assert not verdict(tmp_path, repeated({}, count, start))
    two = {**N4, "w": ("float32", [4, 3])}
    asked_with_weights = graph_model([helper.make_node("MatMul", ["x", "w"], ["y"])], two, {"y": ("float32", ["N", 3])})
    assert not verdict(tmp_path, asked_with_weights)
    mean = graph_model(
        [helper.make_node("ReduceMean", ["x", "axes"], ["y"], keepdims=0)],
        N4,
        {"y": ("float32", [4])},
        {"axes": np.array([0], np.int64)},
    )
    assert not verdict(tmp_path, mean)


def test_costs_are_bounded_at_the_largest_batch(tmp_path: Path) -> None:
    assert refusal(tmp_path, linear(), ServingLimits(max_model_bytes=10)) == "plan_too_large"
    assert refusal(tmp_path, linear(), ServingLimits(max_nodes=0)) == "plan_too_many_nodes"
    assert refusal(tmp_path, linear(), ServingLimits(max_flops=16 * 24 - 1)) == "plan_flops_too_large"
    assert refusal(tmp_path, linear(), ServingLimits(max_port_bytes=16 * 16 - 1)) == "plan_tensor_too_large"
    assert refusal(tmp_path, linear(), ServingLimits(max_peak_bytes=100)) == "plan_memory_too_large"
    assert refusal(tmp_path, linear(), ServingLimits(max_tensor_bytes=100)) == "plan_tensor_too_large"


def test_open_sizes_but_the_first_are_refused(tmp_path: Path) -> None:
    relu = [helper.make_node("Relu", ["x"], ["y"])]
    for shape in (["N", "M"], [4, "N"], ["N", 0]):
        code = refusal(tmp_path, graph_model(relu, {"x": ("float32", shape)}, {"y": ("float32", shape)}))
        assert code == "plan_ports_invalid"
    two = {"x": ("float32", ["N", 4]), "z": ("float32", ["M", 4])}
    assert refusal(tmp_path, graph_model(relu, two, {"y": ("float32", ["N", 4])})) == "plan_ports_invalid"
    doubled = graph_model([helper.make_node("Concat", ["x", "x"], ["y"], axis=0)], N4, {"y": ("float32", ["K", 4])})
    assert refusal(tmp_path, doubled) == "plan_ports_invalid"


def test_what_another_opset_reads_differently_is_refused(tmp_path: Path) -> None:
    pad = graph_model(
        [helper.make_node("ReduceMean", ["x"], ["y"], axes=[1])], N4, {"y": ("float32", ["N", 1])}, opset=17
    )
    assert refusal(tmp_path, pad) == "plan_version_unsupported"


def test_data_in_other_files_is_refused(tmp_path: Path) -> None:
    model = onnx.load_from_string(linear())
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    assert refusal(tmp_path, model.SerializeToString()) == "plan_external_data"
