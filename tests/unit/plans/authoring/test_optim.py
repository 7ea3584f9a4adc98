"""Optimizers inside plans do what torch's do.

Reference: ``torch.optim`` over ten steps. Tolerance: rounding of float32; Adam divides by the root of a moment that
starts at zero, which blows rounding up in the first steps, hence its looser bound (still far below one step of 1e-2).
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import pygrid
from pygrid.plans import Plan, Runner
from pygrid.plans.authoring import initial_params
from pygrid.plans.authoring.optim import Optimizer
from pygrid.tensors import Params

LR = 0.05
Step = Callable[[nn.Module, torch.optim.Optimizer], None]


@pygrid.plan(
    data={"x": pygrid.Tensor["batch", 12], "y": pygrid.Label(5)},
    hyper={"lr": pygrid.Float(LR, min=0.0, max=1.0)},
    name="small",
)
def loss(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(model(x), y)


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(12, 6), nn.Tanh(), nn.Linear(6, 5))


def data(num_batches: int = 10) -> list[Params]:
    random = np.random.default_rng(1)
    return [
        {"x": random.normal(size=(8, 12)).astype(np.float32), "y": random.integers(0, 5, 8).astype(np.int64)}
        for _ in range(num_batches)
    ]


def eager(
    net: nn.Module, batches: list[Params], optimizer: torch.optim.Optimizer, change: Step | None = None
) -> Params:
    for batch in batches:
        optimizer.zero_grad()
        F.cross_entropy(net(torch.from_numpy(batch["x"])), torch.from_numpy(batch["y"])).backward()
        if change is not None:
            change(net, optimizer)
        optimizer.step()
    return initial_params(net)


def compare(plan: Plan, net: nn.Module, expected: Params, tolerance: float) -> None:
    trained = Runner(plan).train(initial_params(net), iter(data())).params
    for name, array in expected.items():
        np.testing.assert_allclose(trained[name], array, rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.parametrize(
    ("ours", "theirs", "tolerance"),
    [
        (pygrid.optim.SGD(), lambda p: torch.optim.SGD(p, lr=LR), 1e-6),
        (pygrid.optim.SGD(momentum=0.9), lambda p: torch.optim.SGD(p, lr=LR, momentum=0.9), 1e-6),
        (
            pygrid.optim.SGD(momentum=0.9, nesterov=True, weight_decay=0.01),
            lambda p: torch.optim.SGD(p, lr=LR, momentum=0.9, nesterov=True, weight_decay=0.01),
            1e-6,
        ),
        (pygrid.optim.Adam(), lambda p: torch.optim.Adam(p, lr=LR), 1e-4),
        (pygrid.optim.Adam(weight_decay=0.1), lambda p: torch.optim.Adam(p, lr=LR, weight_decay=0.1), 1e-4),
        (pygrid.optim.AdamW(weight_decay=0.1), lambda p: torch.optim.AdamW(p, lr=LR, weight_decay=0.1), 1e-4),
    ],
    ids=lambda value: str(value) if isinstance(value, Optimizer) else "",
)
def test_as_torch(ours: Optimizer, theirs: Callable[..., torch.optim.Optimizer], tolerance: float) -> None:
    net = model()
    plan = loss.build(net, optimizer=ours)
    assert plan.manifest.optimizer == str(ours)
    reference = copy.deepcopy(net)
    compare(plan, net, eager(reference, data(), theirs(reference.parameters())), tolerance)


def test_clipping_by_the_global_norm() -> None:
    net = model()
    reference = copy.deepcopy(net)

    def clip(net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        before = nn.utils.clip_grad_norm_(net.parameters(), 0.2)
        assert before > 0.2, "the limit is felt"

    expected = eager(reference, data(), torch.optim.SGD(reference.parameters(), lr=LR), clip)
    compare(loss.build(net, optimizer=pygrid.optim.SGD(max_grad_norm=0.2)), net, expected, 1e-6)


def test_fedprox_pulls_back_to_where_the_device_started() -> None:
    net = model()
    reference = copy.deepcopy(net)
    start = [p.detach().clone() for p in reference.parameters()]

    def pull(net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for p, w0 in zip(net.parameters(), start, strict=True):
            p.grad += 2.0 * (p.detach() - w0)

    expected = eager(reference, data(), torch.optim.SGD(reference.parameters(), lr=LR, momentum=0.5), pull)
    plan = loss.build(net, optimizer=pygrid.optim.SGD(momentum=0.5, prox_mu=2.0))
    compare(plan, net, expected, 1e-6)

    def distance(arrays: Params) -> float:
        return sum(float(np.abs(arrays[name] - array).sum()) for name, array in initial_params(net).items())

    free = loss.build(net, optimizer=pygrid.optim.SGD(momentum=0.5))
    assert distance(expected) < 0.9 * distance(Runner(free).train(initial_params(net), iter(data())).params)


def test_the_learning_rate_is_a_hyperparameter_with_a_default() -> None:
    plain = pygrid.plan(data={"x": pygrid.Tensor["batch", 12]})(lambda model, x: model(x).square().mean())
    plan = plain.build(model(), optimizer=pygrid.optim.Adam())
    assert plan.manifest.hyper["lr"].default == 0.001
    assert [port.name for port in plan.manifest.graphs["grads"].inputs if port.name.startswith("hyper/")] == []


def test_state_starts_at_zero_in_each_run() -> None:
    net = model()
    runner = Runner(loss.build(net, optimizer=pygrid.optim.SGD(momentum=0.9)))
    first = runner.train(initial_params(net), iter(data(3))).params
    again = runner.train(initial_params(net), iter(data(3))).params
    for name, array in first.items():
        np.testing.assert_array_equal(array, again[name])
