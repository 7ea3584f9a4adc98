"""Prepared columns: texts, steps, refusals, and mock datasets.

Should happen: each value is that of an independent calculation; a text comes back as it was; a mock dataset has the
levels, gaps and ranges of the prepared columns.
Should not happen: a value depends on another record, or a description on the records; a step that needs bounds or
categories takes them from the data.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pygrid.core.datasets import declarations_of, stored_dtype
from pygrid.core.mocks import draw_mock
from pygrid.core.preparation import (
    changed_preparations,
    file_columns,
    preparations_in,
    prepared_columns,
    with_prepared,
)
from pygrid.errors import InvalidConfig, InvalidInput
from pygrid.messages.datasets import Column, Schema
from pygrid.messages.preparation_text import preparations_of, read_preparation, write_preparation
from pygrid.messages.preparations import OneHotStep, Preparation, PrepareRequest

COLUMNS = (
    Column("age", "float64", min=0.0, max=120.0, unit="years", has_missing=True),
    Column("weight", "float32", has_missing=False),
    Column("visits", "int64", min=0.0, max=9.0),
    Column("grade", "int32", meaning="label 1..3"),
    Column("smokes", "bool"),
    Column("sex", "category", categories=("f", "m"), num_categories=2, declared=True, has_missing=True),
    Column("ward", "category", categories=("secret",), num_categories=1, has_missing=False),
    Column("born", "date", has_missing=True),
    Column("image", "uint8", (2, 2), min=0.0, max=255.0),
    Column("patient", "text"),
)
SCHEMA = Schema(COLUMNS, 5, "patient", 2, 3)
NAN = math.nan
DAYS = [0.0, -1.0, 18_262.0, NAN, 11_000.0]
VALUES: dict[str, Any] = {
    "age": [30.0, NAN, 0.0, 120.0, 64.5],
    "weight": [80.5, math.inf, -3.0, 60.0, 1e30],
    "visits": [0, 9, 4, 5, 1],
    "grade": [1, 2, 3, 1, 2],
    "smokes": [True, False, True, True, False],
    "sex": [0, 1, -1, 1, 0],
    "born": DAYS,
    "image": np.arange(20).reshape(5, 2, 2) * 12,
}


def prepare(text: str, schema: Schema = SCHEMA) -> tuple[Column, list[Any]]:
    (made,) = prepared_columns(schema, [read_preparation("new", text)])
    source = schema.find(made.source)
    assert source is not None
    values = made.compute(np.asarray(VALUES[made.source], stored_dtype(source)))
    assert values.dtype == stored_dtype(made.column)
    assert values.shape == (5, *made.column.shape)
    return made.column, values.tolist()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("age,fill=40", [30, 40, 0, 120, 64.5]),
        ("age,clip=18..90", [30, NAN, 18, 90, 64.5]),
        ("age,clip=18..", [30, NAN, 18, 120, 64.5]),
        ("weight,clip=..100", [80.5, 100, -3, 60, 100]),
        ("visits,clip=1.5..4.5", [2, 4, 4, 4, 2]),
        ("age,standardize", [-0.5, NAN, -1, 1, 0.075]),
        ("age,fill=60,clip=0..60,standardise=0..1", [0.5, 1, 0, 1, 1]),
        ("visits,standardize=0..9", [0, 9, 4, 5, 1]),
        ("smokes,standardize=0..1", [1, 0, 1, 1, 0]),
        ("age,bucketize=18|65", ["18..65", None, "<18", ">=65", "18..65"]),
        ("age,bucketize=64.5", ["<64.5", None, "<64.5", ">=64.5", ">=64.5"]),
        (
            "born,bucketize=1970-01-01|2000-01-01",
            ["1970-01-01..2000-01-01", "<1970-01-01", ">=2000-01-01", None, ">=2000-01-01"],
        ),
        ("born,fill=1970-01-02", [0, -1, 18_262, 1, 11_000]),
        ("sex,fill=m", ["f", "m", "m", "m", "f"]),
        ("sex,one_hot", [[1, 0], [0, 1], [0, 0], [0, 1], [1, 0]]),
        ("grade,one_hot", [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0]]),
        ("smokes,one_hot", [[0, 1], [1, 0], [0, 1], [0, 1], [1, 0]]),
        ("age,fill=1,bucketize=18|65,one_hot", [[0, 1, 0], [1, 0, 0], [1, 0, 0], [0, 0, 1], [0, 1, 0]]),
        ("image,standardize=0..255", np.arange(20.0).reshape(5, 2, 2) * 12),
    ],
)
def test_values_of_each_step(text: str, wanted: Any) -> None:
    column, values = prepare(text)
    if column.categories is not None and isinstance(wanted[0], str):
        levels = list(column.categories)
        assert column.declared
        wanted = [-1 if one is None else levels.index(one) for one in wanted]
    np.testing.assert_allclose(values, np.asarray(wanted, float), rtol=1e-6)
    found = np.asarray(values, float)
    gaps = (found == -1) if column.dtype == "category" else np.isnan(found)
    assert column.has_missing is not False or not gaps.any()
    for bound, beyond in ((column.min, np.fmin.reduce), (column.max, np.fmax.reduce)):
        assert bound is None or beyond(np.stack([beyond(found, axis=None), np.float64(bound)])) == bound


def test_buckets_are_those_of_pandas() -> None:
    ages = np.random.default_rng(0).uniform(0, 120, 500).round(1)
    edges = [18.0, 40.0, 64.5, 65.0]
    (made,) = prepared_columns(SCHEMA, [read_preparation("b", "age,bucketize=18|40|64.5|65")])
    wanted = pd.cut(ages, [-np.inf, *edges, np.inf], right=False, labels=False)
    np.testing.assert_array_equal(made.compute(ages), wanted)


ALL = {
    "a": "age,fill=40,clip=18..90,standardize",
    "b": "age,bucketize=18|65",
    "c": "sex,one_hot",
    "d": "born,clip=1990-01-01..,fill=2000-01-01",
    "e": "image,standardize=0..1",
    "f": "weight,clip=0..200,standardize=-3.5..1e3",
    "g": "visits,one_hot",
}


@given(st.lists(st.integers(0, 4), max_size=9))
def test_a_value_depends_on_its_own_record_only(rows: list[int]) -> None:
    for made in prepared_columns(SCHEMA, preparations_of(ALL)):
        source = SCHEMA.find(made.source)
        assert source is not None
        values = np.asarray(VALUES[made.source], stored_dtype(source))
        alone = [made.compute(values[row : row + 1]) for row in rows]
        together = made.compute(values[rows])
        assert together.tobytes() == b"".join(one.tobytes() for one in alone)


@pytest.mark.parametrize("name", ALL)
def test_a_text_comes_back_as_it_was(name: str) -> None:
    made = read_preparation(name, ALL[name])
    assert read_preparation(name, write_preparation(made)) == made
    assert msgspec.json.decode(msgspec.json.encode(made), type=Preparation) == made
    given_fields = msgspec.to_builtins(made)
    del given_fields["name"]
    assert msgspec.convert(preparations_of({name: given_fields}), list[Preparation]) == [made]


def test_a_comma_within_a_value() -> None:
    schema = Schema((Column("place", "category", categories=("a, b", "c"), declared=True, has_missing=True),), 1)
    made = read_preparation("new", r"place,fill=a\, b")
    assert read_preparation("new", write_preparation(made)) == made
    assert prepared_columns(schema, [made])[0].compute(np.array([-1, 1], np.int32)).tolist() == [0, 1]


@pytest.mark.parametrize(
    "text",
    ["age", ",fill=1", "age,fil=1", "age,fill", "age,fill=", "age,clip=1", "age,clip", "sex,one_hot=2", "age,bucketize",
     "age,standardize=", "age,standardize=a..b"],
)  # fmt: skip
def test_a_text_that_is_not_valid(text: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        read_preparation("new", text)
    assert (refused.value.code, refused.value.fields["column"]) == ("invalid_preparation", "new")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("nothing,fill=1", "no column 'nothing'"),
        ("patient,one_hot", "subjects or texts"),
        ("ward,one_hot", "come from the data"),
        ("ward,fill=secret", "come from the data"),
        ("sex,fill=x", "not one of its categories: f, m"),
        ("sex,standardize", "use one_hot"),
        ("sex,clip=0..1", "has no order"),
        ("visits,fill=1", "has no missing values"),
        ("age,fill=121", "not within the bounds, 0 to 120"),
        ("age,fill=x", "not a finite number"),
        ("age,fill=nan", "not a finite number"),
        ("age,clip=-inf..5", "not a finite number"),
        ("born,fill=yesterday", "a date such as"),
        ("age,clip=9..1", "no value"),
        ("visits,clip=1.2..1.8", "no value"),
        ("age,clip=..", "name a lower bound"),
        ("weight,standardize", "bounds are not declared"),
        ("weight,clip=0..,standardize", "bounds are not declared"),
        ("age,standardize=1..0", "use low < high"),
        ("age,clip=5..5,standardize", "use low < high"),
        ("age,one_hot", "put bucketize"),
        ("image,one_hot", "one value for each record"),
        ("image,bucketize=5", "one number or one date"),
        ("age,bucketize=5|5", "rising order"),
        ("visits,clip=..1e5,one_hot,one_hot", "one value for each record"),
        ("age,bucketize=1,bucketize=2", "one number or one date"),
    ],
)
def test_a_step_that_does_not_apply(text: str, why: str) -> None:
    with pytest.raises(InvalidConfig, match=why) as refused:
        prepared_columns(SCHEMA, [read_preparation("new", text)])
    assert (refused.value.code, refused.value.fields["column"]) == ("invalid_preparation", "new")
    assert "secret" not in refused.value.detail or "fill=secret" in text


@pytest.mark.parametrize("names", [["age"], ["new", "new"], [" x"], ["n" * 101], [f"n{i}" for i in range(257)]])
def test_names_that_are_not_valid(names: list[str]) -> None:
    with pytest.raises(InvalidConfig):
        prepared_columns(SCHEMA, [read_preparation(name, "sex,one_hot") for name in names])


def test_sizes_are_bounded() -> None:
    wide = Schema((Column("n", "int64", min=0.0, max=10_000.0),), 1)
    with pytest.raises(InvalidConfig, match="10,001 values"):
        prepared_columns(wide, [read_preparation("new", "n,one_hot")])
    with pytest.raises(InvalidConfig, match="17 steps"):
        prepared_columns(SCHEMA, [Preparation(source="sex", steps=(OneHotStep(),) * 17, name="new")])


def test_changes_keep_the_other_prepared_columns() -> None:
    schema = with_prepared(SCHEMA, prepared_columns(SCHEMA, preparations_of(ALL)))
    assert [column.name for column in schema.columns] == [*(column.name for column in COLUMNS), *ALL]
    assert file_columns(schema) == SCHEMA
    assert [column.name for column in declarations_of(schema)] == [column.name for column in COLUMNS]
    changed = changed_preparations(
        schema, PrepareRequest(columns=(read_preparation("a", "age,fill=1"),), remove=("b", "c"))
    )
    assert [one.name for one in changed] == ["a", "d", "e", "f", "g"]
    assert write_preparation(changed[0]) == "age,fill=1"
    for request in (PrepareRequest(), PrepareRequest(remove=("age",))):
        with pytest.raises(InvalidConfig):
            changed_preparations(schema, request)


@given(st.integers(0, 100))
def test_a_mock_has_levels_gaps_and_ranges_of_prepared_columns(seed: int) -> None:
    prepared = prepared_columns(SCHEMA, preparations_of(ALL))
    schema = with_prepared(SCHEMA, prepared)
    drawn, arrays = draw_mock(schema, 40, seed)
    assert preparations_in(drawn) == preparations_in(schema)
    for one in prepared:
        column, values = drawn.find(one.column.name), arrays[one.column.name]
        assert column == one.column
        assert values.shape == (40, *one.column.shape)
        np.testing.assert_array_equal(values, one.compute(arrays[one.source]))
    assert np.isnan(arrays["age"]).any()
    assert not np.isnan(arrays["a"]).any()
    assert (arrays["b"] == -1).any()
    assert set(arrays["c"].sum(axis=1).tolist()) == {0, 1}
    assert (arrays["g"].sum(axis=1) == 1).all()


def test_a_description_says_nothing_about_the_records() -> None:
    """What the owner did not declare is not in the description of a prepared column."""
    before = with_prepared(SCHEMA, prepared_columns(SCHEMA, preparations_of(ALL)))
    other = msgspec.structs.replace(SCHEMA, num_records=99, num_subjects=7)
    after = with_prepared(other, prepared_columns(other, preparations_of(ALL)))
    assert before.columns == after.columns
