"""Each operator of the tables: what a variant computes is what PyTorch computes.

Should happen: the list of actions, run with numpy, gives PyTorch's result. Should not happen: an operator that the
table does not have gets a wrong form; a list of actions that refers to nothing, or makes terabytes, is run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.fx.experimental.proxy_tensor import make_fx

from pygrid.errors import AuthoringError, InvalidPlan
from pygrid.plans.authoring.variants import build as _  # noqa: F401  fills the tables
from pygrid.plans.authoring.variants.specialised import Specialised, decompositions
from pygrid.plans.authoring.variants.tfjs import emit_tfjs
from pygrid.plans.authoring.variants.torch_list import emit_list
from pygrid.plans.dialects import list_program, tfjs_program
from pygrid.plans.dialects.interpreter import RunBudget
from pygrid.syft import Action, PlanMessage, Ref, read_plan, write_plan

RANDOM = torch.Generator().manual_seed(5)


def some(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=RANDOM) * 1.5 + 0.1


def signed(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=RANDOM)


def grad_of(function: Callable[..., torch.Tensor]) -> Callable[..., Any]:
    """The gradients of the sum of squares of a function's result."""

    def run(*args: torch.Tensor) -> Any:
        leaves = [one.detach().requires_grad_() for one in args]
        return torch.autograd.grad(function(*leaves).square().sum(), leaves)

    return run


def compared(name: str) -> Callable[..., torch.Tensor]:
    """A comparison of two arrays, and of an array and a number."""
    function = getattr(torch, name)
    return lambda a, b: function(a, b).float() + function(a, 0.5).float()


A, B, M = signed(3, 4), some(3, 4), signed(4, 5)
IMAGE, KERNEL = signed(2, 3, 7, 8), signed(4, 3, 3, 2)
CLASSES = torch.tensor([2.0, 0.0, 3.0])

