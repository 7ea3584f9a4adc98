"""Variants that compute nearly what their plan does.

Should happen: the right variant is accepted, in both dialects, with each command of their tables.
Should not happen: a variant that differs in one place is accepted, however small the place is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pygrid.errors import InvalidPlan
from pygrid.plans import Plan
from pygrid.plans.dialects import tfjs, torch_list
from pygrid.plans.dialects.check import check_variant
from pygrid.plans.dialects.traced import AveragingSpec, TracedPlans, check_traced, check_traced_in_child
from pygrid.plans.variants import FORMAT, Variant, VariantPlan
from pygrid.syft import Action, PlanMessage, Ref, write_plan
from support.plans.handmade import logistic_plan

SIZE = 4
"""Features, classes and batch: all arrays are square, so that no wrong shape gives a wrong axis away."""
PLAN = logistic_plan(features=SIZE, classes=SIZE, momentum=None, optimizer="SGD()")
ONE_HOT = ((np.arange(SIZE) + 1) % SIZE == np.arange(SIZE)[:, None]).astype(np.float32)
"""Moves each class to the next one."""

Values = dict[str, Any]
Change = Callable[["Steps", Values], Any]


class Steps:
    """Collects the actions of one step of softmax regression; both dialects have these operations."""

    names: Mapping[str, str] = {}

    def __init__(self) -> None:
        self.actions: list[Action] = []
        self.constants: dict[int, Any] = {}

    def new(self) -> int:
        return 100 + len(self.actions) + len(self.constants)

    def constant(self, value: Any) -> Ref:
        number = self.new()
        self.constants[number] = np.asarray(value, np.float32)
        return Ref(number)

    def do(self, command: str, *args: Any, **kwargs: Any) -> Ref:
        self.actions.append(Action(self.spell(command), args, self.new(), None, kwargs))
        return Ref(self.actions[-1].result)

    def spell(self, command: str) -> str:
        raise NotImplementedError

    def __getattr__(self, name: str) -> Callable[..., Ref]:
        return lambda *args, **kwargs: self.do(self.names.get(name, name), *args, **kwargs)


class Tfjs(Steps):
    names: Mapping[str, str] = {"log_softmax": "logSoftmax", "argmax": "argMax", "eq": "equal", "t": "transpose"}

    def spell(self, command: str) -> str:
        return f"tf.{command}"

    def method(self, target: Ref, name: str, *args: Any) -> Ref:
        self.actions.append(Action(name, args, self.new(), target))
        return Ref(self.actions[-1].result)

    def matmul(self, a: Ref, b: Ref) -> Ref:
        return self.do("matMul", a, b)

    def float(self, x: Ref) -> Ref:
        return self.do("cast", x, "float32")


class Torch(Steps):
    def spell(self, command: str) -> str:
        return f"torch.{command}"


def step(dialect: type[Steps], changes: Mapping[str, Change] | None = None) -> PlanMessage:
    """The plan as a list of actions; ``changes`` replace the values of that name."""
    t, changes = dialect(), changes or {}
    names = ("x", "y", "size", "rate", "w", "b")
    inputs = tuple(range(1, 1 + len(names)))
    v: Values = dict(zip(names, map(Ref, inputs), strict=True))

    def put(name: str, right: Change) -> None:
        v[name] = changes.get(name, right)(t, v)

    put("x", lambda t, v: v["x"])
    put("y", lambda t, v: v["y"])
    put("logits", lambda t, v: t.add(t.matmul(v["x"], t.t(v["w"])), v["b"]))
    put("log_probs", lambda t, v: t.log_softmax(v["logits"], 1))
    put("loss", lambda t, v: t.neg(t.div(t.sum(t.mul(v["y"], v["log_probs"])), v["size"])))
    put("error", lambda t, v: t.div(t.sub(t.exp(v["log_probs"]), v["y"]), v["size"]))
    put("by_w", lambda t, v: t.matmul(t.t(v["error"]), v["x"]))
    put("by_b", lambda t, v: t.sum(v["error"], (0,)))
    put("new_w", lambda t, v: t.sub(v["w"], t.mul(v["rate"], v["by_w"])))
    put("new_b", lambda t, v: t.sub(v["b"], t.mul(v["rate"], v["by_b"])))
    put("metric", lambda t, v: t.mean(t.float(t.eq(t.argmax(v["logits"], 1), t.argmax(v["y"], 1)))))
    outputs = tuple(v[name].id for name in ("loss", "metric", "new_w", "new_b"))
    return PlanMessage("training_plan", inputs, outputs, tuple(t.actions), t.constants)


def check(dialect: type[Steps], message: PlanMessage, plan: Plan = PLAN) -> None:
    name: Any = "tfjs" if dialect is Tfjs else "list"
    check_variant(plan, Variant(FORMAT, plan.id, name, (VariantPlan(SIZE, write_plan(message)),)), seed=3)


def code_of(dialect: type[Steps], message: PlanMessage, plan: Plan = PLAN) -> str:
    with pytest.raises(InvalidPlan) as caught:
        check(dialect, message, plan)
    return caught.value.code


WRONG: dict[str, tuple[str, Change]] = {
    "the weight is not transposed": ("logits", lambda t, v: t.add(t.matmul(v["x"], v["w"]), v["b"])),
    "the data is transposed": ("logits", lambda t, v: t.add(t.matmul(t.t(v["x"]), t.t(v["w"])), v["b"])),
    "no bias": ("logits", lambda t, v: t.matmul(v["x"], t.t(v["w"]))),
    "a bias for each row": (
        "logits",
        lambda t, v: t.t(t.add(t.t(t.matmul(v["x"], t.t(v["w"]))), v["b"])),
    ),
    "a softmax over the batch": ("log_probs", lambda t, v: t.t(t.log_softmax(t.t(v["logits"]), 1))),
    "a softmax at another temperature": ("log_probs", lambda t, v: t.log_softmax(t.mul(v["logits"], 1.01), 1)),
    "a gradient that is transposed": ("by_w", lambda t, v: t.matmul(t.t(v["x"]), v["error"])),
    "an error that is transposed": ("by_w", lambda t, v: t.matmul(v["error"], v["x"])),
    "a sum over the other axis": ("by_b", lambda t, v: t.sum(v["error"], (1,))),
    "a mean in place of the sum": ("by_b", lambda t, v: t.mean(v["error"], (0,))),
    "the rate applied twice": ("new_w", lambda t, v: t.sub(v["w"], t.mul(v["rate"], t.mul(v["rate"], v["by_w"])))),
    "the rate not applied": ("new_w", lambda t, v: t.sub(v["w"], v["by_w"])),
    "the default rate as a constant": ("new_w", lambda t, v: t.sub(v["w"], t.mul(0.1, v["by_w"]))),
    "one percent more": ("new_b", lambda t, v: t.sub(v["b"], t.mul(t.mul(v["rate"], 1.01), v["by_b"]))),
    "a step upwards": ("new_w", lambda t, v: t.add(v["w"], t.mul(v["rate"], v["by_w"]))),
    "decay of the weights": (
        "new_w",
        lambda t, v: t.sub(t.sub(v["w"], t.mul(v["rate"], v["by_w"])), t.mul(0.0005, v["w"])),
    ),
    "a bias that stays": ("new_b", lambda t, v: t.mul(v["b"], 1.0)),
    "a weight that is transposed": ("new_w", lambda t, v: t.t(t.sub(v["w"], t.mul(v["rate"], v["by_w"])))),
    "a batch with one example less": ("error", lambda t, v: t.div(t.sub(t.exp(v["log_probs"]), v["y"]), SIZE - 1)),
    "the sum over the batch": ("error", lambda t, v: t.sub(t.exp(v["log_probs"]), v["y"])),
    "the last example left out": (
        "error",
        lambda t, v: t.mul(
            t.div(t.sub(t.exp(v["log_probs"]), v["y"]), v["size"]), t.constant([[1]] * (SIZE - 1) + [[0]])
        ),
    ),
    "the loss of the sum": ("loss", lambda t, v: t.neg(t.sum(t.mul(v["y"], v["log_probs"])))),
    "a loss with a sign": ("loss", lambda t, v: t.div(t.sum(t.mul(v["y"], v["log_probs"])), v["size"])),
    "a loss that is a row": ("loss", lambda t, v: t.neg(t.sum(t.mul(v["y"], v["log_probs"]), (0,)))),
    "classes that are shifted": ("y", lambda t, v: t.matmul(v["y"], t.constant(ONE_HOT))),
    "labels that are smoothed": ("y", lambda t, v: t.add(t.mul(v["y"], 0.99), 0.01 / SIZE)),
    "data without its sign": ("x", lambda t, v: t.abs(v["x"])),
    "data cut off at zero": ("x", lambda t, v: t.relu(v["x"])),
    "data that is rounded": ("x", lambda t, v: t.div(t.round(t.mul(v["x"], 64)), 64)),
    "a metric that is constant": ("metric", lambda t, v: t.mean(t.add(t.mul(v["x"], 0.0), 2.0))),
    "the loss as the metric": ("metric", lambda t, v: t.mul(v["loss"], 1.0)),
}


@pytest.mark.parametrize("dialect", [Tfjs, Torch])
def test_the_right_step(dialect: type[Steps]) -> None:
    check(dialect, step(dialect))


@pytest.mark.parametrize("dialect", [Tfjs, Torch])
@pytest.mark.parametrize("name", WRONG)
def test_a_step_that_deviates(name: str, dialect: type[Steps]) -> None:
    place, change = WRONG[name]
    assert code_of(dialect, step(dialect, {place: change})) == "plan_variant_deviates"


def check_pair(tfjs_changes: Mapping[str, Change]) -> None:
    """Check a plan of 2020 that was sent as two variants: the right list, and its tfjs with changes."""
    shapes = {1: (SIZE, SIZE), 2: (SIZE, SIZE)}
    parts = {"list": replace(step(Torch), shapes=shapes), "tfjs": step(Tfjs, tfjs_changes)}
    data = {name: write_plan(message) for name, message in parts.items()}
    check_traced(TracedPlans({"training_plan": data}, b"", AveragingSpec(((SIZE, SIZE), (SIZE,)), iterative=False)))


@pytest.mark.parametrize("name", WRONG)
def test_a_pair_of_2020_that_deviates(name: str) -> None:
    check_pair({})
    with pytest.raises(InvalidPlan) as caught:
        check_pair(dict([WRONG[name]]))
    assert caught.value.code == "plan_variant_deviates"


def test_a_plan_of_2020_with_many_classes() -> None:
    """Its random labels take the memory of one batch: 60,000 rows of 60,000 would not fit into the child."""
    message = replace(step(Torch), shapes={1: (2, SIZE), 2: (2, 60_000)})
    spec = AveragingSpec(((60_000, SIZE), (60_000,)), iterative=False)
    checked = check_traced_in_child(TracedPlans({"training_plan": {"list": write_plan(message)}}, b"", spec))
    assert list(checked.plans["training_plan"]) == ["list"]


@pytest.mark.parametrize("dialect", [Tfjs, Torch])
@pytest.mark.parametrize("name", ["loss", "new_w"])
def test_a_result_that_is_text(name: str, dialect: type[Steps]) -> None:
    message = step(dialect, {name: lambda t, v: t.clone("0.5")})
    assert code_of(dialect, message) == "plan_variant_invalid"
    shapes = {1: (SIZE, SIZE), 2: (SIZE, SIZE)}
    part = {"tfjs" if dialect is Tfjs else "list": write_plan(replace(message, shapes=shapes))}
    spec = AveragingSpec(((SIZE, SIZE), (SIZE,)), iterative=False)
    with pytest.raises(InvalidPlan, match="its result is not made of numbers"):
        check_traced(TracedPlans({"training_plan": part}, b"", spec))


@pytest.mark.parametrize("dialect", [Tfjs, Torch])
def test_a_command_outside_the_list(dialect: type[Steps]) -> None:
    for command in ("data.csv", "cumsum", "__proto__", "constructor", "os.system", "MATMUL"):
        message = step(dialect, {"x": lambda t, v, command=command: t.do(command, v["x"])})  # type: ignore[misc]
        assert code_of(dialect, message) == "plan_variant_invalid"


def test_a_variant_of_another_plan() -> None:
    other = logistic_plan(features=SIZE, classes=SIZE, momentum=None, optimizer="SGD()", name="other")
    message = step(Tfjs)
    with pytest.raises(InvalidPlan, match="another plan"):
        check_variant(other, Variant(FORMAT, PLAN.id, "tfjs", (VariantPlan(SIZE, write_plan(message)),)))


@pytest.mark.parametrize("size", [PLAN.manifest.max_batch_size + 1, 2**31, 2**70])
def test_a_batch_that_the_plan_does_not_take(size: int) -> None:
    """Also of TorchScript, which is not run: the Domain stores the size."""
    for name, message in (("tfjs", step(Tfjs)), ("torchscript", PlanMessage("p", torchscript=b"opaque"))):
        variant = Variant(FORMAT, PLAN.id, name, (VariantPlan(size, write_plan(message)),))  # type: ignore[arg-type]
        with pytest.raises(InvalidPlan, match=f"batches of {size}; the plan takes at most") as caught:
            check_variant(PLAN, variant)
        assert caught.value.code == "plan_variant_invalid"


def test_outputs_that_are_exchanged() -> None:
    message = step(Tfjs)
    loss, metric, weight, bias = message.outputs
    assert code_of(Tfjs, replace(message, outputs=(metric, loss, weight, bias))) == "plan_variant_deviates"
    assert code_of(Tfjs, replace(message, outputs=(loss, metric, bias, weight))) == "plan_variant_deviates"
    assert code_of(Tfjs, replace(message, outputs=(loss, metric, weight))) == "plan_variant_invalid"


# -- Each command of the tables ----------------------------------------------------------------------------------------


def digest(t: Steps, x: Ref, size: int = SIZE * SIZE) -> Ref:
    """A number that depends on each value and on its place."""
    return t.sum(t.mul(t.reshape(t.float(x), (size,)), t.constant(np.linspace(0.5, 1.5, size))))


def with_digests(dialect: type[Steps], one: Change, other: Change, size: int) -> PlanMessage:
    """The step with the difference of two digests added to its data: nothing, if both compute the same."""

    def changed(t: Steps, v: Values) -> Ref:
        difference = t.sub(digest(t, one(t, v), size), digest(t, other(t, v), size))
        return t.add(v["x"], t.mul(difference, 8.0))

    return step(dialect, {"x": changed})


def p(t: Steps, v: Values, factor: float = 1.0) -> Ref:
    """Positive data."""
    return t.mul(t.add(t.abs(v["x"]), 0.5), factor)


def of_positive(command: str, scale: float = 1.0) -> tuple[Change, Change]:
    return (lambda t, v: t.do(command, p(t, v, scale)), lambda t, v: t.do(command, p(t, v, scale * 1.02)))


def of_fraction(command: str) -> tuple[Change, Change]:
    """A command of values in (-1, 1)."""
    return (
        lambda t, v: t.do(command, t.mul(t.sin(v["x"]), 0.9)),
        lambda t, v: t.do(command, t.mul(t.sin(v["x"]), 0.8)),
    )


def of_steps(command: str) -> tuple[Change, Change]:
    """A command that rounds."""
    return (
        lambda t, v: t.do(command, t.mul(v["x"], 8)),
        lambda t, v: t.do(command, t.add(t.mul(v["x"], 8), 0.5)),
    )


def of_sign(command: str) -> tuple[Change, Change]:
    return (lambda t, v: t.do(command, t.sub(v["x"], 0.2)), lambda t, v: t.do(command, t.sub(v["x"], 0.8)))


def of_two(command: str) -> tuple[Change, Change]:
    return (lambda t, v: t.do(command, p(t, v), v["x"]), lambda t, v: t.do(command, p(t, v), t.mul(v["x"], 1.02)))


def of_limit(command: str) -> tuple[Change, Change]:
    """A comparison, a minimum or a maximum of signed data and a number."""
    return (lambda t, v: t.do(command, v["x"], 0.3), lambda t, v: t.do(command, v["x"], 0.8))


def of_equal(command: str) -> tuple[Change, Change]:
    return (
        lambda t, v: t.do(command, v["x"], t.mul(v["x"], 1.0)),
        lambda t, v: t.do(command, v["x"], t.add(v["x"], 1.0)),
    )


def of_axis(command: str) -> tuple[Change, Change]:
    return (lambda t, v: t.do(command, v["x"], (0,)), lambda t, v: t.do(command, v["x"], (1,)))


def image(t: Steps, v: Values) -> Ref:
    return t.reshape(v["x"], (1, SIZE, SIZE, 1))


def kernel(t: Steps, is_turned: bool = False) -> Ref:
    values = np.arange(1, 5, dtype=np.float32).reshape(2, 2)
    return t.constant((values.T if is_turned else values).reshape(2, 2, 1, 1))


def index(t: Steps, v: Values, axis: int) -> Ref:
    return t.do("argMax", v["x"], axis)


def truth(t: Steps, v: Values, limit: float) -> Ref:
    return t.do("greater" if isinstance(t, Tfjs) else "gt", v["x"], limit)


def of_truths(command: str) -> tuple[Change, Change]:
    return (
        lambda t, v: t.do(command, truth(t, v, 0.2), truth(t, v, 0.6)),
        lambda t, v: t.do(command, truth(t, v, 0.4), truth(t, v, 0.4)),
    )


BOTH: dict[str, tuple[Change, Change]] = {
    **{name: of_positive(name) for name in (
        "neg", "exp", "log", "log1p", "expm1", "sqrt", "rsqrt", "reciprocal", "sin", "cos", "atan", "sinh", "cosh",
        "tanh", "sigmoid", "erf", "relu", "abs", "clone", "square")},
    "tan": of_positive("tan", 0.2),
    **{name: of_fraction(name) for name in ("asin", "acos")},
    **{name: of_steps(name) for name in ("floor", "ceil", "round")},
    "sign": of_sign("sign"),
    **{name: of_two(name) for name in ("add", "sub", "mul", "div", "pow")},
    **{name: of_axis(name) for name in ("sum", "mean", "max", "min")},
    "softmax": (lambda t, v: t.softmax(v["x"], 1), lambda t, v: t.softmax(t.mul(v["x"], 1.05), 1)),
    "reshape": (
        lambda t, v: t.sum(t.reshape(v["x"], (2, 8)), (0,)),
        lambda t, v: t.sum(t.reshape(v["x"], (8, 2)), (1,)),
    ),
    "where": (
        lambda t, v: t.where(truth(t, v, 0.3), v["x"], p(t, v)),
        lambda t, v: t.where(truth(t, v, 0.3), p(t, v), v["x"]),
    ),
}  # fmt: skip
ONLY_TFJS: dict[str, tuple[Change, Change]] = {
    "step": of_sign("step"),
    **{name: of_limit(name) for name in ("maximum", "minimum", "less", "lessEqual", "greater", "greaterEqual")},
    **{name: of_equal(name) for name in ("equal", "notEqual")},
    "squaredDifference": of_two("squaredDifference"),
    "logicalNot": (lambda t, v: t.logicalNot(truth(t, v, 0.3)), lambda t, v: t.logicalNot(truth(t, v, 0.8))),
    **{name: of_truths(name) for name in ("logicalAnd", "logicalOr")},
    "logSoftmax": (lambda t, v: t.logSoftmax(v["x"]), lambda t, v: t.logSoftmax(t.mul(v["x"], 1.05))),
    "zerosLike": (lambda t, v: t.zerosLike(v["x"]), lambda t, v: t.onesLike(v["x"])),
    "onesLike": (lambda t, v: t.onesLike(v["x"]), lambda t, v: t.zerosLike(v["x"])),
    "argMax": (lambda t, v: index(t, v, 0), lambda t, v: index(t, v, 1)),
    "matMul": (
        lambda t, v: t.matMul(v["x"], v["w"], False, True),
        lambda t, v: t.matMul(v["x"], v["w"], True, False),
    ),
    "transpose": (lambda t, v: t.transpose(v["x"], (1, 0)), lambda t, v: t.transpose(v["x"], (0, 1))),
    "cast": (
        lambda t, v: t.cast(t.mul(v["x"], 8), "int32"),
        lambda t, v: t.cast(t.add(t.mul(v["x"], 8), 0.5), "int32"),
    ),
    "broadcastTo": (
        lambda t, v: t.broadcastTo(t.sum(v["x"], (0,)), (SIZE, SIZE)),
        lambda t, v: t.broadcastTo(t.sum(v["x"], (1,)), (SIZE, SIZE)),
    ),
    "fill": (lambda t, v: t.fill((SIZE, SIZE), 0.5), lambda t, v: t.fill((SIZE, SIZE), 0.51)),
    "oneHot": (lambda t, v: t.oneHot(index(t, v, 0), SIZE), lambda t, v: t.oneHot(index(t, v, 1), SIZE)),
    "pad": (
        lambda t, v: t.pad(v["x"], ((1, 0), (0, 0))),
        lambda t, v: t.pad(v["x"], ((0, 1), (0, 0))),
    ),
    "slice": (lambda t, v: t.slice(v["x"], (0, 0), (2, 2)), lambda t, v: t.slice(v["x"], (0, 1), (2, 2))),
    "gather": (lambda t, v: t.gather(v["x"], index(t, v, 0)), lambda t, v: t.gather(v["x"], index(t, v, 1))),
    "unsortedSegmentSum": (
        lambda t, v: t.unsortedSegmentSum(v["x"], index(t, v, 0), SIZE),
        lambda t, v: t.unsortedSegmentSum(v["x"], index(t, v, 1), SIZE),
    ),
    "conv2d": (
        lambda t, v: t.conv2d(image(t, v), kernel(t), (1, 1), "valid"),
        lambda t, v: t.conv2d(image(t, v), kernel(t, is_turned=True), (1, 1), "valid"),
    ),
    "conv2dTranspose": (
        lambda t, v: t.conv2dTranspose(image(t, v), kernel(t), (1, 5, 5, 1), (1, 1), "valid"),
        lambda t, v: t.conv2dTranspose(image(t, v), kernel(t, is_turned=True), (1, 5, 5, 1), (1, 1), "valid"),
    ),
    "method concat": (
        lambda t, v: t.method(v["x"], "concat", v["w"], 0),
        lambda t, v: t.method(v["x"], "concat", v["w"], 1),
    ),
    "method stack": (
        lambda t, v: t.method(v["x"], "stack", v["w"], 0),
        lambda t, v: t.method(v["x"], "stack", v["w"], 1),
    ),
}  # fmt: skip
ONLY_TORCH: dict[str, tuple[Change, Change]] = {
    **{name: of_two(name) for name in ("rsub", "rdiv")},
    **{name: of_equal(name) for name in ("eq", "ne")},
    **{name: of_limit(name) for name in ("lt", "le", "gt", "ge")},
    **{name: of_positive(name) for name in ("float", "detach", "copy")},
    "long": of_steps("long"),
    "view": BOTH["reshape"],
    **{name: (
        lambda t, v, name=name: t.do(name, v["x"], t.t(v["w"])),
        lambda t, v, name=name: t.do(name, v["x"], v["w"])) for name in ("mm", "matmul")},
    "bmm": (
        lambda t, v: t.bmm(t.view(v["x"], (1, 4, 4)), t.view(v["w"], (1, 4, 4))),
        lambda t, v: t.bmm(t.view(v["w"], (1, 4, 4)), t.view(v["x"], (1, 4, 4))),
    ),
    "transpose": (lambda t, v: t.transpose(v["x"], 0, 1), lambda t, v: t.transpose(v["x"], 0, 0)),
    "t": (lambda t, v: t.t(v["x"]), lambda t, v: t.clone(v["x"])),
    "argmax": (lambda t, v: t.argmax(v["x"], 0), lambda t, v: t.argmax(v["x"], 1)),
    "full": (lambda t, v: t.full((SIZE, SIZE), 0.5), lambda t, v: t.full((SIZE, SIZE), 0.51)),
    "ones": (lambda t, v: t.ones(SIZE, SIZE), lambda t, v: t.full((SIZE, SIZE), 1.01)),
    "zeros_like": (lambda t, v: t.zeros_like(v["x"]), lambda t, v: t.ones_like(v["x"])),
    "ones_like": (lambda t, v: t.ones_like(v["x"]), lambda t, v: t.zeros_like(v["x"])),
    "arange": (lambda t, v: t.arange(SIZE), lambda t, v: t.rsub(t.arange(SIZE), SIZE - 1)),
    "log_softmax": (lambda t, v: t.log_softmax(v["x"], 0), lambda t, v: t.log_softmax(v["x"], 1)),
    "stack": (lambda t, v: t.stack((v["x"], v["w"]), 0), lambda t, v: t.stack((v["x"], v["w"]), 1)),
    "cat": (lambda t, v: t.cat((v["x"], v["w"]), 0), lambda t, v: t.cat((v["x"], v["w"]), 1)),
    "addmm": (
        lambda t, v: t.addmm(v["b"], v["x"], t.t(v["w"])),
        lambda t, v: t.addmm(v["b"], v["x"], v["w"]),
    ),
    "linear": (
        lambda t, v: t.do("nn.functional.linear", v["x"], v["w"], v["b"]),
        lambda t, v: t.do("nn.functional.linear", v["w"], v["x"], v["b"]),
    ),
}  # fmt: skip
NUM_VALUES = {
    **dict.fromkeys(("sum", "mean", "max", "min", "argMax", "argmax", "arange"), SIZE), "reshape": 8, "view": 8,
    "pad": 20, "slice": 4, "conv2d": 9, "conv2dTranspose": 25,
    **dict.fromkeys(("method concat", "method stack", "stack", "cat"), 32),
}  # fmt: skip
"""Values in the result of a command, if they are not as many as those of the data."""


@pytest.mark.parametrize(("dialect", "table"), [(Tfjs, {**BOTH, **ONLY_TFJS}), (Torch, {**BOTH, **ONLY_TORCH})])
def test_each_command_that_deviates(dialect: type[Steps], table: Mapping[str, tuple[Change, Change]]) -> None:
    assert table.keys() == (tfjs if dialect is Tfjs else torch_list).COMMANDS.keys()
    found: dict[str, Any] = {}
    for command, (right, wrong) in table.items():
        size = NUM_VALUES.get(command, SIZE * SIZE)
        for other, code in ((right, None), (wrong, "plan_variant_deviates")):
            try:
                check(dialect, with_digests(dialect, right, other, size))
            except InvalidPlan as error:
                if error.code != code:
                    found[command] = error.detail
            else:
                if code is not None:
                    found[command] = "accepted"
    assert found == {}
