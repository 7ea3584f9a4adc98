"""A plan that recognises handwritten digits of 8 x 8 pixels with a small MLP.

    python examples/plans/digits.py         writes digits.plan and digits.safetensors beside this file

The plan is how to train; the weights are what to start from. Both come out the same each time.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F

import pygrid
from pygrid.plans import Plan
from pygrid.plans.authoring import initial_params, make_model, summary
from pygrid.tensors import encode

HERE = Path(__file__).parent


class Net(torch.nn.Module):
    """64 pixels, 64 hidden units, 10 digits."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = torch.nn.Linear(64, 64)
        self.fc2 = torch.nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(F.relu(self.fc1(x)))


@pygrid.plan(
    name="digits",
    description="Recognise handwritten digits of 8x8 pixels.",
    data={
        "x": pygrid.Tensor["batch", 64].meaning("8x8 image, row by row, brightness 0 to 1"),
        "y": pygrid.Label(10),
    },
    hyper={"lr": pygrid.Float(0.2, min=1e-5, max=1.0)},
)
def loss(model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    logits = model(x)
    accuracy = (logits.argmax(-1) == y).float().mean()
    return F.cross_entropy(logits, y), {"accuracy": accuracy}


def build() -> tuple[Plan, bytes]:
    """The plan, and the first weights as a safetensors file."""
    net = make_model(Net, seed=2020)
    return loss.build(net, optimizer=pygrid.optim.SGD()), encode(initial_params(net))


if __name__ == "__main__":
    plan, weights = build()
    plan.save(HERE / "digits.plan")
    (HERE / "digits.safetensors").write_bytes(weights)
    print("\n".join(summary(plan)))
