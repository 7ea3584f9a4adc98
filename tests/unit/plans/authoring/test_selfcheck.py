"""The self-check of every build finds wrong plans, and passes right plans whose gradients are ill-conditioned.

Should happen: networks whose gradients lose their digits in float32 build. Should not happen: a plan with a sign, a
factor, a term, an axis, a constant or an operator that is not torch's.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mutants import MUTANTS, NETWORKS, Network, classify, constant, edited
from torch import nn

import pygrid
from pygrid.errors import AuthoringError
from pygrid.plans.authoring.emit import Emitted
from pygrid.plans.authoring.lowering import core
from pygrid.plans.authoring.ports import Float
from pygrid.plans.authoring.programs import LossPrograms, Signature, Subject
from pygrid.plans.authoring.selfcheck import Feeder, check_against_eager
from pygrid.plans.authoring.tracing import Trace, trace
from pygrid.plans.manifest import BATCH
from support.thorough import THOROUGH


class Residual(nn.Module):
    """The block of a ResNet-18."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after)
        self.conv2, self.norm2 = nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after)
        self.short: nn.Module = nn.Identity()
        if (before, stride) != (after, 1):
            self.short = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))) + self.short(x))


def resnet() -> nn.Module:
    """A ResNet-18 with a sixteenth of the width: its last stage normalizes four places of each example.

    A usual run has a ResNet-10: the first block of each stage.
    """
    widths = [(4, 4, 1), (4, 4, 1), (4, 8, 2), (8, 8, 1), (8, 16, 2), (16, 16, 1), (16, 32, 2), (32, 32, 1)]
    if not THOROUGH:
        del widths[1::2]
    stem = [nn.Conv2d(3, 4, 7, 2, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    blocks = [Residual(*width) for width in widths]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4))


def vgg() -> nn.Module:
    layers: list[nn.Module] = []
    before = 3
    for after in (4, 8, 16, 16):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
        before = after
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 4))


def normalized_mlp() -> nn.Module:
    layers: list[nn.Module] = []
    for before in (6, 32, 32, 32, 32):
        layers += [nn.Linear(before, 32), nn.BatchNorm1d(32), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(32, 4))


def image(side: int) -> dict[str, Any]:
    return {"x": pygrid.Tensor["batch", 3, side, side], "y": pygrid.Label(4)}


GOOD = NETWORKS | {
    "resnet": Network(resnet, image(64), classify, pygrid.optim.Adam()),
    "vgg": Network(vgg, image(32), classify, pygrid.optim.SGD(momentum=0.9)),
    "mlp with 5 batch norms": Network(normalized_mlp, {"x": pygrid.Tensor["batch", 6], "y": pygrid.Label(4)}, classify),
}


@cache
def programs_of(name: str) -> LossPrograms:
    network, hyper = GOOD[name], {"lr": Float(0.1)}
    signature = Signature.read(network.loss, network.data, hyper, ("model",))
    return LossPrograms(Subject(network.model()), signature, network.data, hyper, network.optimizer)


@cache
def traced(name: str) -> Trace:
    """The trace of a network, which all of its mutants and first weights share."""
    return trace(programs_of(name).train_and_grads, symbol_name=BATCH)


def feeder(name: str, seed: int) -> Feeder:
    """Inputs of a network, with first weights of this seed."""
    programs = programs_of(name)
    torch.manual_seed(seed)
    ports = {port: spec.port() for port, spec in programs.data.items()}
    return Feeder(ports, {"lr": programs.hyper["lr"].hyper()}, Subject(GOOD[name].model()).initial(), BATCH)


def emitted(name: str) -> Emitted:
    return Emitted(programs_of(name).train, traced(name), symbol_name=BATCH)


@pytest.mark.parametrize("seed", range(3 if THOROUGH else 1))
@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n == "resnet" else []) for n in GOOD])
def test_the_right_plan_passes(name: str, seed: int) -> None:
    check_against_eager(emitted(name), feeder(name, seed))


@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_plan_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant = MUTANTS[name]
    if mutant.rule is not None:
        right, wrong = core.REGISTRY[mutant.operator], mutant.rule
        monkeypatch.setitem(core.REGISTRY, mutant.operator, lambda *args, **kwargs: wrong(right, *args, **kwargs))
    graph = emitted(mutant.network)
    if mutant.edit is not None:
        graph = edited(graph, mutant.edit)
    with pytest.raises(AuthoringError) as caught:
        check_against_eager(graph, feeder(mutant.network, 3), (2, 5))
    assert caught.value.code == "plan_deviates"


def test_a_wrong_plan_of_an_ill_conditioned_network_is_found() -> None:
    """Rounding hides this bug in float32: the gradients through batch norms lose most digits in torch, too."""
    name = "mlp with 5 batch norms"
    graph = edited(emitted(name), constant(1e-5, 0.0))
    with pytest.raises(AuthoringError):
        check_against_eager(graph, feeder(name, 0), (2,))


def build(loss: Callable[..., Any]) -> pygrid.plans.Plan:
    return pygrid.plan(data={"x": pygrid.Tensor["batch", 6]}, name="checked")(loss).build(nn.Linear(6, 2))


def test_code_that_insists_on_float32_builds(caplog: pytest.LogCaptureFixture) -> None:
    def loss(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        assert x.dtype == torch.float32
        return model(x).square().mean()

    with caplog.at_level("INFO", logger="pygrid.plans.authoring.selfcheck"):
        assert build(loss).manifest.name == "checked"
    assert "not compared in float64" in caplog.text


def test_code_that_names_float32_is_compared_in_float64(caplog: pytest.LogCaptureFixture) -> None:
    table = torch.rand(6, 6)

    def loss(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        tiny = torch.finfo(x.dtype).eps
        scale = torch.arange(1, 7).to(torch.float32) + torch.zeros(6, dtype=torch.float32)
        normal = F.rms_norm((x * scale).float() @ table, (6,))
        return (model(normal).square() + tiny).log().mean()

    with caplog.at_level("INFO", logger="pygrid.plans.authoring.selfcheck"):
        build(loss)
    assert "not compared" not in caplog.text


def test_training_that_diverges_beyond_float32_builds() -> None:
    def loss(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return torch.exp(40 * model(x).square()).mean()

    build(loss)


def test_pooling_is_undone_in_a_large_image() -> None:
    """ONNX's reference implementation gathers from at most 64 elements along an axis."""

    def loss(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        pooled, places = F.max_pool2d(model(x), 2, return_indices=True)
        return F.cross_entropy(F.max_unpool2d(pooled, places, 2).mean((2, 3)), y)

    data = {"x": pygrid.Tensor["batch", 1, 10, 8], "y": pygrid.Label(3)}
    plan = pygrid.plan(data=data)(loss).build(nn.Conv2d(1, 3, 3, padding=1))
    assert plan.manifest.data["x"].shape == (1, 10, 8)
