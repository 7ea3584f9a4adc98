"""Operators as formulas of others: the results of torch, also near zeros, at ties and for large numbers.

Tolerance: float32 rounds at 6e-8; each formula has up to thirty steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from pygrid.plans.authoring.formulas import FORMULAS

NUMBERS = [0.0, 1e-20, 1e-6, 0.1, 0.25, 0.49999997, 0.5, 0.66, 0.75, 1.0, 1.5, 2.0, 2.5, 3.4, 7.9, 8.1, 30.0, math.nan]
X = torch.tensor([-number for number in NUMBERS[1:]] + NUMBERS + [8388609.0, -8388609.0])
PAIRS = torch.cartesian_prod(X, X[X.abs() < 50])
BETWEEN = X[X.abs() <= 1]
OPTIONS: dict[str, tuple[torch.Tensor, dict[str, Any]]] = {
    "asin": (BETWEEN, {}),
    "acos": (BETWEEN, {}),
    "atanh": (BETWEEN, {}),
    "acosh": (X[X >= 1], {}),
    "cumsum": (X[X.abs() <= 3], {"dim": 0}),
    "tan": (X[X.abs() < 50], {}),
    "gelu": (X, {"approximate": "tanh"}),
    "lgamma": (torch.cat([BETWEEN, X[X >= 1], torch.arange(-71.0, 99.0, 2) / 20]), {}),
    "digamma": (torch.cat([X[X > 0], torch.arange(-71.0, 99.0, 2) / 20]), {}),
    "polygamma": (torch.cat([X[X > 1e-6], torch.arange(-71.0, 99.0, 2) / 20]), {}),
}


def name_of(op: Any) -> str:
    return str(op).removeprefix("aten.").removesuffix(".default").removesuffix(".Tensor")


@pytest.mark.parametrize("op", FORMULAS, ids=name_of)
def test_it_is_what_torch_computes(op: Any) -> None:
    formula: Callable[..., Any] = FORMULAS[op]
    x, options = OPTIONS.get(name_of(op), (X, {}))
    given = [1, x] if name_of(op) == "polygamma" else [x]
    if sum("Tensor" in str(argument.type) for argument in op._schema.arguments) == 2:
        given = [PAIRS[:, 0], PAIRS[:, 1]]
    exact = op(*(part.double() if isinstance(part, torch.Tensor) else part for part in given), **options)
    result = formula(*given, **options)
    torch.testing.assert_close(result, exact.to(result.dtype), rtol=3e-6, atol=3e-6, equal_nan=True)


def test_whole_numbers_stay_as_they_are() -> None:
    x = torch.tensor([-3, 0, 4])
    for op in (torch.ops.aten.round.default, torch.ops.aten.trunc.default):
        assert torch.equal(FORMULAS[op](x), x)


def test_logarithms_of_gamma_keep_their_digits_near_zeros() -> None:
    near = torch.tensor([sign * 2.0**-power for sign in (-1, 1) for power in range(3, 23)])
    for x in (1 + near, 2 + near):
        wanted = torch.lgamma(x.double())
        torch.testing.assert_close(FORMULAS[torch.ops.aten.lgamma.default](x).double(), wanted, rtol=1e-6, atol=0)
