"""Operators of torch that no operator of a plan computes, as formulas of operators that have a lowering.

`tracing` decomposes the operators into `FORMULAS`. Gradients stay those of torch, whose operators are decomposed, too.
The formulas keep the precision of float32 where an argument or a result is near zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from pygrid.plans.authoring.matrices import diagonal_copy, places

FORMULAS: dict[Any, Callable[..., Any]] = {}
"""Operator -> function of the same arguments."""


def _computes(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def register(formula: Callable[..., Any]) -> Callable[..., Any]:
        for name in names:
            packet, _, overload = name.partition(".")
            FORMULAS[getattr(getattr(torch.ops.aten, packet), overload or "default")] = formula
        return formula

    return register


def _odd(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """A function of positive numbers with ``f(-x) = -f(x)``."""
    size = function(x.abs())
    return torch.where(x < 0, -size, size)


_computes("leaky_relu")(lambda x, slope=0.01: torch.where(x > 0, x, x * slope))
_computes("hardtanh")(lambda x, low=-1.0, high=1.0: torch.clamp(x, low, high))
_computes("isinf")(lambda x: x.abs() == math.inf)
_computes("isnan")(lambda x: x != x)


@_computes("gelu")
def _gelu(x: torch.Tensor, *, approximate: str = "none") -> torch.Tensor:
    if approximate == "tanh":
        inner = torch.tanh((x + x * x * x * 0.044715) * math.sqrt(2 / math.pi))
    else:
        inner = torch.erf(x * math.sqrt(0.5))
    return x * 0.5 * (inner + 1)


# -- rounding --------------------------------------------------------------------------------------------------------


_computes("ceil")(lambda x: -torch.floor(-x))


@_computes("trunc")
def _trunc(x: torch.Tensor) -> torch.Tensor:
    return torch.where(x < 0, x.ceil(), x.floor()) if x.is_floating_point() else x.clone()


@_computes("round")
def _round(x: torch.Tensor) -> torch.Tensor:
    """To the nearest whole number; of two, to the even one."""
    if not x.is_floating_point():
        return x.clone()
    low = x.floor()
    rest = x - low
    is_odd = low - 2 * (low * 0.5).floor() == 1
    return low + ((rest > 0.5) | ((rest == 0.5) & is_odd)).to(x.dtype)


# -- logarithms, exponentials, angles --------------------------------------------------------------------------------

_computes("expm1")(lambda x: torch.tanh(x * 0.5) * (torch.exp(x) + 1))
_computes("log2")(lambda x: torch.log(x) * (1 / math.log(2)))
_computes("log10")(lambda x: torch.log(x) * (1 / math.log(10)))
_computes("exp2")(lambda x: torch.exp(x * math.log(2)))
_computes("tan")(lambda x: torch.sin(x) / torch.cos(x))
_computes("cosh")(lambda x: 0.5 * (torch.exp(x) + torch.exp(-x)))
_computes("sinh")(lambda x: torch.tanh(x) * 0.5 * (torch.exp(x) + torch.exp(-x)))
_computes("asinh")(lambda x: _odd(lambda s: torch.log1p(s + s * (s / (1 + torch.sqrt(s * s + 1)))), x))
_computes("acosh")(lambda x: torch.log1p((x - 1) + torch.sqrt((x - 1) * (x + 1))))
_computes("atanh")(lambda x: 0.5 * torch.log1p(2 * x / (1 - x)))
_computes("asin")(lambda x: 2 * _atan(x / (1 + torch.sqrt((1 - x) * (1 + x)))))
_computes("acos")(lambda x: 2 * _atan(torch.sqrt((1 - x) / (1 + x))))


@_computes("atan")
def _atan(x: torch.Tensor) -> torch.Tensor:
    return _odd(_atan_of_positive, x)


def _atan_of_positive(x: torch.Tensor) -> torch.Tensor:
    """Source: Moshier, Cephes Mathematical Library 2.8, ``atan``."""
    is_large, is_middle = x > 1 + math.sqrt(2), x > 0.66
    y = torch.where(is_large, -1 / x, torch.where(is_middle, (x - 1) / (x + 1), x))
    begin = torch.where(is_large, math.pi / 2, torch.where(is_middle, math.pi / 4, 0.0))
    above = (-0.8750608600031904, -16.15753718733365, -75.00855792314705, -122.8866684490136, -64.85021904942025)
    below = (1.0, 24.858464901423062, 165.02700983169885, 432.88106049129027, 485.3903996359137, 194.55065714826070)
    z = y * y
    return begin + (y + y * z * _polynomial(above, z) / _polynomial(below, z))


def _polynomial(factors: Sequence[float], x: torch.Tensor) -> torch.Tensor:
    """``factors[0] * x**n + ... + factors[n]``."""
    total = factors[0] * x + factors[1]
    for factor in factors[2:]:
        total = total * x + factor
    return total


@_computes("atan2")
def _atan2(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    ratio = torch.where((x == 0) & (y == 0), 0.0, y / torch.where(x == 0, 0.0, x))
    return _atan(ratio) + torch.where(x < 0, torch.where(y < 0, -math.pi, math.pi), 0.0)


@_computes("hypot")
def _hypot(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    large, small = torch.maximum(x.abs(), y.abs()), torch.minimum(x.abs(), y.abs())
    ratio = small / torch.where(large == 0, 1.0, large)
    return large * torch.sqrt(1 + ratio * ratio)


# -- gamma functions -------------------------------------------------------------------------------------------------


@_computes("lgamma")
def _lgamma(x: torch.Tensor) -> torch.Tensor:
    """Source: Moshier, Cephes Mathematical Library 2.8, ``lgamf``."""
    size = x.abs()
    sine = torch.sin(_turn(size)).abs()
    return torch.where(x < 0, -torch.log(size * sine / math.pi) - _lgamma_of_positive(size), _lgamma_of_positive(size))


def _lgamma_of_positive(x: torch.Tensor) -> torch.Tensor:
    """A polynomial near 2, and what the recurrence adds to it; Stirling's series above 6.5."""
    low = x.clamp(max=6.5)
    steps = (low + 0.5).floor()
    rest = low - steps
    above = 1.0
    for step in (2, 3, 4, 5):
        above = above * torch.where(steps > step, rest + step, 1.0)
    moved = torch.log(torch.where(steps < 1, low * (low + 1), torch.where(steps < 2, low, above)))
    near = (
        *(6.055172732649237e-4, -1.311620815545743e-3, 2.863437556468661e-3, -7.366775108654962e-3),
        *(2.058355474821512e-2, -6.735323259371034e-2, 3.224669577325661e-1, 4.227843421859038e-1),
    )
    small = rest * _polynomial(near, rest) + torch.where(steps < 2, -moved, moved)
    series = _polynomial((1 / 1260, -1 / 360, 1 / 12), 1 / (x * x)) / x
    return torch.where(x < 6.5, small, (x - 0.5) * (torch.log(x) - 1) + (0.5 * math.log(2 * math.pi) - 0.5) + series)


