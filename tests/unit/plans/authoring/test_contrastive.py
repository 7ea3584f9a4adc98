"""Losses that compare each example of a batch with each other one.

Should happen: they build (which compares them with eager torch at several batch sizes). Should not happen: such a plan
passes for one whose examples are independent.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import pygrid
from pygrid.errors import AuthoringError

PAIRS = {"a": pygrid.Tensor["batch", 8], "b": pygrid.Tensor["batch", 8]}


def info_nce(model: nn.Module, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    u, v = F.normalize(model(a), dim=1), F.normalize(model(b), dim=1)
    similarity = u @ v.t() / 0.07
    target = torch.arange(similarity.shape[0])
    return (F.cross_entropy(similarity, target) + F.cross_entropy(similarity.t(), target)) / 2


def simclr(model: nn.Module, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    z, n = F.normalize(torch.cat([model(a), model(b)]), dim=1), a.shape[0]
    similarity = (z @ z.t() / 0.5).masked_fill(torch.eye(2 * n, dtype=torch.bool), float("-inf"))
    return F.cross_entropy(similarity, torch.cat([torch.arange(n) + n, torch.arange(n)]))


def simclr_in_place(model: nn.Module, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    z, n = F.normalize(torch.cat([model(a), model(b)]), dim=1), a.shape[0]
    similarity = z @ z.T / 0.5
    similarity.fill_diagonal_(-1e9)
    return F.cross_entropy(similarity, torch.arange(2 * n).roll(n))


def diagonal(model: nn.Module, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    similarity = model(a) @ model(b).t()
    return -(similarity.diagonal() - torch.logsumexp(similarity, 1)).mean() + similarity.diag().square().mean()


def sliced(model: nn.Module, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    z, n = model(torch.cat([a, b])), a.shape[0]
    return F.cross_entropy(z[:n] @ z[n:].t(), torch.arange(n))


def chunked(model: nn.Module, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    u, v = model(torch.cat([a, b])).chunk(2)
    return F.cross_entropy(u @ v.t(), torch.arange(u.shape[0]))


def split(model: nn.Module, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    n = a.shape[0]
    u, v = torch.split(model(torch.cat([a, b])), [n, n])
    w, _ = torch.split(model(torch.cat([a, b])), n)
    return F.cross_entropy(u @ v.t() + w @ v.t(), torch.arange(n))


def memory_bank(model: nn.Module, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    bank = torch.linspace(-1, 1, 40).view(10, 4)
    return F.cross_entropy(model(a) @ torch.cat([model(b), bank]).t(), torch.arange(a.shape[0]))


def rotated(model: nn.Module, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    u = model(a)
    return F.relu(1 + (u * u.roll(1, 0)).sum(1) - (u * u.flip(0)).sum(1)).mean()


def decorrelated(model: nn.Module, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    u = model(a) - model(a).mean(0)
    return F.mse_loss(u, model(b)) + (u.T @ u / u.shape[0]).fill_diagonal_(0).square().sum()


def written_to_a_diagonal(model: nn.Module, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    similarity, covariance = model(a) @ model(b).t(), model(a).t() @ model(b)
    similarity.diagonal().fill_(-10.0)
    covariance.diagonal(1).mul_(2)
    torch.diagonal(covariance).add_(-1)
    return F.cross_entropy(similarity, torch.arange(a.shape[0])) + covariance.square().sum()


def survival(model: nn.Module, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Cox's partial likelihood, over those who are still at risk, in both usual forms."""
    order = torch.argsort(b[:, 0], descending=True)
    risk = model(a)[order, 0]
    return (torch.logcumsumexp(risk, 0) + torch.log(risk.exp().cumsum(0)) - 2 * risk).mean()


def seeded() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Linear(8, 4)


LOSSES = (
    info_nce, simclr, simclr_in_place, diagonal, written_to_a_diagonal, sliced, chunked, split, memory_bank, rotated,
    decorrelated, survival,
)  # fmt: skip


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
def test_it_builds(loss: Callable[..., torch.Tensor]) -> None:
    assert pygrid.plan(data=PAIRS)(loss).build(seeded()).manifest.per_example_independent is False


def test_it_is_not_private() -> None:
    with pytest.raises(AuthoringError, match="influence each other") as caught:
        pygrid.plan(data=PAIRS)(simclr).build(seeded(), private=True)
    assert caught.value.code == "plan_not_private"


def test_part_of_a_batch_is_refused() -> None:
    def loss(model: nn.Module, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (model(a)[1:] - model(b)[1:]).mean()

    with pytest.raises(AuthoringError, match="the batch cannot be cut"):
        pygrid.plan(data=PAIRS)(loss).build(nn.Linear(8, 4))


@pytest.mark.parametrize("offset", [0, 1, -2])
def test_diagonals_of_each_example(offset: int) -> None:
    def loss(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        matrix = model(x).unflatten(-1, (4, 6))
        line = matrix.diagonal(offset, 1, 2)
        return (torch.diag_embed(line, offset) * 2).square().sum((1, 2)).mean() + line.sum()

    plan = pygrid.plan(data={"x": pygrid.Tensor["batch", 5]})(loss).build(nn.Linear(5, 24), private=False)
    assert plan.manifest.per_example_independent is False  # one term is a mean, the other one a sum


def test_a_loss_on_the_diagonal_of_each_example_is_private() -> None:
    def loss(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return model(x).unflatten(-1, (4, 4)).diagonal(0, 1, 2).square().sum(1).mean()

    pygrid.plan(data={"x": pygrid.Tensor["batch", 5]})(loss).build(nn.Linear(5, 16), private=True)
