"""A plan that tells malignant from benign cells by 30 measurements of their nuclei: softmax regression.

    python examples/plans/breast_cancer.py      writes breast_cancer.plan and breast_cancer.safetensors beside this file

The measurements come as they are, in their own units, and the plan puts them on one scale. It does so by the smallest
and the largest value that the description of the data set publishes for each: constants that anybody may know, so that
nothing about single records is in the plan. Few parameters (62) and gradients of about the same size suit training with
noise.
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

# fmt: off
RANGES = (
    # mean: radius, texture, perimeter, area, smoothness, compactness, concavity, concave points, symmetry, fractal
    # dimension
    (6.981, 28.11), (9.71, 39.28), (43.79, 188.5), (143.5, 2501.0), (0.053, 0.163),
    (0.019, 0.345), (0.0, 0.427), (0.0, 0.201), (0.106, 0.304), (0.05, 0.097),
    # standard error of the same
    (0.112, 2.873), (0.36, 4.885), (0.757, 21.98), (6.802, 542.2), (0.002, 0.031),
    (0.002, 0.135), (0.0, 0.396), (0.0, 0.053), (0.008, 0.079), (0.001, 0.03),
    # worst: the mean of the three largest
    (7.93, 36.04), (12.02, 49.54), (50.41, 251.2), (185.2, 4254.0), (0.071, 0.223),
    (0.027, 1.058), (0.0, 1.252), (0.0, 0.291), (0.156, 0.664), (0.055, 0.208),
)
# fmt: on
"""Smallest and largest value of each measurement, as published with the data set (``examples/data/README.md``)."""


class Net(torch.nn.Module):
    """30 measurements, two classes; weights begin at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(30, 2)
        torch.nn.init.zeros_(self.linear.weight)
        torch.nn.init.zeros_(self.linear.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        low, high = (torch.tensor(column) for column in zip(*RANGES, strict=True))
        # The root because most measurements are skewed: many are small, a few are ten times as large.
        return self.linear(2 * torch.sqrt(torch.clamp((x - low) / (high - low), 0.0, 1.0)) - 1)


@pygrid.plan(
    name="breast-cancer",
    description="Tell malignant from benign cells by 30 measurements of their nuclei.",
    data={
        "x": pygrid.Tensor["batch", 30].meaning("measurements of cell nuclei, as published"),
        "y": pygrid.Label(2),
    },
    hyper={"lr": pygrid.Float(1.0, min=1e-3, max=10.0)},
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
    plan.save(HERE / "breast_cancer.plan")
    (HERE / "breast_cancer.safetensors").write_bytes(weights)
    print("\n".join(summary(plan)))
