"""A plan that recognises handwritten digits of 8 x 8 pixels with a small convolutional network.

    python examples/plans/digits_cnn.py     writes digits_cnn.plan and digits_cnn.safetensors beside this file

Group norm in place of batch norm: it treats each example by itself, so that the plan can also be used for private jobs.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

import pygrid
from pygrid.plans import Plan
from pygrid.plans.authoring import initial_params, make_model, summary
from pygrid.tensors import encode

HERE = Path(__file__).parent


class Net(nn.Module):
    """Two convolutions with group norm, one max pool, one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.norm1 = nn.GroupNorm(4, 16)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.norm2 = nn.GroupNorm(4, 32)
        self.out = nn.Linear(32 * 4 * 4, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm1(self.conv1(x)))
        x = F.relu(self.norm2(self.conv2(x)))
        return self.out(F.max_pool2d(x, 2).flatten(1))


@pygrid.plan(
    name="digits_cnn",
    description="Recognise handwritten digits of 8x8 pixels, with a convolutional network.",
    data={
        "x": pygrid.Tensor["batch", 1, 8, 8].meaning("8x8 image, brightness 0 to 1"),
        "y": pygrid.Label(10),
    },
    hyper={"lr": pygrid.Float(0.05, min=1e-5, max=1.0)},
)
def loss(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    logits = model(x)
    accuracy = (logits.argmax(-1) == y).float().mean()
    return F.cross_entropy(logits, y), {"accuracy": accuracy}


def build() -> tuple[Plan, bytes]:
    """The plan, and the first weights as a safetensors file."""
    net = make_model(Net, seed=2020)
    return loss.build(net, optimizer=pygrid.optim.SGD()), encode(initial_params(net))


if __name__ == "__main__":
    plan, weights = build()
    plan.save(HERE / "digits_cnn.plan")
    (HERE / "digits_cnn.safetensors").write_bytes(weights)
    print("\n".join(summary(plan)))
