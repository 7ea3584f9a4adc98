"""Sizes as polynomials: the arithmetic agrees with integers at every batch size, and bounds hold."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pygrid.plans.sizes import SYMBOL, at, at_most, bound, compare, divide, is_size, poly

sizes = st.lists(st.integers(-20, 20), min_size=1, max_size=4).map(lambda c: poly(*c))
batches = st.integers(1, 50)


@given(sizes, sizes, batches)
def test_arithmetic_is_that_of_integers(a, b, n):
    assert at(a + b, n) == at(a, n) + at(b, n)
    assert at(a - b, n) == at(a, n) - at(b, n)
    assert at(a * b, n) == at(a, n) * at(b, n)
    assert at(-a, n) == -at(a, n)


@given(sizes, sizes)
def test_division_undoes_multiplication(a, b):
    if b == 0:
        assert divide(a, b) is None
    else:
        assert divide(a * b, b) == a


@given(sizes, sizes, batches)
def test_a_quotient_is_exact_at_every_batch_size(a, b, n):
    quotient = divide(a, b)
    if quotient is not None:
        assert at(quotient, n) * at(b, n) == at(a, n)


@given(sizes, sizes, batches)
def test_a_comparison_holds_at_every_batch_size(a, b, n):
    order = compare(a, b)
    difference = at(a, n) - at(b, n)
    if order is not None:
        assert (difference > 0) - (difference < 0) == order
    if at_most(a, b):
        assert difference <= 0


@given(sizes, batches, batches)
def test_a_size_is_never_negative_and_never_falls(a, n, more):
    assert abs(at(a, n)) <= bound(a, n)
    assert bound(a, n) <= bound(a, n + more)
    if is_size(a):
        assert 0 <= at(a, n) <= at(a, n + more)


def test_what_depends_on_the_batch_size_is_not_decided():
    assert compare(SYMBOL, 5) is None
    assert compare(SYMBOL, 1) is None  # equal for one example, larger for more
    assert at_most(1, SYMBOL)
    assert is_size(SYMBOL - 1)
    assert not is_size(SYMBOL - 2)
    assert not is_size(10 - SYMBOL)
    assert divide(SYMBOL, 2) is None


def test_a_size_reads_like_mathematics():
    assert str(3 * SYMBOL * SYMBOL + SYMBOL + 7) == "3n^2 + n + 7"
