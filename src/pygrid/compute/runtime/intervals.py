"""95% intervals of private statistics, given their noise: post-processing of sums that are noisy already.

An interval contains the value without noise in 95% of all cases. It says nothing about other errors: values beyond the
declared bounds, records of a subject that were left out, and the choice of the people in the data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Interval = list[float]
"""The lower and the upper end."""

Z = 1.959964
"""The standard normal distribution has 95% of its mass between -Z and Z."""


def around(value: float, std: float) -> Interval:
    """The interval of a value with normal noise."""
    return [value - Z * std, value + Z * std]


def of_mean(num: float, total: float, std: float) -> Interval:
    """The interval of ``total / num`` within -1..1, for independent noise ``std`` in both.

    Source: Fieller, Some problems in interval estimation, 1954. It is all of -1..1 if ``num`` could be 0.
    """
    spread = (Z * std) ** 2
    if num <= 0 or num * num <= spread:
        return [-1.0, 1.0]
    root = Z * std * math.sqrt(max(0.0, total * total + num * num - spread))
    low, high = ((total * num + sign * root) / (num * num - spread) for sign in (-1, 1))
    return [min(1.0, max(-1.0, low)), min(1.0, max(-1.0, high))]


def of_variance(num: float, total: float, squares: float, std: float) -> Interval:
    """The interval of ``squares / num - (total / num)^2`` within 0..1, for independent noise ``std`` in all three.

    By the first derivatives (delta method); all of 0..1 if ``num`` could be 0.
    """
    if num <= Z * std:
        return [0.0, 1.0]
    t, q = total / num, squares / num
    low, high = around(q - t * t, std / num * math.sqrt(1 + 4 * t * t + (2 * t * t - q) ** 2))
    return [min(1.0, max(0.0, low)), min(1.0, max(0.0, high))]


def of_quantile(edges: Sequence[float], share: float, bins: Float64, std: float) -> Interval:
    """The candidates between which the quantile lies, for independent noise ``std`` in each bin."""
    total, num_bins = float(bins.sum()), len(bins)
    ends = []
    for sign in (1, -1):
        found = len(edges) - 1
        for place in range(len(edges)):
            below, num_below = float(bins[: place + 1].sum()), place + 1
            noise = std * math.sqrt(num_below * (1 - share) ** 2 + (num_bins - num_below) * share**2)
            if below - share * total + sign * Z * noise >= 0:
                found = place
                break
        ends.append(edges[found])
    return ends