ROWS: dict[str, tuple[Callable[..., Any], tuple[torch.Tensor, ...]]] = {
    **{name: (getattr(torch, name), (A,)) for name in (
        "neg", "exp", "expm1", "abs", "sign", "sin", "cos", "tan", "atan", "sinh", "cosh", "tanh", "sigmoid", "erf",
        "relu", "floor", "ceil", "round")},
    **{name: (getattr(torch, name), (B,)) for name in ("log", "log1p", "sqrt", "rsqrt", "reciprocal")},
    "asin, acos": (lambda x: torch.asin(x / 4) + torch.acos(x / 4), (A,)),
    **{name: (getattr(torch, name), (A, B)) for name in ("add", "sub", "mul", "div", "maximum", "minimum")},
    "alpha": (lambda a, b: torch.add(a, b, alpha=3) - torch.sub(a, b, alpha=0.5), (A, B)),
    "scalars": (lambda a: 2 - a * 3 + a / 4 - 1, (A,)),
    "pow": (lambda a, b: b**2 + b**0.5 + torch.pow(b, a) + 2**a, (A, B)),
    "broadcast": (lambda a, b: a * b[0] + b[:, :1], (A, B)),
    **{name: (compared(name), (A, B)) for name in ("eq", "ne", "lt", "le", "gt", "ge")},
    "logical": (lambda a, b: ((a > 0) & (b > 1) | ~(a < -1)).float(), (A, B)),
    "logical names": (
        lambda a, b: torch.logical_or(torch.logical_and(a > 0, b > 1), torch.logical_not(b > 1)).float(), (A, B)),
    "mm": (lambda a, m: a @ m, (A, M)),
    "mm of transposes": (lambda a, m: m.t() @ a.t(), (A, M)),
    "bmm": (torch.bmm, (signed(2, 3, 4), signed(2, 4, 5))),
    "addmm": (lambda c, a, m: torch.addmm(c, a, m), (signed(5), A, M)),
    "permute": (lambda x: x.permute(2, 0, 1) + 1, (signed(2, 3, 4),)),
    "shapes": (lambda x: x.reshape(3, 2, 4).unsqueeze(1).squeeze(1).flatten(1), (signed(6, 4),)),
    "expand": (lambda a: a[:, None].expand(3, 2, 4) * 1.0, (A,)),
    "full": (lambda a: torch.full((3, 4), 2.5) + torch.zeros_like(a) + torch.ones_like(a) * a, (A,)),
    "where": (lambda a, b: torch.where(a > 0, b, torch.tensor(0.5)), (A, B)),
    "sum": (lambda a: a.sum() + a.sum(0).sum(0) + a.sum(1, keepdim=True).mean(), (A,)),
    "mean": (lambda a: a.mean(0, keepdim=True) + a.mean(1, keepdim=True), (A,)),
    "amax, amin": (lambda a: a.amax(1) - a.amin(1), (A,)),
    "var_mean": (lambda a: sum(torch.var_mean(a, 1, correction=1)) + torch.var(a, 1, correction=0), (A,)),
    "argmax": (lambda a: a.argmax(1).float() + a.argmax(0, keepdim=True).float().sum(), (A,)),
    "cast": (lambda a: a.to(torch.int64).float() + (a > 0).float(), (A,)),
    "softmax": (lambda a: torch.softmax(a, 1) + torch.log_softmax(a, 1), (A,)),
    "softmax of another axis": (lambda a: torch.softmax(a, 0) * torch.log_softmax(a, 0), (A,)),
    "cross entropy": (lambda a, y: F.cross_entropy(a, y.long()), (A, CLASSES)),
    "cross entropy of shares": (grad_of(lambda a, b: -(a.log_softmax(1) * b).sum(1).mean()), (A, B)),
    "cross entropy, sum": (lambda a, y: F.cross_entropy(a, y.long(), reduction="sum"), (A, CLASSES)),
    "cross entropy, gradient": (lambda a, y: grad_of(lambda x: F.cross_entropy(x, y.long()))(a), (A, CLASSES)),
    "threshold_backward": (grad_of(torch.relu), (A,)),
    "layer norm": (grad_of(lambda x, w, b: F.layer_norm(x, (4,), w, b)), (A, some(4), signed(4))),
    "gelu": (grad_of(F.gelu), (A,)),
    "gelu of tanh": (grad_of(lambda x: F.gelu(x, approximate="tanh")), (A,)),
    "silu": (grad_of(F.silu), (A,)),
    "mse": (grad_of(lambda a, b: F.mse_loss(a, b)), (A, B)),
}  # fmt: skip
ONLY_TFJS: dict[str, tuple[Callable[..., Any], tuple[torch.Tensor, ...]]] = {
    "cross entropy with weights": (
        lambda a, y, w: grad_of(lambda x: F.cross_entropy(x, y.long(), weight=w))(a), (A, CLASSES, some(4))),
    "cross entropy of each": (lambda a, y: F.cross_entropy(a, y.long(), reduction="none"), (A, CLASSES)),
    "gather": (lambda a, y: a.gather(1, y.long()[:, None]), (A, CLASSES)),
    "scatter": (lambda a, y: a.scatter(1, y.long()[:, None], 9.0), (A, CLASSES)),
    "cat": (lambda a, b: torch.cat([a, b, a], 1), (A, B)),
    "stack": (lambda a, b: torch.stack([a, b], 1), (A, B)),
    "slice": (lambda a: a[1:, 1:3] * a[0, 2], (A,)),
    "split": (lambda a: a.split(2, 1)[1] + a.chunk(2, 1)[0], (A,)),
    "pad": (lambda a: F.pad(a, (1, 2, 0, 1), value=3.0), (A,)),
    "clamp": (lambda a: a.clamp(-0.5, 0.5) + a.clamp(min=0) + a.clamp(max=0.1), (A,)),
    "embedding": (lambda w, i: F.embedding(i.long(), w), (M, torch.tensor([0.0, 3.0, 3.0]))),
    "embedding, gradient": (
        lambda w, i: grad_of(lambda x: F.embedding(i.long(), x))(w), (M, torch.tensor([0.0, 3.0, 3.0]))),
    "conv": (lambda x, w, b: F.conv2d(x, w, b), (IMAGE, KERNEL, signed(4))),
    "conv with padding and stride": (lambda x, w: F.conv2d(x, w, stride=(2, 1), padding=(1, 2)), (IMAGE, KERNEL)),
    "conv with dilation": (lambda x, w: F.conv2d(x, w, dilation=2), (IMAGE, KERNEL)),
    "conv, gradients": (grad_of(lambda x, w, b: F.conv2d(x, w, b, padding=1)), (IMAGE, KERNEL, signed(4))),
    "conv with stride, gradients": (
        grad_of(lambda x, w: F.conv2d(x, w, stride=2, padding=(1, 0))), (IMAGE, KERNEL)),
    "max pool": (lambda x: F.max_pool2d(x, 2), (IMAGE,)),
    "max pool, gradient": (grad_of(lambda x: F.max_pool2d(x, (3, 2))), (IMAGE,)),
    "max pool of ties": (grad_of(lambda x: F.max_pool2d(torch.relu(x), 2)), (IMAGE,)),
    "average pool": (grad_of(lambda x: F.avg_pool2d(x, 2)), (IMAGE,)),
    "group norm": (grad_of(lambda x: F.group_norm(x, 3)), (IMAGE,)),
}  # fmt: skip


