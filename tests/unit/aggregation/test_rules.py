"""How much each report counts, against the formulas of the papers in plain numpy.

Should happen: the running sum equals the definition, in any order, whatever limit was expected, resumed in the middle.
Should not happen: a report counts twice; a huge diff drowns the digits of others; zeros or a few reports switch the
rule off.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pygrid.aggregation.precisions import Expected
from pygrid.aggregation.rules import FEW_BOUND, MIN_ROBUST, Aggregation, History, Vote, Weighed, weigh
from pygrid.aggregation.running import RunningSum
from support.thorough import examples

Float64 = npt.NDArray[np.float64]
SIZE = 7


def no_model() -> float:
    raise AssertionError("the model's norm is not needed here")


def votes_of(diffs: list[Float64], centre: Float64 | None, weights: list[float] | None = None) -> dict[int, Vote]:
    def distance(diff: Float64) -> float | None:
        return None if centre is None else float(np.linalg.norm(diff - centre))

    return {
        n: Vote(n, float(np.linalg.norm(diff)), distance(diff), 1.0 if weights is None else weights[n])
        for n, diff in enumerate(diffs)
    }


def clipped_mean(diffs: list[Float64], v: Float64, radius: float) -> Float64:
    """Karimireddy et al. 2021, with a radius of ``radius`` times the median distance of the diffs that are not zero."""
    t = radius * np.median([np.linalg.norm(d - v) for d in diffs if np.linalg.norm(d) > 0])
    pieces = [(d - v) * min(1.0, t / np.linalg.norm(d - v)) if np.linalg.norm(d - v) > 0 else d - v for d in diffs]
    return v + np.mean(pieces, axis=0)


def total(
    diffs: list[Float64],
    votes: dict[int, Vote],
    weighed: Weighed,
    centre: Float64 | None,
    folded: list[int],
    limit: float,
) -> Float64:
    """What the running sum comes to if some diffs, some of them twice, are folded before the end."""

    def blocks(number: int) -> list[tuple[int, npt.NDArray[np.float32]]]:
        values = diffs[number].astype(np.float32)
        return [(0, values[:3]), (3, values[3:])]

    sums = RunningSum(SIZE, Expected(limit))
    for number in folded:
        sums.fold(votes[number], lambda number=number: blocks(number))  # type: ignore[misc]
    mean = sums.result(votes, weighed, blocks)
    v = None if centre is None else centre.astype(np.float32)
    return np.concatenate([mean(0, 2, None if v is None else v[:2]), mean(2, 5, None if v is None else v[2:])])


@st.composite
def cycles(draw: st.DrawFn) -> tuple[list[Float64], Float64 | None]:
    """Diffs of float32 values, some zero, some far away, and a centre or none."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    count = draw(st.integers(MIN_ROBUST, 12))
    scales = draw(st.lists(st.sampled_from([0.0, 1e-3, 1.0, 1.0, 1.0, 50.0, 1e30]), min_size=count, max_size=count))
    diffs = [(generator.normal(size=SIZE) * scale).astype(np.float32).astype(np.float64) for scale in scales]
    centre = generator.normal(size=SIZE).astype(np.float32).astype(np.float64) if draw(st.booleans()) else None
    return diffs, centre


@settings(max_examples=examples(300), deadline=None)
@given(cycles(), st.sampled_from([0.5, 1.0, 3.0]), st.sampled_from([0.0, 1e-6, 1.0, 3.0, 100.0, math.inf]), st.data())
def test_the_running_sum_is_the_definition(
    cycle: tuple[list[Float64], Float64 | None], radius: float, expected_limit: float, data: st.DataObject
) -> None:
    diffs, centre = cycle
    votes = votes_of(diffs, centre)
    assume(sum(vote.norm > 0 for vote in votes.values()) >= MIN_ROBUST)
    folded = data.draw(st.lists(st.sampled_from(range(len(diffs))), max_size=2 * len(diffs)))
    weighed = weigh(Aggregation(radius=radius), list(votes.values()), History(), no_model)
    assert weighed.is_robust
    got = total(diffs, votes, weighed, centre, folded, expected_limit)
    wanted = clipped_mean(diffs, np.zeros(SIZE) if centre is None else centre, radius)
    # In units of the radius, which is the size of what is averaged.
    scale = weighed.limit + (0.0 if centre is None else float(np.linalg.norm(centre)))
    np.testing.assert_allclose(got / scale, wanted / scale, rtol=0, atol=1e-12)


