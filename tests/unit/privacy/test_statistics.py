"""Statistics with noise.

Should happen: answers close to the exact ones, with noise of the scale that is told; groups and categories as declared.
Should not happen: a price or a shape that depends on the data; a value out of bounds that counts for more than the bound; an
answer without bounds.
"""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pygrid.errors import InvalidInput
from pygrid.privacy.events import PureDp
from pygrid.privacy.statistics import (
    Answer,
    Count,
    GroupBy,
    Histogram,
    Mean,
    Quantile,
    Statistic,
    Sum,
    Variance,
    _Records,
    _Values,
    bound_records,
    compute,
    price,
)

SURE = 1000.0
"""An epsilon at which the noise hardly shows, to look at the rest."""
RNG = np.random.default_rng(3)
AGES = RNG.integers(18, 90, 5000).astype(np.int32)
WARDS = RNG.integers(0, 3, 5000).astype(np.int32)
DATA = {"age": AGES, "ward": WARDS, "weight": (RNG.standard_normal(5000) * 10 + 70).astype(np.float32)}


def ask(statistic: Statistic, **options: object) -> Answer:
    return compute(statistic, DATA, 5000, **options)  # type: ignore[arg-type]


def test_answers_are_close_to_the_exact_ones():
    assert ask(Count(SURE)).values == pytest.approx([5000])
    assert ask(Sum("age", 0, 100, SURE)).values == pytest.approx([AGES.sum()], abs=2)
    assert ask(Mean("age", 0, 100, SURE)).values == pytest.approx([AGES.mean()], abs=0.01)
    assert ask(Variance("age", 0, 100, SURE)).values == pytest.approx([AGES.var()], rel=0.01)
    median = ask(Quantile("age", 0.5, tuple(map(float, range(100))), SURE)).values[0]
    assert abs(median - np.median(AGES)) <= 1


def test_groups_and_categories_are_those_declared():
    by_ward = GroupBy("ward", (2, 0, 7))
    answer = ask(Count(SURE, by_ward))
    assert answer.keys == (2, 0, 7)
    assert answer.values == pytest.approx([(WARDS == 2).sum(), (WARDS == 0).sum(), 0])
    means = ask(Mean("age", 0, 100, SURE, by_ward)).values
    assert means[:2] == pytest.approx([AGES[WARDS == 2].mean(), AGES[WARDS == 0].mean()], abs=0.05)
    medians = ask(Quantile("age", 0.5, tuple(map(float, range(100))), SURE, by_ward)).values
    assert abs(medians[1] - np.median(AGES[WARDS == 0])) <= 1
    bins = ask(Histogram("age", SURE, edges=(0.0, 50.0, 60.0, 80.0)))
    assert bins.keys == (0.0, 50.0, 60.0)
    assert bins.values == pytest.approx(np.histogram(AGES, [0, 50, 60, 80 - 1e-9])[0])
    texts = {"ward": ["east", "north", "west"]}
    named = ask(Histogram("ward", SURE, categories=("west", "nowhere")), texts=texts)
    assert named.values == pytest.approx([(WARDS == 2).sum(), 0])


@pytest.mark.parametrize("epsilon", [0.1, 1.0])
def test_the_noise_has_the_scale_that_is_told(epsilon: float):
    """A Laplace variable of scale b has a mean magnitude of b, and a variance of 2 b^2."""
    answers = [ask(Count(epsilon, GroupBy("ward", tuple(range(1000))))) for _ in range(5)]
    exact = np.bincount(WARDS, minlength=1000)
    errors = np.concatenate([np.array(answer.values) - exact for answer in answers])
    scale = answers[0].scale
    assert scale == pytest.approx(1 / epsilon, rel=1e-6)
    # The discrete Laplace of this scale: E|X| = 1 / sinh(1 / scale).
    assert np.abs(errors).mean() == pytest.approx(1 / math.sinh(1 / scale), rel=0.1)
    assert abs(errors.mean()) < 5 * errors.std() / math.sqrt(len(errors))
    sums = [ask(Sum("age", 0, 100, epsilon)) for _ in range(300)]
    assert sums[0].scale == pytest.approx(100 / epsilon, rel=1e-4)
    off = np.array([answer.values[0] for answer in sums]) - AGES.sum()
    assert np.abs(off).mean() == pytest.approx(100 / epsilon, rel=0.25)


def test_noise_grows_with_the_records_of_a_subject():
    once, often = ask(Count(1.0)).scale, ask(Count(1.0), max_records=8).scale
    assert once is not None
    assert often == pytest.approx(8 * once)


