"""What a checkpoint adds up.

Should happen: each report is in the own sum, in one partial sum, or read back. Should not happen: a report counts twice
because two partial sums cover it, or because the own partial sum is added to the own sum.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pygrid.core.closing import PartialSum, choose_summands


def partial_sum(instance: str, *covered: int) -> PartialSum:
    return PartialSum(1, instance, f"diffs/1/{instance}.sum", frozenset(covered))


@given(st.data())
def test_each_report_is_in_one_place(data: st.DataObject) -> None:
    """Whatever the partial sums cover, also if a process has a fault."""
    ids = st.frozensets(st.integers(1, 8))
    accepted, folded = data.draw(ids), data.draw(ids)
    partials = [partial_sum(instance, *data.draw(ids)) for instance in data.draw(st.permutations("abc"))]
    summands = choose_summands(accepted, folded & accepted, partials)
    places = [*sorted(folded & accepted), *summands.read, *(n for one in summands.partials for n in one.covered)]
    assert sorted(places) == sorted(accepted)
    assert not set(summands.partials) & set(summands.unusable)


def test_partial_sums_are_in_a_fixed_order_and_the_own_one_is_known() -> None:
    own, one, other = partial_sum("own", 1), partial_sum("a", 2, 3), partial_sum("b", 4)
    summands = choose_summands({1, 2, 3, 4, 5}, {1}, [own, other, one])
    assert (summands.partials, summands.read, summands.unusable) == ((one, other), (5,), ())


def test_after_a_lost_sum_the_own_partial_sum_is_used() -> None:
    own = partial_sum("own", 1, 2)
    assert choose_summands({1, 2, 3}, {3}, [own]).partials == (own,)


def test_a_report_that_two_partial_sums_cover_counts_once() -> None:
    one, two = partial_sum("a", 1), partial_sum("b", 1, 2)
    summands = choose_summands({1, 2}, (), [one, two])
    assert (summands.partials, summands.read, summands.unusable) == ((one,), (2,), (two,))


def test_a_partial_sum_of_a_report_that_is_not_in_the_cycle_is_left_out() -> None:
    wrong = partial_sum("a", 1, 9)
    summands = choose_summands({1}, (), [wrong])
    assert (summands.partials, summands.read, summands.unusable) == ((), (1,), (wrong,))
