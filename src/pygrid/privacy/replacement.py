"""The cost of one round of a sampled Gaussian sum if any unit replaces another: the log-moment at whole orders.

**Setting.** A round adds the contributions of the units that took part, each a vector of L2 norm at most 1 (in units
of C), and Gaussian noise of standard deviation z. Each unit takes part with probability q, by a coin that stays
secret. Two datasets differ in the content of one unit, which contributes u in one and v in the other; its coin is the
same in both. Given the coins of the others, the outcomes are, up to a shift, P = (1-q) N(0) + q N(u) and Q = (1-q)
N(0) + q N(v), with N of deviation z. Divergences are jointly convex, so they are not larger if the other coins are
unknown.

**The worst pair is antipodal**: u = -v, of norm 1. Let F(u, v) = E_Q[f(P/Q)] for a convex f, r = P/Q, and s_u(x),
s_v(x) > 0 the posterior probabilities that the unit took part. Then grad log r = (u s_u - v s_v) / z^2. By Stein's
lemma, for each direction w and up to a factor 1 / z^2,

    dF/du . w =  q E_N(u)[ r   f''(r) <w, u s_u - v s_v> ]
    dF/dv . w = -q E_N(v)[ r^2 f''(r) <w, u s_u - v s_v> ]

For w orthogonal to u and pointing away from v, <w, u s_u - v s_v> = -<w, v> s_v >= 0: turning u away from v, up to -v,
never lowers F. Once <u, v> <= 0, |u|^2 s_u - <u, v> s_v >= 0 for w = u, and w = v is the same case for dF/dv: growing
never lowers F. So F is at most its value at the antipodal pair, both for Renyi moments and for hockey-stick
divergences, in any dimension. That pair has dimension 1: P, Q = (1-q) N(0) + q N(+-1). `dp-accounting` uses it for
"replace one", too.

**The noise is discrete**, on a grid of S steps per C, and u, v are integer vectors. Let t^2 = S^2 / 2^18. Rounding a
continuous Gaussian of variance s^2 - t^2 (in steps) to the integers, by the discrete Gaussian of variance t^2 around
it, results in the discrete Gaussian of variance s^2. Each probability is right up to a factor within 1 +- 2e for size
entries, e = 2 size exp(-2 pi^2 t^2): by Poisson summation, the normaliser of the rounding differs from a constant by
so little. S is at least 1024 and at least 16 sqrt(size) (`pygrid.privacy.clipping.Grid.fit`), so e is below 1e-29, and
e^(2 order e) vanishes in the margin below. Rounding is post-processing. So the discrete mechanism costs no more than
the continuous one with z^2 - 2^-18 for z^2.

**The number.** E_Q[r^a] - 1 = E_Q[r^a - 1 - a (r - 1)], whose integrand is not negative, by the trapezoid rule. The
integrand is analytic where |Im x| < pi / s, s = 1 / z. Within a strip of half-width b <= theta / s it is at most
e^(b^2/2) cos(theta/2)^(1-a) times its terms on the real line. So the error of the rule with step h is less than
2 e^(-2 pi b / h) times that (Trefethen, Weideman, SIAM Review 2014, theorem 5.1). h makes it `_LOG_ERROR`, which is
added. The part outside of the range adds less. A relative `_MARGIN` covers float64.

**A plain bound** holds as well, by convexity: E_Q[r^a] <= 1 - q + q exp(a (a-1) 2 / z^2). It is the worst case of two
contributions if the unit always takes part, and it is exact for the discrete Gaussian, too. It is used where the sum
would need too many points, which is at high orders with little noise, where no ledger is kept.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

GRID_LOSS = 2.0**-18
"""The difference in z^2 between the discrete Gaussian and the continuous one that bounds its cost."""
_LOG_ERROR = -70.0
_REACH = 14.0
"""In standard deviations. The probability beyond it is below e^-98."""
_MAX_POINTS = 1 << 14
_MARGIN = 1e-9


@lru_cache(maxsize=1 << 14)
def log_moment(q: float, z: float, order: int) -> float:
    """``(order - 1)`` times the Renyi divergence of one round at a whole order, rounded up.

    Args:
        q: sampling rate, above 0 and below 1.
        z: noise multiplier; the noise has a standard deviation of z C.
        order: 2 or more.
    """
    bound = float(np.logaddexp(math.log1p(-q), math.log(q) + 2 * order * (order - 1) / (z * z)))
    shift = 1 / math.sqrt(z * z - GRID_LOSS)
    lift = _lift(q, shift, order)
    step = _step(shift, order)
    low, high = -(shift + _REACH), order * shift + lift + _REACH
    if (high - low) / step > _MAX_POINTS:
        return bound
    x: Floats = low + step * np.arange(math.ceil((high - low) / step) + 1, dtype=np.float64)
    terms = _log_integrand(q, shift, order, x)
    peak = float(terms.max())
    excess = peak + math.log(step * float(np.exp(terms - peak).sum())) + _MARGIN
    error = _LOG_ERROR + float(np.logaddexp(np.logaddexp(0.0, excess), math.log(2 * order)))
    return min(bound, float(np.logaddexp(0.0, np.logaddexp(excess, error))))


def _lift(q: float, shift: float, order: int) -> float:
    """The distance above ``order * shift`` within which the integrand can still rise.

    It is (order - 1) shift times the weight of N(-1) in Q there.
    """
    log_odds = math.log(q) - math.log1p(-q) - order * shift * shift - shift * shift / 2
    return (order - 1) * shift / (1 + math.exp(min(700.0, -log_odds)))


def _step(shift: float, order: int) -> float:
    angle = min(1.0, math.sqrt(80 / (order - 1)))
    strip = min(angle / shift, 4.0)
    growth = -(order - 1) * math.log(math.cos(strip * shift / 2)) + strip * strip / 2 + math.log(4)
    return 2 * math.pi * strip / (growth - _LOG_ERROR)


def _log_integrand(q: float, shift: float, order: int, x: Floats) -> Floats:
    """log of Q(x) (r^a - 1 - a (r - 1)), without cancellation. Some terms that only lower it are left out."""
    up, down = shift * x - shift * shift / 2, -shift * x - shift * shift / 2
    log_q, log_rest = math.log(q), math.log1p(-q)
    log_p_part, log_q_part = np.logaddexp(log_rest, log_q + up), np.logaddexp(log_rest, log_q + down)
    log_density = -x * x / 2 - math.log(2 * math.pi) / 2 + log_q_part
    apart = np.exp(np.minimum(up, 600.0)) - np.exp(np.minimum(down, 600.0))
    near = np.abs(shift * x) < 1
    apart[near] = 2 * math.exp(-shift * shift / 2) * np.sinh(shift * x[near])
    change = q * apart * np.exp(-np.minimum(log_q_part, 600.0))
    log_ratio = log_p_part - log_q_part
    small = np.abs(change) < 0.5
    log_ratio[small] = np.log1p(change[small])
    power = order * log_ratio
    result: Floats = log_density + power
    plain = power <= 30
    change, power = change[plain], power[plain]
    excess = np.expm1(power) - order * np.maximum(change, -1.0)
    tiny = np.abs(order * change) < 1e-2
    excess[tiny] = _series(change[tiny], order)
    result[plain] = log_density[plain] + np.log(np.maximum(excess, 1e-300))
    return result


def _series(change: Floats, order: int) -> Floats:
    """(1 + change)^order - 1 - order * change, by its first terms. The rest is below a relative 1e-10."""
    total = np.zeros_like(change)
    for k in range(6, 1, -1):
        total = (total + math.comb(order, k)) * change if k > 2 else (total + math.comb(order, 2))
    return total * change * change
