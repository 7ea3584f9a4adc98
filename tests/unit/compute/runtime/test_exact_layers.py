"""Layers that authors use, in private jobs: a record contributes the same bytes in any company.

Each model is built as a private plan from PyTorch code. Should happen: the contribution of a record is the same at
every position, in chunks of any size, in any order, next to records that fail, and after other runs. Random numbers
come from the job's secret bits, other ones for each record.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import pygrid
from pygrid.compute.runtime.contributions import PlanRows
from pygrid.compute.runtime.watch import Watch
from pygrid.plans import Plan
from pygrid.plans.authoring import initial_params
from pygrid.privacy.noise import SecretBits

NUM = 70
LABEL = pygrid.Label(3)
SERIES, VOLUME = pygrid.Tensor["batch", 2, 9], pygrid.Tensor["batch", 1, 6, 5, 5]


class Model(nn.Module):
    """A function of the parts and ``x``, then a linear layer."""

    def __init__(self, function: Callable[..., torch.Tensor], width: int, **parts: nn.Module) -> None:
        super().__init__()
        self.function, self.out = function, nn.Linear(width, 3)
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.function(self, x).flatten(1))


def ordered(model: Any, x: torch.Tensor) -> torch.Tensor:
    h = model.conv(x)
    return torch.cat([h.sort(2).values, h.topk(3).values, h.cumsum(2), h.median(2, keepdim=True)[0]], 2)


def read(model: Any, x: torch.Tensor) -> torch.Tensor:
    length = (x[:, 0, 0].detach().sigmoid() * 3).long() + 1
    _, h = pygrid.run_with_lengths(model.gru, x[:, :, :3].transpose(1, 2), length)
    return torch.cat([*h], 1)


def looked_up(model: Any, x: torch.Tensor) -> torch.Tensor:
    bags = (x[:, 0].detach().sigmoid() * 8).long()
    distances = torch.cdist(x.transpose(1, 2), model.centres.weight)
    return torch.cat([model.bag(bags), model.mix(x[:, 0], x[:, 1]), distances.flatten(1)], 1)


MODELS: dict[str, tuple[Any, Callable[[], nn.Module]]] = {
    "padding and pools": (
        VOLUME,
        lambda: nn.Sequential(
            nn.Conv3d(1, 2, 3, padding=1, padding_mode="reflect"), nn.MaxPool3d(2, ceil_mode=True),
            nn.ReplicationPad3d((1, 0, 2, 1, 0, 1)), nn.Conv3d(2, 2, 2), nn.AvgPool3d(2, 1, 1, count_include_pad=False),
            nn.AdaptiveMaxPool3d((2, 3, 2)), nn.Flatten(), nn.Linear(24, 3),
        ),
    ),
    "order": (SERIES, lambda: Model(ordered, 44, conv=nn.Conv1d(2, 2, 1))),
    "recurrent": (SERIES, lambda: Model(read, 6, gru=nn.GRU(2, 3, bidirectional=True, batch_first=True))),
    "look-up and products": (
        SERIES,
        lambda: Model(
            looked_up, 25, centres=nn.Linear(2, 2), mix=nn.Bilinear(9, 9, 4),
            bag=nn.EmbeddingBag(8, 3, mode="max", padding_idx=0),
        ),
    ),
}  # fmt: skip


def built(spec: Any, model: nn.Module) -> Plan:
    @pygrid.plan(data={"x": spec, "y": LABEL})
    def loss(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(model(x), y)

    return loss.build(model, private=True)


def contributions(plan: Plan, model: nn.Module, columns: dict[str, Any], *chunks: Any) -> Any:
    """The bytes of each record's contribution, evaluated in these chunks by one session."""
    units = PlanRows(plan, "grads", initial_params(model), columns, bits=SecretBits())
    parts = [block.rows for chunk in chunks for block in units.blocks(np.asarray(chunk), Watch())]
    return np.concatenate(parts)


@pytest.mark.parametrize("name", MODELS)
def test_a_record_contributes_the_same_bytes_in_any_company(name: str) -> None:
    spec, make = MODELS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = make()
    plan = built(spec, model)
    random = np.random.default_rng(0)
    columns = {
        "x": random.standard_normal((NUM, *spec.shape)).astype(np.float32),
        "y": random.integers(0, 3, NUM),
    }
    columns["x"][7], columns["x"][11], columns["x"][12] = np.nan, 1e30, 0.0
    expected = contributions(plan, model, columns, np.arange(NUM))
    assert len(np.unique(expected, axis=0)) > NUM - 4
    order = random.permutation(NUM)
    shuffled = {port: array[order] for port, array in columns.items()}
    same = contributions(plan, model, shuffled, np.arange(NUM))
    assert same.tobytes() == expected[order].tobytes(), "another order"
    for size in (1, 2, 33):
        chunks = [np.arange(begin, min(begin + size, NUM)) for begin in range(0, NUM, size)]
        assert contributions(plan, model, columns, *chunks).tobytes() == expected.tobytes(), f"chunks of {size}"
    fewer = {port: array[3:] for port, array in columns.items()}
    assert contributions(plan, model, fewer, np.arange(NUM - 3)).tobytes() == expected[3:].tobytes(), "fewer records"
    again = contributions(plan, model, columns, order, np.arange(NUM))
    assert again[NUM:].tobytes() == expected.tobytes(), "after other runs of the session"


def test_random_numbers_are_others_for_each_record() -> None:
    """The gradient of the bias of equal records is the noise that each of them drew."""

    def loss(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return (model(x * 0) * torch.randn(x.shape[0], 4)).sum(1).mean()

    model = nn.Linear(2, 4)
    plan = pygrid.plan(data={"x": pygrid.Tensor["batch", 2]})(loss).build(model, private=True)
    rows = contributions(plan, model, {"x": np.zeros((2000, 2), np.float32)}, np.arange(2000))
    noise = rows[:, np.abs(rows).sum(0) > 0]
    assert noise.shape == (2000, 4)
    assert len(np.unique(noise)) > 0.99 * noise.size
    assert abs(noise.mean()) < 5 / np.sqrt(noise.size)
    assert abs(noise.std() - 1) < 5 / np.sqrt(noise.size)