@settings(max_examples=examples(300), deadline=None)
@given(cycles(), st.sampled_from([0.01, 1.0, 50.0, math.inf]), st.sampled_from([1e-3, 1.0, 1e3]), st.data())
def test_the_result_has_the_same_bits_whoever_added_the_diffs(
    cycle: tuple[list[Float64], Float64 | None], limit: float, size: float, data: st.DataObject
) -> None:
    """In any order, in one sum or in those of several processes, with partial sums or without."""
    diffs, centre = cycle
    votes = votes_of(diffs, centre, data.draw(st.sampled_from([None, [1, 7, 10_000] * 4])))
    rule = data.draw(st.sampled_from([Aggregation(), Aggregation(name="mean"), Aggregation(name="mean", bound=None)]))
    weighed = weigh(rule, list(votes.values()), History(), lambda: 1.0)

    def blocks(number: int) -> list[tuple[int, npt.NDArray[np.float32]]]:
        return [(0, diffs[number].astype(np.float32))]

    def mean(order: list[int], owners: list[int]) -> Float64:
        """Folded in an order by three processes, the first of which adds up; one with another number folds nothing."""
        replicas = [RunningSum(SIZE, Expected(limit, size)) for _ in range(3)]
        for number in order:
            if owners[number] < 3:
                replicas[owners[number]].fold(votes[number], partial(blocks, number))
        for other in replicas[1:]:
            assert replicas[0].absorb(other.snapshot(), votes)
        return replicas[0].result(votes, weighed, blocks)(0, SIZE, None)

    order = data.draw(st.permutations(range(len(diffs))))
    owners = data.draw(st.lists(st.integers(0, 3), min_size=len(diffs), max_size=len(diffs)))
    expected = mean([], [0] * len(diffs))
    assert mean(order, owners).tobytes() == expected.tobytes()
    # Another process that takes it over, or the same one after a crash, reads what it needs from the reports.
    assert mean(list(reversed(order)), [0] * len(diffs)).tobytes() == expected.tobytes()


def test_sums_of_another_precision_or_size_are_not_added() -> None:
    sums = RunningSum(SIZE, Expected(1.0, 1.0))
    for other in (RunningSum(SIZE, Expected(1.0, 1e9)), RunningSum(SIZE, Expected(9.0, 1.0)), RunningSum(SIZE + 1)):
        assert not sums.absorb(other.snapshot(), {})


@settings(deadline=None)
@given(cycles(), st.permutations(range(12)))
def test_the_order_of_reports_does_not_matter(cycle: tuple[list[Float64], Float64 | None], order: list[int]) -> None:
    diffs, centre = cycle
    votes = list(votes_of(diffs, centre).values())
    shuffled = [votes[n] for n in order if n < len(votes)]
    one, other = (weigh(Aggregation(), some, History(), lambda: 1.0) for some in (votes, shuffled))
    assert (one.scales, one.weights, one.limit) == (other.scales, other.weights, other.limit)


@settings(deadline=None)
@given(cycles(), st.floats(1e-3, 1e3))
def test_no_report_moves_the_mean_by_more_than_its_share_of_the_radius(
    cycle: tuple[list[Float64], Float64 | None], size: float
) -> None:
    """Whatever one device sends in place of its diff."""
    diffs, centre = cycle
    v = np.zeros(SIZE) if centre is None else centre
    votes = votes_of(diffs, centre)
    assume(sum(vote.norm > 0 for vote in votes.values()) >= MIN_ROBUST)
    weighed = weigh(Aggregation(), list(votes.values()), History(), no_model)
    mean = total(diffs, votes, weighed, centre, list(votes), math.inf)
    assert np.isfinite(mean).all()
    assert np.linalg.norm(mean - v) <= weighed.limit * (1 + 1e-9) + 1e-12


@settings(deadline=None)
@given(st.integers(0, 100), st.lists(st.floats(0.5, 2.0), min_size=3, max_size=20), st.integers(0, 3))
def test_zeros_and_huge_diffs_leave_the_radius_with_the_honest(zeros: int, honest: list[float], num_huge: int) -> None:
    """Zeros are votes for no change, and no measure; a few reports are held to a bound instead."""
    assume(num_huge < len(honest))
    sizes = [*honest, *[1e30] * num_huge, *[0.0] * zeros]
    weighed = weigh(Aggregation(), [Vote(n, size, None, 1.0) for n, size in enumerate(sizes)], History(), no_model)
    assert 0 < weighed.limit <= FEW_BOUND * max(honest)
    assert all(0 < scale <= 1 for scale in weighed.scales.values())
    assert weighed.total == len(sizes)
    assert weighed.num_clipped >= num_huge


def test_all_zeros_are_no_change() -> None:
    for count in (1, MIN_ROBUST, 20):
        centre = np.ones(SIZE)
        diffs = [np.zeros(SIZE)] * count
        votes = votes_of(diffs, centre)
        weighed = weigh(Aggregation(), list(votes.values()), History(), no_model)
        assert not total(diffs, votes, weighed, centre, list(votes), 1.0).any()


