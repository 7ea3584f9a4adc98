"""Explicit training steps and averaging rules."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, grad_and_value

import pygrid
from pygrid.errors import AuthoringError
from pygrid.plans import Runner
from pygrid.plans.authoring import initial_params
from pygrid.plans.averaging import AveragingRunner

Arrays = dict[str, torch.Tensor]

NET = nn.Linear(4, 3)
DATA = {"x": pygrid.Tensor["batch", 4], "y": pygrid.Label(3)}
LR = {"lr": pygrid.Float(0.1, min=0.0, max=1.0)}


def signed(params: Arrays, state: Arrays, x: torch.Tensor, y: torch.Tensor, lr: torch.Tensor) -> Any:
    """Sign descent with a count of steps."""

    def loss(params: Arrays) -> torch.Tensor:
        return F.cross_entropy(functional_call(NET, params, (x,)), y)

    grads, value = grad_and_value(loss)(params)
    new = {name: w - lr * torch.sign(grads[name]) for name, w in params.items()}
    return new, {"steps": state["steps"] + 1}, {"loss": value, "steps": state["steps"]}


def steps(params: Arrays) -> Arrays:
    return {"steps": torch.zeros(())}


def test_an_explicit_step_trains() -> None:
    plan = pygrid.train_step(data=DATA, hyper=LR, state=steps, metrics={"steps": "sum"})(signed).build(NET)
    assert list(plan.manifest.graphs) == ["train", "predict"]
    assert not plan.manifest.per_example_independent
    random = np.random.default_rng(0)
    batch = {"x": random.normal(size=(6, 4)).astype(np.float32), "y": random.integers(0, 3, 6)}
    result = Runner(plan).train(initial_params(NET), batch, epochs=3, batch_size=6, shuffle=False)
    assert result.metrics["steps"] == 2

    params: Arrays = {k: v.detach() for k, v in NET.named_parameters()}
    state = steps(params)
    for _ in range(3):
        x, y = torch.from_numpy(batch["x"]), torch.from_numpy(batch["y"])
        params, state, _metrics = signed(params, state, x, y, torch.tensor(0.1))
    for name, array in params.items():
        np.testing.assert_allclose(result.params[name], array.numpy(), atol=1e-6)


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (lambda p, s: (p, s), "must return (params, state, metrics)"),
        (lambda p, s: ({}, s, {"loss": p["bias"].sum()}), "returns no params 'weight'"),
        (lambda p, s: ({**p, "bias": p["bias"].sum()}, s, {"loss": p["bias"].sum()}), "with shape [], not [3]"),
        (lambda p, s: ({**p, "more": p["bias"]}, s, {"loss": p["bias"].sum()}), "unknown params 'more'"),
        (lambda p, s: (p, {}, {"loss": p["bias"].sum()}), "returns no state 'steps'"),
        (lambda p, s: (p, s, {"accuracy": p["bias"].sum()}), "include 'loss'"),
    ],
)
def test_what_a_step_must_return(result: Any, words: str) -> None:
    def step(params: Arrays, state: Arrays, x: torch.Tensor, y: torch.Tensor, lr: torch.Tensor) -> Any:
        return result(params, state)

    with pytest.raises(AuthoringError) as caught:
        pygrid.train_step(data=DATA, hyper=LR, state=steps)(step).build(NET)
    assert words in caught.value.detail


def diffs(num: int) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(5)
    return [
        {name: random.normal(size=array.shape).astype(np.float32) for name, array in initial_params(NET).items()}
        for _ in range(num)
    ]


def test_a_rule_over_all_diffs() -> None:
    @pygrid.averaging_plan()
    def middle(diffs: Arrays) -> Arrays:
        """The mean of the smallest and the largest."""
        return {name: (d.amin(0) + d.amax(0)) / 2 for name, d in diffs.items()}

    plan = middle.build(NET)
    assert (plan.manifest.kind, plan.manifest.iterative) == ("averaging", False)
    assert plan.manifest.description == "The mean of the smallest and the largest."
    for num in (1, 2, 7):
        given = diffs(num)
        result = AveragingRunner(plan).average(given)
        for name in given[0]:
            stacked = np.stack([diff[name] for diff in given])
            np.testing.assert_allclose(result[name], (stacked.min(0) + stacked.max(0)) / 2, atol=1e-6)


def test_an_iterative_rule() -> None:
    @pygrid.averaging_plan(iterative=True, name="running mean")
    def running_mean(avg: Arrays, item: Arrays, num: torch.Tensor) -> Arrays:
        return {name: (avg[name] * num + item[name]) / (num + 1) for name in avg}

    plan = running_mean.build(NET)
    assert (plan.manifest.name, plan.manifest.iterative) == ("running mean", True)
    given = diffs(5)
    result = AveragingRunner(plan).average(given)
    for name in given[0]:
        np.testing.assert_allclose(result[name], np.mean([diff[name] for diff in given], axis=0), atol=1e-6)


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (lambda diffs: {"weight": diffs["weight"].mean(0)}, "the names it was given"),
        (lambda diffs: dict(diffs), "has shape [5, 3]; a diff has [3]"),
        (lambda diffs: {name: d[:3].mean(0) for name, d in diffs.items()}, "batch"),
        (lambda items: {}, ""),
    ],
)
def test_what_a_rule_must_return(rule: Any, words: str) -> None:
    with pytest.raises(AuthoringError) as caught:
        pygrid.averaging_plan()(rule).build(NET)
    assert words in caught.value.detail
