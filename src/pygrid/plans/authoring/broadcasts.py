"""Predictions of shape [batch, 1] and targets of shape [batch]: torch compares each one with each other one."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import torch
import torch.nn.functional as F

from pygrid import codes
from pygrid.plans.authoring.diagnostics import SourceLocation, authoring_error, current_place

_LOSSES = frozenset(
    {F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss, F.kl_div, F.poisson_nll_loss, F.gaussian_nll_loss}
)
"""Losses that broadcast; their first two arguments are ``input`` and ``target``."""
_DIFFERENCES = frozenset(
    {torch.sub, torch.subtract, torch.Tensor.sub, torch.Tensor.subtract, torch.Tensor.__sub__, torch.Tensor.__rsub__}
)
_warned: set[tuple[SourceLocation, str]] = set()
"""The warnings that were shown: a line is traced once for each graph."""


def check(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    """Refuse a loss, and warn about a difference, whose result is larger than both of its tensors.

    A difference can be meant so, as in a loss over pairs. The sizes are those of a trace: the batch is a symbol.

    Raises:
        AuthoringError: a loss compares predictions with the targets of other examples (``plan_shape``).
    """
    if func not in _LOSSES and func not in _DIFFERENCES:
        return
    a, b = [*args, *(kwargs[name] for name in ("input", "target", "other") if name in kwargs)][:2]
    if not isinstance(a, torch.Tensor) or not isinstance(b, torch.Tensor):
        return
    pairs = list(zip_longest(reversed(a.shape), reversed(b.shape), fillvalue=1))
    grown_a = [y for x, y in pairs if _is_one(x) and not _is_one(y)]
    grown_b = [x for x, y in pairs if _is_one(y) and not _is_one(x)]
    if not grown_a or not grown_b:
        return
    shapes = f"{_shown_shape(a)} and {_shown_shape(b)}"
    if func in _LOSSES:
        reason = (
            f"{func.__name__} gets an input and a target of shapes {shapes}, and would compare each example with all "
            "others; bring both to one shape, for example by squeeze(1) or unsqueeze(1)"
        )
        raise authoring_error(reason, current_place(), code=codes.PLAN_SHAPE)
    place = current_place()
    if place is not None and a.dim() != b.dim() and not any(isinstance(size, int) for size in (*grown_a, *grown_b)):
        reason = (
            f"this subtracts tensors of shapes {shapes}: each example from all others. If that is not meant, bring "
            "both to one shape, for example by squeeze(1)"
        )
        if (place, reason) not in _warned:
            _warned.add((place, reason))
            warnings.warn_explicit(reason, RuntimeWarning, place.file, place.line)


def _is_one(size: Any) -> bool:
    return isinstance(size, int) and size == 1


def _shown_shape(tensor: torch.Tensor) -> str:
    return f"[{', '.join(str(size) if isinstance(size, int) else 'batch' for size in tensor.shape)}]"
