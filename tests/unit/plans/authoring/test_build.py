"""What a built plan is made of, and what building leaves behind.

Should happen: the same source gives the same bytes in any process; dropout follows its noise input; a wrong operator is
caught. Should not happen: a changed model, a changed state of torch, weights in the plan.
"""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from families import FAMILIES
from torch import nn

import pygrid
from pygrid.errors import AuthoringError, NonFinite
from pygrid.plans import Plan, Runner, check
from pygrid.plans.authoring import initial_params, summary
from pygrid.plans.authoring.lowering import core
from pygrid.plans.selftest import run_selftest

DATA = {"x": pygrid.Tensor["batch", 12].meaning("twelve sensors in 0..1"), "y": pygrid.Label(5)}


@pygrid.plan(data=DATA, hyper={"lr": pygrid.Float(0.1, min=1e-5, max=1.0)}, metrics={"hits": "sum"}, author="A. Author")
def sensors(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Any:
    """Classify twelve sensors.

    More words that do not go into the manifest.
    """
    logits = model(x)
    return F.cross_entropy(logits, y), {"hits": (logits.argmax(-1) == y).float().sum()}


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 5))


@pytest.fixture(scope="module")
def plan() -> Plan:
    """A plan of `sensors`, which no test changes."""
    return sensors.build(net(), optimizer=pygrid.optim.SGD(momentum=0.9))


def test_the_manifest_says_what_the_author_said(plan: Plan) -> None:
    manifest = plan.manifest
    assert (manifest.name, manifest.description, manifest.author) == (
        "sensors",
        "Classify twelve sensors.",
        "A. Author",
    )
    assert manifest.data["x"].meaning == "twelve sensors in 0..1"
    assert (manifest.data["y"].meaning, manifest.data["y"].num_classes) == ("label 0..4", 5)
    assert manifest.hyper["lr"].max == 1.0
    assert manifest.metrics == {"loss": "mean", "hits": "sum"}
    assert manifest.optimizer == "SGD(momentum=0.9)"
    assert sorted(manifest.graphs) == ["eval", "grads", "predict", "train"]


def test_an_optional_port_takes_missing_values(plan: Plan) -> None:
    """The plan sees NaN; infinity, and NaN at another port, are refused."""

    @pygrid.plan(data={"x": pygrid.Tensor["batch", 2].optional(), "z": pygrid.Tensor["batch"]})
    def known(model: nn.Module, x: torch.Tensor, z: torch.Tensor) -> Any:
        return (model(torch.where(torch.isnan(x), 0.0, x))[:, 0] - z).square().mean()

    model = nn.Linear(2, 1)
    optional = known.build(model, optimizer=pygrid.optim.SGD())
    assert optional.manifest.data["x"].optional is True
    assert b'"optional"' in optional.data
    assert b'"optional"' not in plan.data
    check(optional.data)
    x, z = np.array([[1, np.nan], [2, 3]], np.float32), np.zeros(2, np.float32)
    runner, params = Runner(optional), initial_params(model)
    expected = runner.evaluate(params, {"x": np.nan_to_num(x), "z": z})
    assert runner.evaluate(params, {"x": x, "z": z}) == expected
    for wrong in ({"x": np.where(np.isnan(x), np.inf, x), "z": z}, {"x": x, "z": x[:, 1]}):
        with pytest.raises(NonFinite):
            runner.evaluate(params, wrong)
    with pytest.raises(AuthoringError, match="float32"):
        pygrid.Integers["batch"].optional()


def test_ports_follow_the_naming_scheme(plan: Plan) -> None:
    train = plan.manifest.graphs["train"]
    names = {port.name: port.shape for port in train.inputs}
    assert names["params/0.weight"] == (6, 12)
    assert names["state/momentum/2.bias"] == (5,)
    assert names["data/x"] == ("batch", 12)
    assert names["data/y"] == ("batch",)
    assert names["hyper/lr"] == ()
    assert {"new/params/0.weight", "new/state/momentum/0.weight", "metrics/loss", "metrics/hits"} <= {
        p.name for p in train.outputs
    }


def test_the_source_travels_for_reading(plan: Plan) -> None:
    assert "def sensors(model" in plan.source


def test_weights_are_inputs_and_the_graphs_are_plain(plan: Plan) -> None:
    for name in ("train", "grads", "eval", "predict"):
        model = onnx.load_from_string(plan.graph(name))
        onnx.checker.check_model(model, full_check=True)
        assert (model.ir_version, model.opset_import[0].version) == (10, 20)
        assert sum(len(tensor.raw_data) for tensor in model.graph.initializer) < 500
        assert not model.functions


def test_the_test_vector_holds(plan: Plan) -> None:
    result = run_selftest(plan)
    assert result is not None
    assert result.passed


def test_the_summary_reports_size_and_cost(plan: Plan) -> None:
    lines = summary(plan)
    assert "kB" in lines[0]
    assert lines[1].startswith("train: ")
    assert "nodes" in lines[1]


def test_the_function_can_still_be_called() -> None:
    loss, metrics = sensors(net(), torch.rand(3, 12), torch.tensor([0, 1, 2]))
    assert loss.dim() == 0
    assert metrics["hits"] <= 3


def test_build_changes_neither_the_model_nor_torch() -> None:
    model = FAMILIES["cnn + batch norm"].model().eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    generator, grad = torch.random.get_rng_state(), torch.is_grad_enabled()
    family = FAMILIES["cnn + batch norm"]
    pygrid.plan(data=family.data)(family.loss).build(model)
    assert not model.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(generator, torch.random.get_rng_state())
    assert torch.is_grad_enabled() is grad


