"""The test that a plan carries, and that its inputs are those of the documented formula."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pygrid.errors import InvalidPlan, Unavailable
from pygrid.plans import DataPort, Plan, Port, TestVector, run_selftest, selftest_inputs, selftest_loss
from support.plans.handmade import GraphBuilder, f32, logistic_plan
from support.plans.variants import make_plan

BASE = logistic_plan()


def test_a_plan_without_a_test_has_nothing_to_say():
    assert run_selftest(BASE) is None


def test_the_loss_that_was_recorded_comes_out_again():
    vector = TestVector(batch_size=7, loss=selftest_loss(BASE, 7))
    result = run_selftest(logistic_plan(test_vector=vector))
    assert result is not None
    assert result.passed


def test_another_loss_condemns_the_runtime():
    vector = TestVector(batch_size=7, loss=selftest_loss(BASE, 7) + 0.01)
    with pytest.raises(Unavailable, match="computes a wrong result on this machine") as error:
        run_selftest(logistic_plan(test_vector=vector))
    assert error.value.code == "selftest_failed"


def formula(k: int, s: int) -> float:
    """Element k of the port at position s, as the documentation says it, without numpy."""
    return ((k + 1) * (7919 + 2 * s) % 65521) / 65521


def test_the_inputs_are_those_of_the_formula():
    inputs = selftest_inputs(BASE.manifest, 2)
    names = sorted(inputs)
    assert names[:3] == ["data/x", "data/y", "hyper/lr"]
    for k in range(8):
        assert inputs["data/x"].reshape(-1)[k] == np.float32(formula(k, 0))
    for k in range(2):
        assert inputs["data/y"][k] == math.floor(formula(k, 1) * 3)
    position = names.index("params/weight")
    for k in range(12):
        assert inputs["params/weight"].reshape(-1)[k] == np.float32((formula(k, position) - 0.5) / 5)
    assert inputs["hyper/lr"] == np.float32(0.1)
    assert not inputs["state/momentum/weight"].any()


def test_the_loss_is_that_of_the_formula():
    inputs = {name: array.astype(np.float64) for name, array in selftest_inputs(BASE.manifest, 5).items()}
    logits = inputs["data/x"] @ inputs["params/weight"].T + inputs["params/bias"]
    picked = logits[np.arange(5), inputs["data/y"].astype(int)]
    expected = (np.log(np.exp(logits).sum(1)) - picked).mean()
    assert selftest_loss(BASE, 5) == pytest.approx(expected, abs=1e-6)


def test_buffers_flags_and_free_integers_follow_the_formula_too():
    g = GraphBuilder()
    g.op("ReduceMean", "buffers/var", keepdims=0, out="metrics/loss")
    g.op("Identity", "params/w", out="grads/w")
    inputs = (
        f32("params/w", 1),
        f32("buffers/var", 2),
        Port("data/b", "bool", ("batch",)),
        Port("data/i", "int32", ("batch",)),
    )
    outputs = (f32("grads/w", 1), f32("metrics/loss"))
    data = {"b": DataPort("bool", ()), "i": DataPort("int32", ())}
    plan = Plan.from_bytes(make_plan({"grads": (g, inputs, outputs)}, data=data))
    made = selftest_inputs(plan.manifest, 3)
    assert [float(v) for v in made["buffers/var"]] == [np.float32(0.5 + formula(k, 0)) for k in range(2)]
    assert made["data/b"].tolist() == [formula(k, 1) >= 0.5 for k in range(3)]
    assert made["data/i"].tolist() == [math.floor(formula(k, 2) * 2) for k in range(3)]
    assert made["data/i"].dtype == np.int32
    assert selftest_loss(plan, 3) == pytest.approx(float(made["buffers/var"].mean()))


def test_averaging_plans_have_no_test():
    from support.plans.averaging import PLANS

    with pytest.raises(InvalidPlan, match="no self-test"):
        selftest_loss(PLANS["iterative"], 3)
