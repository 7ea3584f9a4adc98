"""Variants of a plan for clients of 2020: what `build` makes, keeps and refuses.

Should happen: TorchScript that was saved and loaded computes what eager torch does, over several steps and for each
batch size, as a tuple or as a list; a variant that a plan cannot have is missing, with its reason and the author's
line, and the others stay. Should not happen: an operator that libtorch 1.7 lacks; a variant of another plan is read.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from typer.testing import CliRunner

import pygrid
from pygrid.cli.plan import app
from pygrid.errors import AuthoringError, InvalidPlan
from pygrid.plans import Plan
from pygrid.plans.authoring.variants.torchscript import OLD_OPERATORS
from pygrid.plans.dialects.check import check_variant
from pygrid.plans.variants import VariantPlan
from pygrid.syft import Action, Ref, read_plan, write_plan
from support.plans.handmade import logistic_plan

RATE, STEPS, SIZES = 0.1, 3, [3, 5]

NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (lambda: nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4)), (6,)),
    "layer norm and gelu": (
        lambda: nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 4)), (6,)),
    "cnn with a max pool": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 4, 3), nn.Flatten(),
            nn.Linear(16, 4)), (1, 8, 8)),
    "cnn with strides": (
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3, stride=2), nn.Tanh(), nn.Flatten(), nn.Linear(27, 4)), (2, 7, 7)),
}  # fmt: skip


def loss_of(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    logits = model(x)
    return F.cross_entropy(logits, y), {"accuracy": (logits.argmax(-1) == y).float().mean()}


def described(shape: tuple[int, ...], function: Any = loss_of, **more: Any) -> Any:
    data = {"x": pygrid.Tensor[("batch", *shape)], "y": pygrid.Label(4), **more.pop("data", {})}
    hyper = {"lr": pygrid.Float(RATE), **more.pop("hyper", {})}
    return pygrid.plan(data=data, hyper=hyper, **more)(function)


def steps_of(net: nn.Module, batches: list[tuple[torch.Tensor, torch.Tensor]]) -> list[list[torch.Tensor]]:
    """``loss, metric, *params`` after each step of plain SGD in eager torch."""
    found = []
    for x, y in batches:
        loss, metrics = loss_of(net, x, y)
        grads = torch.autograd.grad(loss, list(net.parameters()))
        with torch.no_grad():
            for one, grad in zip(net.parameters(), grads, strict=True):
                one -= RATE * grad
        found.append([loss.detach(), metrics["accuracy"], *(one.detach().clone() for one in net.parameters())])
    return found


@pytest.mark.filterwarnings("ignore:`torch.jit.load` is deprecated:DeprecationWarning")  # by the test itself
@pytest.mark.parametrize("target", ["torchscript", "torchscript-list"])
@pytest.mark.parametrize("name", NETS)
def test_torchscript_is_what_eager_torch_computes(name: str, target: str, tmp_path: Path) -> None:
    make, shape = NETS[name]
    net = make()
    plan = described(shape).build(net, targets=[target], batch_sizes=SIZES)
    plan.save(tmp_path / "a.plan")
    variants = Plan.load(tmp_path / "a.plan").variants
    assert variants is not None
    assert (variants.unavailable, [one.dialect for one in variants.variants]) == ({}, ["torchscript"])
    (variant,) = variants.variants
    assert list(variant.batch_sizes) == SIZES
    for one in variant.plans:
        net = make()
        start = [param.detach().clone() for param in net.parameters()]
        batches = [(torch.rand(one.batch_size, *shape), torch.randint(0, 4, (one.batch_size,))) for _ in range(STEPS)]
        module = torch.jit.load(io.BytesIO(read_plan(one.plan).torchscript))
        kinds = {node.kind().removeprefix("aten::") for node in module.inlined_graph.nodes() if "aten" in node.kind()}
        assert kinds <= OLD_OPERATORS
        for (x, y), expected in zip(batches, steps_of(net, batches), strict=True):
            size = torch.tensor([one.batch_size])
            with torch.no_grad():
                found = module(x, F.one_hot(y, 4).float(), size, torch.tensor([RATE]), start)
            assert type(found) is (list if target == "torchscript-list" else tuple)
            for right, ours in zip(expected, found, strict=True):
                assert ours.shape == right.shape
                np.testing.assert_allclose(ours.numpy(), right.numpy(), rtol=0, atol=2e-6)
            start = list(found[2:])


def with_dropout(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(F.dropout(model(x), 0.5), y)


def with_strength(model: nn.Module, x: torch.Tensor, y: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(model(x), y) * strength


def with_weights(model: nn.Module, x: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return (F.cross_entropy(model(x), y, reduction="none") * w).mean()


def of_numbers(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(model(x.float()), y)


LINEAR = nn.Linear(6, 4)
MISFITS: dict[str, tuple[Any, nn.Module, dict[str, Any], str]] = {
    "optimizer state": (described((6,)), LINEAR, {"optimizer": pygrid.optim.SGD(momentum=0.9)}, "optimizer state"),
    "buffers": (described((6,)), nn.Sequential(LINEAR, nn.BatchNorm1d(4)), {}, "the buffer"),
    "random numbers": (described((6,), with_dropout), LINEAR, {}, "random numbers"),
    "a hyperparameter": (
        described((6,), with_strength, hyper={"strength": pygrid.Float(1.0)}), LINEAR, {}, "'strength'"),
    "three data ports": (
        described((6,), with_weights, data={"w": pygrid.Tensor["batch"]}), LINEAR, {}, "3 data ports"),
    "whole numbers": (
        described((6,), of_numbers, data={"x": pygrid.Integers["batch", 6](9)}), LINEAR, {}, "is int64"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISFITS)
def test_a_plan_that_does_not_fit_is_built_without_variants(name: str) -> None:
    made, net, options, reason = MISFITS[name]
    plan = made.build(net, targets=["tfjs", "torchscript", "list"], **options)
    assert plan.variants is not None
    assert plan.variants.variants == ()
    assert set(plan.variants.unavailable) == {"tfjs", "torchscript", "list"}
    for text in plan.variants.unavailable.values():
        assert reason in text
        assert Path(__file__).name in text, "the author's line"
    assert plan.id == made.build(net, **options).id, "a variant is not part of the plan file"


def test_an_operator_outside_of_a_table_leaves_the_other_variants() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(3, stride=1), nn.Flatten(), nn.Linear(32, 4))
    plan = described((1, 8, 8)).build(net, targets=["tfjs", "torchscript"], batch_sizes=[2])
    assert plan.variants is not None
    assert [one.dialect for one in plan.variants.variants] == ["torchscript"]
    assert "max_pool2d" in plan.variants.unavailable["tfjs"]
    assert Path(__file__).name in plan.variants.unavailable["tfjs"], "the author's line"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"targets": ["onnx", "caffe"]}, "targets has 'caffe'; known targets are onnx, tfjs, torchscript"),
        ({"targets": ["torchscript", "torchscript-list"]}, "either torchscript or torchscript-list"),
        ({"batch_sizes": [4]}, "add targets"),
        ({"targets": ["onnx"], "batch_sizes": [4]}, "add targets"),
        ({"targets": ["tfjs"], "batch_sizes": []}, "batch_sizes must be"),
        ({"targets": ["tfjs"], "batch_sizes": [0]}, "batch_sizes must be"),
        ({"targets": ["tfjs"], "batch_sizes": list(range(1, 18))}, "batch_sizes must be"),
    ],
)
def test_targets_and_batch_sizes_that_are_not_valid(options: dict[str, Any], words: str) -> None:
    with pytest.raises(AuthoringError) as caught:
        described((6,)).build(LINEAR, **options)
    assert words in caught.value.detail


def test_the_file_of_variants_belongs_to_one_plan(tmp_path: Path) -> None:
    plan = described((6,)).build(LINEAR, targets=["tfjs", "list"], batch_sizes=[2])
    path = tmp_path / "a.plan"
    plan.save(path)
    assert Plan.load(path).variants == plan.variants
    path.write_bytes(logistic_plan().data)
    with pytest.raises(InvalidPlan) as caught:
        Plan.load(path)
    assert caught.value.code == "plan_variant_invalid"
    logistic_plan().save(path)
    assert Plan.load(path).variants is None, "the file of another plan is removed"


def test_targets_of_both_signs_are_tried() -> None:
    """A variant that cuts off negative targets computes another step, although its loss is right for the others."""
    data = {"x": pygrid.Tensor["batch", 6], "y": pygrid.Tensor["batch", 4]}
    plan = pygrid.plan(data=data, hyper={"lr": pygrid.Float(RATE)})(squared).build(
        LINEAR, targets=["tfjs"], batch_sizes=[3]
    )
    assert plan.variants is not None
    (variant,) = plan.variants.variants
    check_variant(plan, variant)
    message = read_plan(variant.plans[0].plan)
    cut = Action("tf.relu", (Ref(message.inputs[1]),), 10**9)
    moved = [
        replace(one, args=tuple(_renamed(arg, message.inputs[1], 10**9) for arg in one.args)) for one in message.actions
    ]
    wrong = write_plan(replace(message, actions=(cut, *moved)))
    with pytest.raises(InvalidPlan) as caught:
        check_variant(plan, msgspec.structs.replace(variant, plans=(VariantPlan(3, wrong),)))
    assert caught.value.code == "plan_variant_deviates"


def squared(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.mse_loss(model(x), y)


def _renamed(value: Any, old: Any, new: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_renamed(one, old, new) for one in value)
    return Ref(new) if value == Ref(old) else value


SOURCE = """
import torch
import torch.nn.functional as F
import pygrid


