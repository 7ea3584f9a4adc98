"""Random numbers in an author's code: drawn anew for each step, with the distribution that torch gives them.

Should happen: noise comes from inputs of the plan, one row for each example; training draws other numbers at each step,
and the same ones for the same seed. Should not happen: a number that is fixed when the plan is built.

Tolerance: means and standard deviations of 40,000 numbers, within five standard errors.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import pygrid
from pygrid.errors import AuthoringError
from pygrid.plans import Runner
from pygrid.plans.authoring import initial_params
from pygrid.plans.authoring.build import emit
from pygrid.plans.authoring.tracing import Arrays, Program
from pygrid.plans.manifest import Port
from pygrid.plans.sessions import OnnxSession

Draw = Callable[[torch.Tensor], torch.Tensor]
NUM, WIDTH = 2000, 20
UNIFORM, NORMAL = (0.5, math.sqrt(1 / 12)), (0.0, 1.0)

DRAWS: dict[str, tuple[Draw, tuple[float, float]]] = {
    "rand_like": (torch.rand_like, UNIFORM),
    "rand": (lambda x: torch.rand(x.shape[0], WIDTH), UNIFORM),
    "rand, size": (lambda x: torch.rand(size=x.shape, dtype=torch.float32), UNIFORM),
    "randn_like": (torch.randn_like, NORMAL),
    "randn": (lambda x: torch.randn((x.shape[0], WIDTH), requires_grad=True), NORMAL),
    "randn, batch second": (lambda x: torch.randn(WIDTH, x.shape[0]).t(), NORMAL),
    "randn, rows": (lambda x: torch.randn_like(x.reshape(-1, 5)).reshape(x.shape), NORMAL),
    "normal": (lambda x: torch.normal(x * 0 + 1, 2.0), (1.0, 2.0)),
    "normal, size": (lambda x: torch.normal(0.0, 3.0, x.shape), (0.0, 3.0)),
    "normal_": (lambda x: torch.empty_like(x).normal_(-1, 0.5), (-1.0, 0.5)),
    "uniform_": (lambda x: torch.empty_like(x).uniform_(-1, 3), (1.0, 4 * UNIFORM[1])),
    "exponential_": (lambda x: torch.empty_like(x).exponential_(2.0), (0.5, 0.5)),
    "bernoulli": (lambda x: torch.bernoulli(x * 0 + 0.3), (0.3, math.sqrt(0.21))),
    "bernoulli_": (lambda x: torch.empty_like(x).bernoulli_(0.2), (0.2, 0.4)),
    "randint": (lambda x: torch.randint(2, 12, x.shape).float(), (6.5, math.sqrt(99 / 12))),
    "randint_like": (lambda x: torch.randint_like(x, 2), (0.5, 0.5)),
    "log_normal_": (lambda x: torch.log(torch.empty_like(x).log_normal_(-1, 0.5)), (-1.0, 0.5)),
    "multinomial": (
        lambda x: torch.multinomial(torch.tensor([0.2, 0.0, 0.8]).expand(x.shape[0], 3), WIDTH, True).float(),
        (1.6, 0.8),
    ),
    "multinomial, all": (lambda x: torch.multinomial(x * 0 + 0.3, WIDTH).float(), (9.5, math.sqrt(399 / 12))),
    "randperm": (lambda x: x * 0 + torch.randperm(WIDTH), (9.5, math.sqrt(399 / 12))),
    "categorical": (
        lambda x: torch.distributions.Categorical(logits=x * 0).sample((3,)).t() + x[:, :3] * 0,
        (9.5, math.sqrt(399 / 12)),
    ),
    "distribution": (lambda x: torch.distributions.Normal(x * 0, x * 0 + 2).rsample(), (0.0, 2.0)),
    "gumbel_softmax": (lambda x: F.gumbel_softmax(x * 0, hard=True), (1 / WIDTH, math.sqrt((1 - 1 / WIDTH) / WIDTH))),
    "dropout": (lambda x: F.dropout(x * 0 + 1, 0.25), (1.0, math.sqrt(1 / 3))),
    "alpha_dropout": (lambda x: F.alpha_dropout(torch.randn_like(x), 0.4, training=True), NORMAL),
}


@pytest.mark.parametrize("name", DRAWS)
def test_numbers_have_their_distribution(name: str) -> None:
    draw, (mean, std) = DRAWS[name]

    def run(arrays: Arrays) -> Arrays:
        return {"new/result": draw(arrays["data/x"]).detach()}

    program = Program("train", (Port("data/x", "float32", ("batch", WIDTH)),), run)
    graph = emit((program, (program,)), symbol_name="batch")["train"]
    noise = np.random.default_rng(3)
    feed = {
        port.name: noise.random((NUM, *(int(size) for size in port.shape[1:])), np.float32) for port in graph.inputs
    }
    session = OnnxSession(graph.data, name=name)
    (result,) = session.run(["new/result"], feed)
    assert abs(result.mean() - mean) < 5 * std / math.sqrt(result.size)
    assert abs(result.std() - std) < 5 * std * 2 / math.sqrt(result.size)
    (first,) = session.run(["new/result"], {port: array[:7] for port, array in feed.items()})
    np.testing.assert_allclose(first, result[:7], rtol=1e-5, err_msg="an example has its own noise")


class Vae(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mean, self.log_var, self.decode = nn.Linear(8, 2), nn.Linear(8, 2), nn.Linear(2, 8)


VECTORS = {"x": pygrid.Tensor["batch", 8]}


@pygrid.plan(data=VECTORS, hyper={"lr": pygrid.Float(0.0)}, metrics={"drawn": "sum"})
def elbo(model: Vae, x: torch.Tensor) -> Any:
    mean, log_var = model.mean(x), model.log_var(x)
    noise = torch.randn_like(mean)
    reconstruction = F.mse_loss(model.decode(mean + noise * torch.exp(0.5 * log_var)), x)
    return reconstruction - 0.5 * (1 + log_var - mean**2 - log_var.exp()).mean(), {"drawn": noise.sum()}


def test_each_step_draws_other_numbers_and_a_seed_repeats_them() -> None:
    plan, model = elbo.build(Vae(), private=True), Vae()
    data = {"x": np.zeros((6, 8), np.float32)}

    def drawn(seed: int) -> list[float]:
        seen: list[float] = []
        Runner(plan).train(
            initial_params(model), data, epochs=2, batch_size=2, seed=seed,
            progress=lambda epoch, updates, total, metrics: seen.append(metrics["drawn"]),
        )  # fmt: skip
        return seen

    first = drawn(0)
    assert len({*first, *drawn(1)}) == 12, "all steps differ"
    assert drawn(0) == first
    assert Runner(plan).evaluate(initial_params(model), data)["drawn"] != 0, "an explicit draw is one in eval, too"


def test_examples_can_be_mixed_at_random() -> None:
    """Mixup: each example is joined with one of the batch; the partner differs from step to step."""

    def loss(model: nn.Module, x: torch.Tensor) -> Any:
        partner = torch.randperm(x.shape[0])
        return model(0.7 * x + 0.3 * x[partner]).square().mean(), {"first": partner[0].float()}

    plan = pygrid.plan(data=VECTORS)(loss).build(nn.Linear(8, 8))
    assert not plan.manifest.per_example_independent
    seen = []
    for seed in range(12):
        metrics = (
            Runner(plan).train(initial_params(nn.Linear(8, 8)), {"x": np.ones((5, 8), np.float32)}, seed=seed).metrics
        )
        seen.append(metrics["first"])
    assert set(seen) <= {0.0, 1.0, 2.0, 3.0, 4.0}
    assert len(set(seen)) > 1


def test_one_draw_for_a_whole_batch_is_for_plans_that_are_not_private() -> None:
    def loss(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, model.weight + 0.1 * torch.randn(8, 8)).square().mean()

    plan = pygrid.plan(data=VECTORS)(loss)
    assert plan.build(nn.Linear(8, 8)).manifest.noise["uniform0"].shape == (8, 8)
    with pytest.raises(AuthoringError) as refusal:
        plan.build(nn.Linear(8, 8), private=True)
    assert refusal.value.code == "plan_not_private"


@pytest.mark.parametrize(
    ("draw", "reason"),
    [
        (lambda x: torch.rand(1) * random.random(), "draws from random"),
        (lambda x: x * np.random.beta(1.0, 1.0), "draws from numpy.random"),
        (lambda x: torch.distributions.Beta(1.0, 1.0).sample(), "_dirichlet is not in the plan set"),
        (lambda x: torch.poisson(x.exp()), "poisson is not in the plan set"),
        (lambda x: torch.empty_like(x).cauchy_(), "cauchy_ is not in the plan set"),
        (lambda x: F.rrelu(x, training=True), "rrelu is not in the plan set"),
        (lambda x: torch.rand(3, generator=torch.Generator()), "generator= has no effect"),
        (lambda x: torch.randint(0, 2**30, (3,)), "16,777,216 numbers"),
        (lambda x: F.dropout(x[:, :1] @ x[:, :1].t(), 0.5), "not a multiple of the batch size"),
    ],
)
def test_what_cannot_be_drawn_is_named(draw: Draw, reason: str) -> None:
    def loss(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return (draw(x).sum() * 0 + model(x)).mean()

    with pytest.raises(AuthoringError) as refusal:
        pygrid.plan(data=VECTORS)(loss).build(nn.Linear(8, 8))
    assert refusal.value.code in ("plan_random", "plan_shape")
    assert reason in refusal.value.detail


def test_an_averaging_rule_cannot_draw() -> None:
    @pygrid.averaging_plan()
    def rule(diffs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: diff.mean(0) + torch.randn(diff.shape[1:]) for name, diff in diffs.items()}

    with pytest.raises(AuthoringError, match="cannot draw random numbers") as refusal:
        rule.build(nn.Linear(2, 2))
    assert refusal.value.code == "plan_random"
