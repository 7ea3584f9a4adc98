"""The bytes of a partial sum.

Should happen: they have the sums, and which reports they cover. Should not happen: damaged bytes, those of a later
version, or a sum of other reports are taken for it.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pygrid.aggregation.precisions import Precision
from pygrid.aggregation.running import SumValues
from pygrid.aggregation.stored import StoredSumError, decode, encode, pack, unpack

SUM = SumValues(Precision(-46, 1), np.array([1, -(2**61), 0]), np.array([5, 6, -7]), {3: True, 9: False})


@given(st.dictionaries(st.integers(1, 2**40), st.booleans()))
def test_packed_ids_are_the_ids(covered: dict[int, bool]) -> None:
    assert unpack(pack(covered)) == covered
    assert pack(covered) == pack(dict(reversed(covered.items())))


@pytest.mark.parametrize("far", [SUM.far, None], ids=["two sums", "one sum"])
def test_the_bytes_have_the_sums(far: np.ndarray | None) -> None:
    given_sum = SumValues(SUM.precision, SUM.near, far, SUM.covered)
    covered = pack(SUM.covered)
    got = decode(encode(given_sum, covered), covered)
    assert (got.precision, got.covered) == (SUM.precision, SUM.covered)
    np.testing.assert_array_equal(got.near, SUM.near)
    assert got.far is None if far is None else (got.far == far).all()


def test_a_sum_of_other_reports_is_refused() -> None:
    with pytest.raises(StoredSumError, match="other reports"):
        decode(encode(SUM, pack(SUM.covered)), pack({3: True}))


@given(st.data())
def test_damaged_bytes_are_refused_or_have_the_same_length(data: st.DataObject) -> None:
    """The values have a checksum in the row; here it is the head that must not be misread."""
    covered = pack(SUM.covered)
    whole = encode(SUM, covered)
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    with pytest.raises(StoredSumError):
        decode(cut, covered)
    with pytest.raises(StoredSumError):
        decode(whole.replace(b'"version":1', b'"version":2'), covered)
    with pytest.raises(StoredSumError):
        decode(b"PGPX" + whole[4:], covered)
