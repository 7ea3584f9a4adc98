"""Curves, conversions and calibration against `dp-accounting` and published figures."""

from __future__ import annotations

import math

import dp_accounting
import numpy as np
import pytest
from dp_accounting.rdp import rdp_privacy_accountant as oracle
from hypothesis import given, settings
from hypothesis import strategies as st

from pygrid.errors import InvalidInput
from pygrid.privacy.accountants import (
    ORDERS,
    WHOLE_ORDERS,
    calibrate,
    curve,
    display_epsilon,
    divergence_within,
    epsilon_of,
    index_of,
    zero_curve,
)
from pygrid.privacy.events import ApproximateDp, Event, Gaussian, Laplace, PoissonSampledGaussian, PureDp

WHOLE = [index_of(order) for order in WHOLE_ORDERS]
MNIST = PoissonSampledGaussian(256 / 60000, 1.1, 14_062)


def oracle_curve(event: dp_accounting.DpEvent) -> np.ndarray:
    accountant = oracle.RdpAccountant()
    accountant.compose(event)
    return accountant.rdp


def test_the_orders_are_those_of_the_oracle():
    assert tuple(oracle.DEFAULT_RDP_ORDERS) == ORDERS
    assert len(ORDERS) == 156


@pytest.mark.parametrize(
    ("event", "delta", "rdp", "pld"),
    [
        # DP-SGD on MNIST, published as (2.6, 1e-5) for a record added or removed; a record replaced by any other:
        (MNIST, 1e-5, pytest.approx(4.582, abs=0.01), pytest.approx(4.227, abs=0.01)),
        # Abadi et al., CCS 2016: 1.04 for a record added or removed.
        (
            PoissonSampledGaussian(0.01, 4.0, 10_000),
            1e-5,
            pytest.approx(2.168, abs=0.005),
            pytest.approx(2.00, abs=0.02),
        ),
        (
            PoissonSampledGaussian(0.01, 1.0, 1_000),
            1e-6,
            pytest.approx(3.495, abs=0.005),
            pytest.approx(3.215, abs=0.005),
        ),
        # Twice the noise for twice the sensitivity. The closed form of the analytic Gaussian is 17.8566.
        (Gaussian(20.0, 1_000), 1e-5, pytest.approx(19.05, abs=0.01), pytest.approx(17.8566, abs=0.005)),
    ],
)
def test_published_figures(event: Event, delta: float, rdp: object, pld: object):
    assert epsilon_of(curve(event), delta) == rdp
    assert display_epsilon([event], delta) == pld


def test_the_optimal_composition_of_approximate_mechanisms():
    """100 of (0.1, 1e-8) are 4.33 at delta 1e-5 by the optimal composition, not the 10 that they add up to."""
    assert display_epsilon([ApproximateDp(0.1, 1e-8)] * 100, 1e-5) == pytest.approx(4.33, abs=0.01)


@settings(max_examples=25, deadline=None)
@given(st.floats(1e-3, 1.0), st.floats(0.3, 20.0))
def test_a_replaced_record_costs_more_than_an_added_one_and_less_than_without_sampling(q: float, z: float):
    """Between the published curve of the weaker relation, by the oracle, and the closed form of q = 1."""
    accountant = oracle.RdpAccountant(list(WHOLE_ORDERS))
    accountant.compose(dp_accounting.PoissonSampledDpEvent(q, dp_accounting.GaussianDpEvent(z)))
    ours = curve(PoissonSampledGaussian(q, z, 1))
    assert (ours[WHOLE] >= accountant.rdp * (1 - 1e-8)).all()
    assert (ours <= curve(Gaussian(z)) * (1 + 1e-9))[WHOLE].all()
    assert (np.diff(ours) >= -1e-9 * ours[1:]).all()


