"""What a plan trains, its ONNX export predicts as torch does in evaluation mode.

Should happen: the export of every family takes the data that predictions need and no labels, equals ``model.eval()``
for every batch size, and passes the gate of served models; authors can give their own function for predictions.
Should not happen: a plan that does not build because its predictions cannot be exported; noise in predictions.

Tolerance: one forward pass in float32, whose sums are in another order: a few of 6e-8.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import pygrid
from pygrid.errors import AuthoringError, InvalidPlan, PygridError, ShapeMismatch
from pygrid.plans import Runner, export_onnx
from pygrid.plans.authoring import initial_params
from pygrid.plans.serving import ServingLimits, ServingReport, check_model

X = pygrid.Tensor["batch", 4]
Y = pygrid.Label(3)
TOKENS = pygrid.Integers["batch", 3](30)
Loss = Callable[..., Any]


def predict(onnx: bytes, **data: Any) -> dict[str, Any]:
    session = onnxruntime.InferenceSession(onnx)
    names = [port.name for port in session.get_outputs()]
    return dict(zip(names, session.run(names, data), strict=True))


def served(onnx: bytes) -> ServingReport:
    return check_model(onnx, 64, ServingLimits())


class NextWord(nn.Module):
    """Returns scores and states, whose batch is the second axis, and takes its first state as the batch is."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.layer, self.out = nn.Embedding(30, 8), nn.GRU(8, 12, 2, dropout=0.5), nn.Linear(12, 30)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, Any]:
        first = torch.zeros(2, x.shape[0], 12)
        hidden, state = self.layer(self.embedding(x).transpose(0, 1), first)
        return self.out(hidden.transpose(0, 1)), state


