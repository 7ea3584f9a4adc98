"""Plans of PySyft 0.2: their check, their translation into tfjs, and averaging with them.

Should happen: each operation of the table computes in tfjs what it computes in torch; an averaging plan runs in numpy.
Should not happen: an unknown operation, a forward reference or a terabyte is run, or a wrong form is emitted.
"""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pygrid.errors import InvalidPlan
from pygrid.plans.dialects import list_program, tfjs_program
from pygrid.plans.dialects.traced import (
    AveragingSpec,
    CheckedPlans,
    TracedPlans,
    average_actions,
    check_traced,
    check_traced_in_child,
)
from pygrid.plans.dialects.translation import SAME, fold_keywords, translate
from pygrid.syft import Action, PlanMessage, Ref, read_plan, write_plan
from support.pysyft import Trace, arrays, average_of, iterative_average, training_plan

RANDOM = np.random.default_rng(7)
A = RANDOM.random((3, 4), np.float32) + np.float32(0.1)
B = RANDOM.random((3, 4), np.float32) + np.float32(0.1)
M = RANDOM.standard_normal((4, 5)).astype(np.float32)
V = RANDOM.standard_normal(5).astype(np.float32)
SPEC = AveragingSpec(((3, 4), (3,)), iterative=True)

Call = tuple[str, tuple[Any, ...], dict[str, Any]]
OF_TWO = ("add", "sub", "mul", "div", "pow", "eq", "ne", "lt", "le", "gt", "ge")
OTHERS: dict[str, tuple[list[np.ndarray[Any, Any]], Call]] = {
    **{f"__{name}__": ([A, B], (f"__{name}__", (), {})) for name in (
        "add", "sub", "mul", "truediv", "pow", "gt", "rsub", "rtruediv", "radd", "rmul")},
    "__neg__": ([A], ("__neg__", (), {})),
    **{name: ([A, M], (name, (), {})) for name in ("mm", "matmul", "__matmul__")},
    "sum": ([A], ("sum", (), {})),
    "sum(0)": ([A], ("sum", (0,), {})),
    "sum(dim, keepdim)": ([A], ("sum", (), {"dim": 1, "keepdim": True})),
    "mean(axis)": ([A], ("mean", (), {"axis": 0})),
    "max": ([A], ("max", (), {})),
    "min": ([A], ("min", (), {})),
    "argmax": ([A], ("argmax", (), {})),
    "argmax(dim)": ([A], ("argmax", (), {"dim": 1})),
    "reshape": ([A], ("reshape", (2, 6), {})),
    "view": ([A], ("view", (-1,), {})),
    "reshape of a size": ([A], ("reshape", ((4, 3),), {})),
    "softmax": ([A], ("softmax", (1,), {})),
    "log_softmax": ([A], ("log_softmax", (), {"dim": 1})),
    "long": ([A], ("long", (), {})),
    "add of a number": ([A], ("add", (2,), {})),
    "add by name": ([A], ("add", (), {"other": 2.5})),
}  # fmt: skip
FUNCTIONS: dict[str, tuple[list[np.ndarray[Any, Any]], Call]] = {
    "addmm": ([V, A, M], ("addmm", (), {})),
    "linear": ([A, M.T.copy(), V], ("nn.functional.linear", (), {})),
    "linear without bias": ([A, M.T.copy()], ("nn.functional.linear", (), {})),
    "relu": ([A - 0.5], ("nn.functional.relu", (), {})),
    "where": ([A > 0.5, A, B], ("where", (), {})),
}


def both(plan: PlanMessage, values: list[np.ndarray[Any, Any]]) -> tuple[Any, Any]:
    """The result of the list of torch commands, and that of tfjs."""
    other = translate(plan)
    for program in (list_program(plan), tfjs_program(other)):
        program.check()
    return list_program(plan).run(values)[0], tfjs_program(other).run(values)[0]


def assert_same(found: tuple[Any, Any]) -> None:
    right, left = found
    assert np.shape(left) == np.shape(right)
    np.testing.assert_allclose(np.asarray(left, np.float64), np.asarray(right, np.float64), rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in SAME if name not in ("where", "bmm")])
def test_an_operation_with_the_same_arguments(name: str) -> None:
    values = [A, M] if name in ("mm", "matmul") else [A, B] if name in OF_TWO else [A]
    trace = Trace()
    inputs = trace.inputs(len(values))
    out = trace.method(inputs[0], name, *inputs[1:])
    assert_same(both(trace.plan("p", inputs, [out]), values))


@pytest.mark.parametrize("name", OTHERS)
def test_a_method(name: str) -> None:
    values, (command, args, kwargs) = OTHERS[name]
    trace = Trace()
    inputs = trace.inputs(len(values))
    out = trace.method(inputs[0], command, *inputs[1:], *args, **kwargs)
    assert_same(both(trace.plan("p", inputs, [out]), values))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function(name: str) -> None:
    values, (command, args, kwargs) = FUNCTIONS[name]
    trace = Trace()
    inputs = trace.inputs(len(values))
    out = trace.function(command, *inputs, *args, **kwargs)
    assert_same(both(trace.plan("p", inputs, [out]), values))


