"""One training step: the plan in ONNX Runtime against eager PyTorch, one thread each, the same batch of 32.

    python benchmarks/plan_step.py [FAMILY ...]

Claim: a plan is not slower than eager PyTorch (a CNN may take a third longer). Both sides run in one process, in short
turns, and the best turn of each counts, so that other work on the machine disturbs neither side alone.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import pygrid
from pygrid.plans.authoring import initial_params
from pygrid.plans.authoring.ports import DataSpec
from pygrid.plans.sessions import OnnxSession

BATCH = 32
TURNS, SECONDS_PER_TURN = 15, 0.1
BUDGET = 1.0
CNN_BUDGET = 0.9


class Recurrent(nn.Module):
    def __init__(self, layer: type[nn.LSTM] | type[nn.GRU]) -> None:
        super().__init__()
        self.embedding, self.layer, self.out = (
            nn.Embedding(1000, 32),
            layer(32, 64, batch_first=True),
            nn.Linear(64, 10),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.layer(self.embedding(x))[0][:, -1])


class Block(nn.Module):
    def __init__(self, width: int = 64, heads: int = 4) -> None:
        super().__init__()
        self.embedding = nn.Embedding(1000, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.out = nn.Linear(width, 10)
        self.heads = heads

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.embedding(x)
        batch, length, width = h.shape
        q, k, v = (
            self.qkv(self.norm1(h)).reshape(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        )
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        h = h + self.proj(attended.transpose(1, 2).reshape(batch, length, width))
        return self.out((h + self.mlp(self.norm2(h))).mean(1))


def cnn(norm: Callable[[int], nn.Module] | None = None) -> nn.Module:
    def stage(before: int, after: int) -> list[nn.Module]:
        return [nn.Conv2d(before, after, 3, padding=1), *([norm(after)] if norm else []), nn.ReLU(), nn.MaxPool2d(2)]

    return nn.Sequential(*stage(1, 16), *stage(16, 32), nn.Flatten(), nn.Linear(32 * 49, 10))


IMAGE, TOKENS = pygrid.Tensor["batch", 1, 28, 28], pygrid.Integers["batch", 20](1000)
FAMILIES: dict[str, tuple[Callable[[], nn.Module], DataSpec, float]] = {
    "logistic regression": (lambda: nn.Linear(20, 10), pygrid.Tensor["batch", 20], BUDGET),
    "mlp": (
        lambda: nn.Sequential(nn.Linear(784, 392), nn.ReLU(), nn.Linear(392, 10)),
        pygrid.Tensor["batch", 784],
        BUDGET,
    ),
    "cnn": (cnn, IMAGE, CNN_BUDGET),
    "cnn + group norm": (lambda: cnn(lambda n: nn.GroupNorm(4, n)), IMAGE, CNN_BUDGET),
    "cnn + batch norm": (lambda: cnn(nn.BatchNorm2d), IMAGE, CNN_BUDGET),
    "embedding + lstm": (lambda: Recurrent(nn.LSTM), TOKENS, BUDGET),
    "embedding + gru": (lambda: Recurrent(nn.GRU), TOKENS, BUDGET),
    "transformer block": (Block, TOKENS, BUDGET),
}


@dataclass
class Row:
    nodes: int
    torch_ms: float
    plan_ms: float

    @property
    def ratio(self) -> float:
        return self.torch_ms / self.plan_ms


def loss(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Any:
    logits = model(x)
    return F.cross_entropy(logits, y), {"accuracy": (logits.argmax(-1) == y).float().mean()}


def best(steps: list[Callable[[], object]]) -> list[float]:
    """Best milliseconds per call of each step, taken in turns."""
    times = [float("inf")] * len(steps)
    for step in steps:
        step()
    for _ in range(TURNS):
        for index, step in enumerate(steps):
            end = time.perf_counter() + SECONDS_PER_TURN
            while (start := time.perf_counter()) < end:
                step()
                times[index] = min(times[index], time.perf_counter() - start)
    return [1000 * t for t in times]


def measure(factory: Callable[[], nn.Module], column: DataSpec) -> Row:
    torch.manual_seed(0)
    model = factory()
    plan = pygrid.plan(data={"x": column, "y": pygrid.Label(10)})(loss).build(model)
    random = np.random.default_rng(0)
    if column.dtype == "float32":
        x: np.ndarray = random.random((BATCH, *column.shape), dtype=np.float32)
    else:
        x = random.integers(0, 1000, (BATCH, *column.shape))
    y = random.integers(0, 10, BATCH)

    graph = plan.manifest.graphs["train"]
    session = OnnxSession(plan.graph("train"), name="train")
    outputs = [port.name for port in graph.outputs]
    params = initial_params(model)
    feed = {
        p.name: params[p.name.partition("/")[2]] for p in graph.inputs if p.name.startswith(("params/", "buffers/"))
    }
    feed |= {"data/x": x, "data/y": y, "hyper/lr": np.array(0.01, np.float32)}

    def plan_step() -> None:
        for name, value in zip(outputs, session.run(outputs, feed), strict=True):
            if name.startswith("new/"):
                feed[name.removeprefix("new/")] = value

    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    tx, ty = torch.from_numpy(x), torch.from_numpy(y)

    def torch_step() -> None:
        optimizer.zero_grad()
        loss(model, tx, ty)[0].backward()
        optimizer.step()

    torch_ms, plan_ms = best([torch_step, plan_step])
    return Row(graph.num_nodes, torch_ms, plan_ms)


def main() -> None:
    torch.set_num_threads(1)
    wanted = sys.argv[1:] or list(FAMILIES)
    print(f"{'family':22}{'nodes':>7}{'torch ms':>10}{'plan ms':>10}{'ratio':>8}{'budget':>8}")
    failed = False
    for name in wanted:
        factory, column, budget = FAMILIES[name]
        row = measure(factory, column)
        failed |= row.ratio < budget
        print(
            f"{name:22}{row.nodes:7}{row.torch_ms:10.3f}{row.plan_ms:10.3f}{row.ratio:7.2f}x{budget:7.2f}x", flush=True
        )
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
