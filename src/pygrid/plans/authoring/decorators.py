"""The decorators for authors: `plan`, `train_step` and `averaging_plan`. They return objects with a ``build``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from pygrid import codes
from pygrid.errors import AuthoringError
from pygrid.plans import Plan
from pygrid.plans.authoring.build import MAX_BATCH_SIZES, emit, finish, source_of, work_out
from pygrid.plans.authoring.diagnostics import authoring_error
from pygrid.plans.authoring.emit import Emitted
from pygrid.plans.authoring.lowering import OPSET
from pygrid.plans.authoring.optim import SGD, Optimizer
from pygrid.plans.authoring.ports import DataSpec, Float
from pygrid.plans.authoring.programs import LossPrograms, Signature, StepProgram, Subject, average_program
from pygrid.plans.authoring.selfcheck import Feeder, check_against_eager, check_runs, is_per_example_independent
from pygrid.plans.independence import judge
from pygrid.plans.manifest import BATCH, FORMAT, NUM_DIFFS, Manifest, NoisePort

Reduction = Literal["mean", "sum"]


@dataclass(frozen=True)
class _Described:
    """The function of a plan, and its name, description and author."""

    function: Callable[..., Any]
    name: str
    description: str
    author: str

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the author's function unchanged."""
        return self.function(*args, **kwargs)


@dataclass(frozen=True)
class LossPlan(_Described):
    """A loss that can be built into a plan; made by `plan`."""

    data: Mapping[str, DataSpec]
    hyper: Mapping[str, Float]
    metrics: Mapping[str, Reduction] = field(default_factory=dict)
    max_batch_size: int | None = None

    def build(self, model: torch.nn.Module, *, optimizer: Optimizer | None = None, private: bool = False) -> Plan:
        """The plan that trains ``model`` with this loss: graphs ``train``, ``grads`` and ``eval``.

        The model is not changed, and its weights do not become part of the plan; `initial_params` returns them. The
        graphs are compared with eager torch before they are returned.

        Args:
            optimizer: from `pygrid.optim`; plain `SGD` by default. Its learning rate is the hyperparameter ``lr``,
                which is added with a default if ``hyper`` does not name it.
            private: refuse a plan in which examples of a batch influence each other, as private jobs do.
        Raises:
            AuthoringError: the message names the author's line, the reason and a solution.
        """
        optimizer = optimizer or SGD()
        hyper = dict(self.hyper)
        hyper.setdefault("lr", Float(optimizer.default_lr, min=0.0, max=max(1.0, 10 * optimizer.default_lr)))
        signature = Signature.read(self.function, self.data, hyper, ("model",))
        subject = Subject(model)
        programs = LossPrograms(subject, signature, self.data, hyper, optimizer)
        feeder = _feeder(self.data, hyper, subject)
        check_runs(programs.grads, feeder)
        graphs = emit(
            (programs.train_and_grads, (programs.train, programs.grads)),
            (programs.eval, (programs.eval,)),
            symbol_name=BATCH,
        )
        for graph in graphs.values():
            check_against_eager(graph, feeder)
        independent = (
            judge(work_out(graphs["grads"], max_n=MAX_BATCH_SIZES[0])).independent
            and is_per_example_independent(graphs["grads"], feeder)
        )  # fmt: skip
        if private and not independent:
            raise authoring_error(
                _not_private(graphs["grads"].batch_norm), signature.place, code=codes.PLAN_NOT_PRIVATE
            )
        manifest = Manifest(
            format=FORMAT,
            kind="training",
            name=self.name,
            description=self.description,
            author=self.author,
            opset=OPSET,
            graphs={},
            data=feeder.data,
            noise={name: NoisePort(shape) for name, shape in graphs["train"].noise.items()},
            hyper=feeder.hyper,
            metrics=_metrics(graphs["train"], self.metrics),
            per_example_independent=independent,
            optimizer=str(optimizer),
        )
        return finish(manifest, graphs, source_of(self.function), sizes=_sizes(self.max_batch_size))