@given(
    hnp.arrays(np.float64, st.integers(1, 50), elements=st.floats(allow_nan=True, allow_infinity=True)),
    st.floats(-1e6, 1e6),
    st.floats(1e-3, 1e6),
    st.booleans(),
    st.booleans(),
)
def test_no_value_counts_for_more_than_the_bound(values: np.ndarray, lower: float, width: float, centred: bool, squared: bool):
    rule = _Values("x", lower, lower + width, centred or squared, squared)
    on_grid = rule.on_grid(values)
    assert (np.abs(on_grid) <= rule.bound).all()
    assert rule.bound <= 2**20
    # And what is inside is moved by half a step at the most.
    inside = np.where(np.isfinite(values), np.clip(values, lower, lower + width), lower)
    expected = inside - (lower + width / 2) if rule.centred else inside
    expected = expected**2 - width**2 / 8 if squared else expected
    assert np.abs(on_grid * rule.step - expected).max() <= rule.step * 0.51 + 1e-9 * max(abs(lower), width) ** (
        2 if squared else 1
    )


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 5), st.floats(-10, 10)), min_size=1, max_size=40), st.integers(1, 3), st.data())
def test_a_subject_moves_exact_sums_by_its_share_at_most(rows: list[tuple[int, float]], max_records: int, data: st.DataObject):
    """With the records of one subject, and without: what noise has to hide."""
    subjects, values = np.array([s for s, _ in rows]), np.array([v for _, v in rows])
    rule = _Values("x", -5.0, 5.0)
    gone = data.draw(st.sampled_from(sorted(set(subjects.tolist()))))

    def sums(chosen: np.ndarray) -> np.ndarray:
        kept = bound_records(subjects[chosen], max_records)
        records = _Records({"x": values[chosen], "s": subjects[chosen]}, int(chosen.sum()), kept, {})
        return records.sum(rule, records.by_keys("s", (0, 1, 2, 3, 4, 5)))

    moved = np.abs(sums(np.ones(len(rows), bool)) - sums(subjects != gone)).sum()
    assert moved <= max_records * rule.bound


def test_the_first_records_of_a_subject_are_kept():
    assert bound_records(np.array([3, 1, 3, 3, 1, 2]), 2).tolist() == [True, True, True, False, True, True]
    assert bound_records(np.zeros(0, np.int64), 1).tolist() == []
    assert ask(Count(SURE), kept=AGES < 40).values == pytest.approx([(AGES < 40).sum()])


def test_values_that_are_not_finite_are_the_lower_bound():
    columns = {"x": np.array([math.nan, math.inf, -math.inf, 4.0, 100.0])}
    answer = compute(Sum("x", 2.0, 10.0, SURE), columns, 5)
    assert answer.values == pytest.approx([2 + 2 + 2 + 4 + 10], abs=0.2)


def test_nothing_there_is_an_answer_too():
    empty = {name: column[:0] for name, column in DATA.items()}
    for statistic in (
        Count(1.0),
        Mean("age", 0, 100, 1.0),
        Variance("age", 0, 100, 1.0),
        Quantile("age", 0.5, (0.0, 50.0, 100.0), 1.0),
        Histogram("age", 1.0, edges=(0.0, 1.0)),
    ):
        (value,) = compute(statistic, empty, 0).values
        assert math.isfinite(value)
    assert 0.0 <= compute(Mean("age", 0, 100, 0.01), empty, 0).values[0] <= 100.0


def test_maps_of_files_are_read_as_they_are(tmp_path: Path):
    path = tmp_path / "0.bin"
    AGES.tofile(path)
    column = np.memmap(path, np.int32, "r")
    assert compute(Sum("age", 0, 100, SURE), {"age": column}, 5000).values == pytest.approx([AGES.sum()], abs=2)


def test_the_price_is_declared():
    assert price(Mean("age", 0, 100, 0.3)) == PureDp(0.3)


def test_statistics_become_json_and_back():
    statistic = Mean("age", 0.0, 100.0, 0.5, GroupBy("ward", ("a", "b")))
    assert msgspec.json.decode(msgspec.json.encode(statistic), type=Statistic) == statistic


@pytest.mark.parametrize(
    ("make", "code"),
    [
        *((lambda e=e: Count(e), "invalid_epsilon") for e in (0.0, -1.0, math.nan, math.inf)),
        *(
            (lambda b=b: Sum("age", *b, 1.0), "invalid_bounds")
            for b in ((1.0, 1.0), (2.0, 1.0), (math.nan, 1.0), (0.0, math.inf), (0.0, 1e300))
        ),
        *((lambda a=a: Quantile("age", a, (0.0, 1.0), 1.0), "invalid_alpha") for a in (-0.1, 1.1, math.nan)),
        *((lambda c=c: Quantile("age", 0.5, c, 1.0), "invalid_candidates") for c in ((), (1.0,), (1.0, 1.0), (0.0, math.nan))),
        (lambda: Histogram("age", 1.0), "invalid_histogram"),
        (lambda: Histogram("age", 1.0, (1,), (0.0, 1.0)), "invalid_histogram"),
        (lambda: Histogram("age", 1.0, edges=(1.0, 0.0)), "invalid_histogram"),
        (lambda: GroupBy("ward", ()), "invalid_keys"),
        (lambda: GroupBy("ward", (1, 1)), "invalid_keys"),
        (lambda: GroupBy("ward", (1, "a")), "invalid_keys"),
        (lambda: ask(Count(1.0, GroupBy("nowhere", (1,)))), "unknown_column"),
        (lambda: ask(Count(1.0, GroupBy("ward", ("a",)))), "invalid_column"),
        (lambda: compute(Sum("x", 0, 1, 1.0), {"x": np.zeros((2, 2))}, 2), "invalid_column"),
        (lambda: ask(Count(1.0), max_records=0), "invalid_max_records"),
    ],
)
def test_what_is_not_declared_well_is_refused(make: object, code: str):
    with pytest.raises(InvalidInput) as refused:
        make()  # type: ignore[operator]
    assert refused.value.code == code


def test_a_statistic_without_bounds_is_none():
    with pytest.raises(msgspec.ValidationError, match="lower"):
        msgspec.json.decode(b'{"type": "sum", "column": "age", "upper": 1, "epsilon": 1}', type=Statistic)
    with pytest.raises(TypeError):
        Sum("age", epsilon=1.0)  # type: ignore[call-arg]