def _turn(x: torch.Tensor) -> torch.Tensor:
    """The angle ``pi * x``, between -pi / 2 and pi / 2."""
    return math.pi * (x - torch.floor(x + 0.5))


@_computes("digamma")
def _digamma(x: torch.Tensor) -> torch.Tensor:
    """Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 6.3.5, 6.3.7 and 6.3.18."""
    y, angle = torch.where(x > 0, x, 1 - x), _turn(x)
    z = y + 6
    series = _polynomial((-1 / 252, 1 / 120, -1 / 12, 0.0), 1 / (z * z))
    value = torch.log(z) - 0.5 / z + series - sum(1 / (y + step) for step in range(6))
    return torch.where(x > 0, value, value - math.pi * torch.cos(angle) / torch.sin(angle))


@_computes("polygamma")
def _polygamma(n: int, x: torch.Tensor) -> torch.Tensor:
    """Of order 1, the gradient of digamma. Source: as `_digamma`, 6.4.6, 6.4.7 and 6.4.12."""
    if n != 1:
        return _digamma(x) if n == 0 else NotImplemented
    y, sine = torch.where(x > 0, x, 1 - x), torch.sin(_turn(x))
    z = y + 6
    series = _polynomial((1 / 42, -1 / 30, 1 / 6), 1 / (z * z)) / (z * z)
    value = (1 + 0.5 / z + series) / z + sum(1 / ((y + step) * (y + step)) for step in range(6))
    return torch.where(x > 0, value, (math.pi / sine) * (math.pi / sine) - value)


# -- along an axis ---------------------------------------------------------------------------------------------------


@_computes("cumsum")
def _cumsum(x: torch.Tensor, dim: int, *, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Over the batch, by a product with a triangular matrix of ones."""
    wanted = dtype or (x.dtype if x.is_floating_point() else torch.int64)
    size = x.shape[dim] if x.dim() else 1
    if isinstance(size, int):
        return scanned(x.to(wanted), dim, torch.add) if x.dim() else x.to(wanted)
    ones = torch.arange(size).unsqueeze(1) <= torch.arange(size)
    return (x.movedim(dim, -1).float() @ ones.float()).movedim(-1, dim).to(wanted)


def scanned(x: torch.Tensor, dim: int, combine: Callable[..., torch.Tensor]) -> torch.Tensor:
    """Each element combined with all before it, in log2(n) rounds.

    Source: Hillis and Steele, "Data parallel algorithms", 1986.
    """
    size, step = x.shape[dim], 1
    while step < size:
        moved = combine(x.narrow(dim, step, size - step), x.narrow(dim, 0, size - step))
        x, step = torch.cat([x.narrow(dim, 0, step), moved], dim), 2 * step
    return x


def _diagonal_scatter(
    x: torch.Tensor, source: torch.Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1
) -> torch.Tensor:
    """A copy of ``x`` with ``source`` on a diagonal."""
    matrix = x.movedim((dim1, dim2), (-2, -1))
    rows, columns = matrix.shape[-2:]
    if offset or isinstance(rows, int):
        before = max(-offset, 0)
        source = torch.nn.functional.pad(source, (before, rows - before - source.shape[-1]))
    return torch.where(places(rows, columns, offset), source.unsqueeze(-1), matrix).movedim((-2, -1), (dim1, dim2))


def _diagonal_backward(grad: torch.Tensor, sizes: Sequence[Any], *options: int) -> torch.Tensor:
    return _diagonal_scatter(grad.new_zeros(sizes), grad, *options)


VIEWS: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.diagonal.default: diagonal_copy,
    torch.ops.aten.diagonal_copy.default: diagonal_copy,
    torch.ops.aten.diagonal_scatter.default: _diagonal_scatter,
    torch.ops.aten.diagonal_backward.default: _diagonal_backward,
}
"""As `FORMULAS`, for views, and what becomes of writing to them: they are copies here, after nothing is written."""
