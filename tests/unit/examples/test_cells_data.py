"""The table of the demo's second part, and how records are held out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cells_data

CELLS = cells_data.load()


def rows(cells: cells_data.Cells) -> list[bytes]:
    """Each record as bytes, sorted: equal lists hold the same records."""
    return sorted(x.tobytes() + bytes([y]) for x, y in zip(cells.measurements, cells.malignant, strict=True))


def test_the_file_is_the_uci_data_set() -> None:
    # The class distribution and the ranges that the data set's own description (wdbc.names) gives.
    assert np.bincount(CELLS.malignant).tolist() == [357, 212]
    assert (CELLS.measurements.dtype, CELLS.measurements.shape, CELLS.malignant.dtype) == (
        np.float32,
        (569, 30),
        np.int64,
    )
    radius, area = CELLS.measurements[:, 0], CELLS.measurements[:, 3]
    assert (radius.min(), radius.max()) == (np.float32(6.981), np.float32(28.11))
    assert (area.min(), area.max()) == (143.5, 2501.0)


def test_another_file_is_refused_in_words(tmp_path) -> None:
    path = tmp_path / "cells.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"is not the file described in .*README\.md"):
        cells_data.load(path)


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_each_record_is_either_the_owners_or_held_out(seed: int) -> None:
    owned, held_out = cells_data.hold_out(CELLS, seed=seed)
    assert (len(owned), len(held_out)) == (455, 114)
    assert sorted(rows(owned) + rows(held_out)) == rows(CELLS)


def test_names_are_those_of_the_dataset_and_of_the_plan() -> None:
    assert CELLS.columns().keys() == {"measurements", "malignant"}
    assert CELLS.ports().keys() == {"x", "y"}