def _metrics(graph: Emitted, given: Mapping[str, Reduction]) -> dict[str, Reduction]:
    """How to combine each metric of a graph over batches: as the author chose, else the mean."""
    names = [port.name.removeprefix("metrics/") for port in graph.outputs if port.name.startswith("metrics/")]
    unknown = sorted(set(given) - set(names))
    if unknown:
        raise AuthoringError(
            f"metrics= names {unknown[0]!r}, which the function does not return", code=codes.PLAN_METRICS
        )
    return {name: given.get(name, "mean") for name in names}


def _sizes(max_batch_size: int | None) -> tuple[int, ...]:
    return MAX_BATCH_SIZES if max_batch_size is None else (max_batch_size,)


def _feeder(data: Mapping[str, DataSpec], hyper: Mapping[str, Float], subject: Subject) -> Feeder:
    return Feeder(
        {name: spec.port() for name, spec in data.items()},
        {name: spec.hyper() for name, spec in hyper.items()},
        subject.initial(),
        BATCH,
    )


def _not_private(batch_norm: bool) -> str:
    if batch_norm:
        return "the model uses BatchNorm, which mixes examples of a batch; use GroupNorm or LayerNorm for private jobs"
    return (
        "examples of a batch influence each other's gradients (a normalization, weighting or comparison across the "
        "batch); for private jobs, compute the loss of each example by itself and take the mean"
    )


@dataclass(frozen=True)
class StepPlan(_Described):
    """An explicit training step that can be built into a plan; made by `train_step`."""

    data: Mapping[str, DataSpec]
    hyper: Mapping[str, Float]
    state: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]] | None = None
    metrics: Mapping[str, Reduction] = field(default_factory=dict)
    max_batch_size: int | None = None

    def build(self, model: torch.nn.Module) -> Plan:
        """The plan with one graph, ``train``. It has no ``grads``, so private jobs cannot use it.

        Raises:
            AuthoringError: as `LossPlan.build`.
        """
        signature = Signature.read(self.function, self.data, self.hyper, ("params", "state"))
        subject = Subject(model)
        state = self.state({k: torch.zeros_like(v) for k, v in subject.params.items()}) if self.state else {}
        program = StepProgram(subject, signature, self.data, self.hyper, state).program()
        feeder = _feeder(self.data, self.hyper, subject)
        check_runs(program, feeder)
        graph = emit((program, (program,)), symbol_name=BATCH)["train"]
        check_against_eager(graph, feeder)
        manifest = Manifest(
            format=FORMAT,
            kind="training",
            name=self.name,
            description=self.description,
            author=self.author,
            opset=OPSET,
            graphs={},
            data=feeder.data,
            noise={name: NoisePort(shape) for name, shape in graph.noise.items()},
            hyper=feeder.hyper,
            metrics=_metrics(graph, self.metrics),
            per_example_independent=False,  # the gradient of one example is unknown
            optimizer="explicit step",
        )
        return finish(manifest, {"train": graph}, source_of(self.function), sizes=_sizes(self.max_batch_size))


@dataclass(frozen=True)
class AveragingPlan(_Described):
    """A rule that combines diffs and can be built into a plan; made by `averaging_plan`."""

    iterative: bool = False
    max_diffs: int = 100

    def build(self, model: torch.nn.Module) -> Plan:
        """The plan with one graph, ``average``, for diffs of this model.

        Raises:
            AuthoringError: as `LossPlan.build`.
        """
        initial = Subject(model).initial()
        leading = ("avg", "item", "num") if self.iterative else ("diffs",)
        place = Signature.read(self.function, {}, {}, leading).place
        program = average_program(
            self.function, {k: v.shape for k, v in initial.items()}, iterative=self.iterative, place=place
        )  # fmt: skip
        feeder = Feeder({}, {}, initial, NUM_DIFFS)
        check_runs(program, feeder)
        graph = emit((program, (program,)), symbol_name=NUM_DIFFS)["average"]
        check_against_eager(graph, feeder)
        manifest = Manifest(
            format=FORMAT,
            kind="averaging",
            name=self.name,
            description=self.description,
            author=self.author,
            opset=OPSET,
            graphs={},
            per_example_independent=False,
            iterative=self.iterative,
        )
        return finish(manifest, {"average": graph}, source_of(self.function), sizes=(self.max_diffs,))


