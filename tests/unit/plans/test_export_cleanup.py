"""Models as exporters write them, made fit for the gate. Both forms run on ONNX Runtime and give the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from pygrid.errors import InvalidPlan
from pygrid.plans.export_cleanup import tidy_model
from pygrid.plans.serving import check_model_file
from pygrid.plans.sessions import OnnxSession
from support.plans.models import WEIGHT, graph_model, linear

RNG = np.random.default_rng(0)
X = RNG.standard_normal((3, 2, 4)).astype(np.float32)


def vector(n: int) -> Any:
    return RNG.random(n).astype(np.float32) + np.float32(0.5)


CASES = {
    "Flatten": ([3, 8], {}, {}),
    "Dropout": ([3, 2, 4], {}, {}),
    "BatchNormalization": (
        [3, 2, 4],
        {"scale": vector(2), "bias": vector(2), "mean": vector(2), "var": vector(2)},
        {"epsilon": 0.01},
    ),
    "LayerNormalization": ([3, 2, 4], {"scale": vector(4), "bias": vector(4)}, {"axis": -1}),
    "Gelu": ([3, 2, 4], {}, {}),
}


@pytest.mark.parametrize("op", CASES)
def test_operators_are_written_out(op: str, tmp_path: Path) -> None:
    shape, constants, attributes = CASES[op]
    node = helper.make_node(op, ["x", *constants], ["y"], **attributes)
    ports = {"x": ("float32", ["N", 2, 4])}, {"y": ("float32", ["N", *shape[1:]])}
    before = graph_model([node], *ports, constants)
    after = tidy_model(before)
    path = tmp_path / "model"
    path.write_bytes(after)
    report = check_model_file(path, 8)
    assert op not in report.operators
    assert report.rows_independent
    wanted, given = [OnnxSession(data, name="model").run(["y"], {"x": X})[0] for data in (before, after)]
    np.testing.assert_allclose(given, wanted, rtol=1e-5, atol=1e-6)
    assert wanted.shape == tuple(shape)


def test_what_cant_be_written_out_stays(tmp_path: Path) -> None:
    ports = {"x": ("float32", ["N", 2, 4])}, {"y": ("float32", ["N", 2, 4])}
    for node in (
        helper.make_node("Gelu", ["x"], ["y"], approximate="tanh"),
        helper.make_node("Flatten", ["x"], ["y"], axis=2),
        helper.make_node("Gelu", ["x"], ["y"], domain="custom"),
    ):
        data = graph_model([node], *ports)
        kept = onnx.load_from_string(tidy_model(data))
        assert list(kept.graph.node) == [node]
        path = tmp_path / "model"
        path.write_bytes(tidy_model(data))
        with pytest.raises(InvalidPlan):
            check_model_file(path, 8)


def test_an_exporters_extras_are_tidied_away_and_nothing_else(tmp_path: Path) -> None:
    model = onnx.load_from_string(linear())
    model.metadata_props.add(key="author", value="somebody")
    model.graph.node[0].metadata_props.add(key="stack", value="/home/somebody/train.py")
    model.graph.value_info.add(name="inner")
    model.opset_import.add(domain="exporter.extras", version=1)
    data = model.SerializeToString()
    path = tmp_path / "model"
    path.write_bytes(data)
    with pytest.raises(InvalidPlan) as caught:
        check_model_file(path, 8)
    assert caught.value.code in ("plan_feature_forbidden", "plan_domain_forbidden")
    tidied = tidy_model(data)
    assert b"somebody" not in tidied
    path.write_bytes(tidied)
    assert check_model_file(path, 8).rows_independent
    kept = onnx.load_from_string(tidied)
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(kept.graph.initializer[0]), WEIGHT)
    assert tidy_model(tidied) == tidied
    with pytest.raises(InvalidPlan):
        tidy_model(b"\xff\xff")
