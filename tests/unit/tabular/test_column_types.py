"""Columns that are declared as a date, datetime, category, bool or text.

Should happen: a text of the file becomes its value exactly, a missing one is missing, and both are as the owner sees
them again. Another value is refused with its column, type and value.
Should not happen: a value changes, or a missing value is taken for one.
"""

from __future__ import annotations

import datetime as dt
import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pygrid.core.column_times import DAY_US, check_time_format, read_time, span_of, write_time
from pygrid.core.datasets import visible_schema
from pygrid.core.mocks import draw_mock
from pygrid.errors import InvalidConfig, InvalidDataset, InvalidInput
from pygrid.messages.column_text import read_column
from pygrid.messages.datasets import Column, CsvOptions, Schema
from support.tables import store

# -- Dates and times as numbers ----------------------------------------------------------------------------------------


@given(st.dates())
def test_a_date_comes_back_as_it_was(date: dt.date) -> None:
    number = read_time(date.isoformat(), "date")
    assert number == (date - dt.date(1970, 1, 1)).days
    assert write_time(number, "date") == date.isoformat()
    assert read_time(date.isoformat(), "datetime") == number * DAY_US


@given(st.datetimes(), st.integers(-14 * 60, 14 * 60))
def test_a_datetime_comes_back_or_is_refused(moment: dt.datetime, minutes: int) -> None:
    us = (moment - dt.datetime(1970, 1, 1)) // dt.timedelta(microseconds=1)
    if float(us) != us:
        with pytest.raises(ValueError, match="parts of a second"):
            read_time(moment.isoformat(), "datetime")
        return
    assert read_time(moment.isoformat(), "datetime") == us
    assert write_time(us, "datetime") == moment.isoformat()
    if 2 <= moment.year <= 9998:
        there = moment.replace(tzinfo=dt.UTC).astimezone(dt.timezone(dt.timedelta(minutes=minutes)))
        assert read_time(there.isoformat(), "datetime") == us


@given(st.dates(), st.sampled_from(["year", "month"]), st.sampled_from(["date", "datetime"]))
def test_each_date_is_in_one_year_and_month(date, per, dtype) -> None:
    key = date.year if per == "year" else f"{date.year}-{date.month:02}"
    low, high = span_of(key, per, dtype)
    assert low <= read_time(date.isoformat(), dtype) < high
    days = (high - low) / (1 if dtype == "date" else DAY_US)
    assert days in ((365, 366) if per == "year" else (28, 29, 30, 31))


@pytest.mark.parametrize(("key", "per"), [("2020", "month"), ("2020-13", "month"), ("x", "year"), ("0", "year")])
def test_a_key_that_is_no_year_or_month_is_refused(key, per) -> None:
    with pytest.raises(ValueError, match="such as"):
        span_of(key, per, "date")


# -- Columns of a file -------------------------------------------------------------------------------------------------

PEOPLE = b"""born,seen,sex,smokes,code
1970-01-01,2020-05-01T12:30:00+02:00,f,yes,007
,,m,no,NA
1899-12-31,2020-05-01,,TRUE,1
"""
TYPES = {"born": "date", "seen": "datetime", "sex": "category,categories=m|f", "smokes": "bool", "code": "text"}


def test_declared_types_of_a_csv_file() -> None:
    schema, records = store(PEOPLE, TYPES)
    assert records == {
        "born": ["1970-01-01", None, "1899-12-31"],
        "seen": ["2020-05-01T10:30:00", None, "2020-05-01T00:00:00"],
        "sex": ["f", "m", None],
        "smokes": [True, False, True],
        "code": ["007", "NA", "1"],
    }
    assert [(column.dtype, column.has_missing) for column in schema.columns] == [
        ("date", True),
        ("datetime", True),
        ("category", True),
        ("bool", None),
        ("text", None),
    ]
    assert schema.columns[2].categories == ("m", "f")


def test_a_level_that_looks_missing_is_a_level() -> None:
    _, records = store(b"a\nNA\nx\nnull\n", {"a": "category,categories=NA|x"})
    assert records["a"] == ["NA", "x", None]


def test_levels_from_the_data_are_for_the_owner_only() -> None:
    schema, records = store(PEOPLE, {"sex": "category"})
    assert records["sex"] == ["f", "m", None]
    column = visible_schema(schema, to_owner=False).find("sex")
    assert (column.categories, column.num_categories, column.has_missing) == (None, None, True)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("date", "2021-02-30"),
        ("date", "2020-05-01T12:30:00"),
        ("date", "5/1/2020"),
        ("datetime", "noon"),
        ("datetime", "9999-12-31T00:00:00.000001"),
        ("datetime", "2020-05-01T12:30:00.123456789Z"),
        ("bool", "maybe"),
        ("category,categories=a|b", "c"),
    ],
)
def test_another_value_is_refused_by_name(text, value) -> None:
    with pytest.raises(InvalidDataset, match="'x'") as refusal:
        store(
            f"x,y\n{'a' if 'a|b' in text else 'true' if text == 'bool' else '2020-01-01'},1\n{value},2\n".encode(),
            {"x": text},
        )
    assert refusal.value.fields["value"] == value
    assert value in refusal.value.detail