def test_a_refused_build_leaves_torch_as_it_was() -> None:
    with pytest.raises(AuthoringError):
        pygrid.plan(data=DATA)(lambda model, x, y: model(x).cummax(1)[0].mean()).build(net())
    with pytest.raises(AuthoringError):
        pygrid.plan(data=DATA)(lambda model, x, y: model(x).sum().item()).build(net())
    assert torch.rand(2).sum().item() > 0, "no mode is left active"
    sensors.build(net())


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # torch, of itself
def test_a_compiled_model_is_the_model_it_was_compiled_from() -> None:
    model = net()
    assert sensors.build(torch.compile(model)).id == sensors.build(model).id
    assert initial_params(torch.compile(model)).keys() == initial_params(model).keys()


def test_modes_around_a_build() -> None:
    model = net()
    with torch.no_grad():
        assert sensors.build(model).id == sensors.build(model).id
    with torch.inference_mode(), pytest.raises(AuthoringError, match="inference_mode"):
        sensors.build(model)


def test_initial_params_are_float32_copies_without_counters() -> None:
    model = FAMILIES["cnn + batch norm"].model().double()
    params = initial_params(model)
    assert "1.running_mean" in params
    assert not [name for name in params if "num_batches_tracked" in name]
    assert {array.dtype for array in params.values()} == {np.dtype(np.float32)}
    params["0.weight"][:] = 0
    assert model[0].weight.abs().max() > 0
    assert model[0].weight.dtype == torch.float64


def test_dropout_follows_its_noise_in_training_and_is_off_in_eval() -> None:
    @pygrid.plan(data={"x": pygrid.Tensor["batch", 12]})
    def kept(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return F.dropout(torch.ones_like(x), 0.25).sum() + 0 * model(x).sum()

    plan = kept.build(net())
    assert plan.manifest.noise["dropout0"].shape == (12,)
    noise = np.random.default_rng(0).random((3, 12), dtype=np.float32)
    from pygrid.plans.sessions import OnnxSession

    feed = {f"params/{k}": v for k, v in initial_params(net()).items()}
    feed |= {"data/x": np.ones((3, 12), np.float32), "noise/dropout0": noise}
    (loss,) = OnnxSession(plan.graph("grads"), name="grads").run(["metrics/loss"], feed)
    assert loss == pytest.approx((noise >= 0.25).sum() / 0.75, rel=1e-6)
    assert Runner(plan).evaluate(initial_params(net()), {"x": np.ones((3, 12), np.float32)})["loss"] == pytest.approx(
        36
    )


def test_hyperparameters_reach_the_loss() -> None:
    @pygrid.plan(data=DATA, hyper={"strength": pygrid.Float(0.5, min=0.0, max=2.0)})
    def regularised(model: nn.Module, x: torch.Tensor, y: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(model(x), y) + strength * sum(p.square().sum() for p in model.parameters())

    model = net()
    plan = regularised.build(model)
    batch = {"x": np.ones((2, 12), np.float32), "y": np.array([1, 2])}
    runner, params = Runner(plan), initial_params(model)
    weight = sum(float((array**2).sum()) for array in params.values())
    values = [runner.evaluate(params, batch, hyper={"strength": s})["loss"] for s in (0.0, 2.0)]
    assert values[1] - values[0] == pytest.approx(2 * weight, rel=1e-5)


def test_a_wrong_operator_does_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(core.REGISTRY, "tanh.default", core.REGISTRY["sigmoid.default"])
    with pytest.raises(AuthoringError) as caught:
        sensors.build(nn.Sequential(nn.Linear(12, 6), nn.Tanh(), nn.Linear(6, 5)))
    assert caught.value.code == "plan_deviates"
    assert "does not compute what torch does" in caught.value.detail


def built() -> list[str]:
    """The ids of two plans, which are hashes of their bytes."""
    ids = []
    for name in ("transformer block", "cnn + batch norm"):
        torch.manual_seed(1)
        family, optimizer = FAMILIES[name], pygrid.optim.AdamW(prox_mu=0.1)
        ids.append(pygrid.plan(data=family.data)(family.loss).build(family.model(), optimizer=optimizer).id)
    return ids


@pytest.mark.slow
def test_another_process_builds_the_same_bytes() -> None:
    """With another order of sets, as each process has its own."""
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_build; print(test_build.built())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(built())


def test_two_builds_in_one_process_give_the_same_bytes() -> None:
    model = net()
    assert sensors.build(model).data == sensors.build(copy.deepcopy(model)).data


def test_a_saved_plan_is_the_same_plan(plan: Plan, tmp_path: Path) -> None:
    plan.save(tmp_path / "sensors.plan")
    assert Plan.load(tmp_path / "sensors.plan").id == plan.id


def test_a_wide_model_gets_a_smaller_largest_batch() -> None:
    column = {"x": pygrid.Tensor["batch", 150_000]}

    def mean(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return (model.scale * x).square()[:, :8].mean()

    model = nn.Module()
    model.scale = nn.Parameter(torch.ones(()))
    assert pygrid.plan(data=column)(mean).build(model).manifest.max_batch_size == 256
    with pytest.raises(AuthoringError) as caught:
        pygrid.plan(data=column, max_batch_size=1024)(mean).build(model)
    assert caught.value.code == "plan_tensor_too_large"
    assert "Try a smaller max_batch_size" in caught.value.detail


def test_without_torch_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['torch'] = None; import pygrid; pygrid.plan"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "AuthoringError: writing plans needs PyTorch: pip install 'pygrid[torch]'" in done.stderr
