"""The stock layers nn.TransformerEncoder, nn.Transformer and nn.MultiheadAttention, with every kind of mask.

Should happen: they build, which compares them with eager torch in training and evaluation; evaluation computes what
torch computes without its fast path, which fills padded positions with zeros. Should not happen: NaN from a sequence
of padding alone; a changed setting of torch.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import pygrid
from pygrid.plans import Runner
from pygrid.plans.authoring import initial_params

TOKENS = {"x": pygrid.Integers["batch", 6](30), "y": pygrid.Label(3)}


def classify(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(model(x), y)


class Encoder(nn.Module):
    def __init__(self, mask: str, padding: str, *, batch_first: bool = True) -> None:
        super().__init__()
        self.mask, self.padding, self.batch_first = mask, padding, batch_first
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=batch_first)
        self.embedding, self.encoder, self.out = nn.Embedding(30, 8), nn.TransformerEncoder(layer, 1), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        causal = nn.Transformer.generate_square_subsequent_mask(6)
        mask = {"none": None, "float": causal, "bool": causal != 0}[self.mask]
        padded = x == 0
        as_float = torch.zeros(x.shape).masked_fill(padded, float("-inf"))
        padding = {"none": None, "float": as_float, "bool": padded}[self.padding]
        h = self.embedding(x)
        h = h if self.batch_first else h.transpose(0, 1)
        h = self.encoder(h, mask=mask, src_key_padding_mask=padding)
        return self.out(h.mean(1 if self.batch_first else 0))


class Translator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.out = nn.Embedding(30, 8), nn.Linear(8, 3)
        self.transformer = nn.Transformer(8, 2, 1, 1, 16, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h, padding = self.embedding(x), x == 0
        mask = self.transformer.generate_square_subsequent_mask(6)
        h = self.transformer(
            h, h, tgt_mask=mask, src_key_padding_mask=padding, tgt_key_padding_mask=padding,
            memory_key_padding_mask=padding, tgt_is_causal=True,
        )  # fmt: skip
        return self.out(h.mean(1))


class Attention(nn.Module):
    def __init__(self, *, need_weights: bool) -> None:
        super().__init__()
        self.need_weights = need_weights
        self.embedding, self.out = nn.Embedding(30, 8), nn.Linear(8, 3)
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.1, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.embedding(x)
        mask = torch.triu(torch.ones(6, 6, dtype=torch.bool), 1)
        h, _ = self.attention(h, h, h, attn_mask=mask, key_padding_mask=x == 1, need_weights=self.need_weights)
        return self.out(h[:, -1])


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="(Support for mismatched|enable_nested_tensor)")
        yield
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize(
    ("mask", "padding", "batch_first"),
    [("bool", "float", True), ("float", "bool", False)],
)
def test_an_encoder_with_masks(mask: str, padding: str, batch_first: bool) -> None:
    """The last test of this file has a mask of padding alone."""
    pygrid.plan(data=TOKENS)(classify).build(Encoder(mask, padding, batch_first=batch_first), private=True)


def test_an_encoder_and_a_decoder() -> None:
    pygrid.plan(data=TOKENS)(classify).build(Translator())


@pytest.mark.parametrize("need_weights", [True, False])
def test_attention_by_itself(need_weights: bool) -> None:
    pygrid.plan(data=TOKENS)(classify).build(Attention(need_weights=need_weights))


def test_a_sequence_of_padding_alone() -> None:
    """Torch's attention gives such a row zeros; a softmax of masked scores alone would be NaN."""
    model = Encoder("none", "bool")
    runner = Runner(pygrid.plan(data=TOKENS)(classify).build(model, private=True))
    params = initial_params(model)
    x, y = np.zeros((3, 6), np.int64), np.array([0, 1, 2])
    x[1, :3] = 5
    trained = runner.train(params, {"x": x, "y": y}, batch_size=3)
    assert all(np.isfinite(array).all() for array in trained.params.values())
    torch.backends.mha.set_fastpath_enabled(False)
    expected = classify(model.eval(), torch.from_numpy(x), torch.from_numpy(y)).item()
    torch.backends.mha.set_fastpath_enabled(True)
    assert runner.evaluate(params, {"x": x, "y": y})["loss"] == pytest.approx(expected, rel=1e-5)
