"""Plans that were made once must read, pass, and compute the same for good; the vectors are what other runtimes are
held to.

The plans of the folder: softmax regression and a running mean (made by hand), and as traced from PyTorch a CNN with
GroupNorm, one with BatchNorm (buffers), an LSTM and a transformer block.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from pygrid.plans import Plan, check, run_selftest, selftest_inputs
from pygrid.plans.costs import analyse
from pygrid.plans.selftest import selftest_graph
from pygrid.plans.sessions import OnnxSession
from pygrid.plans.sizes import at

FOLDER = Path(__file__).parents[2] / "vectors" / "plans"
PLANS = {path.stem: Plan.load(path) for path in sorted(FOLDER.glob("*.plan"))}
TRAINING = [name for name, plan in PLANS.items() if plan.manifest.kind == "training"]
VECTORS = {vector["file"].removesuffix(".plan"): vector for vector in json.loads((FOLDER / "vectors.json").read_text())}


def test_every_plan_has_its_vector():
    assert len(PLANS) == 6
    assert set(VECTORS) == set(TRAINING)


@pytest.mark.parametrize("name", PLANS)
def test_the_plans_pass_the_gate(name):
    report = check(PLANS[name].data)
    assert report.per_example_independent == (name not in ("cnn_batch_norm", "mean"))


@pytest.mark.parametrize("name", TRAINING)
def test_the_vectors_come_out(name):
    plan, vector = PLANS[name], VECTORS[name]
    assert plan.id == vector["id"]
    inputs = selftest_inputs(plan.manifest, vector["batch_size"])
    graph = selftest_graph(plan.manifest)
    outputs = OnnxSession(plan.graph(graph), name=graph).run(list(vector["outputs"]), inputs)
    for port, array in [*inputs.items(), *zip(vector["outputs"], outputs, strict=True)]:
        expected = vector["inputs"].get(port) or vector["outputs"][port]
        assert list(array.shape) == expected["shape"]
        # Kernels of other processors and versions round differently; sums of a thousand elements collect that.
        np.testing.assert_allclose(array.reshape(-1)[:4], expected["first"], atol=1e-4, err_msg=port)
        assert array.astype(np.float64).sum() == pytest.approx(expected["sum"], abs=1e-3, rel=1e-4), port


@pytest.mark.parametrize("name", TRAINING)
def test_the_plans_test_themselves(name):
    result = run_selftest(PLANS[name])
    assert (result is None) == (name == "logistic")


@pytest.mark.parametrize("name", TRAINING)
@pytest.mark.parametrize("graph", ["train", "grads", "eval"])
def test_every_tensor_inside_has_the_shape_that_the_gate_worked_out(name, graph):
    plan = PLANS[name]
    model = onnx.load_from_string(plan.graph(graph))
    analysis = analyse(model.graph, name=graph, max_n=8)
    del model.graph.output[:]
    made = [output for step in analysis.steps for output in step.output_names]
    model.graph.output.extend(onnx.ValueInfoProto(name=output) for output in made)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    taken = {port.name for port in plan.manifest.graphs[graph].inputs}
    for n in (1, 2, 5):
        feed = {port: array for port, array in selftest_inputs(plan.manifest, n).items() if port in taken}
        for output, array in zip(made, session.run(made, feed), strict=True):
            value = analysis.values[output]
            assert tuple(at(size, n) for size in value.shape) == array.shape, output
            assert value.dtype == array.dtype.name, output


@pytest.mark.parametrize("name", TRAINING)
def test_the_peak_is_at_least_what_the_largest_moment_holds(name):
    model = onnx.load_from_string(PLANS[name].graph("train"))
    analysis = analyse(model.graph, name="train", max_n=64)
    inputs = sum(at(analysis.values[port].num_bytes, 64) for port in analysis.inputs)
    assert analysis.peak_bytes(64) >= inputs + analysis.largest(64)[1]
    fixed, per_example = analysis.flops_split()
    assert fixed + 10 * per_example == analysis.flops(10)  # linear in the batch size, hence exact