@pygrid.plan(data={"x": pygrid.Tensor["batch", 4], "y": pygrid.Label(3)}, hyper={"lr": pygrid.Float(0.1)})
def loss(model, x, y):
    return F.cross_entropy(model(x), y)


def make():
    return torch.nn.Linear(4, 3)
"""


def test_the_commands_build_and_describe_variants(tmp_path: Path) -> None:
    source = tmp_path / f"source_{tmp_path.name}.py"
    source.write_text(SOURCE)
    path = tmp_path / "a.plan"
    runner = CliRunner(env={"COLUMNS": "200"})
    command = ["build", f"{source}:loss", "--model", f"{source}:make", "-o", str(path)]
    built = runner.invoke(app, [*command, "--targets", "tfjs, torchscript", "--batch-sizes", "4,8"])
    assert built.exit_code == 0, built.output
    variants = Plan.load(path).variants
    assert variants is not None
    assert [(one.dialect, one.batch_sizes) for one in variants.variants] == [
        ("tfjs", (4, 8)), ("torchscript", (4, 8))
    ]  # fmt: skip
    shown = runner.invoke(app, ["inspect", str(path)])
    assert shown.exit_code == 0, shown.output
    for words in ("Variants for clients of 2020", "syft.js", "KotlinSyft", "tf.matMul"):
        assert words in shown.output
    unable = runner.invoke(app, [*command, "--targets", "tfjs", "--optimizer", "Adam"])
    assert "not available as tfjs" in unable.output
    assert "Not available as tfjs" in runner.invoke(app, ["inspect", str(path)]).output
