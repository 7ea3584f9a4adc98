"""Predictions [batch, 1] and targets [batch].

Should happen: torch's losses refuse them, and a difference of the two warns, with the author's line. Should not happen:
a plan that silently compares each example with all others, or a refusal of shapes that are meant so.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import pygrid
from pygrid.errors import AuthoringError
from pygrid.plans import Plan

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def build(loss: Loss) -> Plan:
    @pygrid.plan(data={"x": pygrid.Tensor["batch", 3], "y": pygrid.Tensor["batch"]})
    def plan(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return loss(model(x), y)

    return plan.build(nn.Linear(3, 1))


REFUSED: dict[str, Loss] = {
    "mse": lambda out, y: F.mse_loss(out, y),
    "module": lambda out, y: nn.MSELoss()(out, y),
    "by name": lambda out, y: F.l1_loss(target=y, input=out),
    "turned round": lambda out, y: F.huber_loss(out.squeeze(1), y.unsqueeze(1)),
    "without a warning of torch": lambda out, y: F.poisson_nll_loss(out, y),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.filterwarnings("ignore:Using a target size")
def test_a_loss_of_each_example_and_all_targets_is_refused(name: str) -> None:
    with pytest.raises(AuthoringError, match=r"shapes \[batch.*, and would compare each example") as refused:
        build(REFUSED[name])
    assert refused.value.code == "plan_shape"
    assert refused.value.fields["file"] == __file__
    assert "lambda out, y" in refused.value.fields["source"]


def test_a_difference_warns_once_with_the_line() -> None:
    with pytest.warns(RuntimeWarning, match=r"shapes \[batch, 1\] and \[batch\]") as seen:
        build(lambda out, y: ((out - y) ** 2).mean())
    shown = [warning for warning in seen if warning.category is RuntimeWarning]
    assert [warning.filename for warning in shown] == [__file__]


MEANT: dict[str, Loss] = {
    "same shape": lambda out, y: F.mse_loss(out.squeeze(1), y),
    "both with a column": lambda out, y: ((out - y.unsqueeze(1)) ** 2).mean(),
    "one number for all": lambda out, y: F.mse_loss(out.squeeze(1), torch.zeros(())) + 0 * y.sum(),
    "all pairs, said so": lambda out, y: (out - out.T).abs().mean() + 0 * y.sum(),
    "centres": lambda out, y: (out - torch.arange(5.0)).abs().mean() + 0 * y.sum(),
}


@pytest.mark.parametrize("name", MEANT)
@pytest.mark.filterwarnings("ignore:Using a target size")
def test_shapes_that_are_meant_so_build(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        build(MEANT[name])
