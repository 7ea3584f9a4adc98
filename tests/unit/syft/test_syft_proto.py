"""Bytes of the public package syft-proto, which ``tests/vectors/published/make.py`` recorded.

Should happen: they are read as what they hold; the same content is written as the same bytes.
Should not happen: a field that the package writes is misread, or written in another way.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pygrid.syft import Action, PlanMessage, Ref, read_plan, read_state, write_plan, write_state

FILE = Path(__file__).parents[2] / "vectors" / "published" / "syft_proto.json"
RECORDED = {name: bytes.fromhex(text) for name, text in json.loads(FILE.read_text()).items()}
ARRAYS = [
    np.array([1.5, -2.0], np.float32),
    np.array([0.1, 3.0], np.float64),
    np.array([-1, 70_000], np.int32),
    np.array([-(2**40), 5], np.int64),
    np.array([0, 255], np.uint8),
    np.array([True, False]),
    np.arange(6, dtype=np.float32).reshape(2, 3),
    np.array(7, np.float32),
    np.zeros(0, np.float32),
]
CALLS = (
    Action("tf.add", (Ref(1), Ref(5)), 10),
    Action(
        "concat", (False, -3, 0.5, "NHWC", None, (2, 3), np.array([4], np.int32)), 11, Ref(10), {"axis": 1}
    ),
)  # fmt: skip
PLAN = PlanMessage(
    "training_plan", (1, "y"), (11,), CALLS, {5: ARRAYS[0]}, base_framework="tfjs", shapes={1: (8, 2)}
)  # fmt: skip


@pytest.mark.parametrize("name", ["state", "parameters"])
def test_a_state_is_read(name):
    found = read_state(RECORDED[name])
    assert [(one.dtype, one.shape) for one in found] == [(one.dtype, one.shape) for one in ARRAYS]
    for one, other in zip(found, ARRAYS, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_state_is_written_as_the_package_writes_it():
    assert write_state(ARRAYS) == RECORDED["state"]


def test_a_plan_is_read():
    found = read_plan(RECORDED["plan"])
    assert (found.name, found.inputs, found.outputs, found.base_framework) == ("training_plan", (1, "y"), (11,), "tfjs")
    assert found.actions[0] == CALLS[0]
    second, expected = found.actions[1], CALLS[1]
    assert (second.command, second.target, second.result, second.kwargs) == ("concat", Ref(10), 11, {"axis": 1})
    assert second.args[:-1] == expected.args[:-1]
    np.testing.assert_array_equal(second.args[-1], [4])
    assert (list(found.constants), found.shapes) == ([5], {1: (8, 2)})
    np.testing.assert_array_equal(found.constants[5], ARRAYS[0])


def test_a_plan_is_written_as_the_package_writes_it():
    assert write_plan(PLAN) == RECORDED["plan"]


def test_torchscript_is_read_and_written():
    found = read_plan(RECORDED["torchscript"])
    assert (found.torchscript, found.actions) == (b"TorchScript", ())
    assert write_plan(found) == RECORDED["torchscript"]
