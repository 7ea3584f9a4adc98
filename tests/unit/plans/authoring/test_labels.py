"""Losses over labels that can be absent: padding, masks, and classes of weight 0.

Should happen: the mean is over the labels that are there, as in torch; a batch without any label has the loss 0 and
gradients of 0. Should not happen: NaN in the weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import pygrid
from pygrid.errors import InvalidInput
from pygrid.plans import Plan, Runner, check
from pygrid.plans.authoring import initial_params
from pygrid.plans.authoring.ports import DataSpec

WEIGHT = torch.tensor([0.5, 1.0, 0.0, 2.0])
LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "cross entropy": lambda scores, y: F.cross_entropy(scores, y, ignore_index=0),
    "with weights": lambda scores, y: F.cross_entropy(scores, y, WEIGHT, ignore_index=0),
    "smoothed": lambda scores, y: F.cross_entropy(scores, y, ignore_index=0, label_smoothing=0.1),
    "smoothed, with weights": lambda scores, y: F.cross_entropy(scores, y, WEIGHT, ignore_index=0, label_smoothing=0.1),
    "nll": lambda scores, y: F.nll_loss(F.log_softmax(scores, 1), y, ignore_index=0),
    "module": nn.CrossEntropyLoss(ignore_index=0),
    "sum": lambda scores, y: F.cross_entropy(scores, y, ignore_index=0, reduction="sum"),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_without_labels_changes_nothing(name: str) -> None:
    @pygrid.plan(data={"x": pygrid.Tensor["batch", 3, 5], "y": pygrid.Integers["batch", 5](4)})
    def loss(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return LOSSES[name](model(x), y)

    model = nn.Conv1d(3, 4, 1)
    plan, params = loss.build(model), initial_params(model)
    x = np.random.default_rng(1).random((4, 3, 5), np.float32)
    labels = np.array([[1, 2, 3, 0, 1]] * 4)
    result = Runner(plan).train(params, {"x": x, "y": np.zeros((4, 5), np.int64)}, batch_size=4)
    assert result.metrics == {"loss": 0.0}
    for array, before in zip(result.params.values(), params.values(), strict=True):
        np.testing.assert_array_equal(array, before)
    expected = LOSSES[name](model(torch.from_numpy(x)), torch.from_numpy(labels)).item()
    assert Runner(plan).evaluate(params, {"x": x, "y": labels})["loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("ignored", [0, 1])
def test_a_batch_of_classes_of_weight_0_changes_nothing(smoothing: float, ignored: int) -> None:
    weight = torch.tensor([1.0, 2.0, 1.0, 0.0])  # the first example of the self-check has the last class

    @pygrid.plan(data={"x": pygrid.Tensor["batch", 3], "y": pygrid.Label(4)})
    def loss(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(model(x), y, weight, ignore_index=ignored, label_smoothing=smoothing)

    model = nn.Linear(3, 4)
    params = initial_params(model)
    data = {"x": np.random.default_rng(1).random((4, 3), np.float32), "y": np.array([3, ignored, 3, 3])}
    result = Runner(loss.build(model)).train(params, data, batch_size=4)
    assert result.metrics == {"loss": 0.0}
    for name, array in result.params.items():
        np.testing.assert_array_equal(array, params[name])


def test_scores_of_minus_infinity() -> None:
    """A class that is masked has no part in the loss."""

    @pygrid.plan(data={"x": pygrid.Tensor["batch", 5], "y": pygrid.Label(3)})
    def loss(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Any:
        return F.cross_entropy(model(x).masked_fill(torch.tensor([False, False, False, True]), float("-inf")), y)

    model = nn.Linear(5, 4)
    plan = loss.build(model)
    x, y = np.random.default_rng(1).random((4, 5), np.float32), np.array([0, 1, 2, 1])
    expected = F.cross_entropy(model(torch.from_numpy(x))[:, :3], torch.from_numpy(y)).item()
    assert Runner(plan).evaluate(initial_params(model), {"x": x, "y": y})["loss"] == pytest.approx(expected, rel=1e-5)


# -- declared and derived ports --------------------------------------------------------------------------------------


def cross_entropy(ignore_index: int) -> Callable[..., torch.Tensor]:
    def loss(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(model(x), y, ignore_index=ignore_index)

    return loss


def train(plan: Plan, model: nn.Module, label: int) -> dict[str, Any]:
    data = {"x": np.ones((3, 5), np.float32), "y": np.array([0, 1, label])}
    return Runner(plan).train(initial_params(model), data, batch_size=3).params


@pytest.mark.parametrize(
    ("port", "ignore_index", "allowed"),
    [
        (pygrid.Label(4, ignore=255), 255, "0 to 3, or 255 for no label"),
        (pygrid.Label(4, ignore=-100), -100, "0 to 3, or -100 for no label"),
        (pygrid.Label(4), -100, "0 to 3"),
        (pygrid.Label(4), 3, "0 to 3"),
        (pygrid.Integers["batch"], -100, "0 to 3, or -100 for no label"),
        (pygrid.Integers["batch"], 9, "0 to 3, or 9 for no label"),
    ],
)
def test_a_device_takes_the_labels_of_the_port_and_no_others(port: DataSpec, ignore_index: int, allowed: str) -> None:
    """A port without a number of classes gets that of the model, and the value that the loss ignores."""
    model = nn.Linear(5, 4)
    plan = pygrid.plan(data={"x": pygrid.Tensor["batch", 5], "y": port})(cross_entropy(ignore_index)).build(model)
    check(plan.data)
    declared = plan.manifest.data["y"]
    assert declared.num_classes == 4
    wrong = {-1, 4, 255, -100} - {declared.ignore}
    for label in wrong:
        with pytest.raises(InvalidInput, match=f"column 'y' contains {label} in example 2; allowed are {allowed}$"):
            train(plan, model, label)
    labels = [3] if declared.ignore is msgspec.UNSET else [3, declared.ignore]
    for label in labels:
        assert all(np.isfinite(array).all() for array in train(plan, model, label).values())


def test_rows_of_a_table_bound_their_port() -> None:
    class Towns(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.out = nn.Embedding(6, 5), nn.Linear(5, 1)

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return self.out(x + self.table(y))

    def loss(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return model(x, y).square().mean()

    model = Towns()
    plan = pygrid.plan(data={"x": pygrid.Tensor["batch", 5], "y": pygrid.Integers["batch"]})(loss).build(model)
    train(plan, model, 5)
    for label in (6, -1):
        with pytest.raises(InvalidInput, match=f"contains {label} in example 2; allowed are 0 to 5"):
            train(plan, model, label)


def test_private_plans_leave_out_what_has_no_label() -> None:
    """With the sum over labels, an example without one contributes nothing, and the others what they would alone."""

    def loss(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(model(x), y, ignore_index=255, reduction="sum")

    model = nn.Linear(5, 4)
    data = {"x": pygrid.Tensor["batch", 5], "y": pygrid.Label(4, ignore=255)}
    runner = Runner(pygrid.plan(data=data)(loss).build(model, private=True))
    x, y = np.random.default_rng(1).random((2, 5), np.float32), np.array([255, 2])
    groups = [np.array([0]), np.array([1])]
    absent, present = runner.iter_gradients(initial_params(model), {"x": x, "y": y}, groups)
    assert not any(array.any() for array in absent.grads.values())
    alone = runner.gradients(initial_params(model), {"x": x[1:], "y": y[1:]})
    for name, array in present.grads.items():
        np.testing.assert_array_equal(array, alone.grads[name])
