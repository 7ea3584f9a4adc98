"""The digits and how they are dealt out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import digits_data

DIGITS = digits_data.load()


def rows(digits: digits_data.Digits) -> list[bytes]:
    """Each image with its label as bytes, sorted: equal lists hold the same examples."""
    return sorted(x.tobytes() + bytes([y]) for x, y in zip(digits.x, digits.y, strict=True))


def test_the_file_is_the_test_part_of_the_uci_data_set():
    # The class distribution that the data set's own documentation (optdigits.names) gives for its test part.
    assert np.bincount(DIGITS.y).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert (DIGITS.x.dtype, DIGITS.x.shape, DIGITS.y.dtype) == (np.float32, (1797, 64), np.int64)
    assert (DIGITS.x.min(), DIGITS.x.max()) == (0.0, 1.0)


def test_another_file_is_refused_in_words(tmp_path):
    path = tmp_path / "digits.npz"
    np.savez(path, images=np.zeros(3))
    with pytest.raises(ValueError, match=r"is not the file described in .*README\.md"):
        digits_data.load(path)


@given(seed=st.integers(0, 2**32 - 1), num=st.integers(10, 900))
@settings(max_examples=20, deadline=None)
def test_held_out_images_are_apart_and_in_proportion(seed, num):
    training, held_out = digits_data.hold_out(DIGITS, num, seed=seed)
    assert len(held_out) == num
    assert sorted(rows(training) + rows(held_out)) == rows(DIGITS)
    expected = np.bincount(DIGITS.y) * num / len(DIGITS)
    assert np.abs(np.bincount(held_out.y, minlength=10) - expected).max() <= 1.0


@given(seed=st.integers(0, 2**32 - 1), num_devices=st.integers(1, 40))
@settings(max_examples=20, deadline=None)
def test_every_image_goes_to_exactly_one_device_and_each_gets_its_minimum(seed, num_devices):
    shards = digits_data.shards(DIGITS, num_devices, seed=seed)
    assert len(shards) == num_devices
    assert min(len(shard) for shard in shards) >= digits_data.MIN_SHARD
    assert sorted(row for shard in shards for row in rows(shard)) == rows(DIGITS)


def test_a_seed_decides_everything():
    first, again, other = (digits_data.shards(DIGITS, 10, seed=seed) for seed in (1, 1, 2))
    assert [rows(shard) for shard in first] == [rows(shard) for shard in again]
    assert [rows(shard) for shard in first] != [rows(shard) for shard in other]


def test_a_small_alpha_skews_more_than_a_large_one():
    def largest_share(alpha: float) -> float:
        """Mean over devices of the share that the most frequent digit has on it: 0.1 if all are equal, 1 if
        only one.
        """
        counts = [np.bincount(shard.y, minlength=10) for shard in digits_data.shards(DIGITS, 10, alpha=alpha, seed=3)]
        return float(np.mean([count.max() / count.sum() for count in counts]))

    assert largest_share(0.1) > 0.4
    assert largest_share(100.0) < 0.2


@pytest.mark.parametrize("num_devices", [0, 45])
def test_too_many_devices_are_refused(num_devices):
    with pytest.raises(ValueError, match=f"1797 images do not give {num_devices} devices 40 images each"):
        digits_data.shards(DIGITS, num_devices)


@pytest.mark.parametrize("num", [0, 1797])
def test_nothing_left_to_train_on_or_to_test_with_is_refused(num):
    with pytest.raises(ValueError, match=f"cannot hold out {num} of 1797 images"):
        digits_data.hold_out(DIGITS, num)


def test_saved_arrays_are_what_the_plans_ask_for(tmp_path):
    DIGITS.save(tmp_path / "flat.npz")
    DIGITS.save(tmp_path / "images.npz", as_images=True)
    with np.load(tmp_path / "flat.npz") as flat, np.load(tmp_path / "images.npz") as images:
        assert flat["x"].shape == (1797, 64)
        assert images["x"].shape == (1797, 1, 8, 8)
        np.testing.assert_array_equal(flat["x"], images["x"].reshape(1797, 64))
        np.testing.assert_array_equal(flat["y"], DIGITS.y)
