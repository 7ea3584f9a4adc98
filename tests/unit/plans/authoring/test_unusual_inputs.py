"""Wrong and unusual inputs of authors: each is refused with a code, words that help, and the author's line.

The line is the one marked ``# here`` in the function or the class of the case; without a mark it is the call of `build`
or the declaration. Should not happen: an error of another class, a line of torch or pygrid, an empty message.
"""

from __future__ import annotations

import functools
import inspect
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import pygrid
from pygrid.errors import AuthoringError
from pygrid.plans.authoring import initial_params

X = pygrid.Tensor["batch", 8]
DATA = {"x": X, "y": pygrid.Label(3)}


def plain(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(model(x), y)


def line_of(part: Any) -> int:
    lines, first = inspect.getsourcelines(part)
    return next(first + number for number, line in enumerate(lines) if "# here" in line)


@dataclass(frozen=True)
class Case:
    """An input, the code of its refusal, words of the message, and the object whose source has the mark."""

    code: str
    words: str
    loss: Callable[..., Any] = plain
    model: Callable[[], Any] = lambda: nn.Linear(8, 3)
    options: Callable[[], dict[str, Any]] = dict
    marked: Any = None


# -- models that keep state ------------------------------------------------------------------------------------------


class Stateful(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 3)
        self.prepare()

    def prepare(self) -> None:
        """For subclasses."""


class Counts(Stateful):
    def prepare(self) -> None:
        self.counter = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.counter += 1  # here
        return self.layer(x) * (1 + 0.01 * self.counter)


class CountsInEvaluation(Stateful):
    calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            self.calls += 1  # here
        return self.layer(x) * (1 + self.calls)


class CountsInADict(Stateful):
    def prepare(self) -> None:
        self.seen = {"batches": 0}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen["batches"] += 1  # here
        return self.layer(x) * self.seen["batches"]


class Averages(Stateful):
    def prepare(self) -> None:
        self.average = torch.zeros(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.average = 0.9 * self.average + 0.1 * x.mean(0)  # here
        return self.layer(x - self.average)


class AveragesInPlace(Stateful):
    def prepare(self) -> None:
        self.average = torch.zeros(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.average.mul_(0.9).add_(0.1 * x.mean(0))  # here
        return self.layer(x - self.average)


class RemembersTheFirst(Stateful):
    center = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.layer(x)
        if self.center is None:
            self.center = z.detach().mean(0)  # here
        return z - self.center


class CountsInABuffer(Stateful):
    def prepare(self) -> None:
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.steps += 1  # here
        return self.layer(x) * (1 + 0.01 * self.steps)


class AveragesInAPassingBuffer(Stateful):
    def prepare(self) -> None:
        self.register_buffer("average", torch.zeros(8), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.average.mul_(0.9).add_(0.1 * x.mean(0))  # here
        return self.layer(x - self.average)


def state(kind: type[Stateful], words: str) -> Case:
    return Case("plan_state", words, model=kind, marked=kind)


class DrawsFromItsGenerator(Stateful):
    def prepare(self) -> None:
        self.rng = np.random.default_rng(0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x + torch.from_numpy(self.rng.normal(size=8).astype(np.float32)))  # here


# -- losses ----------------------------------------------------------------------------------------------------------


def numpy_noise(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:  # here
    return plain(model, x, y) * np.random.default_rng().random()


def python_noise(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:  # here
    return plain(model, x, y) * random.random()


NUMBERS = np.random.default_rng(3)


def generator_noise(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:  # here
    return plain(model, x + torch.from_numpy(NUMBERS.normal(size=8).astype(np.float32)), y)


CALLS = [0]


def counts_globally(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:  # here
    CALLS[0] += 1
    return plain(model, x, y) * CALLS[0]


def asserts(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    assert x.shape[0] == 32  # here
    return plain(model, x, y)


def looks_up(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return {"a": x}["b"].mean()  # here


def calls_backward(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:  # here
    loss = plain(model, x, y)
    loss.backward()
    return loss


def without_gradient(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return model(x).unique().sum()  # here


def without_return(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> None:  # here
    plain(model, x, y)


def changes_data(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    x += 1  # here
    return plain(model, x, y)


def changes_weights(model: nn.Linear, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    model.weight.data.clamp_(-1, 1)  # here
    return plain(model, x, y)


def takes_len(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(model(x), y, reduction="sum") / len(x)  # here


def formats(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    loss = plain(model, x, y)
    f"{loss:.3f}"  # here
    return loss


def one_hot_of_unknown_width(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.mse_loss(model(x), F.one_hot(y).float())  # here


def in_halves(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return F.cross_entropy(model(x).float(), y)  # here


def spectrum(model: nn.Linear, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.linalg.svdvals(model.weight).sum() + plain(model, x, y)  # here


def by_name(model: nn.Module, *, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:  # here
    return plain(model, x, y)


def decides_inside_torch(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return model(x, y).loss  # here


def outside_the_classes(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(model(x), y + 1)  # here


def loss_case(code: str, words: str, loss: Callable[..., Any], model: Callable[[], Any] | None = None) -> Case:
    return Case(code, words, loss=loss, model=model or (lambda: nn.Linear(8, 3)), marked=loss)


# -- models and options ----------------------------------------------------------------------------------------------


def on_meta() -> nn.Module:
    with torch.device("meta"):
        return nn.Linear(8, 3)


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyLinear(3))


def cumulative() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 3), nn.BatchNorm1d(3, momentum=None))


def holding_a_generator() -> nn.Module:
    model = nn.Linear(8, 3)
    model.numbers = (number for number in range(3))
    return model


def optimizer(make: Callable[[], Any]) -> Callable[[], dict[str, Any]]:
    return lambda: {"optimizer": make()}


def torch_sgd() -> torch.optim.Optimizer:
    return torch.optim.SGD(nn.Linear(8, 3).parameters(), lr=0.1, momentum=0.9, nesterov=True)


def torch_adam_w() -> torch.optim.Optimizer:
    return torch.optim.AdamW(nn.Linear(8, 3).parameters(), betas=(0.8, 0.99))


def rejected(code: str, words: str, model: Callable[[], Any]) -> Case:
    return Case(code, words, model=model)


def refused_optimizer(words: str, make: Callable[[], Any]) -> Case:
    return Case("plan_optimizer", words, options=optimizer(make))


CASES = {
    "a counter": state(Counts, "the model (Counts) changes its attribute 'counter' in forward"),
    "a counter in a layer": Case(
        "plan_state", "layer '0' (Counts) changes", model=lambda: nn.Sequential(Counts()), marked=Counts
    ),
    "a counter in evaluation": state(CountsInEvaluation, "register_buffer('calls', torch.zeros(()))"),
    "a counter in a dict": state(CountsInADict, "attribute 'seen'"),
    "a running average": state(Averages, "attribute 'average' in forward"),
    "a running average in place": state(AveragesInPlace, "attribute 'average' in forward"),
    "the first batch": state(RemembersTheFirst, "attribute 'center' in forward"),
    "an integer buffer": state(CountsInABuffer, "buffer 'steps' (int64), which is a constant of the plan"),
    "a passing buffer": state(AveragesInAPassingBuffer, "register it with persistent=True"),
    "random numbers of numpy": loss_case("plan_random", "two runs on the same batch differ", numpy_noise),
    "random numbers of a generator": loss_case("plan_random", "two runs on the same batch differ", generator_noise),
    "random numbers of a generator of the model": Case(
        "plan_random", "draws from its generator 'rng' in forward",
        model=DrawsFromItsGenerator, marked=DrawsFromItsGenerator,
    ),
    "random numbers of Python": loss_case("plan_random", "two runs on the same batch differ", python_noise),
    "a global counter": loss_case("plan_random", "two runs on the same batch differ", counts_globally),
    "an assertion without words": loss_case("plan_source_fails", "assert x.shape[0] == 32", asserts),
    "a missing key": loss_case("plan_source_fails", "KeyError: 'b'", looks_up),
    "backward": loss_case("plan_loss", "Return the loss without calling backward()", calls_backward),
    "no gradient": loss_case("plan_loss", "the gradient of Unique2 cannot be computed", without_gradient),
    "no return": loss_case("plan_loss", "the function must return the loss", without_return),
    "data in place": loss_case("plan_operator_unsupported", "work on a copy", changes_data),
    "weights in place": loss_case("plan_operator_unsupported", "work on a copy", changes_weights),
    "len": loss_case("plan_batch_baked", "write x.shape[0]", takes_len),
    "a number in a text": loss_case("plan_trace_failed", "write it with other operators", formats),
    "one-hot without a width": loss_case("plan_data_dependent", "keep it a tensor", one_hot_of_unknown_width),
    "half precision": loss_case("plan_dtype", "bfloat16 is not in the plan set", in_halves),
    "an operator outside the set": loss_case("plan_operator_unsupported", "operator linalg_svd", spectrum),
    "arguments by name": loss_case("plan_signature", "list the arguments without * and **", by_name),
    "a decision inside torch": loss_case(
        "plan_data_dependent_size", "torch's own code does this here (AdaptiveLogSoftmaxWithLoss.forward, torch/nn/",
        decides_inside_torch, lambda: nn.AdaptiveLogSoftmaxWithLoss(8, 9, [3]),
    ),
    "labels outside the classes": loss_case("plan_source_fails", "Target 3 is out of bounds", outside_the_classes),
    "an optimizer of torch": refused_optimizer("optimizer=pygrid.optim.SGD(momentum=0.9, nesterov=True)", torch_sgd),
    "an AdamW of torch": refused_optimizer("optimizer=pygrid.optim.AdamW(beta1=0.8, beta2=0.99)", torch_adam_w),
    "a class of optimizers": refused_optimizer("optimizer=pygrid.optim.Adam()", lambda: torch.optim.Adam),
    "a class of ours": refused_optimizer("optimizer=pygrid.optim.SGD()", lambda: pygrid.optim.SGD),
    "the name of an optimizer": refused_optimizer("optimizer=pygrid.optim.Adam()", lambda: "adam"),
    "a lazy layer": rejected("plan_model", "layer '0' (LazyLinear) has no weights before", lazy),
    "a cumulative average": rejected("plan_model", "(BatchNorm1d) has momentum=None", cumulative),
    "weights without values": rejected("plan_model", "on the device meta", on_meta),
    "several devices": rejected("plan_model", "model.module", lambda: nn.DataParallel(nn.Linear(8, 3))),
    "response norm of Torch 7": rejected("plan_model", "use LocalResponseNorm", lambda: nn.CrossMapLRN2d(3)),
    "sparse gradients": rejected("plan_model", "set sparse=False", lambda: nn.Embedding(5, 3, sparse=True)),
    "renormalized rows": rejected("plan_model", "max_norm", lambda: nn.Embedding(5, 3, max_norm=1.0)),
    "an attribute that cannot be copied": rejected("plan_model", "the model cannot be copied", holding_a_generator),
    "a function for a model": rejected("plan_model", "needs a torch.nn.Module", lambda: len),
    "a private running average": Case(
        "plan_not_private", "the buffer '0.parametrizations.weight.0._u' changes in forward",
        model=lambda: nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(8, 3))),
        options=lambda: {"private": True}, marked=plain,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused_with_code_words_and_line(name: str) -> None:
    case = CASES[name]
    model, options = case.model(), case.options()
    with pytest.raises(AuthoringError) as caught:
        pygrid.plan(data=DATA)(case.loss).build(model, **options)  # here
    error = caught.value
    assert error.code == case.code
    assert case.words in error.detail
    function = test_it_is_refused_with_code_words_and_line
    expected = inspect.getsourcelines(plain)[1] if case.marked is plain else line_of(case.marked or function)
    assert (error.fields["file"], error.fields["line"]) == (__file__, expected)
    assert f"line {expected}: " in error.detail


def test_a_training_step_and_an_averaging_rule_with_other_random_numbers_are_refused() -> None:
    @pygrid.train_step(data=DATA)
    def step(params: Any, state: Any, x: torch.Tensor, y: torch.Tensor) -> Any:
        noise = float(NUMBERS.normal())
        return {name: array + noise for name, array in params.items()}, state, {"loss": x.mean()}

    @pygrid.averaging_plan()
    def average(diffs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: array.mean(0) * float(NUMBERS.random()) for name, array in diffs.items()}

    for author in (step, average):
        with pytest.raises(AuthoringError, match="two runs on the same batch differ") as caught:
            author.build(nn.Linear(8, 3))
        assert caught.value.code == "plan_random"


DECLARATIONS: dict[str, tuple[Callable[[], Any], str]] = {
    "a batch that is not first": (lambda: pygrid.Tensor[8, "batch"], 'must be "batch"'),
    "a class that is ignored": (lambda: pygrid.Label(4, ignore=2), "pass ignore_index=2 to the loss only"),
    "half a label": (lambda: pygrid.Integers["batch", 2](4, ignore=2.5), "ignore must be a whole number"),  # type: ignore[arg-type]
    "a type without a shape": (lambda: pygrid.plan(data={"x": pygrid.Tensor}), "write a type such as"),  # type: ignore[dict-item]
    "a list of ports": (lambda: pygrid.plan(data=[("x", X)]), "write a dict of names and types"),  # type: ignore[arg-type]
    "a number for a hyperparameter": (lambda: pygrid.plan(data=DATA, hyper={"lr": 0.1}), "pygrid.Float(0.1)"),  # type: ignore[dict-item]
    "a momentum of 1": (lambda: pygrid.optim.SGD(momentum=1.0), "momentum must be in [0, 1)"),
}


@pytest.mark.parametrize("name", DECLARATIONS)
def test_a_wrong_declaration_names_its_line(name: str) -> None:
    declare, words = DECLARATIONS[name]
    with pytest.raises(AuthoringError) as caught:
        declare()
    line = inspect.getsourcelines(declare)[1] if hasattr(declare, "__code__") else 0
    assert words in caught.value.detail
    assert (caught.value.fields["file"], caught.value.fields["line"]) == (__file__, line)


# -- what looks similar and builds -----------------------------------------------------------------------------------


class KeepsItsOutput(Stateful):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.last = self.layer(x)
        return self.last


class CachesPositions(Stateful):
    positions = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.positions is None:
            self.positions = torch.arange(8.0) / 8
        return self.layer(x + self.positions)


class AveragesInABuffer(Stateful):
    def prepare(self) -> None:
        self.register_buffer("average", torch.zeros(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.average = 0.9 * self.average + 0.1 * x.detach().mean(0)
        return self.layer(x - self.average)


class Scores:
    """A loss that is an object."""

    def __call__(self, model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return plain(model, x, y)


def normal(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return -torch.distributions.Normal(model(x), 1.0).log_prob(y[:, None].float()).mean()


def used(model: nn.Module) -> nn.Module:
    """A model after a call: old-style normalized layers hold the result of a computation."""
    model(torch.zeros(1, 8))
    return model


def normalized(norm: Callable[[nn.Module], nn.Module]) -> nn.Module:
    return nn.Sequential(norm(nn.Linear(8, 8)), nn.ReLU(), nn.Linear(8, 3))


BUILT: dict[str, tuple[Callable[[], nn.Module], Callable[..., Any]]] = {
    "an output that is kept to look at": (KeepsItsOutput, plain),
    "a cache of constants": (CachesPositions, plain),
    "a running average in a buffer": (AveragesInABuffer, plain),
    "spectral norm": (lambda: normalized(nn.utils.parametrizations.spectral_norm), plain),
    "spectral norm by hooks": (lambda: used(normalized(nn.utils.spectral_norm)), plain),
    "weight norm by hooks": (lambda: used(normalized(nn.utils.weight_norm)), plain),
    "a distribution of torch": (lambda: nn.Linear(8, 3), normal),
    "a partial function": (lambda: nn.Linear(8, 3), functools.partial(plain)),
    "a loss that is an object": (lambda: nn.Linear(8, 3), Scores()),
    "batch norm without statistics": (
        lambda: nn.Sequential(nn.Linear(8, 3), nn.BatchNorm1d(3, track_running_stats=False)), plain
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*torch.nn.utils:FutureWarning")
@pytest.mark.parametrize("name", BUILT)
def test_it_builds(name: str) -> None:
    """Building compares the plan with eager torch over several steps, in which buffers go on from their last value."""
    make, loss = BUILT[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make()
    before = initial_params(model)
    validates = torch.distributions.Distribution._validate_args
    plan = pygrid.plan(data=DATA)(loss).build(model)
    after = initial_params(model)
    assert plan.manifest.graphs.keys() == {"train", "grads", "eval", "predict"}
    assert all(np.array_equal(after[name], before[name]) for name in before)
    assert torch.distributions.Distribution._validate_args == validates
