"""What a checkpoint adds up.

Should happen: the total is the direct sum of the reports, however they were folded. Should not happen: a report counts
twice because two partial sums cover it.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pygrid.core.closing import PartialSum, awaited_instances, choose_summands, next_number


def partial_sum(instance: str, number: int, **covered: float) -> PartialSum:
    key = f"partials/1/{instance}/{number}"
    return PartialSum(1, instance, number, key, {int(name[1:]): scale for name, scale in covered.items()})


@given(st.data())
def test_the_total_is_the_direct_sum(data):
    """Reports in random partial sums, folded with random scales, some in none."""
    values = data.draw(st.lists(st.floats(-1e3, 1e3), max_size=12))
    unit = st.sampled_from([0.25, 0.5, 1.0])
    final = {number: data.draw(unit) for number in range(len(values))}
    covered: dict[tuple[str, int], dict[int, float]] = {}
    for number in final:
        place = data.draw(st.none() | st.tuples(st.sampled_from("ab"), st.integers(1, 3)))
        if place is not None:
            covered.setdefault(place, {})[number] = data.draw(unit)
    sums = {place: sum(scale * values[number] for number, scale in some.items()) for place, some in covered.items()}
    partials = [PartialSum(1, *place, f"{place}", some) for place, some in covered.items()]
    summands = choose_summands(final, data.draw(st.permutations(partials)))
    assert not summands.unusable
    total = sum(sums[one.instance, one.number] for one in summands.partials)
    total += sum(final[number] * values[number] for number in summands.read)
    total += sum(by * values[number] for number, by in summands.corrections.items())
    expected = sum(final[number] * values[number] for number in final)
    # Sums in another order are rounded differently: at most a unit in the last place for each of 36 additions.
    assert total == pytest.approx(expected, abs=36 * np.finfo(np.float64).eps * sum(map(abs, values)))


def test_partial_sums_are_in_a_fixed_order():
    one, two, other = partial_sum("a", 2, r1=1.0), partial_sum("a", 10, r2=1.0), partial_sum("b", 1, r3=1.0)
    summands = choose_summands({1: 1.0, 2: 1.0, 3: 1.0, 4: 1.0}, [other, two, one])
    assert summands.partials == (one, two, other)
    assert summands.read == (4,)
    assert summands.corrections == {}


def test_a_report_that_two_partial_sums_cover_counts_once():
    one, two = partial_sum("a", 1, r1=1.0), partial_sum("b", 1, r1=1.0, r2=1.0)
    summands = choose_summands({1: 1.0, 2: 0.5}, [one, two])
    assert (summands.partials, summands.read, summands.unusable) == ((one,), (2,), (two,))


def test_a_partial_sum_of_a_report_that_was_not_accepted_is_left_out():
    wrong = partial_sum("a", 1, r1=1.0, r9=1.0)
    summands = choose_summands({1: 1.0}, [wrong])
    assert (summands.partials, summands.read, summands.unusable) == ((), (1,), (wrong,))


def test_an_outlier_is_corrected():
    one = partial_sum("a", 1, r1=1.0, r2=0.5)
    assert choose_summands({1: 0.25, 2: 0.5}, [one]).corrections == {1: -0.75}


def test_a_completion_waits_for_live_instances_without_a_complete_sum():
    accepted_by = {1: "a", 2: "a", 3: "b", 4: "dead"}
    partials = [partial_sum("a", 1, r1=1.0)]
    assert awaited_instances(accepted_by, partials, {"a", "b"}) == {"a", "b"}
    partials.append(partial_sum("a", 2, r2=1.0))
    assert awaited_instances(accepted_by, partials, {"a", "b"}) == {"b"}
    assert awaited_instances(accepted_by, partials, {"a"}) == frozenset()


def test_each_flush_has_a_number_of_its_own():
    partials = [partial_sum("a", 1), partial_sum("a", 2), partial_sum("b", 7)]
    assert [next_number(partials, instance) for instance in "abc"] == [3, 8, 1]
