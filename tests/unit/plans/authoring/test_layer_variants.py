"""Layers and functions with all their options: results and gradients are those of torch.

Each case is a function of ``x``, one example of which has the shape of the case. Its graph computes the result for a
batch, and the gradients of a weighted sum of the result by the data and by a parameter. Checked at two batch sizes:

- result and gradients equal those of eager torch. Tolerance: float32 rounds at 6e-8; sums in another order lose one to
  two digits. A wrong element differs in the first digits;
- the gate proves that examples do not influence each other, so private plans may use the case. Cases in `MIXING` are
  refused there.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import pygrid
from pygrid.plans.authoring.build import emit, work_out
from pygrid.plans.authoring.functions import ctc_loss, grid_sample
from pygrid.plans.authoring.interception import Interception
from pygrid.plans.authoring.tracing import Arrays, Program
from pygrid.plans.independence import judge
from pygrid.plans.manifest import Port
from pygrid.plans.sessions import OnnxSession

Function = Callable[[torch.Tensor], torch.Tensor]
Shape = tuple[int, ...]

IMAGE, SERIES, VOLUME = (2, 7, 6), (2, 9), (2, 4, 5, 3)


def _padding() -> Iterator[tuple[Shape, Function]]:
    yield from (
        ((2, 9), nn.ReflectionPad1d((3, 0))),
        ((2, 9), nn.ReplicationPad1d((0, 12))),
        ((2, 1), nn.ReplicationPad1d(2)),
        (IMAGE, nn.ReflectionPad2d((2, 1, 0, 6))),
        (IMAGE, nn.ReplicationPad2d((2, 0, 1, 8))),
        (VOLUME, nn.ReflectionPad3d((2, 1, 4, 0, 0, 3))),
        (VOLUME, nn.ReplicationPad3d((2, 1, 0, 1, 5, 0))),
    )
    for mode in ("reflect", "replicate", "circular"):
        yield IMAGE, lambda x, mode=mode: F.pad(x, (1, 2, 2, 1), mode)


def _max_pools() -> Iterator[tuple[Shape, Function]]:
    yield from (
        (SERIES, nn.MaxPool1d(2, ceil_mode=True)),
        (IMAGE, nn.MaxPool2d(2, ceil_mode=True)),
        (IMAGE, nn.MaxPool2d(3, 2, 1, ceil_mode=True)),
        (IMAGE, nn.MaxPool2d(2, 4, ceil_mode=True)),
        (IMAGE, nn.MaxPool2d(3, 1, 1, dilation=2)),
        (IMAGE, lambda x: F.max_pool2d(torch.relu(x), 3, 2)),
        (VOLUME, nn.MaxPool3d(2)),
        (VOLUME, nn.MaxPool3d((2, 3, 1), (2, 1, 2), (1, 1, 0), ceil_mode=True)),
        (VOLUME, nn.MaxPool3d(2, 1, dilation=(2, 1, 2))),
        (SERIES, nn.AdaptiveMaxPool1d(3)),
        (SERIES, nn.AdaptiveMaxPool1d(4)),
        (IMAGE, nn.AdaptiveMaxPool2d((4, None))),
        (VOLUME, nn.AdaptiveMaxPool3d((2, 3, 1))),
        (VOLUME, nn.AdaptiveMaxPool3d(1)),
        (IMAGE, lambda x: F.adaptive_max_pool2d(x, (3, 4), return_indices=True)[1] * x.mean((1, 2, 3), True)),
    )


def _average_pools() -> Iterator[tuple[Shape, Function]]:
    yield from (
        (SERIES, nn.AvgPool1d(2, ceil_mode=True)),
        (SERIES, nn.AvgPool1d(3, 2, 1, count_include_pad=False)),
        (IMAGE, nn.AvgPool2d(3, 2, 1, ceil_mode=True)),
        (IMAGE, nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False)),
        (IMAGE, nn.AvgPool2d(2, 4, ceil_mode=True)),
        (IMAGE, nn.AvgPool2d((3, 2), divisor_override=4)),
        (VOLUME, nn.AvgPool3d((2, 3, 1), (2, 2, 1), (1, 1, 0), ceil_mode=True, count_include_pad=False)),
        (VOLUME, nn.AvgPool3d(2, divisor_override=3)),
        (SERIES, nn.AdaptiveAvgPool1d(4)),
        (IMAGE, nn.AdaptiveAvgPool2d((9, 4))),
        (IMAGE, nn.AdaptiveAvgPool2d((None, 3))),
        (VOLUME, nn.AdaptiveAvgPool3d((2, 5, 2))),
        (VOLUME, nn.AdaptiveAvgPool3d((2, 5, 1))),
        (IMAGE, nn.LPPool2d(2, 2, ceil_mode=True)),
    )


def _order() -> Iterator[tuple[Shape, Function]]:
    yield from (
        (SERIES, lambda x: x.cumsum(2)),
        (IMAGE, lambda x: x.cumsum(1) * x.flip(3).cumsum(-1).flip(3)),
        ((1,), lambda x: x.cumsum(1)),
        (SERIES, lambda x: x.topk(3).values),
        (SERIES, lambda x: torch.relu(x).topk(9, 2, largest=False)[0]),
        (IMAGE, lambda x: x.topk(2, 2)[0] * x.topk(2, 2)[1]),
        ((40,), lambda x: x.topk(20).values),
        (SERIES, lambda x: torch.where(x > 1, x, float("-inf")).topk(4)[0].clamp(min=-2)),
        (SERIES, lambda x: x.sort(1).values),
        (IMAGE, lambda x: torch.relu(x).sort(2, descending=True)[0]),
        (SERIES, lambda x: x.gather(2, x.argsort(2, descending=True))),
        (SERIES, lambda x: (x * 9).long().sort(2).values * x),
        (SERIES, lambda x: x.median(2).values + x.kthvalue(4, 2)[0]),
        (SERIES, lambda x: x.msort() if x.shape[0] == 0 else torch.quantile(x, 0.3, dim=2)),
    )


def _functions() -> Iterator[tuple[Shape, Function]]:
    """Functions that are formulas of others, several in one graph; `test_formulas` has all of them."""
    yield (5,), lambda x: torch.atan2(x, x.flip(1)) + torch.hypot(x, x.flip(1)) + (x.sigmoid() * 0.9).asin()
    yield (5,), lambda x: (x.abs() + 0.1).log2() + (x * 3).round() * x.tan().detach()
    yield (5, 4), lambda x: torch.relu(x + 1).prod(axis=2, keepdim=True) * torch.relu(x + 2).cumprod(2)
    yield (5, 3), lambda x: x.prod(1, keepdim=True) + x.logcumsumexp(1)
    yield (3, 4), lambda x: torch.take_along_dim(x, _integers(x[:, :1], 4), 2) + x.take_along_dim(x.argsort(1), 1)
    yield (3,), lambda x: torch.kron(x, torch.arange(3.0)) + torch.kron(torch.arange(3.0), x)
    yield (6,), _Module(lambda m, x: torch.linalg.multi_dot([x, m.a.weight.t(), m.a.weight]), a=nn.Linear(6, 3))
    yield (3, 3), lambda x: torch.einsum("bii->bi", x) + torch.einsum("bii->b", x).unsqueeze(1)
    yield (4, 3), lambda x: torch.lgamma(3 * x.abs() + 0.05) + torch.digamma(3 * x.abs() + 0.3)
    yield (4, 3), lambda x: torch.mvlgamma(x.exp() + 1, 2)
    yield (5,), lambda x: torch.lgamma(-x.sigmoid() - 2.02) * torch.digamma(-x.sigmoid() * 0.9 - 0.05)


def _statistics() -> Iterator[tuple[Shape, Function]]:
    yield (3, 7), lambda x: torch.stack([torch.cov(x.sum(0)), torch.cov(x.sum(0), correction=0)]).reshape(1, -1)
    yield (7,), lambda x: x.T.cov(correction=0).reshape(1, -1)
    yield (3,), lambda x: torch.cov(x.T, fweights=torch.arange(x.shape[0]) + 2, aweights=x[:, 0].abs()).reshape(1, -1)
    yield (2, 5), lambda x: torch.corrcoef(x.mean(0)).reshape(1, -1) + x.mean((0, 1)).cov() + x.mean((0, 1)).corrcoef()
    yield (3, 5), lambda x: torch.vmap(torch.cov)(x) + torch.vmap(torch.corrcoef)(x)


def _places() -> Iterator[tuple[Shape, Function]]:
    """Places that are computed from data: bins, parts of an array, points of an image."""
    edges = torch.tensor([-0.5, 0.0, 0.0, 0.5])
    for right in (False, True):
        yield (4,), lambda x, r=right: torch.bucketize((2 * x).round() / 2, edges, right=r) * x
    yield (4,), lambda x: torch.bucketize(x, edges, out_int32=True) * torch.searchsorted(edges, x, side="right") * x
    yield (3, 4), lambda x: torch.searchsorted(x.sort(2).values, x.flip(2)) + x
    yield (4,), lambda x: torch.searchsorted(edges.flip(0), x, sorter=torch.tensor([3, 2, 1, 0])) + x
    for reduce, with_own in itertools.product(("sum", "mean", "amax", "amin"), (True, False)):
        yield (6, 2), lambda x, r=reduce, own=with_own: _spread(x, r, include_self=own)
    for mode, padding, corners in itertools.product(("bilinear", "nearest"), ("zeros", "border"), (True, False)):
        options = {"mode": mode, "padding_mode": padding, "align_corners": corners}
        yield IMAGE, lambda x, given=options: F.grid_sample(x, 1.4 * torch.tanh(x[:, :, 1:4]).movedim(1, 3), **given)
    yield VOLUME, lambda x: F.grid_sample(x, x[:, 0, :, :, :].unsqueeze(1), align_corners=True)
    for corners in (True, False):
        yield (1, 5, 4), lambda x, c=corners: F.grid_sample(x, _affine(x[:, 0, :2, :3], x, c), align_corners=c)


def _affine(theta: torch.Tensor, x: torch.Tensor, corners: bool) -> torch.Tensor:
    return F.affine_grid(theta, [x.shape[0], 1, 3, 2], align_corners=corners)


def _spread(x: torch.Tensor, reduce: str, *, include_self: bool) -> torch.Tensor:
    start = torch.relu(x[:, :4]) - 0.5
    return start.scatter_reduce(1, _integers(x, 4), torch.relu(x) - 0.5, reduce, include_self=include_self)


def _recurrent() -> Iterator[tuple[Shape, Function]]:
    options = {"batch_first": True, "bidirectional": True}
    for layer in (nn.LSTM(2, 3, **options), nn.GRU(2, 2, 2, bias=False, **options), nn.RNN(2, 3, 2, **options)):
        yield (2, 2), _Module(lambda m, x: m.a(x)[0], a=layer)
    yield (2, 2), _Module(lambda m, x: torch.cat(m.a(x)[1]).transpose(0, 1), a=nn.LSTM(2, 3, 2, **options))
    yield (2, 2), _Module(lambda m, x: m.a(x)[1][0].transpose(0, 1), a=nn.LSTM(2, 4, proj_size=2, **options))
    yield (3, 2), _Module(lambda m, x: m.a(x.transpose(0, 1))[0].transpose(0, 1), a=nn.GRU(2, 3, bidirectional=True))
    for layer in (nn.LSTM(2, 2, **options), nn.GRU(2, 2, 2, batch_first=True), nn.RNN(2, 3, batch_first=True)):
        yield (3, 2), _Module(lambda m, x: pygrid.run_with_lengths(m.a, x, _integers(x[:, 0, 0], 3) + 1)[0], a=layer)
    yield (2, 2), _Module(_last_states, a=nn.LSTM(2, 3, bidirectional=True))


def _last_states(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    _, (h, c) = pygrid.run_with_lengths(model.a, x.transpose(0, 1), _integers(x[:, 0, 0], 2) + 1)
    return torch.cat([h, c]).transpose(0, 1)


def _look_up() -> Iterator[tuple[Shape, Function]]:
    for mode in ("sum", "mean", "max"):
        yield (6,), _bag(nn.EmbeddingBag(9, 3, mode=mode))
        yield (6,), _bag(nn.EmbeddingBag(3, 2, mode=mode, padding_idx=-1))
    yield (6,), _Module(lambda m, x: m.a(_integers(x, 9), per_sample_weights=x), a=nn.EmbeddingBag(9, 3, mode="sum"))
    yield (6,), _bag(nn.EmbeddingBag(9, 3, mode="sum", sparse=True))
    yield (7,), _Module(lambda m, x: m.a(x[:, :4], x[:, 3:]), a=nn.Bilinear(4, 4, 3))
    yield (3, 7), _Module(lambda m, x: m.a(x[..., :2], x[..., 2:]), a=nn.Bilinear(2, 5, 3, bias=False))
    for p in (2.0, 1.0, 3.0, math.inf):
        yield (4, 3), lambda x, p=p: torch.cdist(x, x[:, :3].flip(1) + 0.5, p)
    yield (4, 3), lambda x: torch.cdist(x, x)
    yield (3,), _Module(lambda m, x: torch.cdist(x, m.a.weight), a=nn.Linear(3, 30))


def _bag(layer: nn.Module) -> Function:
    return _Module(lambda m, x: m.a(_integers(x, m.a.num_embeddings)), a=layer)


def _alignment() -> Iterator[tuple[Shape, Function]]:
    for reduction in ("none", "sum"):
        yield (7, 4), lambda x, r=reduction: _ctc(x, 3, reduction=r)
    yield (7, 4), lambda x: _ctc(x, 3, lengths=True, blank=2)
    yield (4, 4), lambda x: _ctc(x, 6, lengths=True, zero_infinity=True)


def _ctc(x: torch.Tensor, size: int, *, lengths: bool = False, **options: Any) -> torch.Tensor:
    steps, batch = x.shape[1], x.shape[0]
    targets = _integers(x.reshape(batch, -1)[:, :size], 3)
    targets = targets + (targets >= options.get("blank", 0))
    num_steps, num_labels = torch.full((batch,), steps), torch.full((batch,), size)
    if lengths:
        num_steps, num_labels = steps - _integers(x[:, 0, 0], 2), _integers(x[:, 1, 1], size + 1)
    return F.ctc_loss(
        x.transpose(0, 1).log_softmax(-1), targets, num_steps, num_labels, **{"reduction": "none", **options}
    ).reshape(-1, 1)


def _integers(x: torch.Tensor, count: int) -> torch.Tensor:
    """Integers from 0 on that depend on the data."""
    return (x.detach().sigmoid() * count).long()


class _Module(nn.Module):
    """A function of the module and ``x``, with parts whose parameters are inputs of the graph."""

    def __init__(self, function: Callable[..., torch.Tensor], **parts: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self, x)


def _cases() -> dict[str, tuple[Shape, Function]]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        groups = {
            "padding": [*_padding()],
            "max pool": [*_max_pools()],
            "average pool": [*_average_pools()],
            "order": [*_order()],
            "functions": [*_functions()],
            "statistics": [*_statistics()],
            "places": [*_places()],
            "recurrent": [*_recurrent()],
            "look-up and products": [*_look_up()],
            "ctc": [*_alignment()],
        }
    return {f"{group} {number}": case for group, cases in groups.items() for number, case in enumerate(cases)}


CASES = _cases()
MIXING = tuple(f"statistics {number}" for number in range(4))
"""Covariances over the batch; the last case has those within each example."""


def programs(shape: Shape, function: Function) -> tuple[Program, Program]:
    """The program of a case; and its part with the gradients by parameters, which the gate judges."""
    weights = dict(function.named_parameters()) if isinstance(function, nn.Module) else {}
    params = {"p": torch.ones(shape), **weights}
    ports = [Port(f"params/{name}", "float32", tuple(array.shape)) for name, array in params.items()]
    inputs = (*ports, Port("data/x", "float32", ("batch", *shape)))

    def run(arrays: Arrays) -> Arrays:
        leaves = {name: array.detach().requires_grad_() for name, array in arrays.items()}
        x = leaves["data/x"] * leaves["params/p"]
        given = {name: leaves[f"params/{name}"] for name in weights}
        result = torch.func.functional_call(function, given, (x,)) if given else function(x)
        factors = torch.sin(torch.arange(float(result[0].numel()), dtype=result.dtype)).reshape(result.shape[1:])
        grads = torch.autograd.grad(
            (result * factors).sum(), list(leaves.values()), allow_unused=True, materialize_grads=True
        )
        named = {f"grads/{name.removeprefix('params/')}": grad for name, grad in zip(leaves, grads, strict=True)}
        return {"new/result": result.detach(), "new/by_x": named.pop("grads/data/x"), **named}

    whole = Program("train", inputs, run, outputs=("new/", "grads/"))
    return whole, Program("grads", inputs, run, outputs=("grads/",))


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("name", CASES)
def test_results_gradients_and_privacy(name: str) -> None:
    shape, function = CASES[name]
    whole, part = programs(shape, function)
    graphs = emit((whole, (whole, part)), symbol_name="batch")
    outputs = [port.name for port in graphs["train"].outputs]
    session = OnnxSession(graphs["train"].data, name=name)
    for size in (3, 1):
        random = np.random.default_rng(size)
        feed = {
            port.name: random.standard_normal([size if s == "batch" else int(s) for s in port.shape], np.float32)
            for port in whole.inputs
        }
        with Interception(None, tracing=False):
            expected = whole.run({port: torch.from_numpy(array) for port, array in feed.items()})
        for output, array in zip(outputs, session.run(outputs, feed), strict=True):
            np.testing.assert_allclose(array, expected[output].numpy(), rtol=1e-5, atol=2e-5, err_msg=output)
    verdict = judge(work_out(graphs["grads"], max_n=64))
    assert verdict.independent is (name not in MIXING), verdict.reason


def test_alignments_of_targets_that_contain_the_blank() -> None:
    """Torch's loss is right, and its gradient is not: it is compared with differences of the loss."""
    torch.manual_seed(1)
    targets, lengths = torch.tensor([[1, 0, 2], [0, 1, 0], [2, 2, 0]]), (torch.full((3,), 7), torch.tensor([3, 3, 2]))
    scores = torch.randn(7, 3, 4, dtype=torch.float64, requires_grad=True)

    def loss(x: torch.Tensor) -> torch.Tensor:
        return ctc_loss(x.log_softmax(2), targets, *lengths)

    assert loss(scores).item() == pytest.approx(F.ctc_loss(scores.log_softmax(2), targets, *lengths).item())
    assert torch.autograd.gradcheck(loss, scores)