def _about(function: Callable[..., Any], name: str | None, description: str | None, author: str) -> dict[str, Any]:
    """Name and description of a plan: as given, else from the function and its docstring."""
    text = inspect.getdoc(function) or ""
    return {
        "function": function,
        "name": name or function.__name__,
        "description": description if description is not None else text.split("\n\n")[0],
        "author": author,
    }


def plan(
    *,
    data: Mapping[str, DataSpec],
    hyper: Mapping[str, Float] | None = None,
    metrics: Mapping[str, Reduction] | None = None,
    max_batch_size: int | None = None,
    name: str | None = None,
    description: str | None = None,
    author: str = "",
) -> Callable[[Callable[..., Any]], LossPlan]:
    """Turn a loss into an object that builds a plan.

    The function takes the model, then data and hyperparameters by name. It returns the loss (one number) or
    ``(loss, {name: metric})``. It can use ordinary PyTorch, except decisions on data and random numbers.

    Args:
        data: columns by argument name, for example ``{"x": pygrid.Tensor["batch", 64], "y": pygrid.Label(10)}``.
        hyper: hyperparameters by name; ``lr`` is the learning rate of the optimizer.
        metrics: how to combine a metric over batches: ``{"hits": "sum"}``; by default the mean weighted by batch size.
        max_batch_size: the largest batch that a runner may feed; by default 1024, or less for a model that would take
            more memory or time than a plan may.
    """

    def decorate(function: Callable[..., Any]) -> LossPlan:
        return LossPlan(
            **_about(function, name, description, author),
            data=_checked_ports(data, DataSpec, "data"),
            hyper=_checked_ports(hyper or {}, Float, "hyper"),
            metrics=dict(metrics or {}),
            max_batch_size=max_batch_size,
        )

    return decorate


def train_step(
    *,
    data: Mapping[str, DataSpec],
    hyper: Mapping[str, Float] | None = None,
    state: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]] | None = None,
    metrics: Mapping[str, Reduction] | None = None,
    max_batch_size: int | None = None,
    name: str | None = None,
    description: str | None = None,
    author: str = "",
) -> Callable[[Callable[..., Any]], StepPlan]:
    """Turn an explicit training step into an object that builds a plan, for steps that `plan` cannot express.

    The function takes ``(params, state)``, dicts of tensors by name, then data and hyperparameters by name. It returns
    ``(params, state, metrics)``; the metrics include a ``loss``. Use `torch.func` for gradients.

    Args:
        state: returns the arrays of the state for the arrays of parameters, for example `torch.zeros_like` of them. The
            state starts at zeros.
    """

    def decorate(function: Callable[..., Any]) -> StepPlan:
        return StepPlan(
            **_about(function, name, description, author),
            data=_checked_ports(data, DataSpec, "data"),
            hyper=_checked_ports(hyper or {}, Float, "hyper"),
            state=state,
            metrics=dict(metrics or {}),
            max_batch_size=max_batch_size,
        )

    return decorate


def averaging_plan(
    *,
    iterative: bool = False,
    max_diffs: int = 100,
    name: str | None = None,
    description: str | None = None,
    author: str = "",
) -> Callable[[Callable[..., Any]], AveragingPlan]:
    """Turn a rule that combines diffs into an object that builds a plan.

    Not iterative: ``rule(diffs)`` takes all diffs, with one more leading dimension on each array. Iterative:
    ``rule(avg, item, num)`` takes the average so far, the next diff, and the number of diffs that are already in the
    average (shape [1]). Both return a dict of the same names.
    """

    def decorate(function: Callable[..., Any]) -> AveragingPlan:
        return AveragingPlan(**_about(function, name, description, author), iterative=iterative, max_diffs=max_diffs)

    return decorate


def _checked_ports(ports: Mapping[str, Any], kind: type, what: str) -> dict[str, Any]:
    for name, spec in ports.items():
        if not isinstance(spec, kind):
            raise AuthoringError(
                f"{what}[{name!r}] is {spec!r}; pygrid.plans.authoring.ports lists the allowed types",
                code=codes.PLAN_PORT,
            )
    return dict(ports)
