"""Values that the random inputs of the self-check do not have: zeros, ties, both signs, saturated probabilities.

Should happen: results and gradients are those of torch, with its infinities and NaN.
Should not happen: NaN where torch has a number, which would spread to all weights.

Tolerance: float32 rounds at 6e-8. Logarithms of small numbers and sums in another order lose two to three digits.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_layer_variants import programs
from torch import nn

import pygrid
from pygrid.plans.authoring.build import emit
from pygrid.plans.selftest import run_selftest
from pygrid.plans.sessions import OnnxSession

WIDTH = 6
GRID = [-3.0, -2.0, -1.0, -0.5, 0.0, 0.0, 0.5, 1.0, 2.0, 3.0, 6.0]
VALUES: dict[str, list[float]] = {
    "zeros": [0.0],
    "grid": GRID,
    "large": [-90.0, -40.0, -20.0, -5.0, 5.0, 20.0, 40.0, 90.0],
}


MANY = torch.tensor([[3, 0, -1, 1, 2, 4]])
"""Classes 3 and 0; what stands behind -1 does not count."""


def other(x: torch.Tensor) -> torch.Tensor:
    return x.flip(1)


def truth(x: torch.Tensor) -> torch.Tensor:
    return (other(x) > 0).to(x.dtype)


CASES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "bce": lambda x: F.binary_cross_entropy(torch.sigmoid(x), truth(x), reduction="none"),
    "bce, exact": lambda x: F.binary_cross_entropy(x.clamp(0, 1), truth(x), reduction="none"),
    "bce with logits": lambda x: F.binary_cross_entropy_with_logits(x, truth(x), reduction="none"),
    "bce of moved elements": lambda x: F.binary_cross_entropy(
        torch.sigmoid(x)[:, 1:].unsqueeze(2).transpose(1, 2), truth(x)[:, None, 1:], reduction="none"
    )[:, 0],
    "logarithm of a sigmoid": lambda x: torch.log(torch.sigmoid(x)) + torch.sigmoid(x),
    "many labels": lambda x: F.multilabel_margin_loss(x, MANY.expand(x.shape[0], -1), reduction="none")[:, None],
    "norm of order 0": lambda x: torch.linalg.vector_norm(x, 0, 1, True) + x,
    "smallest norm": lambda x: torch.linalg.vector_norm(x, -math.inf, 1, True),
    "log1p": torch.log1p,
    "log1p of a probability": lambda x: torch.log1p(-torch.sigmoid(x)),
    "expm1": torch.expm1,
    "softplus": lambda x: F.softplus(x, 2, 5),
    "cross entropy": lambda x: F.cross_entropy(x, (other(x) > 0).long()[:, 0], reduction="none")[:, None],
    "kl": lambda x: F.kl_div(x.log_softmax(1), truth(x), reduction="none"),
    "normalize": lambda x: F.normalize(x, dim=1),
    "cosine": lambda x: F.cosine_similarity(x, other(x), 1)[:, None],
    "norm": lambda x: x.norm(dim=1, keepdim=True),
    "standard deviation": lambda x: x.std(1, keepdim=True),
    "largest": lambda x: x.amax(1, True) + 2 * x.max(1, True)[0],
    "clamp": lambda x: x.clamp(-1, 2),
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "relu6": F.relu6,
    "huber": lambda x: F.huber_loss(x, other(x), reduction="none", delta=2),
    "remainder": lambda x: x % 1.5 + x % -2,
    "whole numbers": lambda x: ((x.long() % 3) + x.long() // -2) * x,
    "rank": lambda x: x.sort(1).values * torch.arange(WIDTH),
}


@pytest.mark.parametrize("name", CASES)
def test_results_and_gradients(name: str) -> None:
    whole, _ = programs((WIDTH,), CASES[name])
    graph = emit((whole, (whole,)), symbol_name="batch")["train"]
    outputs = [port.name for port in graph.outputs]
    session = OnnxSession(graph.data, name=name)
    random = np.random.default_rng(1)
    for kind, values in VALUES.items():
        x = random.choice(values, (4, WIDTH)).astype(np.float32)
        feed = {"params/p": np.ones(WIDTH, np.float32), "data/x": x}
        expected = whole.run({port: torch.from_numpy(array) for port, array in feed.items()})
        for output, array in zip(outputs, session.run(outputs, feed), strict=True):
            wanted = expected[output].numpy()
            scale = max(1.0, float(np.abs(wanted[np.isfinite(wanted)]).max(initial=0.0)))
            np.testing.assert_allclose(array, wanted, rtol=1e-3, atol=2e-5 * scale, err_msg=f"{kind}: {output}")


def test_a_saturated_probability_leaves_weights_finite() -> None:
    """A sigmoid of 20 is 1 in float32, and that of -20 is 2e-9."""
    whole, _ = programs((WIDTH,), lambda x: F.binary_cross_entropy(torch.sigmoid(x), truth(x), reduction="none"))
    graph = emit((whole, (whole,)), symbol_name="batch")["train"]
    x = np.array([[20.0, -20.0, 90.0, -90.0, 200.0, -200.0]], np.float32)
    (gradient,) = OnnxSession(graph.data, name="bce").run(
        ["grads/p"], {"params/p": np.ones(WIDTH, np.float32), "data/x": x}
    )
    assert np.isfinite(gradient).all()


def test_scores_that_are_far_apart() -> None:
    """A loss of thousands, where the probability of a class is below all numbers."""

    def loss(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(3e4 * model(x), y)

    pygrid.plan(data={"x": pygrid.Tensor["batch", 4], "y": pygrid.Label(3)})(loss).build(nn.Linear(4, 3))


def test_a_loss_that_is_nan_for_the_test_vector() -> None:
    """The vector has buffers of up to 1.5; here they are below 1, as the noise of a diffusion model is."""
    model = nn.Linear(4, 1)
    model.register_buffer("kept", torch.linspace(0.9, 0.1, 10))

    def loss(model: nn.Module, x: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        return ((1 - model.kept[step]).sqrt() * model(x).squeeze(1)).mean()

    plan = pygrid.plan(data={"x": pygrid.Tensor["batch", 4], "step": pygrid.Label(10)})(loss).build(model)
    assert plan.manifest.test_vector is None
    assert run_selftest(plan) is None


def test_numbers_that_torch_rounds_before_the_graph_has_them() -> None:
    """``where`` makes a tensor of float32 of a number; the check takes the exact one for torch."""

    def loss(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return (10 * torch.where(x < 2, 0.3, x) - 3).sum() + 1e-3 * model(x).square().mean()

    pygrid.plan(data={"x": pygrid.Tensor["batch", 6]})(loss).build(nn.Linear(6, 3))
