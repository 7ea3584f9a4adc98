"""What events cost: Renyi curves for enforcement, privacy loss distributions for display.

A **curve** holds the Renyi divergence of a mechanism at each of `ORDERS`. Curves of mechanisms that are used one after the
other add up, also when each was chosen by looking at the answers of those before, so a charge is one cached vector.

| event | (a - 1) times the curve at order a | source |
|---|---|---|
| Gaussian | a (a-1) / (2 z^2) | Mironov, CSF 2017, table II |
| PoissonSampledGaussian | log(1 + sum_k C(a,k) q^k (1-q)^(a-k) (e^(k(k-1)/2z^2) - 1)) | Mironov, Talwar, Zhang 2019, 3.3 |
| Laplace | log(a/(2a-1) e^((a-1)/b) + (a-1)/(2a-1) e^(-a/b)) | Mironov, table II |
| PureDp | that of randomised response | Mironov, table II; the worst there is: Bun, Steinke, TCC 2016, prop. 3.3 |

The sum above is written so that nothing cancels. It is for whole orders; (a - 1) times the curve is convex in a, so between two
whole orders the straight line between them is an upper bound, and that is what stands here. It costs 0.02 % of epsilon in the
published example of the tests.

**These curves hold for the discrete Gaussian too**, not only for the continuous one: for integer shifts mu and whole k,
E_P0[(P1/P0)^k] = exp(k (k-1) |mu|^2 / 2 sigma^2) exactly, since the terms are those of a discrete Gaussian centred at the
integer point k mu. So the whole orders are exact, and the reflection x -> mu - x exchanges P0 and P1, which is all that
theorem 5 of the 2019 paper needs for the other direction.
(Without sampling they hold at every order: Canonne, Kamath, Steinke.)

The tests compare with `dp-accounting`, which is needed only for `display_epsilon` (extra ``privacy``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from typing import assert_never

import numpy as np
import numpy.typing as npt

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

Curve = npt.NDArray[np.float64]

ORDERS: tuple[float, ...] = (*(1 + tenth / 10 for tenth in range(1, 100)), *range(11, 64), 128, 256, 512, 1024)
"""The orders of every curve, those that `dp-accounting` uses by default. Part of what is stored: never changed."""
WHOLE_ORDERS: tuple[int, ...] = tuple(int(order) for order in ORDERS if order == int(order))

_DISPLAY_INTERVAL = 1e-3


def curve(event: Event) -> Curve:
    """The Renyi divergences of an event at `ORDERS`, read-only, shape (156,).

    Raises:
        InvalidInput: ``no_curve`` for an `ApproximateDp`.
    """
    match event:
        case Gaussian(noise_multiplier=z, rounds=rounds):
            return rounds * _gaussian(z)
        case PoissonSampledGaussian(sampling_rate=q, noise_multiplier=z, rounds=rounds):
            return rounds * (_gaussian(z) if q == 1.0 else _sampled_gaussian(q, z))
        case Laplace(noise_multiplier=scale):
            return _laplace(scale).copy()
        case PureDp(epsilon=epsilon):
            return _pure(epsilon).copy()
        case ApproximateDp():
            raise InvalidInput(
                "an (epsilon, delta) event has no Renyi curve; it is added by basic composition", code="no_curve"
            )
        case _:
            assert_never(event)


def zero_curve() -> Curve:
    """The curve of nothing used yet."""
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


def classic_epsilon_of(curve: Curve, delta: float) -> float:
    """`epsilon_of` by the older, looser conversion, to compare with publications. Source: Mironov, CSF 2017, proposition 3."""
    check_delta(delta)
    return float((curve - math.log(delta) / (np.array(ORDERS) - 1)).min())


def divergence_within(epsilon: float, delta: float, order: float) -> float:
    """The largest Renyi divergence at one order that implies (epsilon, delta)-DP: the conversion of `epsilon_of` turned round.

    Zero or less if at this order not even a mechanism that does nothing would be within.
    """
    return epsilon - math.log1p(-1 / order) + math.log(delta * order) / (order - 1)


def calibrate(epsilon: float, delta: float, sampling_rate: float, rounds: int, order: float | None = None) -> float:
    """The smallest noise multiplier with which so many rounds are (epsilon, delta)-DP, to a relative 1e-4, rounded up.

    Args:
        order: account at this order alone, as a ledger does; default: at the best of all.
    Raises:
        InvalidInput: a value out of range, or ``unreachable_epsilon``: no noise up to 10 000 is enough.
    """
    check_epsilon(epsilon)
    check_delta(delta)

    def is_enough(z: float) -> bool:
        used = curve(PoissonSampledGaussian(sampling_rate, z, rounds))
        if order is None:
            return epsilon_of(used, delta) <= epsilon
        return float(used[index_of(order)]) <= divergence_within(epsilon, delta, order)

    low, high = 0.01, 10_000.0
    if not is_enough(high):
        raise InvalidInput(
            f"{rounds} rounds cannot be ({epsilon}, {delta})-DP with any noise: ask for fewer, or for a larger epsilon",
            code="unreachable_epsilon",
        )
    if is_enough(low):
        return low
    while high > low * (1 + 1e-4):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high


def index_of(order: float) -> int:
    """Where an order stands in a curve. Raises InvalidInput: ``unknown_order``."""
    try:
        return ORDERS.index(order)
    except ValueError:
        raise InvalidInput(f"{order} is none of the orders that curves are kept at", code="unknown_order") from None


def display_epsilon(events: Iterable[Event], delta: float) -> float:
    """The epsilon of a schedule fixed in advance by privacy loss distributions: a tighter figure, to show beside a plan.

    It does not hold for events chosen by looking at earlier answers, so it never decides what is allowed. Takes 0.1 s or more.

    Raises:
        Unavailable: ``privacy_extra_missing``.
    """
    check_delta(delta)
    try:
        from dp_accounting.pld import privacy_loss_distribution as distributions
        from dp_accounting.pld.common import DifferentialPrivacyParameters
    except ImportError as error:
        raise Unavailable(
            "this figure needs the extra: pip install 'pygrid[privacy]'; what is allowed is decided without it",
            code="privacy_extra_missing",
        ) from error
    exact = {"value_discretization_interval": _DISPLAY_INTERVAL}
    total = distributions.identity(**exact)
    for event in events:
        match event:
            case Gaussian(noise_multiplier=z, rounds=rounds):
                one = distributions.from_gaussian_mechanism(z / math.sqrt(rounds), **exact)
            case PoissonSampledGaussian(sampling_rate=q, noise_multiplier=z, rounds=rounds):
                one = distributions.from_gaussian_mechanism(z, sampling_prob=q, **exact).self_compose(rounds)
            case Laplace(noise_multiplier=scale):
                one = distributions.from_laplace_mechanism(scale, **exact)
            case PureDp(epsilon=epsilon):
                one = distributions.from_privacy_parameters(DifferentialPrivacyParameters(epsilon), **exact)
            case ApproximateDp(epsilon=epsilon, delta=own_delta):
                one = distributions.from_privacy_parameters(DifferentialPrivacyParameters(epsilon, own_delta), **exact)
            case _:
                assert_never(event)
        total = total.compose(one)
    return float(total.get_epsilon_for_delta(delta))


def _gaussian(z: float) -> Curve:
    result: Curve = np.array(ORDERS) / (2 * z * z)
    return result


@lru_cache(maxsize=1024)
def _sampled_gaussian(q: float, z: float) -> Curve:
    """One round. Below order 2 the line begins at order 1, where (a - 1) times the curve is 0."""
    return _between({order: _sampled_log_moment(q, z, order) for order in _needed_whole_orders()})


@lru_cache(maxsize=1)
def _needed_whole_orders() -> tuple[int, ...]:
    return tuple(sorted({*WHOLE_ORDERS, *(math.ceil(order) for order in ORDERS)}))


def _sampled_log_moment(q: float, z: float, order: int) -> float:
    """(order - 1) times the divergence of one round; every term is positive."""
    k = np.arange(2, order + 1, dtype=np.float64)
    gain = k * (k - 1) / (2 * z * z)
    terms = _log_binomials(order)[2:] + k * math.log(q) + (order - k) * math.log1p(-q) + gain + np.log(-np.expm1(-gain))
    peak = float(terms.max())
    return float(np.logaddexp(0.0, peak + math.log(float(np.exp(terms - peak).sum()))))


@lru_cache(maxsize=128)
def _log_binomials(order: int) -> Curve:
    log_factorials = np.array([math.lgamma(n + 1) for n in range(order + 1)])
    result: Curve = log_factorials[order] - log_factorials - log_factorials[::-1]
    return result


def _between(log_moments: dict[int, float]) -> Curve:
    """The curve whose (a - 1)-fold is given at whole orders, by straight lines between them."""
    known = np.array([1, *log_moments], np.float64)
    orders = np.array(ORDERS)
    result: Curve = np.interp(orders, known, np.array([0.0, *log_moments.values()])) / (orders - 1)
    return result


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