def specialised(function: Callable[..., Any], args: tuple[torch.Tensor, ...]) -> Specialised:
    def flat(*given: torch.Tensor) -> list[torch.Tensor]:
        found = function(*given)
        return list(found) if isinstance(found, tuple) else [found]

    return Specialised(make_fx(flat, decompositions())(*args), 3, {})


def assert_equal(dialect: str, function: Callable[..., Any], args: tuple[torch.Tensor, ...]) -> None:
    step = specialised(function, args)
    message = emit_tfjs(step, "p") if dialect == "tfjs" else emit_list(step, "p")
    message = read_plan(write_plan(message))
    program = tfjs_program(message) if dialect == "tfjs" else list_program(message)
    program.check()
    found = program.run([one.numpy() for one in args])
    expected = function(*args)
    for right, ours in zip(expected if isinstance(expected, tuple) else (expected,), found, strict=True):
        exact = right.detach().numpy()
        scale = max(1.0, float(np.abs(exact).max(initial=0.0)))  # float32, added in another order
        np.testing.assert_allclose(ours, exact, rtol=0, atol=3e-6 * scale)
        assert np.shape(ours) == tuple(right.shape)


@pytest.mark.parametrize("row", [*ROWS, *ONLY_TFJS])
def test_tfjs_computes_what_torch_does(row):
    assert_equal("tfjs", *{**ROWS, **ONLY_TFJS}[row])


UNLISTED = (
    "amax, amin", "maximum", "minimum", "var_mean", "broadcast", "logical", "logical names", "cast", "layer norm",
    "cross entropy", "cross entropy, sum", "cross entropy, gradient",
)  # fmt: skip
"""Rows that have no form as a torch command; those with labels round numbers to integers."""


@pytest.mark.parametrize("row", [row for row in ROWS if row not in UNLISTED])
def test_the_list_computes_what_torch_does(row):
    assert_equal("list", *ROWS[row])


REFUSED = {
    "cumsum": (lambda a: a.cumsum(1), (A,)),
    "grouped convolution": (lambda x, w: F.conv2d(x, w, groups=3), (IMAGE, signed(3, 1, 2, 2))),
    "overlapping pool": (lambda x: F.max_pool2d(x, 3, stride=1), (IMAGE,)),
    "padded pool": (lambda x: F.max_pool2d(x, 2, padding=1), (IMAGE,)),
    "gradient of a dilated convolution": (grad_of(lambda x, w: F.conv2d(x, w, dilation=2)), (IMAGE, KERNEL)),
}