def test_a_whole_step() -> None:
    plan = training_plan()
    other = translate(plan)
    x = RANDOM.standard_normal((8, 4)).astype(np.float32)
    y = np.eye(3, dtype=np.float32)[RANDOM.integers(0, 3, 8)]
    params: list[Any] = arrays(0.25)
    for _ in range(3):
        given = [x, y, np.float32(8), np.float32(0.1), *params]
        right, left = list_program(plan).run(given), tfjs_program(other).run(given)
        for a, b in zip(left, right, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
        logits = x @ params[0].T + params[1]
        softmax = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        np.testing.assert_allclose(right[2], params[0] - 0.1 * (softmax - y).T @ x / 8, rtol=1e-5, atol=1e-6)
        params = right[2:]


def _one(command: str, *args: Any, target: Any = None, **kwargs: Any) -> PlanMessage:
    return PlanMessage("p", (1,), (2,), (Action(command, args, 2, target, kwargs),))


@pytest.mark.parametrize(
    "plan",
    [
        _one("max", 1, target=Ref(1)),
        _one("argmax", 1, True, target=Ref(1)),
        _one("transpose", 0, 1, target=Ref(1)),
        _one("torch.stack", (Ref(1), Ref(1))),
        _one("sum", 0, target=Ref(1), dtype="float64"),
        _one("sum", 0, target=Ref(1), dim=1),
        _one("torch.sum"),
        _one("reshape", Ref(1), target=Ref(1)),
        _one("torch.reshape"),
        _one("argmax", 1, np.zeros(2, np.float32), target=Ref(1)),
        _one("add", Ref(1), target=Ref(1), alpha=2),
    ],
)
def test_an_operation_without_a_form_is_named(plan: PlanMessage) -> None:
    with pytest.raises(InvalidPlan, match="has no form in tfjs") as caught:
        translate(plan)
    assert repr(plan.actions[0].command) in str(caught.value)


def test_keywords_follow_the_arguments_as_in_the_client() -> None:
    plan = PlanMessage("p", (1,), (2,), (Action("tf.sum", (Ref(1),), 2, None, {"axis": 1, "keepDims": True}),))
    folded = fold_keywords(plan)
    assert folded.actions[0].args == (Ref(1), 1, True)
    np.testing.assert_allclose(tfjs_program(folded).run([A])[0], A.sum(1, keepdims=True), rtol=1e-6)


# -- The check of what a model owner sends -----------------------------------------------------------------------------


def check_one(
    plan: PlanMessage | bytes, suffix: str = "", averaging: PlanMessage | None = None, **more: Any
) -> CheckedPlans:
    data = plan if isinstance(plan, bytes) else write_plan(plan)
    spec = more.pop("spec", SPEC)
    found = b"" if averaging is None else write_plan(averaging)
    return check_traced(TracedPlans({"training_plan": {suffix: data}}, found, spec, **more))


def test_a_whole_plan_becomes_its_variants() -> None:
    found = check_one(training_plan())
    assert list(found.plans["training_plan"]) == ["list", "tfjs"]
    tfjs = read_plan(found.plans["training_plan"]["tfjs"])
    assert (tfjs.base_framework, {one.command[:3] for one in tfjs.actions}) == ("tfjs", {"tf."})
    again = read_plan(found.plans["training_plan"]["list"])
    assert again == training_plan()


def test_torchscript_stays_as_it_is() -> None:
    plan = training_plan(has_shapes=False)
    data = write_plan(PlanMessage(plan.name, plan.inputs, plan.outputs, plan.actions, torchscript=b"opaque"))
    found = check_one(data).plans["training_plan"]
    assert list(found) == ["list", "torchscript", "tfjs"]
    assert (read_plan(found["torchscript"]).torchscript, read_plan(found["list"]).torchscript) == (b"opaque", b"")
    assert list(check_one(data, "ts").plans["training_plan"]) == ["torchscript"]
    with pytest.raises(InvalidPlan, match="for TorchScript has none"):
        check_one(plan, "ts")


def test_an_operation_without_a_form_leaves_the_list() -> None:
    plan = _one("transpose", 0, 1, target=Ref(1))
    found = check_one(plan)
    assert list(found.plans["training_plan"]) == ["list"]
    assert "'transpose'" in found.unavailable["training_plan"]


def test_an_unknown_operation_is_named() -> None:
    for command, target in (("torch.svd", None), ("os.system", None), ("__proto__", Ref(1)), ("add_", Ref(1))):
        with pytest.raises(InvalidPlan, match="Failed to translate a Plan") as caught:
            check_one(_one(command, Ref(1), target=target))
        assert caught.value.code == "plan_untranslatable"
        assert repr(command) in str(caught.value)


BAD: dict[str, tuple[PlanMessage | bytes, str]] = {
    "a forward reference": (PlanMessage("p", (1,), (2,), (Action("torch.neg", (Ref(3),), 2),)), ""),
    "an id written twice": (PlanMessage("p", (1,), (2,), (Action("torch.neg", (Ref(1),), 2),) * 2), ""),
    "an input that is written": (PlanMessage("p", (1,), (1,), (Action("torch.neg", (Ref(1),), 1),)), ""),
    "an output that is an input": (PlanMessage("p", (1,), (1,), (Action("torch.neg", (Ref(1),), 2),)), ""),
    "no actions": (PlanMessage("p", (1,), (1,)), ""),
    "no protobuf": (b"PK no plan", ""),
    "an unknown tfjs command": (_one("tf.eval", Ref(1)), "tfjs"),
    "a prototype": (_one("tf.__proto__", Ref(1)), "tfjs"),
    "a method of tfjs": (_one("dispose", target=Ref(1)), "tfjs"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_plan_is_not_hosted(name: str) -> None:
    with pytest.raises(InvalidPlan, match=r"Plan is not valid|Failed to translate"):
        check_one(*BAD[name])


def test_a_broadcast_to_terabytes_is_not_run() -> None:
    trace = Trace()
    inputs = trace.inputs(6)
    one = trace.function("ones", (1 << 20, 1))
    two = trace.function("ones", (1, 1 << 20))
    huge = trace.method(trace.method(one, "__mul__", two), "sum")
    outputs = [huge, trace.method(huge, "neg"), *(trace.method(one, "clone") for one in inputs[4:])]
    shapes = {inputs[0].id: (8, 4), inputs[1].id: (8, 3)}
    with pytest.raises(InvalidPlan, match="elements; at most"):
        check_one(trace.plan("p", inputs, outputs, shapes))


def test_a_plan_that_returns_other_shapes_than_the_model_is_not_hosted() -> None:
    plan = training_plan()
    swapped = PlanMessage("p", plan.inputs, (*plan.outputs[:2], *plan.outputs[:1:-1]), plan.actions, shapes=plan.shapes)
    with pytest.raises(InvalidPlan, match=r"returns parameter 0 with shape \[3\]"):
        check_one(swapped)


def test_the_check_runs_in_a_child() -> None:
    source = TracedPlans({"p": {"": write_plan(training_plan())}}, write_plan(iterative_average()), SPEC)
    found = check_traced_in_child(source)
    assert (list(found.plans["p"]), found.num_diffs, found.averaging_misfit) == (["list", "tfjs"], None, "")
    with pytest.raises(InvalidPlan, match="Failed to translate a Plan"):
        check_traced_in_child(TracedPlans({"p": {"": write_plan(_one("torch.svd", Ref(1)))}}, b"", SPEC))


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=60), st.integers(0, 400), st.sampled_from(["", "tfjs", "ts", "list"]))
def test_damaged_bytes_are_refused_or_checked(noise: bytes, at: int, suffix: str) -> None:
    data = write_plan(training_plan(has_shapes=False))
    with contextlib.suppress(InvalidPlan):  # another error fails the test
        check_one(data[:at] + noise + data[at + len(noise) :], suffix)


# -- Averaging ---------------------------------------------------------------------------------------------------------


def test_an_iterative_plan_averages_any_number_of_diffs() -> None:
    diffs = [arrays(value) for value in (1.0, 2.0, 6.0)]
    for name, array in zip("wb", average_actions(iterative_average(), SPEC, diffs), strict=True):
        np.testing.assert_allclose(array, 3.0, rtol=1e-6, err_msg=name)
    assert check_one(training_plan(), averaging=iterative_average()).num_diffs is None


def test_a_plan_that_is_not_iterative_takes_a_number_of_diffs() -> None:
    spec = AveragingSpec(SPEC.shapes, iterative=False)
    assert check_one(training_plan(), averaging=average_of(3), spec=spec).num_diffs == 3
    found = average_actions(average_of(3), spec, [arrays(value) for value in (1.0, 2.0, 6.0)])
    np.testing.assert_allclose(found[0], 6.0, rtol=1e-6)
    with pytest.raises(InvalidPlan, match="has 6 inputs; 4 were given"):
        average_actions(average_of(3), spec, [arrays(), arrays()])


def test_an_averaging_plan_that_does_not_fit_is_hosted_only_where_that_is_allowed() -> None:
    trace = Trace()
    x, y = trace.inputs(2)
    other = trace.plan("avg_plan", [x, y], [trace.method(x, "__add__", trace.method(y, "__truediv__", 2))])
    for spec in (SPEC, AveragingSpec(SPEC.shapes, iterative=False)):
        with pytest.raises(InvalidPlan, match="Plan is not valid"):
            check_one(training_plan(), averaging=other, spec=spec)
        found = check_one(training_plan(), averaging=other, spec=spec, is_lenient=True)
        assert found.averaging_misfit
