"""The cost of events: Renyi curves for enforcement, privacy loss distributions for display.

A **curve** is the Renyi divergence of a mechanism at each of `ORDERS`. The curve of several mechanisms is the sum of
their curves, also if each mechanism was chosen after the answers of those before it. So a charge is one cached vector.

Two datasets are neighbors if one unit is **replaced** by any other (`pygrid.privacy.events`). A contribution has a
norm of at most C, so the replacement of one moves the sum by at most 2 C.

| event | (a - 1) times the curve at order a | source |
|---|---|---|
| Gaussian | a (a-1) 2 / z^2, the curve of sensitivity 2 | Mironov, CSF 2017, table II |
| PoissonSampledGaussian | `pygrid.privacy.replacement.log_moment` | the proof there |
| Laplace | log(a/(2a-1) e^((a-1)/b) + (a-1)/(2a-1) e^(-a/b)), b half of the scale | Mironov, table II |
| PureDp | the curve of randomised response | Mironov, table II; the worst case: Bun, Steinke, TCC 2016, prop. 3.3 |

A sampled curve is computed at whole orders. (a - 1) times the curve is convex in a, so the straight line between two
whole orders is an upper bound there, and the curve has this bound. A ledger has a whole order.

**These curves hold for the discrete Gaussian too**, not only for the continuous one. Without sampling: Canonne,
Kamath, Steinke, NeurIPS 2020, for integer shifts. With sampling: `pygrid.privacy.replacement`.

The tests compare with `dp-accounting`. Only `display_epsilon` needs that package (extra ``privacy``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from typing import assert_never

import numpy as np
import numpy.typing as npt

from pygrid import codes
from pygrid.errors import InvalidInput, Unavailable
from pygrid.privacy.events import (
    ApproximateDp,
    Event,
    Gaussian,
    Laplace,
    PoissonSampledGaussian,
    PureDp,
    check_delta,
    check_epsilon,
)
from pygrid.privacy.replacement import log_moment

Curve = npt.NDArray[np.float64]

ORDERS: tuple[float, ...] = (*(1 + tenth / 10 for tenth in range(1, 100)), *range(11, 64), 128, 256, 512, 1024)
"""The orders of every curve: the defaults of `dp-accounting`. Stored data depends on them, so they never change."""
WHOLE_ORDERS: tuple[int, ...] = tuple(int(order) for order in ORDERS if order == int(order))

_DISPLAY_INTERVAL = 1e-3


def curve(event: Event) -> Curve:
    """The Renyi divergences of an event at `ORDERS`, read-only, shape (156,).

    Raises:
        InvalidInput: ``no_curve``, for an `ApproximateDp`.
    """
    match event:
        case Gaussian(noise_multiplier=z, rounds=rounds):
            return rounds * _gaussian(z)
        case PoissonSampledGaussian(sampling_rate=q, noise_multiplier=z, rounds=rounds):
            return rounds * (_gaussian(z) if q == 1.0 else _sampled_gaussian(q, z))
        case Laplace(noise_multiplier=scale):
            return _laplace(scale / 2).copy()
        case PureDp(epsilon=epsilon):
            return _pure(epsilon).copy()
        case ApproximateDp():
            raise InvalidInput(
                "an (epsilon, delta) event has no Renyi curve; it is added by basic composition", code=codes.NO_CURVE
            )
        case _:
            assert_never(event)


def zero_curve() -> Curve:
    """The curve of no events: zeros."""
    return np.zeros(len(ORDERS))


def epsilon_of(curve: Curve, delta: float) -> float:
    """The smallest epsilon for which a curve implies (epsilon, delta)-DP.

    Source: Canonne, Kamath, Steinke, NeurIPS 2020, proposition 12.
    """
    check_delta(delta)
    if not curve.any():
        return 0.0
    orders = np.array(ORDERS)
    epsilons = curve + np.log1p(-1 / orders) - np.log(delta * orders) / (orders - 1)
    return max(0.0, float(epsilons.min()))


def divergence_within(epsilon: float, delta: float, order: float) -> float:
    """The largest Renyi divergence at one order that implies (epsilon, delta)-DP: the inverse of `epsilon_of`.

    Zero or less if, at this order, not even a mechanism that does nothing is within (epsilon, delta).
    """
    return epsilon - math.log1p(-1 / order) + math.log(delta * order) / (order - 1)


def calibrate(epsilon: float, delta: float, sampling_rate: float, rounds: int, order: float | None = None) -> float:
    """The smallest noise multiplier for which ``rounds`` rounds are (epsilon, delta)-DP, rounded up to a relative 1e-4.

    Args:
        order: the only order to account at, as in a ledger; the default is the best of all orders.
    Raises:
        InvalidInput: a value is out of range; or ``unreachable_epsilon``: no multiplier up to 10 000 is sufficient.
    """
    check_epsilon(epsilon)
    check_delta(delta)

    orders = ORDERS if order is None else (order,)

    def is_enough(z: float) -> bool:
        for each in orders:
            used = rounds * _divergence(sampling_rate, z, each)
            if used <= divergence_within(epsilon, delta, each):
                return True
            if used > epsilon + 1:
                return False  # divergences only grow with the order, and the conversion subtracts less than 1
        return False

    low, high = 0.01, 10_000.0
    if not is_enough(high):
        raise InvalidInput(
            f"{rounds} rounds cannot be ({epsilon}, {delta})-DP with any noise: ask for fewer, or for a larger epsilon",
            code=codes.UNREACHABLE_EPSILON,
        )
    if is_enough(low):
        return low
    while high > low * (1 + 1e-4):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high


def index_of(order: float) -> int:
    """The index of an order in a curve. Raises InvalidInput: ``unknown_order``."""
    try:
        return ORDERS.index(order)
    except ValueError:
        raise InvalidInput(f"{order} is not one of the orders of a Renyi curve", code=codes.UNKNOWN_ORDER) from None


def display_epsilon(events: Iterable[Event], delta: float) -> float:
    """The epsilon of a schedule that is fixed in advance, by privacy loss distributions: a tighter figure, for display.

    It does not hold for events that are chosen after earlier answers, so it never decides what is allowed. It takes
    0.1 s or more.

    Raises:
        Unavailable: ``privacy_extra_missing``.
    """
    check_delta(delta)
    try:
        from dp_accounting import NeighboringRelation as NeighborRel
        from dp_accounting.pld import privacy_loss_distribution as distributions
        from dp_accounting.pld.common import DifferentialPrivacyParameters
    except ImportError as error:
        raise Unavailable(
            "this figure needs the extra: pip install 'pygrid[privacy]'; budgets are enforced without it",
            code=codes.PRIVACY_EXTRA_MISSING,
        ) from error
    exact = {"value_discretization_interval": _DISPLAY_INTERVAL}
    total = distributions.identity(**exact)
    for event in events:
        match event:
            case Gaussian(noise_multiplier=z, rounds=rounds):
                one = distributions.from_gaussian_mechanism(z / math.sqrt(rounds), sensitivity=2, **exact)
            case PoissonSampledGaussian(sampling_rate=q, noise_multiplier=z, rounds=rounds):
                replaced = NeighborRel.REPLACE_ONE
                one = distributions.from_gaussian_mechanism(z, sampling_prob=q, neighboring_relation=replaced, **exact)
                one = one.self_compose(rounds)
            case Laplace(noise_multiplier=scale):
                one = distributions.from_laplace_mechanism(scale / 2, **exact)
            case PureDp(epsilon=epsilon):
                one = distributions.from_privacy_parameters(DifferentialPrivacyParameters(epsilon), **exact)
            case ApproximateDp(epsilon=epsilon, delta=own_delta):
                one = distributions.from_privacy_parameters(DifferentialPrivacyParameters(epsilon, own_delta), **exact)
            case _:
                assert_never(event)
        total = total.compose(one)
    return float(total.get_epsilon_for_delta(delta))


def _gaussian(z: float) -> Curve:
    result: Curve = np.array(ORDERS) * (2 / (z * z))
    return result


@lru_cache(maxsize=1024)
def _sampled_gaussian(q: float, z: float) -> Curve:
    return np.array([_divergence(q, z, order) for order in ORDERS])


def _divergence(q: float, z: float, order: float) -> float:
    """The divergence of one round at one order.

    Between whole orders, the log-moment is taken from the straight line between them; it is 0 at order 1.
    """
    if q == 1.0:
        return 2 * order / (z * z)
    below = math.floor(order)
    share = order - below
    log_moment_below = 0.0 if below == 1 else log_moment(q, z, below)
    if share == 0.0:
        return log_moment_below / (order - 1)
    return ((1 - share) * log_moment_below + share * log_moment(q, z, below + 1)) / (order - 1)


@lru_cache(maxsize=256)
def _laplace(scale: float) -> Curve:
    a = np.array(ORDERS)
    first = np.log(a / (2 * a - 1)) + (a - 1) / scale
    second = np.log((a - 1) / (2 * a - 1)) - a / scale
    result: Curve = np.maximum(np.logaddexp(first, second), 0.0) / (a - 1)
    return result


@lru_cache(maxsize=256)
def _pure(epsilon: float) -> Curve:
    """Randomised response with p = 1 / (1 + e^-epsilon): log(p^a (1-p)^(1-a) + (1-p)^a p^(1-a)) / (a - 1)."""
    a = np.array(ORDERS)
    log_p, log_rest = -math.log1p(math.exp(-epsilon)), -epsilon - math.log1p(math.exp(-epsilon))
    log_moment = np.logaddexp(a * log_p + (1 - a) * log_rest, a * log_rest + (1 - a) * log_p)
    result: Curve = np.minimum(np.maximum(log_moment, 0.0) / (a - 1), epsilon)
    return result
