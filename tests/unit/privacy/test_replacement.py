"""The cost of a replaced unit under sampling, against summation, quadrature and the oracle."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from dp_accounting import NeighboringRelation
from dp_accounting.pld import privacy_loss_distribution
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, special

from pygrid.privacy.accountants import curve, epsilon_of
from pygrid.privacy.clipping import MAX_SIZE, Grid
from pygrid.privacy.events import PoissonSampledGaussian
from pygrid.privacy.replacement import GRID_LOSS, log_moment


@pytest.mark.parametrize(
    ("q", "z", "order"), [(0.01, 1.0, 2), (0.01, 1.0, 20), (0.5, 1.0, 5), (0.9, 0.7, 7), (0.1, 4.0, 64), (0.1, 0.5, 8)]
)
def test_the_moment_is_that_of_the_antipodal_pair(q: float, z: float, order: int):
    """By adaptive quadrature; more by no more than the loss for the grid and the margin."""
    shift = 1 / z

    def integrand(x: float) -> float:
        up, down = shift * x - shift**2 / 2, -shift * x - shift**2 / 2
        log_p, log_q = np.logaddexp(math.log1p(-q), math.log(q) + up), np.logaddexp(math.log1p(-q), math.log(q) + down)
        return math.exp(order * log_p + (1 - order) * log_q - x * x / 2 - height) / math.sqrt(2 * math.pi)

    height = max(0.0, order * (order - 1) * shift**2 / 2 + order * math.log(q))
    ends = np.arange(-shift - 20, 2 * order * shift + 20, 4.0)
    parts = [integrate.quad(integrand, a, b, epsrel=1e-11)[0] for a, b in itertools.pairwise(ends)]
    exact = math.log(sum(parts)) + height
    assert exact <= log_moment(q, z, order) <= exact * (1 + 1e-4)


@pytest.mark.parametrize(("q", "z", "order"), [(1e-7, 30.0, 16), (1e-6, 1000.0, 8), (1e-5, 5.0, 64)])
def test_tiny_moments_are_not_lost_in_rounding(q: float, z: float, order: int):
    """To the second order in q, the moment is C(order, 2) q^2 (2 e^(1/z^2) - 2 e^(-1/z^2))."""
    leading = math.comb(order, 2) * q * q * 4 * math.sinh(1 / (z * z))
    assert log_moment(q, z, order) == pytest.approx(leading, rel=3e-3)


@pytest.mark.parametrize(("q", "z"), [(0.01, 1.0), (0.2, 0.8), (0.7, 2.0)])
def test_no_other_pair_of_contributions_costs_more(q: float, z: float):
    """On a grid over norms and angle, in the plane that both lie in, by summation over a fine lattice."""
    steps = np.arange(-9 * z - 2, 9 * z + 2, min(0.25, z / 4))
    x, y = np.meshgrid(steps, steps, indexing="ij")
    log_density = -(x * x + y * y) / (2 * z * z)
    log_density -= special.logsumexp(log_density)

    def log_ratio(u: tuple[float, float]) -> np.ndarray:
        gain = (x * u[0] + y * u[1] - (u[0] ** 2 + u[1] ** 2) / 2) / (z * z)
        return np.logaddexp(math.log1p(-q), math.log(q) + gain)

    for order in (2, 4):
        most = log_moment(q, z, order)
        for norm_u in (0.0, 0.5, 1.0):
            for norm_v in (0.0, 0.5, 1.0):
                for angle in np.linspace(0, math.pi, 7):
                    p, other = log_ratio((norm_u, 0.0)), log_ratio((norm_v * math.cos(angle), norm_v * math.sin(angle)))
                    there = special.logsumexp(log_density + order * p + (1 - order) * other)
                    assert there <= most * (1 + 1e-6) + 1e-12
        antipodal = special.logsumexp(
            log_density + order * log_ratio((1.0, 0.0)) + (1 - order) * log_ratio((-1.0, 0.0))
        )
        assert antipodal == pytest.approx(most, rel=1e-3)


@pytest.mark.parametrize("z", [0.3, 0.8, 2.0])
def test_the_discrete_gaussian_costs_no_more(z: float):
    """Mixtures of discrete Gaussians on the coarsest grid there is, by plain summation, both ways."""
    sensitivity, q = Grid.fit(1.0, 1).sensitivity, 0.1
    sigma = z * sensitivity
    reach = np.arange(-int(16 * sigma + 14 * sensitivity), int(16 * sigma + 14 * sensitivity) + 1, dtype=np.float64)
    weights = [special.log_softmax(-((reach - mean) ** 2) / (2 * sigma**2)) for mean in (0, sensitivity, -sensitivity)]
    p, other = (np.logaddexp(math.log1p(-q) + weights[0], math.log(q) + weights[side]) for side in (1, 2))
    for order in (2, 3, 5):
        price = log_moment(q, z, order)
        for a, b in ((p, other), (other, p)):
            assert special.logsumexp(order * a + (1 - order) * b) <= price
        assert special.logsumexp(order * p + (1 - order) * other) == pytest.approx(price, rel=1e-3)


@given(st.integers(1, MAX_SIZE))
def test_the_grid_is_fine_enough_for_the_loss_that_is_charged(size: int):
    """The distance of the rounding to a discrete Gaussian, as the proof has it."""
    variance = Grid.fit(1.0, size).sensitivity ** 2 * GRID_LOSS
    assert math.log(2 * size) - 2 * math.pi**2 * variance < math.log(1e-29)


@pytest.mark.parametrize(
    ("q", "z", "rounds", "ratio"),
    [(0.03, 1.0, 1, 1.7), (0.01, 1.0, 1000, 1.1), (0.5, 3.0, 20, 1.15), (0.1, 8.0, 100, 1.15)],
)
def test_the_oracle_gives_less_for_the_same_relation(q: float, z: float, rounds: int, ratio: float):
    """Privacy loss distributions are tighter than Renyi curves, by a tenth or so over many rounds."""
    replaced = privacy_loss_distribution.from_gaussian_mechanism(
        z, sampling_prob=q, neighboring_relation=NeighboringRelation.REPLACE_ONE, value_discretization_interval=1e-3
    )
    tight = replaced.self_compose(rounds).get_epsilon_for_delta(1e-6)
    ours = epsilon_of(curve(PoissonSampledGaussian(q, z, rounds)), 1e-6)
    assert tight <= ours <= ratio * tight