@pytest.mark.parametrize("row", REFUSED)
def test_what_the_table_does_not_have_is_refused(row):
    with pytest.raises(AuthoringError) as caught:
        emit_tfjs(specialised(*REFUSED[row]), "p")
    assert caught.value.code == "plan_variant_unavailable"


def plan(*actions: Action, outputs: tuple[int, ...] = (9,)) -> PlanMessage:
    return PlanMessage("p", (1, 2), outputs, actions)


BAD = {
    "an unknown command": plan(Action("tf.data.csv", (Ref(1),), 9)),
    "a name of an object": plan(Action("tf.__proto__", (Ref(1),), 9)),
    "a command of another module": plan(Action("process.exit", (Ref(1),), 9)),
    "a method that is not listed": plan(Action("dispose", (), 9, Ref(1))),
    "arguments by name": plan(Action("tf.add", (Ref(1), Ref(2)), 9, None, {"x": 1})),
    "a reference to what comes later": plan(Action("tf.neg", (Ref(8),), 9), Action("tf.neg", (Ref(1),), 8)),
    "a result that is written twice": plan(Action("tf.neg", (Ref(1),), 9), Action("tf.neg", (Ref(2),), 9)),
    "a result on an input": plan(Action("tf.neg", (Ref(1),), 2), Action("tf.neg", (Ref(1),), 9)),
    "an output that is an input": plan(Action("tf.neg", (Ref(1),), 9), outputs=(9, 1)),
    "an output twice": plan(Action("tf.neg", (Ref(1),), 9), outputs=(9, 9)),
    "an output of nothing": plan(Action("tf.neg", (Ref(1),), 9), outputs=(9, 77)),
}


@pytest.mark.parametrize("name", BAD)
def test_lists_that_are_not_sound_are_not_run(name):
    with pytest.raises(InvalidPlan):
        tfjs_program(BAD[name]).check()


LARGE = {
    "fill": Action("tf.fill", ((10**6, 10**6), 1), 9),
    "broadcast": Action("tf.broadcastTo", (Ref(1), (10**6, 10**6, 2)), 9),
    "an outer product": Action("tf.add", (Ref(1), Ref(2)), 9),
    "one-hot": Action("tf.oneHot", (Ref(1), 2**31), 9),
    "a negative size": Action("tf.fill", ((-1, -(10**9)), 1), 9),
    "a pad": Action("tf.pad", (Ref(1), ((10**9, 10**9), (0, 0))), 9),
    "a shape that does not fit": Action("tf.reshape", (Ref(1), (3, 3)), 9),
}


@pytest.mark.parametrize("name", LARGE)
def test_what_would_take_terabytes_is_refused_before_it_is_made(name):
    big = np.zeros((10_000, 1), np.float32)
    with pytest.raises(InvalidPlan):
        tfjs_program(plan(LARGE[name])).run([big, big.reshape(1, -1)], RunBudget(max_elements=1_000_000))


def test_a_list_ends_at_its_budget():
    actions = [Action("tf.matMul", (Ref(1), Ref(2)), 9)]
    with pytest.raises(InvalidPlan, match="operations"):
        tfjs_program(plan(*actions)).run([np.ones((100, 100), np.float32)] * 2, RunBudget(work=10_000))


def test_a_plan_of_2020_may_name_its_module():
    found = tfjs_program(plan(Action("tf.layers.reshape", (Ref(1), (4,)), 9))).run([np.ones((2, 2)), 0])
    assert found[0].shape == (4,)


def test_equal_actions_are_written_once_and_unused_ones_not_at_all():
    message = emit_tfjs(specialised(lambda a: (a.exp() + a.exp(), a.sin())[0], (A,)), "p")
    assert [action.command for action in message.actions] == ["tf.exp", "tf.add"]


def test_each_output_is_an_array_of_its_own():
    message = emit_tfjs(specialised(lambda a, b: (a * 1.0, b, b + 0), (A, B)), "p")
    assert len(set(message.outputs)) == 3
    assert not set(message.outputs) & set(message.inputs)
