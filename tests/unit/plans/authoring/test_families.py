"""Each model family trains in ONNX Runtime as it does in eager torch.

Should happen: twenty steps of ``train`` on one graph, with batches of several sizes, end at the parameters and buffers
that ``torch.optim.SGD`` ends at; ``eval`` gives the loss of ``model.eval()``; the ONNX export predicts as it does; the
gates accept the plan and the export.
Should not happen: a batch size baked in, weights inside the plan, examples that mix unnoticed.

Tolerance: float32 rounds at 6e-8; sums in another order lose one to two digits, and twenty steps add up. Measured: 1e-8
to 1e-6. A wrong gradient differs in the second digit.
"""

from __future__ import annotations

import copy

import numpy as np
import onnxruntime
import pytest
import torch
from families import FAMILIES, Family

import pygrid
from pygrid.plans import Plan, Runner, export_onnx
from pygrid.plans.authoring import initial_params
from pygrid.plans.gate import check
from pygrid.plans.serving import ServingLimits, check_model
from pygrid.tensors import Params

BATCHES = (32, 32, 5, 1, 17) * 4
TOLERANCE = 1e-5


def build(family: Family, model: torch.nn.Module) -> Plan:
    made = pygrid.plan(data=family.data, hyper={"lr": pygrid.Float(family.lr)}, name="family")(family.loss)
    return made.build(model, optimizer=pygrid.optim.SGD())


def batches(family: Family) -> list[Params]:
    random = np.random.default_rng(3)

    def column(name: str, size: int) -> np.ndarray:
        spec = family.data[name]
        if spec.dtype == "float32":
            return random.normal(size=(size, *spec.shape)).astype(np.float32)
        return random.integers(0, spec.num_classes, (size, *spec.shape))

    return [{name: column(name, size) for name in family.data} for size in BATCHES]


@pytest.fixture(scope="module", params=FAMILIES)
def built(request: pytest.FixtureRequest) -> tuple[Family, torch.nn.Module, Plan]:
    family = FAMILIES[request.param]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = family.model()
        return family, model, build(family, model)


def test_twenty_steps_end_where_torch_ends(built: tuple[Family, torch.nn.Module, Plan]) -> None:
    family, model, plan = built
    data = batches(family)
    trained = Runner(plan).train(initial_params(model), iter(data)).params

    reference = copy.deepcopy(model).train()
    optimizer = torch.optim.SGD(reference.parameters(), lr=family.lr)
    for batch in data:
        optimizer.zero_grad()
        result = family.loss(reference, **{name: torch.from_numpy(array) for name, array in batch.items()})
        (result[0] if isinstance(result, tuple) else result).backward()
        optimizer.step()
    expected = initial_params(reference)

    assert trained.keys() == expected.keys()
    assert any(np.abs(expected[name] - array).max() > 1e-3 for name, array in initial_params(model).items()), (
        "it learned"
    )
    for name, array in expected.items():
        np.testing.assert_allclose(trained[name], array, rtol=0, atol=TOLERANCE, err_msg=name)


def test_eval_is_the_loss_of_the_model_in_eval_mode(built: tuple[Family, torch.nn.Module, Plan]) -> None:
    family, model, plan = built
    batch = batches(family)[0]
    metrics = Runner(plan).evaluate(initial_params(model), batch)
    with torch.no_grad():
        loss, expected = family.loss(copy.deepcopy(model).eval(), **{k: torch.from_numpy(v) for k, v in batch.items()})
    assert metrics["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert metrics["accuracy"] == pytest.approx(expected["accuracy"].item())


def test_the_gate_accepts_it_and_agrees_with_the_manifest(built: tuple[Family, torch.nn.Module, Plan]) -> None:
    family, model, plan = built
    report = check(plan.data)
    assert report.plan_id == plan.id
    assert plan.manifest.per_example_independent is not family.buffers
    weights = sum(array.nbytes for array in initial_params(model).values())
    assert len(plan.data) < 200_000
    assert set(Runner(plan).model_spec) == set(initial_params(model))
    assert weights > 0


def test_the_export_predicts_as_the_model_in_eval_mode(built: tuple[Family, torch.nn.Module, Plan]) -> None:
    family, model, plan = built
    data = batches(family)
    params = Runner(plan).train(initial_params(model), iter(data[:4])).params
    onnx = export_onnx(plan, params)
    trained = pygrid.load_into(copy.deepcopy(model), params).eval()
    session = onnxruntime.InferenceSession(onnx)
    for batch in data[1:5]:
        expected = trained(torch.from_numpy(batch["x"])).detach().numpy()
        np.testing.assert_allclose(session.run(["output"], {"x": batch["x"]})[0], expected, atol=TOLERANCE)
    report = check_model(onnx, 64, ServingLimits())
    assert ([port.name for port in report.inputs], [port.name for port in report.outputs]) == (["x"], ["output"])
    assert report.rows_independent
