"""The plans in ``examples/plans`` are what their sources build, and they learn."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from pygrid.plans import Plan, Runner
from pygrid.tensors import decode

PLANS = Path(__file__).parents[4] / "examples" / "plans"
NAMES = ["digits", "digits_cnn", "breast_cancer"]


def load_source(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", PLANS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", NAMES)
def test_a_rebuild_gives_the_same_bytes(name: str) -> None:
    plan, weights = load_source(name).build()
    assert plan.id == Plan.load(PLANS / f"{name}.plan").id
    assert weights == (PLANS / f"{name}.safetensors").read_bytes()


@pytest.mark.parametrize(("name", "shape"), [("digits", (64,)), ("digits_cnn", (1, 8, 8))])
def test_it_learns_digits(name: str, shape: tuple[int, ...]) -> None:
    with np.load(PLANS.parent / "data" / "digits.npz") as file:
        x, y = file["pixels"].astype(np.float32).reshape(-1, *shape) / 16, file["labels"].astype(np.int64)
    runner = Runner(Plan.load(PLANS / f"{name}.plan"))
    params, _ = decode((PLANS / f"{name}.safetensors").read_bytes())
    before = runner.evaluate(params, {"x": x[1200:], "y": y[1200:]})
    trained = runner.train(params, {"x": x[:1200], "y": y[:1200]}, epochs=6 if name == "digits" else 3).params
    after = runner.evaluate(trained, {"x": x[1200:], "y": y[1200:]})
    assert before["accuracy"] < 0.3
    assert after["accuracy"] > 0.85


def test_it_learns_to_tell_cells_apart() -> None:
    table = np.loadtxt(PLANS.parent / "data" / "breast_cancer.csv", delimiter=",", skiprows=1)
    x, y = table[:, :30].astype(np.float32), table[:, 30].astype(np.int64)
    runner = Runner(Plan.load(PLANS / "breast_cancer.plan"))
    params, _ = decode((PLANS / "breast_cancer.safetensors").read_bytes())
    trained = runner.train(params, {"x": x[:400], "y": y[:400]}, epochs=20, hyper={"lr": 1.0}).params
    assert runner.evaluate(trained, {"x": x[400:], "y": y[400:]})["accuracy"] > 0.93
    # The published ranges are rounded and must cover the data, or the plan would cut values off.
    ranges = np.array(load_source("breast_cancer").RANGES)
    assert (x.min(axis=0) >= ranges[:, 0] - 1e-3).all()
    assert (x.max(axis=0) <= ranges[:, 1] + 1e-3 * ranges[:, 1] + 1e-3).all()
