"""The model families that plans must be able to train, small, each with its loss and its data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

import pygrid
from pygrid.plans.authoring.ports import DataSpec

CLASSES = pygrid.Label(10)
IMAGE = pygrid.Tensor["batch", 1, 8, 8]
TOKENS = pygrid.Integers["batch", 6](30)


class Sequence(nn.Module):
    """Tokens through a recurrent layer, classified by its last output."""

    def __init__(self, layer: type[nn.LSTM] | type[nn.GRU] | type[nn.RNN], **options: Any) -> None:
        super().__init__()
        self.embedding = nn.Embedding(30, 8)
        self.layer = layer(8, 12, batch_first=True, **options)
        self.out = nn.Linear(12, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs, _ = self.layer(self.embedding(x))
        return self.out(outputs[:, -1])


class Block(nn.Module):
    """One transformer block: causal attention, then an MLP, each behind a layer norm."""

    def __init__(self, width: int = 16, heads: int = 2, length: int = 6) -> None:
        super().__init__()
        self.embedding = nn.Embedding(30, width)
        self.position = nn.Parameter(torch.zeros(length, width))
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.out = nn.Linear(width, 10)
        self.heads = heads

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.embedding(x) + self.position
        batch, length, width = h.shape
        q, k, v = (
            self.qkv(self.norm1(h)).reshape(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        )
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        h = h + self.proj(attended.transpose(1, 2).reshape(batch, length, width))
        h = h + self.mlp(self.norm2(h))
        return self.out(h.mean(1))


def cnn(norm: Callable[[int], nn.Module] | None = None) -> nn.Module:
    def stage(before: int, after: int) -> list[nn.Module]:
        layers = [nn.Conv2d(before, after, 3, padding=1), *([norm(after)] if norm else []), nn.ReLU(), nn.MaxPool2d(2)]
        return layers

    return nn.Sequential(*stage(1, 4), *stage(4, 8), nn.Flatten(), nn.Linear(8 * 4, 10))


def classify(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    logits = model(x)
    return F.cross_entropy(logits, y), {"accuracy": (logits.argmax(-1) == y).float().mean()}


@dataclass(frozen=True)
class Family:
    """How to make a model, its loss, and its columns of data."""

    model: Callable[[], nn.Module]
    data: dict[str, DataSpec]
    loss: Callable[..., Any] = classify
    lr: float = 0.1
    buffers: bool = False


def _images(model: Callable[[], nn.Module], **options: Any) -> Family:
    return Family(model, {"x": IMAGE, "y": CLASSES}, **options)


def _tokens(model: Callable[[], nn.Module], **options: Any) -> Family:
    return Family(model, {"x": TOKENS, "y": CLASSES}, **options)


def _vectors(model: Callable[[], nn.Module], **options: Any) -> Family:
    return Family(model, {"x": pygrid.Tensor["batch", 20], "y": CLASSES}, **options)


FAMILIES: dict[str, Family] = {
    "logistic regression": Family(lambda: nn.Linear(20, 2), {"x": pygrid.Tensor["batch", 20], "y": pygrid.Label(2)}),
    "mlp": _vectors(lambda: nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 10))),
    "cnn": _images(cnn),
    "cnn + group norm": _images(lambda: cnn(lambda n: nn.GroupNorm(2, n))),
    # Normalising by the statistics of few examples amplifies rounding: a smaller rate keeps 20 steps comparable.
    "cnn + batch norm": _images(lambda: cnn(nn.BatchNorm2d), lr=0.01, buffers=True),
    "embedding + lstm": _tokens(lambda: Sequence(nn.LSTM)),
    "embedding + gru": _tokens(lambda: Sequence(nn.GRU)),
    "transformer block": _tokens(Block),
}
