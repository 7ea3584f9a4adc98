"""Constants of a plan: operators make what they can make, so a large vocabulary or image costs no bytes in the file.

Should happen: embeddings of real vocabularies build; zeros, masks and position numbers are computed. Should not happen:
a large array of equal numbers in the file, or one that a runtime keeps for the life of a session.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import nn

import pygrid
from pygrid.plans import Plan, Runner, check
from pygrid.plans.authoring import initial_params
from pygrid.plans.authoring.ports import DataSpec

LENGTH = 180
SERIES = {"x": pygrid.Tensor["batch", LENGTH, 4]}
IMAGE = {"x": pygrid.Tensor["batch", 1, 128, 128]}
VOCABULARY = 30_522


class Words(nn.Module):
    def __init__(self, width: int = 4, padding: int | None = 0) -> None:
        super().__init__()
        self.words, self.out = nn.Embedding(VOCABULARY, width, padding_idx=padding), nn.Linear(width, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.words(x).mean(1))


def causal(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    h = model(x)
    return F.scaled_dot_product_attention(h, h, h, is_causal=True).square().mean()


def own_mask(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    h = model(x)
    mask = torch.full((LENGTH, LENGTH), float("-inf")).triu(1)
    return ((h @ h.transpose(1, 2) + mask).softmax(-1) @ h).square().mean()


def positions(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    places = torch.arange(float(LENGTH))[:, None] / (torch.arange(64) + 1.0)
    return (model(x) * torch.sin(places).mean(1, keepdim=True)).square().mean()


def identity(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return (torch.eye(LENGTH) @ model(x)).square().mean()


def joined(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    h = model(x)
    return torch.cat([h.mean((0, 2))[None], torch.full((70, LENGTH), 2.5)]).square().mean()


def written(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    h = model(x)
    table = torch.zeros(500, 4)
    return table.index_put((torch.arange(LENGTH) * 2,), h.mean(0), accumulate=True).square().mean()


def pooled(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(F.max_pool2d(model(x), 2), 32).square().mean()


def classified(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return model(x).square().mean()


CASES: dict[str, tuple[Callable[[], nn.Module], dict[str, DataSpec], Callable[..., Any]]] = {
    "embedding": (lambda: Words(padding=None), {"x": pygrid.Integers["batch", 5](VOCABULARY)}, classified),
    "embedding with padding": (Words, {"x": pygrid.Integers["batch", 5](VOCABULARY)}, classified),
    "causal attention": (lambda: nn.Linear(4, 4), SERIES, causal),
    "mask of infinities": (lambda: nn.Linear(4, 4), SERIES, own_mask),
    "positions": (lambda: nn.Linear(4, 4), SERIES, positions),
    "identity": (lambda: nn.Linear(4, 4), SERIES, identity),
    "joined to a constant": (lambda: nn.Linear(4, 4), SERIES, joined),
    "written into zeros": (lambda: nn.Linear(4, 4), SERIES, written),
    "pooled": (lambda: nn.Conv2d(1, 2, 3, padding=1), IMAGE, pooled),
}


def build(name: str) -> tuple[Plan, nn.Module]:
    make, data, loss = CASES[name]
    model = make()
    return pygrid.plan(data=data, max_batch_size=32, name="constants")(loss).build(model), model


def stored(plan: Plan) -> list[tuple[str, list[int], int]]:
    """Graph, shape and bytes of each constant that the file holds."""
    found = []
    for name in plan.manifest.graphs:
        for tensor in onnx.load_from_string(plan.graph(name)).graph.initializer:
            array = numpy_helper.to_array(tensor)
            found.append((name, list(array.shape), array.nbytes))
            assert array.size <= 256 or np.unique(array).size > 1, f"{name} stores {list(array.shape)} equal numbers"
    return found


@pytest.mark.parametrize("name", CASES)
def test_no_constant_that_operators_can_make_is_stored(name: str) -> None:
    plan, _ = build(name)
    assert [entry for entry in stored(plan) if entry[2] > 4096] == []
    check(plan.data)


def test_an_embedding_of_a_real_vocabulary_trains_only_its_words() -> None:
    plan, model = build("embedding with padding")
    before = initial_params(model)
    words = np.array([[0, 1, 2, 3, VOCABULARY - 1]] * 4)
    after = Runner(plan).train(before, {"x": words}, batch_size=2).params
    moved = np.flatnonzero((after["words.weight"] != before["words.weight"]).any(1))
    assert moved.tolist() == [1, 2, 3, VOCABULARY - 1]


def test_large_zeros_exist_only_while_the_plan_runs() -> None:
    """A runtime computes what depends on constants alone when it loads a graph, and keeps the result."""
    plan = pygrid.plan(data={"x": pygrid.Integers["batch", 5](VOCABULARY)}, max_batch_size=8, name="large")(
        classified
    ).build(Words(width=16))
    graph = onnx.load_from_string(plan.graph("train")).graph
    known = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        if known.issuperset(node.input):
            assert node.op_type != "Expand", f"{node.name} is known before a run"
            known.update(node.output)
    assert "ScatterElements" in [node.op_type for node in graph.node]
