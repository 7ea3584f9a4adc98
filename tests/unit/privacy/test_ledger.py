"""The rules of a budget, and events as JSON."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pygrid.errors import InvalidInput
from pygrid.privacy.accountants import WHOLE_ORDERS, calibrate, divergence_within, epsilon_of
from pygrid.privacy.events import (
    ApproximateDp,
    Event,
    Gaussian,
    Laplace,
    PoissonSampledGaussian,
    PureDp,
    decode_events,
    encode_events,
)
from pygrid.privacy.ledger import (
    TRANSITIONS,
    Accepted,
    BudgetRefusal,
    Cap,
    ChargeState,
    Rejected,
    Spending,
    Use,
    change_cap,
    check,
    check_delta_for,
    choose_order,
    cost_of,
    epsilon_left,
    epsilon_spent,
    is_within,
    open_cap,
)
from pygrid.privacy.words import best_guess
from support.thorough import examples

EVENTS = st.one_of(
    st.builds(Gaussian, st.floats(0.5, 100.0), st.integers(1, 10)),
    st.builds(
        PoissonSampledGaussian, st.sampled_from([0.001, 0.01, 0.1, 1.0]), st.floats(0.5, 10.0), st.integers(1, 1000)
    ),
    st.builds(Laplace, st.floats(0.5, 100.0)),
    st.builds(PureDp, st.floats(0.001, 3.0)),
    st.builds(ApproximateDp, st.floats(0.001, 0.5), st.floats(1e-12, 1e-7)),
)


def spend(spent: Spending, more: Spending) -> Spending:
    return Spending(
        spent.divergence + more.divergence,
        spent.basic_epsilon + more.basic_epsilon,
        spent.basic_delta + more.basic_delta,
    )


@settings(max_examples=examples(60), deadline=None)
@given(st.lists(EVENTS, max_size=20), st.floats(1.0, 10.0), st.sampled_from(list(Use)))
def test_what_was_accepted_is_within_the_cap(events: list[Event], epsilon: float, use: Use):
    """The whole of what a ledger accepted is (epsilon, delta)-DP, by the conversion at any order at all."""
    delta = 1e-5
    cap = open_cap(epsilon, delta, use, basic_epsilon=epsilon / 4, basic_delta=delta / 10)
    spent, accepted = Spending(), []
    for event in events:
        cost = cost_of([event])
        if check((spent, cap), (spent, cap), cost) == Accepted():
            spent = spend(spent, cost.at(cap.order))
            accepted.append(event)
    total = cost_of(accepted)
    assert epsilon_of(total.curve, cap.delta - cap.basic_delta) + total.basic_epsilon <= epsilon * (1 + 1e-9)
    assert epsilon_spent(total, cap) <= epsilon * (1 + 1e-9)
    assert epsilon_spent(total, cap) + epsilon_left(total, cap) == pytest.approx(epsilon)
    assert spent.basic_delta <= cap.basic_delta


def test_a_cap_admits_what_fits_and_not_one_more():
    cap = open_cap(3.0, 1e-6, Use.STATISTICS)
    cost = cost_of([PureDp(0.1)])
    one = cost.at(cap.order).divergence
    num_fitting = math.floor(cap.divergence / one)
    assert is_within(Spending(one * (num_fitting - 1)), cost.at(cap.order), cap)
    assert not is_within(Spending(one * num_fitting), cost.at(cap.order), cap)
    # More than the 30 that adding up would allow.
    assert num_fitting > 40


def test_both_caps_decide():
    wide, narrow = open_cap(8.0, 1e-6), open_cap(1.0, 1e-6)
    cost = cost_of([Gaussian(2.0)])
    assert check((Spending(), wide), (Spending(), wide), cost) == Accepted()
    assert check((Spending(), wide), (Spending(), narrow), cost) == Rejected(BudgetRefusal.USER_EXHAUSTED)
    assert check((Spending(), narrow), (Spending(), wide), cost) == Rejected(BudgetRefusal.DATASET_EXHAUSTED)


@pytest.mark.parametrize(
    "cost", [Spending(math.nan), Spending(math.inf), Spending(-1.0), Spending(0.1, math.nan), Spending(0, 0, -1)]
)
def test_a_cost_that_is_no_number_never_fits(cost: Spending):
    assert not is_within(Spending(), cost, open_cap(8.0, 1e-5, basic_epsilon=1.0, basic_delta=1e-6))


def test_what_has_no_curve_needs_a_part_set_aside():
    cost = cost_of([ApproximateDp(0.1, 1e-8)])
    for cap, fits in ((open_cap(3.0, 1e-6), False), (open_cap(3.0, 1e-6, basic_epsilon=0.5, basic_delta=1e-7), True)):
        assert is_within(Spending(), cost.at(cap.order), cap) is fits
    # And one for which nothing is set aside takes nothing away from others.
    assert is_within(Spending(), cost_of([Gaussian(5.0)]).at(8), Cap(3.0, 1e-6, 8))


@pytest.mark.parametrize(("epsilon", "statistics"), [(0.3, 63), (1.0, 22), (3.0, 9), (8.0, 4)])
def test_the_order_suits_the_use(epsilon: float, statistics: int):
    assert choose_order(epsilon, 1e-6, Use.STATISTICS) == statistics
    assert choose_order(epsilon, 1e-6, Use.MIXED) == statistics
    assert choose_order(epsilon, 1e-6, Use.TRAINING) <= statistics


@pytest.mark.parametrize("epsilon", [0.3, 1.0, 3.0])
def test_the_order_for_statistics_suits_calibrated_training_too(epsilon: float):
    """At no order would training at 1% need 1% less noise."""
    order = choose_order(epsilon, 1e-6, Use.MIXED)
    best = min(
        calibrate(epsilon, 1e-6, 0.01, 1000, each)
        for each in WHOLE_ORDERS
        if divergence_within(epsilon, 1e-6, each) > 0
    )
    assert calibrate(epsilon, 1e-6, 0.01, 1000, order) <= best * 1.01


def test_a_small_budget_pays_for_what_it_is_asked():
    """Questions at a tenth of epsilon 1: more than the ten that adding up would pay."""
    cap = open_cap(1.0, 1e-5)
    z = calibrate(0.1, 1e-6, 1.0, 1)
    price = epsilon_spent(cost_of([Gaussian(z)]), cap)
    assert price < 0.1 * 0.15
    assert epsilon_spent(cost_of([Gaussian(z)] * 3), cap) == pytest.approx(3 * price)


@pytest.mark.parametrize(
    ("delta", "num_records"), [(1e-5, 569), (1e-6, 128), (1e-5, 500), (1e-6, 50), (1e-3, 100), (0.01, 0)]
)
def test_a_delta_well_below_one_over_the_records_is_taken(delta: float, num_records: int):
    check_delta_for(delta, num_records)


@pytest.mark.parametrize(
    ("delta", "num_records"), [(0.5, 50), (0.999, 50), (0.02, 50), (1e-5, 10_001), (1e-19, 50), (0.5, 0)]
)
def test_a_delta_that_protects_nobody_is_refused(delta: float, num_records: int):
    with pytest.raises(InvalidInput) as refused:
        check_delta_for(delta, num_records)
    assert refused.value.code == "invalid_delta"


def test_a_cap_changes_at_its_own_order():
    cap = open_cap(3.0, 1e-6, Use.TRAINING)
    raised = change_cap(cap, 8.0)
    assert raised.order == cap.order
    assert raised.divergence == pytest.approx(cap.divergence + 5.0)
    with pytest.raises(InvalidInput) as refused:
        change_cap(cap, 0.5)
    assert refused.value.code == "budget_too_small"


@pytest.mark.parametrize(
    ("epsilon", "delta", "parts", "code"),
    [
        *((epsilon, 1e-6, {}, "invalid_epsilon") for epsilon in (0.0, -1.0, math.nan, math.inf)),
        *((1.0, delta, {}, "invalid_delta") for delta in (0.0, -1e-6, 1e-19, 1.0, math.nan)),
        (1.0, 1e-6, {"basic_epsilon": 1.0}, "invalid_basic_part"),
        (1.0, 1e-6, {"basic_delta": -1e-9}, "invalid_basic_part"),
        (0.001, 1e-6, {}, "budget_too_small"),
    ],
)
def test_a_cap_that_makes_no_sense_is_refused(epsilon: float, delta: float, parts: dict[str, float], code: str):
    with pytest.raises(InvalidInput) as refused:
        open_cap(epsilon, delta, **parts)
    assert refused.value.code == code


def test_only_what_never_started_is_refunded():
    leading = {state for state, following in TRANSITIONS.items() if ChargeState.REFUNDED in following}
    assert leading == {ChargeState.RESERVED}
    assert {state for state, following in TRANSITIONS.items() if not following} == {
        ChargeState.RELEASED,
        ChargeState.FAILED,
        ChargeState.REFUNDED,
    }


def test_what_an_epsilon_means():
    assert best_guess(0.0) == 0.5
    assert best_guess(1.0) == pytest.approx(0.731, abs=1e-3)
    assert best_guess(5000.0) == 1.0


@given(st.lists(EVENTS, max_size=5))
def test_events_become_json_and_back(events: list[Event]):
    assert decode_events(encode_events(events)) == tuple(events)


def test_equal_events_are_equal_text():
    assert encode_events([PureDp(1)]) == encode_events([PureDp(1.0)])


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("nonsense", "invalid_event"),
        ("{}", "invalid_event"),
        ('[{"type": "other"}]', "invalid_event"),
        ('[{"type": "pure_dp"}]', "invalid_event"),
        ('[{"type": "pure_dp", "epsilon": "1"}]', "invalid_event"),
        ('[{"type": "pure_dp", "epsilon": 1, "more": 2}]', "invalid_event"),
        ('[{"type": "pure_dp", "epsilon": 1e999}]', "invalid_event"),
        ('[{"type": "pure_dp", "epsilon": -1}]', "invalid_epsilon"),
        ('[{"type": "approximate_dp", "epsilon": 1, "delta": 0}]', "invalid_delta"),
        ('[{"type": "gaussian", "noise_multiplier": 0}]', "invalid_noise_multiplier"),
        ('[{"type": "gaussian", "noise_multiplier": 1, "rounds": 0}]', "invalid_rounds"),
        (
            '[{"type": "poisson_sampled_gaussian", "sampling_rate": 1.5, "noise_multiplier": 1, "rounds": 1}]',
            "invalid_sampling_rate",
        ),
    ],
)
def test_what_is_no_event_is_refused(text: str, code: str):
    with pytest.raises(InvalidInput) as refused:
        decode_events(text)
    assert refused.value.code == code