@pytest.mark.parametrize("count", range(1, MIN_ROBUST))
def test_few_reports_are_a_mean_of_equal_votes_with_a_bound(count: int) -> None:
    sizes = [*[1.0] * (count - 1), 1e30]
    votes = [Vote(n, size, size, 1.0) for n, size in enumerate(sizes)]
    weighed = weigh(Aggregation(), votes, History([1.0, 1.2, 0.9]), no_model)
    assert not weighed.is_robust
    assert weighed.limit == FEW_BOUND
    assert (weighed.centre_weight, weighed.total, weighed.num_clipped) == (0.0, count, 1)


@pytest.mark.parametrize("limit", [1.0, 1e9, math.inf])
def test_a_huge_diff_leaves_no_trace_in_the_digits_of_others(limit: float) -> None:
    """It was expected to count in full, and so stood in the sum with all that it drowns."""
    generator = np.random.default_rng(0)
    diffs = [generator.normal(size=SIZE).astype(np.float32).astype(np.float64) for _ in range(6)]
    diffs.append(np.full(SIZE, 1e30, np.float32).astype(np.float64))
    votes = votes_of(diffs, None)
    for rule in (Aggregation(), Aggregation(name="mean", weights="equal")):
        weighed = weigh(rule, list(votes.values()), History(), no_model)
        got = total(diffs, votes, weighed, None, list(votes), limit)
        wanted = np.mean([d * weighed.scales[n] for n, d in enumerate(diffs)], axis=0)
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-12)


def test_settling_twice_is_settling_once() -> None:
    """After a fault at the end of a completion it begins again, maybe with another limit."""
    generator = np.random.default_rng(1)
    diffs = [generator.normal(size=SIZE).astype(np.float32).astype(np.float64) for _ in range(9)]
    votes = votes_of(diffs, None)

    def blocks(number: int) -> list[tuple[int, npt.NDArray[np.float32]]]:
        return [(0, diffs[number].astype(np.float32))]

    sums = RunningSum(SIZE)
    for radius in (1.0, 0.3, 5.0, 1.0):
        weighed = weigh(Aggregation(radius=radius), list(votes.values()), History(), no_model)
        got = sums.result(votes, weighed, blocks)(0, SIZE, None)
        np.testing.assert_allclose(got, clipped_mean(diffs, np.zeros(SIZE), radius), rtol=0, atol=1e-12)


def test_what_is_on_the_expected_side_is_not_read_again() -> None:
    generator = np.random.default_rng(2)
    diffs = [(generator.normal(size=SIZE) * n).astype(np.float32).astype(np.float64) for n in range(1, 10)]
    votes = votes_of(diffs, None)
    weighed = weigh(Aggregation(), list(votes.values()), History(), no_model)
    read: list[int] = []

    def blocks(number: int) -> list[tuple[int, npt.NDArray[np.float32]]]:
        read.append(number)
        return [(0, diffs[number].astype(np.float32))]

    expected = sorted(vote.reach for vote in votes.values())[5]
    assert expected > weighed.limit
    sums = RunningSum(SIZE, Expected(expected, expected))
    for number, vote in votes.items():
        sums.fold(vote, lambda number=number: blocks(number))  # type: ignore[misc]
    read.clear()
    sums.result(votes, weighed, blocks)
    assert read == [n for n, vote in votes.items() if weighed.limit < vote.reach <= expected]


@pytest.mark.parametrize(
    ("rule", "weights", "wanted"),
    [
        (Aggregation(name="mean"), [10, 20, 1_000], [10, 20, 60]),
        (Aggregation(name="mean", weight_cap=1.0), [10, 20, 1_000], [10, 20, 20]),
        (Aggregation(name="mean", weight_cap=None), [10, 20, 1_000], [10, 20, 1_000]),
        (Aggregation(name="mean", weights="equal"), [10, 20, 1_000], [1, 1, 1]),
        (Aggregation(), [10, 20, 1_000], [1, 1, 1]),
    ],
)
def test_weights_are_claims(rule: Aggregation, weights: list[float], wanted: list[float]) -> None:
    votes = [Vote(n, 1.0, None, weight) for n, weight in enumerate(weights)]
    assert list(weigh(rule, votes, History(), no_model).weights.values()) == wanted


def test_the_cap_looks_at_earlier_cycles() -> None:
    weighed = weigh(Aggregation(name="mean"), [Vote(0, 1.0, None, 10_000.0)], History([1.0], [10.0] * 5), no_model)
    assert weighed.weights == {0: 30.0}


def test_no_reports_weigh_nothing() -> None:
    for rule in (Aggregation(), Aggregation(name="mean")):
        weighed = weigh(rule, [], History(), no_model)
        assert (weighed.scales, weighed.total, weighed.limit) == ({}, 0.0, math.inf)
