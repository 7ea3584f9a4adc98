"""The server optimizers against the formulas of Reddi et al. (2021), algorithm 2, written down here a second time.

Should happen: each step is the paper's; blocks give what the whole gives.
Should not happen: state is lost or mixed between steps; a mean diff of zero moves a model that never moved.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pygrid.aggregation.optimizers import SLOTS, USERS, ServerOptimizer, initial_slot, step

NAMES = sorted(SLOTS)


def _initial(optimizer: ServerOptimizer, size: int) -> dict[str, Any]:
    return {slot: np.full(size, initial_slot(optimizer, slot), np.float32) for slot in SLOTS[optimizer.name]}


def _by_the_paper(optimizer: ServerOptimizer, x: float, deltas: list[float]) -> float:
    """One value through several rounds. The paper's Delta is trained - original, the negative of a diff."""
    b1, b2, tau, eta = optimizer.beta1, optimizer.beta2, optimizer.tau, optimizer.learning_rate
    m, v = 0.0, tau**2
    for diff in deltas:
        delta = -diff
        if optimizer.name == "sgd":
            x = x + eta * delta
        elif optimizer.name == "momentum":
            m = optimizer.momentum * m + delta
            x = x + eta * m
        else:
            m = b1 * m + (1 - b1) * delta
            if optimizer.name == "adagrad":
                v = v + delta**2
            elif optimizer.name == "adam":
                v = b2 * v + (1 - b2) * delta**2
            else:
                # The sign jumps where the two are equal, and the state is rounded to float32.
                assume(abs(v - delta**2) > 1e-4 * max(v, delta**2))
                v = v - (1 - b2) * delta**2 * math.copysign(1.0, v - delta**2)
            x = x + eta * m / (math.sqrt(v) + tau)
    return x


@given(
    st.sampled_from(NAMES),
    st.floats(-10, 10),
    st.lists(st.floats(-5, 5), min_size=1, max_size=6),
    st.floats(0.01, 2.0),
    st.floats(0.0, 0.99),
    st.floats(0.0, 0.999),
    st.floats(1e-3, 1.0),
)
def test_every_step_is_the_papers(
    name: Any, start: float, diffs: list[float], rate: float, beta1: float, beta2: float, tau: float
) -> None:
    numbers = {"momentum": beta1, "beta1": beta1, "beta2": beta2, "tau": tau}
    used = {field: number for field, number in numbers.items() if name in USERS[field]}
    optimizer = ServerOptimizer(name, learning_rate=rate, **used)
    model, state = np.full(3, start, np.float32), _initial(optimizer, 3)
    for diff in diffs:
        model, state = step(optimizer, model, np.full(3, diff, np.float64), state)
        assert model.dtype == np.float32
        assert {slot: values.dtype for slot, values in state.items()} == dict.fromkeys(
            SLOTS[name], np.dtype(np.float32)
        )
    # Model and state are rounded to float32 after each of up to six steps, each of which may move by 5 / tau * rate.
    expected = _by_the_paper(optimizer, float(np.float32(start)), diffs)
    np.testing.assert_allclose(model, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_blocks_give_what_the_whole_gives(name: Any) -> None:
    optimizer = ServerOptimizer(name, learning_rate=0.1)
    generator = np.random.default_rng(0)
    model = generator.normal(size=1000).astype(np.float32)
    whole, whole_state = model, _initial(optimizer, 1000)
    pieces, piece_states = np.split(model, [1, 400, 999]), [_initial(optimizer, size) for size in (1, 399, 599, 1)]
    for _ in range(3):
        diff = generator.normal(size=1000)
        whole, whole_state = step(optimizer, whole, diff, whole_state)
        stepped = [
            step(optimizer, piece, part, state)
            for piece, part, state in zip(pieces, np.split(diff, [1, 400, 999]), piece_states, strict=True)
        ]
        pieces, piece_states = [piece for piece, _ in stepped], [state for _, state in stepped]
        np.testing.assert_array_equal(np.concatenate(pieces), whole)
        for slot in SLOTS[name]:
            np.testing.assert_array_equal(np.concatenate([state[slot] for state in piece_states]), whole_state[slot])


def test_plain_averaging_is_exact() -> None:
    model = np.array([1.0, 2.0], np.float32)
    new, state = step(ServerOptimizer(), model, np.array([0.25, -0.5]), {})
    np.testing.assert_array_equal(new, [0.75, 2.5])
    assert state == {}


@pytest.mark.parametrize("name", NAMES)
def test_no_diff_moves_nothing(name: Any) -> None:
    optimizer = ServerOptimizer(name, learning_rate=1.0)
    model = np.array([1.0, -3.0], np.float32)
    new, _ = step(optimizer, model, np.zeros(2), _initial(optimizer, 2))
    np.testing.assert_array_equal(new, model)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_given_is_left_alone(name: Any) -> None:
    optimizer = ServerOptimizer(name)
    model, diff, state = np.ones(3, np.float32), np.full(3, 0.5), _initial(optimizer, 3)
    before = {slot: values.copy() for slot, values in state.items()}
    step(optimizer, model, diff, state)
    np.testing.assert_array_equal(model, 1.0)
    np.testing.assert_array_equal(diff, 0.5)
    for slot, values in state.items():
        np.testing.assert_array_equal(values, before[slot])


@given(st.sampled_from(["adagrad", "adam", "yogi"]), st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=10))
def test_the_second_moment_stays_above_zero(name: Any, diffs: list[float]) -> None:
    """Else its root is none. Adagrad's never falls."""
    optimizer = ServerOptimizer(name)
    model, state = np.zeros(1, np.float32), _initial(optimizer, 1)
    for diff in diffs:
        before = state["v"][0]
        model, state = step(optimizer, model, np.full(1, diff), state)
        assert state["v"][0] >= 0
        assert np.isfinite(model).all()
        if name == "adagrad":
            assert state["v"][0] >= before
