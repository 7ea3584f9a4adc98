"""The header Range.

Should happen: one range of bytes is read as RFC 9110 says, whatever the size of the file. Should not happen: a header
of another form changes an answer, or a range reaches past the file.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pygrid.errors import RangeNotSatisfiable
from pygrid.web.ranges import read_range


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        ("bytes=0-0", range(0, 1)),
        ("bytes=2-5", range(2, 6)),
        (" bytes=2-5 ", range(2, 6)),
        ("bytes=2-", range(2, 10)),
        ("bytes=2-99", range(2, 10)),
        ("bytes=-3", range(7, 10)),
        ("bytes=-99", range(0, 10)),
        ("bytes=000000000000000002-5", range(2, 6)),
    ],
)
def test_one_range(header: str, wanted: range) -> None:
    assert read_range(header, 10) == wanted


@pytest.mark.parametrize(
    "header",
    [
        *("", "bytes", "bytes=", "bytes=-", "bytes=5-2", "bytes=1-2,4-5", "items=0-1", "bytes=a-b"),
        *("bytes=\u0661-\u0662", f"bytes={'1' * 5000}-"),
    ],
)
def test_another_header_asks_for_the_whole_file(header: str) -> None:
    assert read_range(header, 10) is None


@pytest.mark.parametrize(
    ("header", "size"), [("bytes=10-", 10), ("bytes=10-12", 10), ("bytes=-0", 10), ("bytes=0-", 0)]
)
def test_a_range_behind_the_end_is_refused(header: str, size: int) -> None:
    with pytest.raises(RangeNotSatisfiable) as refused:
        read_range(header, size)
    assert refused.value.code == "range_not_satisfiable"
    assert refused.value.fields["size"] == size


@given(st.text(alphabet="bytes=0123456789-, ", max_size=20), st.integers(0, 30))
def test_a_range_lies_within_the_file(header: str, size: int) -> None:
    try:
        wanted = read_range(header, size)
    except RangeNotSatisfiable:
        return
    assert wanted is None or (len(wanted) > 0 and wanted.start >= 0 and wanted.stop <= size)