@given(st.floats(0.05, 50.0))
def test_curves_in_closed_form_equal_the_oracle(z: float):
    """A replaced contribution moves a sum by twice what an added one does."""
    np.testing.assert_allclose(curve(Gaussian(2 * z)), oracle_curve(dp_accounting.GaussianDpEvent(z)), rtol=1e-9)
    np.testing.assert_allclose(curve(Laplace(2 * z)), oracle_curve(dp_accounting.LaplaceDpEvent(z)), rtol=1e-6)
    assert (curve(PureDp(2 / z)) >= curve(Laplace(z)) * (1 - 1e-9)).all()


@given(st.floats(1e-3, 20.0))
def test_a_pure_event_is_randomised_response(epsilon: float):
    """By definition of the Renyi divergence of two coins."""
    p = math.exp(epsilon) / (1 + math.exp(epsilon))
    for order in (2, 5, 32):
        moment = p**order * (1 - p) ** (1 - order) + (1 - p) ** order * p ** (1 - order)
        expected = math.log(moment) / (order - 1)
        assert curve(PureDp(epsilon))[index_of(order)] == pytest.approx(expected, rel=1e-6, abs=1e-12)
    assert curve(PureDp(epsilon)).max() <= epsilon


@settings(deadline=None)
@given(st.lists(st.sampled_from([Gaussian(5.0), PureDp(0.1), Laplace(8.0), MNIST]), max_size=6), st.floats(1e-9, 1e-3))
def test_epsilon_never_falls(events: list[Event], delta: float):
    total, before = zero_curve(), 0.0
    for event in events:
        total = total + curve(event)
        assert epsilon_of(total, delta) >= before
        before = epsilon_of(total, delta)


@given(st.floats(0.1, 10.0), st.floats(1e-9, 1e-3), st.sampled_from(WHOLE_ORDERS))
def test_turning_the_conversion_round(epsilon: float, delta: float, order: int):
    allowed = divergence_within(epsilon, delta, order)
    if allowed <= 0:
        return
    # A curve that is without bound elsewhere, so that only this order counts.
    only = np.full(len(ORDERS), math.inf)
    only[index_of(order)] = allowed
    assert epsilon_of(only, delta) == pytest.approx(epsilon, rel=1e-9)


@pytest.mark.parametrize(
    ("epsilon", "q", "rounds"), [(2.0, 0.01, 1_000), (0.2, 0.1, 50), (12.0, 0.3, 20), (1.0, 1.0, 1)]
)
def test_calibrated_noise_is_enough_and_hardly_more(epsilon: float, q: float, rounds: int):
    z = calibrate(epsilon, 1e-6, q, rounds)
    assert epsilon_of(curve(PoissonSampledGaussian(q, z, rounds)), 1e-6) <= epsilon
    assert epsilon_of(curve(PoissonSampledGaussian(q, z * 0.9998, rounds)), 1e-6) > epsilon


@settings(max_examples=20, deadline=None)
@given(st.floats(0.5, 8.0), st.floats(1e-3, 1.0), st.integers(1, 5_000))
def test_calibrated_noise_at_one_order_is_within_what_a_ledger_allows(epsilon: float, q: float, rounds: int):
    order = 8
    if divergence_within(epsilon, 1e-5, order) <= 0:
        with pytest.raises(InvalidInput) as refused:
            calibrate(epsilon, 1e-5, q, rounds, order)
        assert refused.value.code == "unreachable_epsilon"
        return
    z = calibrate(epsilon, 1e-5, q, rounds, order)
    assert curve(PoissonSampledGaussian(q, z, rounds))[index_of(order)] <= divergence_within(epsilon, 1e-5, order)


def test_an_event_without_a_curve_has_none():
    with pytest.raises(InvalidInput) as refused:
        curve(ApproximateDp(1.0, 1e-6))
    assert refused.value.code == "no_curve"
    with pytest.raises(InvalidInput) as refused:
        index_of(2.55)
    assert refused.value.code == "unknown_order"


def test_a_curve_is_the_callers_own():
    for event in (PureDp(1.0), Laplace(1.0), Gaussian(1.0), PoissonSampledGaussian(0.1, 1.0, 1)):
        first = curve(event)
        kept = first.copy()
        first += 1.0
        assert np.array_equal(curve(event), kept)
