"""The rules of datasets.

Should happen: what an owner says is checked before a byte is sent; a mock twin is drawn from the declared schema alone.
Should not happen: somebody learns of a private dataset, or of categories that only the data could have told.
"""

from __future__ import annotations

import itertools

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pygrid.core.access import ADMINISTRATOR, OWNER, USER, Principal, Role
from pygrid.core.datasets import (
    DatasetLimits,
    DatasetRefusal,
    Holding,
    bounds_of,
    can_manage,
    can_see,
    check_name,
    check_tags,
    check_upload,
    check_version_request,
    expand_source,
    looks_like_path,
    search_text,
    understand,
    visible_schema,
)
from pygrid.core.mocks import MAX_MOCK_VALUES, draw_mock, num_mock_records
from pygrid.errors import InvalidConfig
from pygrid.messages.datasets import Column, ColumnDeclaration, Schema, UploadRequest, VersionRequest

HOLDER, STRANGER = 7, 8
VISIBILITIES = ("private", "listed", "public")


def holding(visibility) -> Holding:
    return Holding(HOLDER, visibility)


@pytest.mark.parametrize("visibility", VISIBILITIES)
@pytest.mark.parametrize("role", [USER, ADMINISTRATOR, OWNER])
@pytest.mark.parametrize("user_id", [HOLDER, STRANGER])
def test_who_may_see_and_change(visibility: str, role: Role, user_id: int) -> None:
    principal = Principal(user_id, role)
    is_owner = user_id == HOLDER or role is OWNER
    assert can_see(principal, holding(visibility)) == (visibility != "private" or is_owner)
    refusal = can_manage(principal, holding(visibility))
    if visibility == "private" and not is_owner:
        assert refusal is DatasetRefusal.INVISIBLE
    elif role is USER:
        assert refusal is DatasetRefusal.MISSING_PERMISSION
    else:
        assert refusal is (None if is_owner else DatasetRefusal.NOT_YOURS)


def test_without_an_account_only_public_descriptions_are_seen() -> None:
    assert [can_see(None, holding(visibility)) for visibility in VISIBILITIES] == [False, False, True]
    refusals = [can_manage(None, holding(visibility)) for visibility in VISIBILITIES]
    assert refusals == [DatasetRefusal.INVISIBLE, DatasetRefusal.INVISIBLE, DatasetRefusal.MISSING_PERMISSION]


def test_categories_found_in_the_data_are_told_to_the_holder_only() -> None:
    found = Column("disease", "text", categories=("rare", "common"), num_categories=2)
    declared = Column("sex", "text", categories=("f", "m"), num_categories=2, declared=True)
    schema = Schema((found, declared), 10)
    assert visible_schema(schema, to_owner=True) == schema
    told = visible_schema(schema, to_owner=False)
    assert b"rare" not in msgspec.json.encode(told)
    assert (told.columns[0].categories, told.columns[0].num_categories) == (None, None)
    assert told.columns[1] == declared


@pytest.mark.parametrize("name", ["", " ", "a/b", "..\\x", "x" * 101, "a\nb", "nul\0"])
def test_a_name_that_is_none(name: str) -> None:
    with pytest.raises(InvalidConfig) as refused:
        check_name(name)
    assert refused.value.fields["field"] == "name"


def test_names_and_tags_are_stored_tidy() -> None:
    assert check_name("  digits ") == "digits"
    assert check_tags([" a", "b", "a "]) == ("a", "b")
    request = check_upload(UploadRequest(name=" digits ", tags=("x", "x")))
    assert (request.name, request.tags) == ("digits", ("x",))


@pytest.mark.parametrize(
    "request_",
    [
        VersionRequest(columns=(ColumnDeclaration("a"), ColumnDeclaration("a"))),
        VersionRequest(columns=(ColumnDeclaration("__metadata__"),)),
        VersionRequest(columns=(ColumnDeclaration("a", min=2, max=1),)),
        VersionRequest(columns=(ColumnDeclaration("a", min=float("nan")),)),
        VersionRequest(columns=(ColumnDeclaration("a", max=float("inf")),)),
        VersionRequest(columns=(ColumnDeclaration("a", dtype="int32", categories=("x",)),)),
        VersionRequest(columns=(ColumnDeclaration("a", categories=("x", "x")),)),
        VersionRequest(columns=(ColumnDeclaration("a", categories=()),)),
        VersionRequest(columns=(ColumnDeclaration("a", dtype="text", min=0),)),
        VersionRequest(columns=(ColumnDeclaration("a", meaning="image 0x3"),)),
        VersionRequest(columns=(ColumnDeclaration("a", meaning="label 9..0"),)),
        VersionRequest(columns=(ColumnDeclaration("a", unit="u" * 201),)),
        VersionRequest(subject="who"),
        VersionRequest(max_records_per_subject=3),
        VersionRequest(subject="who", max_records_per_subject=0),
        VersionRequest(num_mock_records=0),
        VersionRequest(mock_seed=-1),
    ],
)
def test_a_declaration_that_makes_no_sense(request_: VersionRequest) -> None:
    with pytest.raises(InvalidConfig):
        check_version_request(request_)


def test_meanings_that_are_understood() -> None:
    assert understand("image 1x28x28").shape == (1, 28, 28)
    assert understand("label 0..9").bounds == (0, 9)
    assert understand("label 0..3 or 255").bounds == (0, 255)
    assert understand("label 0..3 or -100").bounds == (-100, 3)
    assert understand("label of the box") == understand("age of the patient") == understand("")
    assert bounds_of(ColumnDeclaration("a", meaning="label 0..9", max=5)) == (0.0, 5)