@pytest.mark.parametrize(("others", "stored"), [(1, "float32"), (200_000, "float64")])
def test_a_bool_has_no_missing_value_and_numbers_have(others: int, stored: str) -> None:
    content = b"x,y\n" + b"true,1\n" * others + b",2\nfalse,3\n"
    with pytest.raises(InvalidDataset, match="declare it as category or float32") as refusal:
        store(content, {"x": "bool"})
    assert refusal.value.code == "dataset_missing_values"
    schema, _ = store(content, {"x": stored})
    assert (schema.columns[0].dtype, schema.columns[0].has_missing) == (stored, True)
    _, records = store(b"x,y\ntrue,1\n,2\nfalse,3\n", {"x": stored})
    assert str(records["x"]) == "[1.0, nan, 0.0]"


def test_spaces_around_dates_and_truth_values_are_left_out() -> None:
    _, records = store(b"d,b\n 2020-01-01,Ja \n NA,nein\n", {"d": "date", "b": "bool"})
    assert records == {"d": ["2020-01-01", None], "b": [True, False]}


@pytest.mark.parametrize("hours", ["%I:%M", "%H:%M %p", "%H:%I %p"])
def test_a_format_with_half_a_day_is_refused(hours: str) -> None:
    with pytest.raises(ValueError, match="%I with %p"):
        check_time_format(f"%d.%m.%Y {hours}", "datetime")
    check_time_format("%d.%m.%Y %I:%M %p", "datetime")


def test_a_whole_number_as_a_mark_of_missing_values_has_zeros_too() -> None:
    _, records = store(b"x,y\n-999,1\n-999.00,2\n5.5,3\n", csv=CsvOptions(missing=("-999",)))
    assert str(records["x"]) == "[nan, nan, 5.5]"


def test_bounds_of_dates_are_dates() -> None:
    content = b"d\n2020-01-01\n2020-12-31\n"
    schema, _ = store(content, {"d": "date,min=2020-01-01,max=2020-12-31"})
    assert (schema.columns[0].min, schema.columns[0].max) == (18262, 18627)
    with pytest.raises(InvalidDataset, match="2020-01-01; it is declared to be at least 2020-02-01"):
        store(content, {"d": "date,min=2020-02-01"})
    with pytest.raises(InvalidDataset, match="min and max"):
        store(b"d\n1\n", {"d": {"min": "2020-02-01"}})


def test_a_category_can_promise_to_have_no_gaps() -> None:
    with pytest.raises(InvalidDataset, match="missing values") as refusal:
        store(b"a,b\nx,1\n,2\n", {"a": "category,has_missing=no"})
    assert refusal.value.code == "dataset_missing_values"


# -- Mock datasets -----------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**63 - 1))
def test_a_mock_has_the_categories_gaps_and_ranges(seed: int) -> None:
    columns = (
        Column("c", "category", categories=("a", "b"), num_categories=2, declared=True, has_missing=True),
        Column("found", "category", categories=("secret",), num_categories=1, has_missing=False),
        Column("d", "date", min=18262, max=18270, has_missing=True),
        Column("t", "datetime", max=-5.0 * DAY_US, has_missing=False),
    )
    schema, arrays = draw_mock(Schema(columns, 5), 40, seed)
    assert set(arrays["c"]) <= {-1, 0, 1}
    assert -1 in arrays["c"]
    assert schema.find("found").categories == ("a", "b", "c")
    assert math.isnan(arrays["d"][0])
    present = arrays["d"][~np.isnan(arrays["d"])]
    assert ((present >= 18262) & (present <= 18270) & (present % 1 == 0)).all()
    assert (arrays["t"] <= -5 * DAY_US).all()


# -- One vocabulary ----------------------------------------------------------------------------------------------------


def test_the_same_words_mean_the_same_in_python_and_on_the_command_line() -> None:
    from pygrid.cli.dataset import read_column as from_option
    from pygrid.client.declarations import read_declarations

    for text in (
        "float32",
        "category,categories=f|m",
        "label 0..9",
        ",unit=years",
        "date,min=1900-01-01",
        "image 1x2x2",
    ):
        assert from_option(f"x:{text}") == read_column("x", text) == read_declarations({"x": text})[0]
    assert read_column("x", "label 0..9") == {"name": "x", "meaning": "label 0..9"}
    assert read_column("x", "float32") == {"name": "x", "dtype": "float32"}


@pytest.mark.parametrize(
    ("text", "hint"),
    [("float", "float64"), ("categorical", "category"), ("flaot32", "float32"), ("blood pressure", "meaning=")],
)
def test_a_word_that_is_no_type_is_refused_with_the_types(text: str, hint: str) -> None:
    with pytest.raises(InvalidInput, match=hint) as refusal:
        read_column("x", text)
    assert "datetime" in refusal.value.detail


@pytest.mark.parametrize("change", [{"min": "yesterday"}, {"min": "2020-01-01", "dtype": "int32"}, {"min": math.inf}])
def test_bounds_that_are_no_dates_are_refused_before_the_upload(change) -> None:
    from pygrid.core.datasets import check_version_request
    from pygrid.messages.datasets import ColumnDeclaration, VersionRequest

    declared = msgspec.convert({"name": "x", "dtype": "date", **change}, ColumnDeclaration)
    with pytest.raises(InvalidConfig, match="min and max"):
        check_version_request(VersionRequest(columns=(declared,)))