def test_alignments_of_any_integers_build() -> None:
    def loss(model: nn.Module, x: torch.Tensor, y: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
        steps = torch.full((x.shape[0],), 6)
        return F.ctc_loss(model(x).log_softmax(2).transpose(0, 1), y, steps, count, zero_infinity=True)

    words, count = pygrid.Integers["batch", 3], pygrid.Integers["batch"]
    data = {"x": pygrid.Tensor["batch", 6, 4], "y": words(5), "count": count(4)}
    assert pygrid.plan(data=data)(loss).build(nn.Linear(4, 5), private=True).manifest.per_example_independent


def test_the_page_of_supported_layers_runs() -> None:
    page = Path(__file__).parents[4] / "docs" / "reference/plans.md"
    scope: dict[str, Any] = {}
    exec("".join(re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)), scope)
    assert set(scope["elbo"].build(scope["Vae"]()).manifest.noise) >= {"uniform0", "uniform1"}
    assert scope["plan"].manifest.per_example_independent


@pytest.mark.parametrize("padding", ["zeros", "border"])
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_a_place_that_is_not_known_gives_no_number(mode: str, padding: str) -> None:
    places = torch.tensor([[[[math.nan, 0.0], [0.0, math.nan], [0.5, -0.5], [3.0, -3.0]]]])
    image = torch.arange(1.0, 13.0).reshape(1, 1, 3, 4)
    found = grid_sample(image, places, mode, padding, False).flatten()
    expected = F.grid_sample(image, places, mode, padding, False).flatten()
    assert found[:2].isnan().all()
    assert torch.equal(found[2:], expected[2:])