def test_sources_are_expanded_in_the_order_of_the_file() -> None:
    names = ["id", "p2", "p1", "q"]
    assert expand_source(["p*", "q"], names) == ["p2", "p1", "q"]
    assert expand_source(["r*"], names) is None
    assert expand_source(["r"], names) is None


@pytest.mark.parametrize("name", ["../x.npy", "/x.npy", "a\\b.npy", "C:x.npy", "a/b.npy", "..", "x\0.npy"])
def test_names_that_would_lead_elsewhere(name: str) -> None:
    assert looks_like_path(name)
    assert not looks_like_path("column 1.npy")


def test_a_search_looks_at_all_that_is_said() -> None:
    schema = Schema((Column("Age", "float32", unit="Years", meaning="of the patient"),), 1)
    text = search_text("Name", "Some Text", ["TAG"], schema)
    assert all(word in text for word in ("name", "some text", "tag", "age", "years", "patient"))


@given(st.integers(0, 2**40), st.integers(0, 2**40))
def test_more_bytes_uploaded_never_allow_fewer_stored(first: int, second: int) -> None:
    limits = DatasetLimits()
    low, high = sorted((first, second))
    assert limits.max_stored_bytes(low) <= limits.max_stored_bytes(high) <= limits.max_total_bytes


COLUMNS = (
    Column("x", "float32", (2, 3)),
    Column("bounded", "float64", min=-1.0, max=2.0),
    Column("label", "int32", meaning="label 3..5"),
    Column("count", "int64"),
    Column("pixel", "uint8", (4,), min=0, max=255),
    Column("flag", "bool"),
    Column("sex", "text", categories=("f", "m"), num_categories=2, declared=True),
    Column("disease", "text", categories=("secret",) * 50, num_categories=50),
    Column("who", "text"),
)
SCHEMA = Schema(COLUMNS, 12345, "who", 4)


def test_a_mock_has_the_columns_of_the_schema_and_keeps_its_bounds() -> None:
    schema, arrays = draw_mock(SCHEMA, 200, 1)
    assert (schema.num_records, schema.subject, schema.max_records_per_subject) == (200, "who", 4)
    for column, mocked in zip(COLUMNS, schema.columns, strict=True):
        values = arrays[column.name]
        assert values.shape == (200, *column.shape)
        assert values.dtype == ("int32" if column.dtype == "text" else column.dtype)
        low, high = bounds_of(column)
        assert low is None or values.min() >= low
        assert high is None or values.max() <= high
        assert (mocked.name, mocked.dtype, mocked.shape) == (column.name, column.dtype, column.shape)
    assert set(arrays["label"].tolist()) == {3, 4, 5}
    assert len(set(arrays["who"].tolist())) <= 50


def test_a_mock_comes_from_the_seed_and_from_nothing_of_the_data() -> None:
    """Two datasets that differ only in what the data holds have the same mock twin, byte for byte."""
    other = msgspec.structs.replace(
        SCHEMA,
        num_records=99,
        columns=tuple(
            msgspec.structs.replace(c, categories=("z",), num_categories=1) if c.name == "disease" else c
            for c in COLUMNS
        ),
    )
    first, second = draw_mock(SCHEMA, 50, 3), draw_mock(other, 50, 3)
    assert first[0] == second[0]
    for name in first[1]:
        np.testing.assert_array_equal(first[1][name], second[1][name])
    assert "secret" not in str(first[0])
    assert not np.array_equal(first[1]["x"], draw_mock(SCHEMA, 50, 4)[1]["x"])


@pytest.mark.parametrize("width", [MAX_MOCK_VALUES // 10, MAX_MOCK_VALUES + 1])
def test_a_mock_of_wide_records_has_fewer(width: int) -> None:
    """A job is tried on one that is drawn for it: that must fit into the Domain's memory, whatever a record holds."""
    schema, arrays = draw_mock(Schema((Column("a", "uint8", (width,)),), 1), 100, 0)
    num_records = max(1, MAX_MOCK_VALUES // width)
    assert (schema.num_records, arrays["a"].shape) == (num_records, (num_records, width))


@given(
    st.sampled_from(["int32", "int64", "uint8", "float32", "float64"]),
    st.one_of(st.none(), st.floats(-1e6, 1e6)),
    st.one_of(st.none(), st.floats(-1e6, 1e6)),
)
def test_any_bounds_can_be_drawn_within(dtype, low, high) -> None:
    if low is not None and high is not None and low > high:
        low, high = high, low
    column = Column("a", dtype, min=low, max=high)
    values = draw_mock(Schema((column,), 1), 20, 0)[1]["a"]
    assert values.shape == (20,)
    if dtype.startswith("float"):
        slack = 1e-6 * max(abs(bound) for bound in (low or 0, high or 0)) + 1e-9
        assert low is None or values.min() >= low - slack
        assert high is None or values.max() <= high + slack


def test_sizes_are_those_of_the_files() -> None:
    widths = {column.name: column.record_bytes for column in COLUMNS}
    assert widths == {
        "x": 24,
        "bounded": 8,
        "label": 4,
        "count": 8,
        "pixel": 4,
        "flag": 1,
        "sex": 4,
        "disease": 4,
        "who": 4,
    }
    assert SCHEMA.num_bytes == 12345 * sum(widths.values())
    assert len(list(itertools.chain(SCHEMA.columns))) == 9


def test_of_wide_records_few_are_drawn() -> None:
    def of(width: int) -> Schema:
        return Schema((Column("x", "float32", (width,)),), 1)

    assert num_mock_records(of(1), 100) == 100
    assert num_mock_records(of(MAX_MOCK_VALUES // 5), 100) == 5
    assert num_mock_records(of(MAX_MOCK_VALUES + 1), 100) == 0