def test_states_and_labels_are_left_out() -> None:
    @pygrid.plan(data={"y": TOKENS, "x": TOKENS})
    def loss(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        scores, _ = model(x)
        return F.cross_entropy(scores.reshape(-1, 30), y.reshape(-1))

    model = NextWord()
    onnx = export_onnx(loss.build(model), initial_params(model))
    x = np.random.default_rng(0).integers(0, 30, (5, 3))
    expected = model.eval()(torch.from_numpy(x))[0].detach().numpy()
    answers = predict(onnx, x=x)
    assert list(answers) == ["output.0"]
    np.testing.assert_allclose(answers["output.0"], expected, atol=2e-6)
    served(onnx)


class Parts(nn.Module):
    def __init__(self, answer: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.layer, self.answer = nn.Linear(4, 3), answer

    def forward(self, x: torch.Tensor) -> Any:
        return self.answer(self.layer(x))


@dataclasses.dataclass
class Answer:
    scores: torch.Tensor
    total: torch.Tensor


@pytest.mark.parametrize(
    ("answer", "names"),
    [
        (lambda h: {"scores": h, "class": h.argmax(1), "mean": h.mean()}, ["scores", "class"]),
        (lambda h: (h, [h[:, 0], h.t()]), ["output.0", "output.1.0"]),
        (lambda h: Answer(h, h.sum()), ["scores"]),
        (lambda h: {"x": h, "v0": h + 1, "odd name!": h * 2}, ["x.output", "v0", "odd_name_"]),
    ],
)
def test_outputs_have_names(answer: Callable[[torch.Tensor], Any], names: list[str]) -> None:
    @pygrid.plan(data={"x": X, "y": Y})
    def loss(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        found = model(x)
        while not isinstance(found, torch.Tensor):
            found = next(iter(vars(found).values() if isinstance(found, Answer) else
                              found.values() if isinstance(found, dict) else found))  # fmt: skip
        return F.cross_entropy(found, y)

    model = Parts(answer)
    onnx = export_onnx(loss.build(model), initial_params(model))
    x = np.ones((3, 4), np.float32)
    answers = predict(onnx, x=x)
    assert list(answers) == names
    expected = model.layer(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(answers[names[0]], expected, atol=1e-6)
    served(onnx)


def test_a_result_that_the_loss_changes_in_place_is_exported_unchanged() -> None:
    @pygrid.plan(data={"x": X, "y": Y})
    def loss(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(model(x).mul_(3.0), y)

    model = nn.Linear(4, 3)
    x = np.ones((2, 4), np.float32)
    answer = predict(export_onnx(loss.build(model), initial_params(model)), x=x)["output"]
    np.testing.assert_allclose(answer, model(torch.from_numpy(x)).detach().numpy(), atol=1e-6)


def test_the_author_may_say_what_a_prediction_is() -> None:
    def classes(model: nn.Module, x: torch.Tensor, temperature: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"probabilities": torch.softmax(model(x) / temperature, 1)}

    @pygrid.plan(data={"x": X, "y": Y}, hyper={"temperature": pygrid.Float(2.0, min=0.5)}, predict=classes)
    def loss(model: nn.Module, x: torch.Tensor, y: torch.Tensor, temperature: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(model(x) / temperature, y)

    model = nn.Linear(4, 3)
    x = np.ones((2, 4), np.float32)
    answer = predict(export_onnx(loss.build(model), initial_params(model)), x=x)
    expected = torch.softmax(model(torch.from_numpy(x)) / 2, 1).detach().numpy()
    np.testing.assert_allclose(answer["probabilities"], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("function", "code"),
    [
        (lambda model, x: model(x).mean(), "plan_predict"),
        (lambda model, x: torch.ones(3), "plan_predict"),
        (lambda model, z: model(z), "plan_signature"),
        (lambda model, x: model(x)[x[:, 0] > 0], "plan_data_dependent_size"),
    ],
)
def test_a_function_that_predicts_nothing_is_refused(function: Loss, code: str) -> None:
    def loss(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(model(x), y)

    with pytest.raises(AuthoringError) as caught:
        pygrid.plan(data={"x": X, "y": Y}, predict=function)(loss).build(nn.Linear(4, 3))
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("model", "loss"),
    [
        (nn.Linear(4, 3), lambda model, x: (x @ model.weight.t()).square().mean()),
        (nn.Linear(4, 3), lambda model, x: model(torch.cat([x, x])).square().mean()),
    ],
    ids=["a loss that does not call its model", "two rows for each example"],
)
def test_without_predictions_a_plan_trains_and_says_what_to_do(model: nn.Module, loss: Loss) -> None:
    plan = pygrid.plan(data={"x": X}, name="p")(loss).build(model)
    assert "predict" not in plan.manifest.graphs
    assert Runner(plan).train(initial_params(model), {"x": np.ones((2, 4), np.float32)}).num_updates == 1
    with pytest.raises(InvalidPlan, match="predict=lambda model, x") as caught:
        export_onnx(plan, initial_params(model))
    assert caught.value.code == "plan_graph_missing"


def test_weights_of_another_model_are_refused() -> None:
    plan = pygrid.plan(data={"x": X}, name="p")(lambda model, x: model(x).square().mean()).build(nn.Linear(4, 3))
    with pytest.raises(ShapeMismatch, match="bias"):
        export_onnx(plan, initial_params(nn.Linear(4, 2)))


def test_tied_and_frozen_weights_are_exported() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm, self.second = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4)
            self.second.weight = self.first.weight
            self.second.bias.requires_grad_(False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(self.norm(self.first(x)))

    model = Tied()
    plan = pygrid.plan(data={"x": X}, name="p")(lambda model, x: model(x).square().mean()).build(model)
    x = np.random.default_rng(2).normal(size=(9, 4)).astype(np.float32)
    params = Runner(plan).train(initial_params(model), {"x": x}, epochs=3, batch_size=3).params
    expected = pygrid.load_into(model, params).eval()(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(predict(export_onnx(plan, params), x=x)["output"], expected, atol=1e-6)


@pytest.mark.parametrize("model", [nn.Sequential(nn.Linear(4, 3)), nn.Bilinear(4, 4, 3)], ids=["one", "two arguments"])
def test_an_explicit_step_has_predictions_if_it_is_clear_how(model: nn.Module) -> None:
    def step(params: Any, state: Any, x: torch.Tensor) -> Any:
        return {name: w * 0.5 for name, w in params.items()}, state, {"loss": x.mean()}

    plan = pygrid.train_step(data={"x": X})(step).build(model)
    if isinstance(model, nn.Bilinear):
        with pytest.raises(PygridError, match="no graph for predictions"):
            export_onnx(plan, initial_params(model))
        return
    params = Runner(plan).train(initial_params(model), {"x": np.ones((2, 4), np.float32)}).params
    expected = pygrid.load_into(model, params)(torch.ones(2, 4)).detach().numpy()
    answer = predict(export_onnx(plan, params), x=np.ones((2, 4), np.float32))["output"]
    np.testing.assert_allclose(answer, expected, atol=1e-6)
