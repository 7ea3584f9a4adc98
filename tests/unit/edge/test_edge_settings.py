"""A client configuration as arguments of a training, and data files as arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pygrid.edge import TrainingSettings, load_data
from pygrid.errors import InvalidConfig, InvalidInput
from pygrid.tensors import encode
from support.plans.handmade import logistic_plan


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, TrainingSettings(epochs=1, batch_size=32, max_updates=None, hyper={})),
        ({"epochs": 3, "max_epochs": 5, "batch_size": 8}, TrainingSettings(epochs=3, batch_size=8)),
        ({"max_epochs": 5, "max_updates": 7}, TrainingSettings(epochs=5, max_updates=7)),
        ({"lr": 0.3, "momentum": 0.9, "note": "x"}, TrainingSettings(hyper={"lr": 0.3})),
        ({"lr": None, "epochs": None, "batch_size": 16.0}, TrainingSettings(batch_size=16)),
    ],
)
def test_what_is_read_of_a_configuration(config: dict[str, Any], expected: TrainingSettings) -> None:
    assert TrainingSettings.of(config, logistic_plan().manifest) == expected


def test_the_usual_batch_size_yields_to_the_plan() -> None:
    assert TrainingSettings.of({}, logistic_plan(max_batch_size=8).manifest).batch_size == 8


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0), ("epochs", "3"), ("epochs", True), ("epochs", float("nan")), ("epochs", float("inf")),
        ("batch_size", 1.5), ("max_updates", -1), ("lr", "fast"), ("lr", True),
    ],
)  # fmt: skip
def test_a_value_of_the_wrong_kind_is_named(name: str, value: object) -> None:
    with pytest.raises(InvalidConfig, match=f"{name} = ") as caught:
        TrainingSettings.of({name: value}, logistic_plan().manifest)
    assert caught.value.fields == {"field": name}


ARRAYS = {"x": np.arange(6, dtype=np.float32).reshape(3, 2), "y": np.array([0, 1, 2])}


def test_both_kinds_of_data_files_give_the_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **ARRAYS)
    (tmp_path / "a.safetensors").write_bytes(encode(ARRAYS))
    for name in ("a.npz", "a.safetensors"):
        loaded = load_data(tmp_path / name)
        assert loaded.keys() == ARRAYS.keys()
        for key, array in ARRAYS.items():
            np.testing.assert_array_equal(loaded[key], array)
            assert loaded[key].dtype == array.dtype


@pytest.mark.parametrize("name", ["a.npz", "a.safetensors"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not really", b"\x93NUMPY", bytes(100)])
def test_a_damaged_file_is_refused_in_words(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidInput, match=f"{name} can't be read"):
        load_data(tmp_path / name)


def test_objects_in_a_data_file_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(InvalidInput, match="allow_pickle"):
        load_data(tmp_path / "a.npz")


def test_other_files_are_refused_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no data file"):
        load_data(tmp_path / "missing.npz")
    (tmp_path / "a.csv").write_text("x,y\n1,2\n")
    with pytest.raises(InvalidInput, match=r"numpy.savez\('a.npz'"):
        load_data(tmp_path / "a.csv")
