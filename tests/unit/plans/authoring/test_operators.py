"""Layers, losses and operators beyond the families, each built into a plan.

The graph of the gradients, which contains the forward pass, is compared with eager torch at batch sizes 1, 2, 5 and 32
by the check that every build runs; `test_build.py` shows that it does not let a wrong operator pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import pygrid
from pygrid.plans import Plan
from pygrid.plans.authoring import initial_params
from pygrid.plans.authoring.build import emit, work_out
from pygrid.plans.authoring.ports import DataSpec
from pygrid.plans.authoring.programs import LossPrograms, Signature, Subject
from pygrid.plans.authoring.selfcheck import Feeder, check_against_eager, is_per_example_independent
from pygrid.plans.independence import judge

VECTOR = {"x": pygrid.Tensor["batch", 12], "y": pygrid.Label(5)}
IMAGE = {"x": pygrid.Tensor["batch", 2, 8, 8], "y": pygrid.Label(5)}
SERIES = {"x": pygrid.Tensor["batch", 2, 10], "y": pygrid.Label(5)}
REGRESSION = {"x": pygrid.Tensor["batch", 12], "y": pygrid.Tensor["batch", 5]}
TOKENS = {"x": pygrid.Integers["batch", 6](20), "y": pygrid.Label(5)}


class Made(nn.Module):
    """A model from a function and its parts."""

    def __init__(self, function: Callable[..., torch.Tensor], **parts: nn.Module | torch.Tensor) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            if isinstance(part, nn.Module):
                self.add_module(name, part)
            else:
                self.register_buffer(name, part)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self, x)


def cross_entropy(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(model(x), y)


def is_independent(model: nn.Module, data: dict[str, DataSpec], loss: Callable[..., Any] = cross_entropy) -> bool:
    """Check the gradients of a loss against torch; gives whether examples are found not to influence each other."""
    hyper = {"lr": pygrid.Float(0.1)}
    signature = Signature.read(loss, data, hyper, ("model",))
    programs = LossPrograms(Subject(model), signature, data, hyper, pygrid.optim.SGD())
    graph = emit((programs.grads, (programs.grads,)), symbol_name="batch")["grads"]
    ports = {name: spec.port() for name, spec in data.items()}
    feeder = Feeder(ports, {"lr": hyper["lr"].hyper()}, initial_params(model), "batch")
    check_against_eager(graph, feeder)
    return judge(work_out(graph, max_n=64)).independent and is_per_example_independent(graph, feeder)


def build(model: nn.Module, data: dict[str, DataSpec], loss: Callable[..., Any] = cross_entropy) -> Plan:
    return pygrid.plan(data=data, name="operator")(loss).build(model)


ACTIVATIONS = [
    nn.ELU(), nn.CELU(), nn.SELU(), nn.Softplus(beta=2), nn.LeakyReLU(), nn.SiLU(), nn.GELU(), nn.GELU("tanh"),
    nn.Tanh(),
    nn.Sigmoid(), nn.Hardsigmoid(), nn.Hardswish(), nn.Hardtanh(), nn.ReLU6(), nn.PReLU(), nn.Mish(), nn.Softsign(),
    nn.LogSigmoid(), nn.Softmax(-1), nn.LayerNorm(8), nn.RMSNorm(8), nn.ReLU(inplace=True), nn.Softshrink(),
    nn.Sequential(nn.Linear(8, 16), nn.GLU()),
]  # fmt: skip


@pytest.mark.parametrize("layer", ACTIVATIONS, ids=repr)
def test_activations_and_norms(layer: nn.Module) -> None:
    assert is_independent(nn.Sequential(nn.Linear(12, 8), layer, nn.Linear(8, 5)), VECTOR)


IMAGE_LAYERS = {
    "average pool": [nn.Conv2d(2, 3, 3), nn.ReLU(), nn.AvgPool2d(2)],
    "average pool, padded": [nn.Conv2d(2, 3, 3), nn.AvgPool2d(3, 2, 1)],
    "max pool, overlapping": [nn.Conv2d(2, 3, 3), nn.MaxPool2d(3, 2, 1)],
    "stride": [nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.Conv2d(3, 3, 3, stride=2)],
    "dilation": [nn.Conv2d(2, 3, 3), nn.Conv2d(3, 3, 3, dilation=2)],
    "groups": [nn.Conv2d(2, 4, 3, groups=2), nn.Conv2d(4, 4, 3, groups=4)],
    "kernel 3x1, no bias": [nn.Conv2d(2, 3, (3, 1), bias=False)],
    "kernel 1": [nn.Conv2d(2, 3, 1), nn.Conv2d(3, 3, 1, stride=2)],
    "transposed": [nn.Conv2d(2, 3, 3), nn.ConvTranspose2d(3, 2, 3, stride=2, padding=1, output_padding=1)],
    "transposed, groups": [nn.Conv2d(2, 4, 3), nn.ConvTranspose2d(4, 4, 2, stride=2, groups=2)],
    "adaptive average pool": [nn.Conv2d(2, 3, 3), nn.AdaptiveAvgPool2d(2)],
    "global average pool": [nn.Conv2d(2, 3, 3), nn.AdaptiveAvgPool2d(1)],
    "adaptive max pool": [nn.Conv2d(2, 3, 3), nn.AdaptiveMaxPool2d(2)],
    "instance norm": [nn.Conv2d(2, 4, 3), nn.InstanceNorm2d(4, affine=True)],
    "reflection pad": [nn.ReflectionPad2d(1), nn.Conv2d(2, 3, 3)],
    "circular pad": [nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular")],
    "same pad": [nn.Conv2d(2, 3, 3, padding="same")],
    "response norm": [nn.Conv2d(2, 3, 3), nn.LocalResponseNorm(2)],
    "upsampling": [nn.Conv2d(2, 3, 3), nn.Upsample(scale_factor=2)],
    "pixel shuffle": [nn.Conv2d(2, 4, 3), nn.PixelShuffle(2)],
}


@pytest.mark.parametrize("name", IMAGE_LAYERS)
def test_image_layers(name: str) -> None:
    model = nn.Sequential(*IMAGE_LAYERS[name], nn.Flatten(), nn.LazyLinear(5))
    model(torch.zeros(2, 2, 8, 8))
    assert is_independent(model, IMAGE)


@pytest.mark.parametrize(
    "layers",
    [
        [nn.Conv1d(2, 3, 3)],
        [nn.Conv1d(2, 3, 3, padding=1), nn.MaxPool1d(2)],
        [nn.Conv1d(2, 3, 3, padding=1), nn.AvgPool1d(2)],
        [nn.Conv1d(2, 3, 3), nn.AdaptiveAvgPool1d(1)],
    ],
    ids=["conv1d", "max pool", "average pool", "global average pool"],
)
def test_series_layers(layers: list[nn.Module]) -> None:
    model = nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(5))
    model(torch.zeros(2, 2, 10))
    assert is_independent(model, SERIES)


REGRESSION_LOSSES: dict[str, Callable[..., torch.Tensor]] = {
    "bce with logits": F.binary_cross_entropy_with_logits,
    "bce": lambda o, y: F.binary_cross_entropy(torch.sigmoid(o), y),
    "l1": F.l1_loss,
    "mse": F.mse_loss,
    "mse by hand": lambda o, y: ((o - y) ** 2).sum() / o.shape[0],
    "huber": F.huber_loss,
    "gaussian": lambda o, y: F.gaussian_nll_loss(o, y, F.softplus(o), full=True),
    "gaussian of one variance": lambda o, y: F.gaussian_nll_loss(o, y, (o * o).sum(-1), reduction="sum"),
    "differences that cancel": lambda o, y: (o.exp().log() - o).mean(),
    "smooth l1": F.smooth_l1_loss,
    "kl divergence": lambda o, y: F.kl_div(o.log_softmax(-1), y.softmax(-1), reduction="batchmean"),
    "soft targets": lambda o, y: F.cross_entropy(o, y.softmax(-1)),
    "poisson": F.poisson_nll_loss,
    "cosine": lambda o, y: (1 - F.cosine_similarity(o, y)).mean(),
    "norms": lambda o, y: ((o - y).norm(dim=1) + (o - y).norm(p=1, dim=1) + (o - y).norm(p=3, dim=1)).mean(),
    "log-sum-exp": lambda o, y: (o.logsumexp(1) - (o * y).sum(1)).mean(),
    "variance": lambda o, y: (o.var(1) + o.std(1, unbiased=False)).mean(),
    "hinge": lambda o, y: torch.clamp(1 - o * (2 * y - 1), min=0).mean(),
    "extremes": lambda o, y: (o.max(1).values + o.min(1)[0] + o.amax(1)).mean(),
    "functions": lambda o, y: (o.sin() + o.cos() * o.abs() + torch.log1p(o.square()) + torch.expm1(o * 0.1)).mean(),
    "powers": lambda o, y: (y.pow(1.5) * o + o**3 + (y + 1).sqrt() * o + (y + 1).rsqrt() * o).mean(),
    "comparisons": lambda o, y: torch.where((o > y) & ~(y < 0.2) | (o == y), o, o * y).mean(),
    "rounding": lambda o, y: (
        o * torch.floor(y * 3) + o * torch.ceil(y * 3) + o * ((y * 7) % 2) + o * (y * 7 // 2)
    ).mean(),
}


@pytest.mark.parametrize("name", REGRESSION_LOSSES)
def test_losses_on_numbers(name: str) -> None:
    loss = REGRESSION_LOSSES[name]
    assert is_independent(nn.Linear(12, 5), REGRESSION, lambda model, x, y: loss(model(x), y))


LABEL_LOSSES: dict[str, Callable[..., torch.Tensor]] = {
    "label smoothing": lambda o, y: F.cross_entropy(o, y, label_smoothing=0.1),
    "nll": lambda o, y: F.nll_loss(o.log_softmax(1), y),
    "per example": lambda o, y: F.cross_entropy(o, y, reduction="none").mean(),
    "sum": lambda o, y: F.cross_entropy(o, y, reduction="sum"),
    "picked by index": lambda o, y: -o.log_softmax(-1)[torch.arange(o.shape[0]), y].mean(),
    "gathered": lambda o, y: -o.log_softmax(-1).gather(1, y[:, None]).mean(),
    "one-hot": lambda o, y: -(F.one_hot(y, 5) * o.log_softmax(-1)).sum(-1).mean(),
    "focal": lambda o, y: (
        (1 - (-F.cross_entropy(o, y, reduction="none")).exp()) ** 2 * F.nll_loss(o, y, reduction="none")
    ).mean(),
    "multi-margin": F.multi_margin_loss,
}


@pytest.mark.parametrize("name", LABEL_LOSSES)
def test_losses_on_labels(name: str) -> None:
    loss = LABEL_LOSSES[name]
    assert is_independent(nn.Linear(12, 5), VECTOR, lambda model, x, y: loss(model(x), y))


def write_to_mask(model: Any, x: torch.Tensor) -> torch.Tensor:
    h = model.l(x).clone()
    h[h < 0] = 0
    return h


SHAPES: dict[str, Callable[[], nn.Module]] = {
    "einsum": lambda: Made(lambda m, x: torch.einsum("bi,oi->bo", x, m.l.weight), l=nn.Linear(12, 5)),
    "einsum, three axes": lambda: Made(
        lambda m, x: torch.einsum("bij,jo->bo", x.reshape(x.shape[0], 3, 4), m.l.weight.t()), l=nn.Linear(4, 5)
    ),
    "slices, flip, chunk, cat": lambda: Made(
        lambda m, x: m.l(torch.cat([x[:, :6], x[:, 6:].flip(1), x.chunk(3, 1)[1]], 1)), l=nn.Linear(16, 5)
    ),
    "split, stack": lambda: Made(lambda m, x: torch.stack([m.l(p) for p in x.split(4, 1)]).mean(0), l=nn.Linear(4, 5)),
    "slice with a step": lambda: Made(lambda m, x: m.l(m.a(x)[:, 1::2]), a=nn.Linear(12, 9), l=nn.Linear(4, 5)),
    "one position": lambda: Made(
        lambda m, x: m.l(m.a(x).view(-1, 3, 4)[:, -1]), a=nn.Linear(12, 12), l=nn.Linear(4, 5)
    ),
    "masked fill": lambda: Made(lambda m, x: m.l(x).masked_fill(x[:, :5] > 0.9, 0.0), l=nn.Linear(12, 5)),
    "writing to a mask": lambda: Made(write_to_mask, l=nn.Linear(12, 5)),
    "linear on three axes": lambda: Made(lambda m, x: m.l(x.view(-1, 3, 4)).mean(1), l=nn.Linear(4, 5)),
    "outer product": lambda: Made(lambda m, x: m.l((x[:, :3, None] * x[:, None, :4]).flatten(1)), l=nn.Linear(12, 5)),
    "batched product": lambda: Made(
        lambda m, x: m.l(torch.bmm(x.view(-1, 3, 4), x.view(-1, 3, 4).transpose(1, 2)).flatten(1)), l=nn.Linear(9, 5)
    ),
    "sliding windows": lambda: Made(lambda m, x: m.l(x.unfold(1, 4, 2).mean(1)), l=nn.Linear(4, 5)),
    "repetition": lambda: Made(
        lambda m, x: m.l(torch.cat([x.repeat(1, 2), x.repeat_interleave(2, 1)], 1)), l=nn.Linear(48, 5)
    ),
    "constant matrix": lambda: Made(lambda m, x: m.l(x @ torch.ones(12, 12).triu()), l=nn.Linear(12, 5)),
    "weight norm": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(12, 5)),
    "lstm cell": lambda: Made(lambda m, x: m.l(m.a(x)[0]), a=nn.LSTMCell(12, 6), l=nn.Linear(6, 5)),
    "gru cell": lambda: Made(lambda m, x: m.l(m.a(x)), a=nn.GRUCell(12, 6), l=nn.Linear(6, 5)),
    "rnn": lambda: Made(
        lambda m, x: m.l(m.a(x.view(-1, 3, 4))[0][:, -1]), a=nn.RNN(4, 6, batch_first=True), l=nn.Linear(6, 5)
    ),
    "rnn, relu, no bias": lambda: Made(
        lambda m, x: m.l(m.a(x.view(-1, 3, 4))[0][:, -1]),
        a=nn.RNN(4, 6, nonlinearity="relu", bias=False, batch_first=True),
        l=nn.Linear(6, 5),
    ),
    "lstm, time first": lambda: Made(
        lambda m, x: m.l(m.a(x.view(-1, 3, 4).transpose(0, 1))[1][0][-1]), a=nn.LSTM(4, 6), l=nn.Linear(6, 5)
    ),
    "multi-head attention": lambda: Made(
        lambda m, x: m.l(m.a(*[x.view(-1, 3, 4)] * 3)[0].mean(1)),
        a=nn.MultiheadAttention(4, 2, batch_first=True),
        l=nn.Linear(4, 5),
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_and_modules(name: str) -> None:
    assert is_independent(SHAPES[name](), VECTOR)


@pytest.mark.parametrize(
    "model",
    [
        lambda: Made(lambda m, x: m.l(m.e(x).mean(1)), e=nn.Embedding(20, 4, padding_idx=0), l=nn.Linear(4, 5)),
        lambda: Made(lambda m, x: m.l(m.e.weight[x].sum(1)), e=nn.Embedding(20, 4), l=nn.Linear(4, 5)),
    ],
    ids=["padding", "weight[x]"],
)
def test_embeddings(model: Callable[[], nn.Module]) -> None:
    assert is_independent(model(), TOKENS)


def test_two_lstm_layers_with_dropout_between() -> None:
    layer = nn.LSTM(4, 6, 2, dropout=0.2, batch_first=True)
    plan = build(Made(lambda m, x: m.l(m.a(x.view(-1, 3, 4))[0][:, -1]), a=layer, l=nn.Linear(6, 5)), VECTOR)
    assert plan.manifest.noise["dropout0"].shape == (3, 6)


def test_transformer_encoder_layer_takes_noise_for_each_of_its_four_dropouts() -> None:
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    plan = build(Made(lambda m, x: m.l(m.a(x.view(-1, 3, 4)).mean(1)), a=layer, l=nn.Linear(4, 5)), VECTOR)
    assert [port.shape for port in plan.manifest.noise.values()] == [(2, 3, 3), (3, 4), (3, 8), (3, 4)]


class TiedLanguageModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.out = nn.Linear(8, 20, bias=False)
        self.out.weight = self.embedding.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.embedding(x))


def test_a_loss_on_the_gradient_of_the_model() -> None:
    def smoothness(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        place = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(model(place).sum(), place, create_graph=True)
        return slope.square().sum(1).mean()

    assert is_independent(nn.Sequential(nn.Linear(12, 4), nn.Tanh(), nn.Linear(4, 3)), VECTOR, smoothness)


def test_a_tied_weight_is_one_parameter() -> None:
    def next_token(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(model(x)[:, :-1].reshape(-1, 20), x[:, 1:].reshape(-1))

    plan = build(TiedLanguageModel(), {"x": TOKENS["x"]}, next_token)
    assert {p.name for p in plan.manifest.graphs["grads"].outputs} == {"grads/embedding.weight", "metrics/loss"}


def test_frozen_parameters_are_buffers_that_stay() -> None:
    model = nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 5))
    model[0].requires_grad_(False)
    train = build(model, VECTOR).manifest.graphs["train"]
    assert {p.name for p in train.inputs if p.name.startswith("buffers/")} == {"buffers/0.weight", "buffers/0.bias"}
    assert not [p.name for p in train.outputs if p.name.startswith("new/buffers/")]


@pytest.mark.parametrize("is_passed_in_evaluation_mode", [False, True])
def test_a_layer_in_evaluation_mode_stays_in_it(is_passed_in_evaluation_mode: bool) -> None:
    """Frozen batch norm, as in fine-tuning; a model that is in evaluation mode as a whole trains in training mode."""
    model = nn.Sequential(nn.Linear(12, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 5))
    model[1].running_mean.fill_(0.5)
    model[1].eval()
    model[2].eval()
    plan = build(model.eval() if is_passed_in_evaluation_mode else model, VECTOR)
    changed = [p.name for p in plan.manifest.graphs["train"].outputs if p.name.startswith("new/buffers/")]
    assert bool(changed) is is_passed_in_evaluation_mode
    assert bool(plan.manifest.noise) is is_passed_in_evaluation_mode
    assert plan.manifest.per_example_independent is not is_passed_in_evaluation_mode


@pytest.mark.parametrize("in_place", [True, False])
def test_buffers_that_the_forward_pass_changes_come_out(in_place: bool) -> None:
    def forward(model: Any, x: torch.Tensor) -> torch.Tensor:
        if in_place:
            model.average.mul_(0.9).add_(0.1 * x.mean(0))
        else:
            model.average = 0.9 * model.average + 0.1 * x.mean(0)
        return model.l(x)

    plan = build(Made(forward, l=nn.Linear(12, 5), average=torch.zeros(12)), VECTOR)
    assert "new/buffers/average" in [port.name for port in plan.manifest.graphs["train"].outputs]


@pytest.mark.parametrize(
    ("model", "loss"),
    [
        (lambda: nn.Sequential(nn.Linear(12, 8), nn.BatchNorm1d(8), nn.Linear(8, 5)), cross_entropy),
        (lambda: nn.Linear(12, 5), lambda model, x, y: F.cross_entropy(model(x - x.mean(0)), y)),
        (lambda: nn.Linear(12, 5), lambda model, x, y: (F.normalize(model(x)) @ F.normalize(model(x)).t()).mean()),
        (
            lambda: nn.Linear(12, 5),
            lambda model, x, y: F.cross_entropy(model(x), y, weight=torch.tensor([1.0, 2, 3, 4, 5])),
        ),
        (lambda: nn.Linear(12, 5), lambda model, x, y: F.cross_entropy(model(x), y, ignore_index=0)),
    ],
    ids=["batch norm", "centred on the batch", "contrastive", "class weights", "ignored labels"],
)
def test_examples_that_influence_each_other_are_noticed(
    model: Callable[[], nn.Module], loss: Callable[..., Any]
) -> None:
    assert not is_independent(model(), VECTOR, loss)
