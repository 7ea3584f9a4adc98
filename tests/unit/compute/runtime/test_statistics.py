"""Statistics, exact against numpy and private within their noise; a record's piece is never larger than one."""

from __future__ import annotations

import json
import time
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pygrid.compute.runtime import execute
from pygrid.compute.runtime.contributions import subject_groups
from pygrid.compute.runtime.inputs import MappedColumns
from pygrid.compute.runtime.statistics import StatisticRows, read_answers
from pygrid.core.job_spec import ColumnRef, JobSpec, PrivacyTerms, Statistic, check_spec, held_s
from pygrid.errors import InvalidInput

SIZE = 3000
GENERATOR = np.random.default_rng(0)
AGE = GENERATOR.integers(0, 100, SIZE).astype(np.int32)
PAY = GENERATOR.normal(50.0, 20.0, SIZE)
CITY = GENERATOR.integers(0, 4, SIZE).astype(np.int32)
COLUMNS = {"age": AGE, "pay": PAY, "city": CITY, "who": (np.arange(SIZE) // 3).astype(np.int64)}
REFS = {
    "age": ColumnRef("", "int32", (), SIZE),
    "pay": ColumnRef("", "float64", (), SIZE),
    "city": ColumnRef("", "text", (), SIZE),
    "who": ColumnRef("", "int64", (), SIZE),
}
EVERY = (
    Statistic("count"),
    Statistic("sum", "age", 0, 100),
    Statistic("mean", "pay", -20, 120),
    Statistic("variance", "pay", -20, 120),
    Statistic("histogram", "age", edges=(0, 25, 50, 75, 100)),
    Statistic("quantile", "age", edges=tuple(range(100)), quantile=0.9),
    Statistic("mean", "pay", -20, 120, by="city", keys=(0, 1, 3)),
)


def ask(
    statistics: tuple[Statistic, ...] = EVERY, privacy: PrivacyTerms | None = None, columns: Any = COLUMNS
) -> list[Any]:
    spec = JobSpec("job", "statistics", REFS, statistics=statistics, privacy=privacy, subject="who")
    _, payload = execute.run(spec, MappedColumns(columns, b"", b""), lambda _: None, started=time.monotonic())
    return list(json.loads(payload)["answers"])


def test_exact_answers_are_those_of_numpy() -> None:
    count, total, mean, variance, histogram, quantile, grouped = ask()
    pay = np.clip(PAY, -20, 120)
    assert count["value"] == SIZE
    assert total["value"] == pytest.approx(AGE.sum())
    assert mean["value"] == pytest.approx(pay.mean())
    assert variance["value"] == pytest.approx(pay.var())
    assert histogram["value"] == pytest.approx(np.histogram(AGE, bins=[0, 25, 50, 75, 100])[0])
    assert quantile["value"] == np.quantile(AGE, 0.9, method="inverted_cdf")
    for key, value in grouped["groups"]:
        assert value == pytest.approx(pay[key == CITY].mean())


@pytest.mark.parametrize("unit", ["record", "subject"])
def test_private_answers_lie_within_their_noise(unit: str) -> None:
    rows = 3 if unit == "subject" else 1
    terms = PrivacyTerms(1.0, 1.0, 1, 1e-6, 1.0, unit=unit, max_rows_per_subject=rows)  # type: ignore[arg-type]
    exact, private = ask(), ask(privacy=terms)
    for index in (0, 1):
        assert private[index]["noise_std"] > 0
        assert abs(private[index]["value"] - exact[index]["value"]) < 6 * private[index]["noise_std"]
    assert private[0]["noise_std"] == pytest.approx(rows * np.sqrt(len(EVERY)))
    assert private[2]["value"] == pytest.approx(exact[2]["value"], abs=2.0)
    assert private[3]["value"] == pytest.approx(exact[3]["value"], abs=50.0 * rows), "six standard errors"
    assert private[5]["value"] == pytest.approx(exact[5]["value"], abs=5)


def test_intervals_contain_the_exact_value_in_95_of_100_draws() -> None:
    """Sums with noise of a known size, drawn 400 times: 380 +- 4 standard deviations of 4.4 are expected.

    The interval of a quantile has at least that coverage, because it consists of candidates.
    """
    std, rows = 20.0, StatisticRows(EVERY, COLUMNS)
    exact_sums = np.sum([block.rows.sum(0) for block in rows.blocks(np.arange(SIZE))], axis=0)
    exact = read_answers(EVERY, exact_sums, 0.0)
    hits: dict[str, list[bool]] = {}
    for _ in range(400):
        noisy = read_answers(EVERY, exact_sums + GENERATOR.normal(0, std, len(exact_sums)), std)
        for wanted, answer in zip(exact, noisy, strict=True):
            assert "interval" not in wanted
            if answer["kind"] == "histogram":
                pairs = list(zip(wanted["value"], answer["interval"], strict=True))
            elif "groups" in answer:
                pairs = [(value, span) for (_, value), span in zip(wanted["groups"], answer["interval"], strict=True)]
            else:
                pairs = [(wanted["value"], answer["interval"])]
            for place, (value, (low, high)) in enumerate(pairs):
                hits.setdefault(f"{answer['kind']} {len(pairs)} {place}", []).append(low <= value <= high)
    for name, found in hits.items():
        assert sum(found) >= 362, name
        assert name.startswith("quantile") or sum(found) <= 398, name


def test_intervals_of_almost_nothing_are_all_that_is_possible() -> None:
    for answer in read_answers(EVERY, np.zeros(StatisticRows(EVERY, COLUMNS).size), 1.0):
        if answer["kind"] == "mean" and "by" not in answer:
            assert answer["interval"] == [-20, 120]
        if answer["kind"] == "variance":
            assert answer["interval"] == [0, 70**2]


def test_noise_is_fresh_each_time() -> None:
    terms = PrivacyTerms(1.0, 1.0, 1, 1e-6, 1.0)
    assert ask(privacy=terms)[0]["value"] != ask(privacy=terms)[0]["value"]


@given(st.lists(st.floats(width=64) | st.just(float("nan")), min_size=1, max_size=20), st.integers(0, 5))
def test_a_record_contributes_at_most_one(values: list[float], key: int) -> None:
    """Whatever the data holds: infinities, NaN, values beyond the bounds, keys that were not declared."""
    columns = {name: np.full(len(values), key, np.int32) for name in ("age", "city")} | {"pay": np.array(values)}
    rows = np.concatenate([block.rows for block in StatisticRows(EVERY, columns).blocks(np.arange(len(values)))])
    assert np.isfinite(rows).all()
    assert (np.sqrt((rows**2).sum(axis=1)) <= 1 + 1e-12).all()


def test_nothing_counted_is_still_an_answer() -> None:
    """Noise may make counts negative; what is made of them stays within the bounds."""
    width = StatisticRows(EVERY, COLUMNS).size
    for sums in (np.zeros(width), np.full(width, -3.0)):
        for statistic, answer in zip(EVERY, read_answers(EVERY, sums, 1.0), strict=True):
            if statistic.kind == "mean" and not statistic.by:
                assert -20 <= answer["value"] <= 120
            if statistic.kind == "variance":
                assert 0 <= answer["value"] <= 70**2
            if statistic.kind == "quantile":
                assert answer["value"] in statistic.edges


GAPS = np.where(GENERATOR.random(SIZE) < 0.3, np.nan, PAY)
OF_GAPS = tuple(
    msgspec.structs.replace(statistic, column="pay", has_missing=True)
    for statistic in (
        Statistic("count"),
        Statistic("sum", "", -20, 120),
        Statistic("mean", "", -20, 120),
        Statistic("variance", "", -20, 120),
        Statistic("histogram", edges=(-100, 25, 50, 75, 200)),
        Statistic("quantile", edges=tuple(range(100)), quantile=0.9),
    )
)
GROUPED = tuple(msgspec.structs.replace(statistic, by="city", keys=(0, 1, 3)) for statistic in OF_GAPS)


def of_present(values: Any) -> list[Any]:
    """The answers to `OF_GAPS` by numpy, from the values that are present."""
    present = values[~np.isnan(values)]
    held = np.clip(present, -20, 120)
    bins = np.histogram(present, bins=[-100, 25, 50, 75, 200])[0]
    quantile = np.ceil(np.quantile(present, 0.9, method="inverted_cdf"))
    return [len(present), held.sum(), held.mean(), held.var(), pytest.approx(list(bins)), quantile]


def test_missing_values_are_left_out_and_those_present_are_counted() -> None:
    answers = ask(OF_GAPS, columns={**COLUMNS, "pay": GAPS})
    for answer, expected in zip(answers, of_present(GAPS), strict=True):
        assert answer["value"] == (pytest.approx(expected) if isinstance(expected, float) else expected)
        assert answer.get("count", answer["value"]) == np.isfinite(GAPS).sum()


def test_missing_values_are_left_out_in_groups() -> None:
    answers = ask(GROUPED, columns={**COLUMNS, "pay": GAPS})
    for position, key in enumerate((0, 1, 3)):
        values = GAPS[key == CITY]
        for answer, expected in zip(answers, of_present(values), strict=True):
            found_key, value = answer["groups"][position]
            assert found_key == key
            assert value == (pytest.approx(expected) if isinstance(expected, float) else expected)
            if answer["kind"] != "count":
                assert answer["counts"][position] == np.isfinite(values).sum()


@pytest.mark.parametrize("statistics", [OF_GAPS, GROUPED])
@pytest.mark.parametrize("unit", ["record", "subject"])
def test_private_counts_and_sums_of_present_values_lie_within_their_noise(
    statistics: tuple[Statistic, ...], unit: str
) -> None:
    rows = 3 if unit == "subject" else 1
    terms = PrivacyTerms(1.0, 1.0, 1, 1e-6, 1.0, unit=unit, max_rows_per_subject=rows)  # type: ignore[arg-type]
    columns = {**COLUMNS, "pay": GAPS}
    for exact, private in zip(ask(statistics, columns=columns), ask(statistics, terms, columns), strict=True):
        if exact["kind"] != "count":
            (key,) = exact.keys() & {"count", "counts"}
            # Rounding to the grid moves the sum of thousands of rows by a small part of the noise.
            np.testing.assert_allclose(private[key], exact[key], atol=6 * private["count_noise_std"])
        if exact["kind"] in ("count", "sum") and "value" in exact:
            assert abs(private["value"] - exact["value"]) < 6 * private["noise_std"]


def test_statistics_of_no_present_values_have_no_value() -> None:
    """A mean or a quantile of nothing is null, and its count is 0."""
    answers = ask(OF_GAPS, columns={**COLUMNS, "pay": np.full(SIZE, np.nan)})
    assert [answer["value"] for answer in answers] == [0, 0.0, None, None, [0, 0, 0, 0], None]
    assert [answer.get("count") for answer in answers] == [None, 0, 0, 0, 0, 0]


def test_infinities_are_moved_to_the_bounds_by_their_sign() -> None:
    values = np.array([np.inf, -np.inf, np.nan, 3.0, np.inf])
    refs = {"x": ColumnRef("", "float64", (), len(values))}
    statistics = (
        Statistic("mean", "x", -1, 10, has_missing=True),
        Statistic("histogram", "x", edges=(0, 5, 10), has_missing=True),
        Statistic("quantile", "x", edges=(0, 5, 10), quantile=0.6, has_missing=True),
    )
    spec = JobSpec("job", "statistics", refs, statistics=statistics)
    _, payload = execute.run(spec, MappedColumns({"x": values}, b"", b""), lambda _: None, started=time.monotonic())
    mean, histogram, quantile = json.loads(payload)["answers"]
    assert mean["value"] == pytest.approx((10 - 1 + 3 + 10) / 4)
    assert histogram["value"] == [2, 2]
    assert quantile["value"] == 10


REALS = st.floats(width=64) | st.sampled_from([0.0, -0.0, 5e-324, 1e308, float("nan"), float("inf"), float("-inf")])
ONE = st.tuples(REALS, st.integers(0, 4), st.integers(0, 5))


@given(
    st.lists(ONE, min_size=1, max_size=40),
    st.randoms(use_true_random=False),
    st.integers(1, 45),
    st.sampled_from([None, 1, 3]),
)
def test_a_vector_is_a_bit_exact_function_of_its_unit(
    records: list[tuple[float, int, int]], random: Any, chunk: int, most: int | None
) -> None:
    """Whatever the unit's position, the other units, and the size of the chunk are."""

    def vectors(order: list[int], together: int) -> dict[Any, bytes]:
        pay, city, who = (np.array([records[index][field] for index in order]) for field in range(3))
        columns = {"pay": pay, "age": city.astype(np.int32), "city": city.astype(np.int32), "who": who}
        groups = None if most is None else subject_groups(who, most)
        rows = StatisticRows((*EVERY, *OF_GAPS, *GROUPED), columns, groups)
        found = np.concatenate(
            [
                block.rows
                for begin in range(0, rows.num_units, together)
                for block in rows.blocks(np.arange(begin, min(begin + together, rows.num_units)))
            ]
        )
        names = order if groups is None else [int(who[group[0]]) for group in groups]
        return {name: row.tobytes() for name, row in zip(names, found, strict=True)}

    whole = vectors(list(range(len(records))), len(records))
    # A subject is the sequence of its own records: it keeps their order, and moves among the records of others.
    if most is None:
        moved = random.sample(range(len(records)), len(records))
    else:
        subjects = random.sample(sorted({record[2] for record in records}), len({record[2] for record in records}))
        moved = [index for subject in subjects for index, record in enumerate(records) if record[2] == subject]
    for order in (
        moved,
        moved[: 1 + len(moved) // 2] if most is None else [i for i in moved if records[i][2] == records[moved[0]][2]],
    ):
        for name, row in vectors(order, chunk).items():
            assert row == whole[name]


@pytest.mark.parametrize(
    "statistic",
    [
        Statistic("sum", "pay"),
        Statistic("mean", "pay", 5, 5),
        Statistic("mean", "pay", float("-inf"), 5),
        Statistic("variance", "pay", float("nan"), 5),
        Statistic("mean", "pay", -1.7e308, 1.7e308),
        Statistic("sum", "pay", 0, 1e308),
        Statistic("variance", "pay", 0, 1e200),
        Statistic("mean", "pay", 0, 5e-324),
        Statistic("sum", "nothing", 0, 1),
        Statistic("histogram", "pay", edges=(1.0,)),
        Statistic("histogram", "pay", edges=(2.0, 1.0)),
        Statistic("quantile", "pay", edges=(0.0, 1.0), quantile=2.0),
        Statistic("mean", "age", 0, 1, by="city"),
        Statistic("mean", "age", 0, 1, by="city", keys=(1, 1)),
        Statistic("mean", "age", 0, 1, by="pay", keys=(1,)),
    ],
)
def test_statistics_without_declared_bounds_are_refused(statistic: Statistic) -> None:
    with pytest.raises(InvalidInput):
        check_spec(JobSpec("job", "statistics", REFS, statistics=(statistic,)))


def test_too_many_numbers_are_refused() -> None:
    wide = msgspec.structs.replace(EVERY[4], edges=tuple(float(value) for value in range(100_002)))
    with pytest.raises(InvalidInput, match="100,000"):
        ask((wide,))


@pytest.mark.parametrize(
    ("elapsed", "planned", "held"),
    [(0.0, 0.0, 0.25), (0.26, 0.0, 0.5), (0.1, 3.0, 3.0), (2.9, 3.0, 3.0), (3.1, 3.0, 6.0), (100.0, 3.0, 192.0)],
)
def test_the_end_is_held_until_its_planned_time(elapsed: float, planned: float, held: float) -> None:
    assert held_s(elapsed, planned) == held


# -- Dates and categories ----------------------------------------------------------------------------------------------

DAY = np.where(GENERATOR.random(SIZE) < 0.2, np.nan, GENERATOR.integers(18_000, 19_000, SIZE).astype(np.float64))
KIND = GENERATOR.integers(-1, 3, SIZE).astype(np.int32)
DATED = {"day": DAY, "kind": KIND, "who": COLUMNS["who"]}
DATED_REFS = {
    "day": ColumnRef("", "date", (), SIZE),
    "kind": ColumnRef("", "category", (), SIZE),
    "who": REFS["who"],
}
SPANS = ((18_000.0, 18_262.0), (18_262.0, 18_628.0), (20_000.0, 20_001.0))
OF_DATES = (
    Statistic("mean", "day", 18_000, 19_000, has_missing=True),
    Statistic("count", "kind", has_missing=True),
    Statistic("count", by="kind", keys=(0, 1, 2, -2)),
    Statistic("mean", "day", 18_000, 19_000, by="day", spans=SPANS, has_missing=True),
)


def test_dates_and_categories_are_those_of_numpy() -> None:
    spec = JobSpec("job", "statistics", DATED_REFS, statistics=OF_DATES)
    _, payload = execute.run(spec, MappedColumns(DATED, b"", b""), lambda _: None, started=time.monotonic())
    mean, present, kinds, by_year = json.loads(payload)["answers"]
    assert mean["value"] == pytest.approx(np.nanmean(DAY))
    assert mean["count"] == np.isfinite(DAY).sum()
    assert present["value"] == (KIND >= 0).sum()
    assert [value for _, value in kinds["groups"]] == [*(np.sum(kind == KIND) for kind in range(3)), 0]
    for (low, value), count, (begin, end) in zip(by_year["groups"], by_year["counts"], SPANS, strict=True):
        chosen = DAY[(begin <= DAY) & (end > DAY)]
        assert (low, count) == (begin, len(chosen))
        assert value == (pytest.approx(chosen.mean()) if len(chosen) else None)


@given(st.lists(st.floats(width=64) | st.sampled_from([18_000.0, 18_262.0, 18_627.0]), min_size=1, max_size=9))
def test_a_record_of_dates_contributes_at_most_one(days: list[float]) -> None:
    columns = {"day": np.array(days), "kind": np.full(len(days), -1, np.int32)}
    rows = np.concatenate([block.rows for block in StatisticRows(OF_DATES, columns).blocks(np.arange(len(days)))])
    assert (np.sqrt((rows**2).sum(axis=1)) <= 1 + 1e-12).all()


@pytest.mark.parametrize("spans", [(), ((1, 3), (2, 4)), ((1, 2), (1, 2)), ((2, 1),), ((0, 10), (4, 5))])
def test_groups_of_dates_that_overlap_are_refused(spans: Any) -> None:
    """A record in two groups would have twice the norm that the noise is for."""
    for dtype in ("date", "int32"):
        refs = {"day": ColumnRef("", dtype, (), SIZE)}  # type: ignore[arg-type]
        spec = JobSpec("job", "statistics", refs, statistics=(Statistic("count", by="day", spans=spans),))
        with pytest.raises(InvalidInput):
            check_spec(spec)
