"""The decorators for authors: `plan`, `train_step` and `averaging_plan`. They return objects with a ``build``."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, ParamSpec, TypeVar

import torch

from pygrid import codes
from pygrid.configs import unknown_field
from pygrid.errors import AuthoringError
from pygrid.plans import Plan
from pygrid.plans.authoring.build import (
    MAX_BATCH_SIZES,
    emit,
    emit_evaluation,
    emit_inference,
    equal_to_eager,
    finish,
    source_of,
    with_limits,
    work_out,
)
from pygrid.plans.authoring.diagnostics import authoring_error, declaration_error, explained
from pygrid.plans.authoring.emit import Emitted
from pygrid.plans.authoring.inference import inference_program
from pygrid.plans.authoring.lowering import OPSET
from pygrid.plans.authoring.optim import Optimizer, checked_optimizer
from pygrid.plans.authoring.ports import DataSpec, Float
from pygrid.plans.authoring.predictions import call_forward, columns_of_forward
from pygrid.plans.authoring.programs import LossPrograms, Signature, StepProgram, Subject, average_program
from pygrid.plans.authoring.selfcheck import Feeder, check_against_eager, check_runs, is_per_example_independent
from pygrid.plans.authoring.statecheck import check_repeats, check_state
from pygrid.plans.authoring.variants.build import checked_targets, with_variants
from pygrid.plans.independence import judge
from pygrid.plans.manifest import BATCH, FORMAT, NUM_DIFFS, Manifest, NoisePort

logger = logging.getLogger(__name__)

Reduction = Literal["mean", "sum"]
_OPTIONS_OF_BUILD = ("optimizer", "private", "targets", "batch_sizes")
P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class _Described(Generic[P, R]):
    """The function of a plan, and its name, description and author."""

    function: Callable[P, R]
    name: str
    description: str
    author: str

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the author's function unchanged."""
        return self.function(*args, **kwargs)


@dataclass(frozen=True)
class _TrainingPlan(_Described[P, R]):
    """The ports and options of a plan that trains."""

    data: Mapping[str, DataSpec]
    hyper: Mapping[str, Float]
    metrics: Mapping[str, Reduction] = field(default_factory=dict)
    max_batch_size: int | None = None
    predict: Callable[..., Any] | None = None

    def _inference(self, hyper: Mapping[str, Float]) -> Signature | None:
        """The signature of the author's function for predictions."""
        if self.predict is None:
            return None
        return Signature.read(self.predict, self.data, hyper, ("model",), takes_all=False)


@dataclass(frozen=True)
class LossPlan(_TrainingPlan[P, R]):
    """A loss that can be built into a plan; made by `plan`."""

    @explained
    def build(
        self,
        model: torch.nn.Module,
        *,
        optimizer: Optimizer | None = None,
        private: bool = False,
        targets: Sequence[str] | None = None,
        batch_sizes: Sequence[int] | None = None,
    ) -> Plan:
        """The plan that trains ``model`` with this loss: graphs ``train``, ``grads``, ``eval`` and ``predict``.

        The model is not changed, and its weights do not become part of the plan; `initial_params` returns them. The
        graphs are compared with eager torch before they are returned.

        Args:
            optimizer: from `pygrid.optim`; plain `SGD` by default. Its learning rate is the hyperparameter ``lr``,
                which is added with a default if ``hyper`` does not name it.
            private: refuse a plan in which examples of a batch influence each other, as private jobs do.
            targets: dialects of clients of 2020: ``tfjs``, ``torchscript`` or ``torchscript-list``, ``list``.
                `Plan.variants` has them, and the reason for each that this plan cannot have.
            batch_sizes: the batch sizes of these variants; 32, or the plan's largest batch, by default.
        Raises:
            AuthoringError: the message names the author's line, the reason and a solution.
        """
        wanted, batch_sizes = checked_targets(targets, batch_sizes, self.max_batch_size or MAX_BATCH_SIZES[0])
        optimizer = checked_optimizer(optimizer)
        hyper = dict(self.hyper)
        hyper.setdefault("lr", Float(optimizer.default_lr, min=0.0, max=max(1.0, 10 * optimizer.default_lr)))
        signature = Signature.read(self.function, self.data, hyper, ("model",))
        subject = Subject(model)
        inference = self._inference(hyper)
        programs = LossPrograms(subject, signature, self.data, hyper, optimizer, inference)
        feeder = _feeder(self.data, hyper, subject)
        check_runs(programs.grads, feeder)
        for program in (programs.grads, programs.eval):
            check_state(subject, program, feeder, signature.place)
        graphs = emit((programs.train_and_grads, (programs.train, programs.grads)), symbol_name=BATCH)
        graphs |= emit_evaluation(programs)
        feeder.data = with_limits(feeder.data, graphs)
        graphs = equal_to_eager(graphs, feeder, needs_predict=inference is not None)
        independent = _is_independent(graphs, feeder)
        if private and not independent:
            raise authoring_error(_not_private(graphs), signature.place, code=codes.PLAN_NOT_PRIVATE)
        manifest = Manifest(
            format=FORMAT,
            kind="training",
            name=self.name,
            description=self.description,
            author=self.author,
            opset=OPSET,
            graphs={},
            data=feeder.data,
            noise={name: NoisePort(shape) for graph in graphs.values() for name, shape in graph.noise.items()},
            hyper=feeder.hyper,
            metrics=_metrics(graphs["train"], self.metrics),
            per_example_independent=independent,
            optimizer=str(optimizer),
        )
        plan = finish(manifest, graphs, source_of(self.function), sizes=_sizes(self.max_batch_size))
        return with_variants(plan, graphs["train"], feeder, wanted, batch_sizes, signature.place)


def _is_independent(graphs: Mapping[str, Emitted], feeder: Feeder) -> bool:
    """Whether examples of a batch do not influence each other's gradients."""
    return (
        not _changed_buffers(graphs)
        and judge(work_out(graphs["grads"], max_n=MAX_BATCH_SIZES[0])).independent
        and is_per_example_independent(graphs["grads"], feeder)
    )


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
        subject.arrays(),
        BATCH,
    )


def _changed_buffers(graphs: Mapping[str, Emitted]) -> list[str]:
    """The buffers that training changes."""
    names = [port.name for port in graphs["train"].outputs]
    return [name.removeprefix("new/buffers/") for name in names if name.startswith("new/buffers/")]


def _not_private(graphs: Mapping[str, Emitted]) -> str:
    if graphs["grads"].batch_norm:
        return "the model uses BatchNorm, which mixes examples of a batch; use GroupNorm or LayerNorm for private jobs"
    if changed := _changed_buffers(graphs):
        return (
            f"the buffer {changed[0]!r} changes in forward; a private job trains parameters only, so the buffer would "
            "keep its first value: use layers without such buffers (no spectral_norm or running statistics)"
        )
    return (
        "examples of a batch influence each other's gradients (a normalization, weighting or comparison across the "
        "batch); for private jobs, compute the loss of each example by itself and take the mean"
    )


@dataclass(frozen=True)
class StepPlan(_TrainingPlan[P, R]):
    """An explicit training step that can be built into a plan; made by `train_step`."""

    state: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]] | None = None

    @explained
    def build(self, model: torch.nn.Module) -> Plan:
        """The plan with the graphs ``train`` and ``predict``. It has no ``grads``, so private jobs cannot use it.

        Raises:
            AuthoringError: as `LossPlan.build`.
        """
        signature = Signature.read(self.function, self.data, self.hyper, ("params", "state"))
        subject = Subject(model)
        state = self.state({k: torch.zeros_like(v) for k, v in subject.params.items()}) if self.state else {}
        program = StepProgram(subject, signature, self.data, self.hyper, state).program()
        feeder = _feeder(self.data, self.hyper, subject)
        check_runs(program, feeder)
        check_repeats(program, feeder, signature.place)
        graphs = emit((program, (program,)), symbol_name=BATCH) | self._predict_graph(subject)
        feeder.data = with_limits(feeder.data, graphs)
        graphs = equal_to_eager(graphs, feeder, needs_predict=self.predict is not None)
        graph = graphs["train"]
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
        return finish(manifest, graphs, source_of(self.function), sizes=_sizes(self.max_batch_size))

    def _predict_graph(self, subject: Subject) -> dict[str, Emitted]:
        """The graph for predictions: by the author's function, else by calling the model, if that works."""
        signature = self._inference(self.hyper)
        if signature is not None:
            return emit_inference(inference_program(subject, signature, self.data, self.hyper))
        columns = columns_of_forward(subject.model, self.data)
        if columns is None:
            return {}
        signature = Signature(call_forward, columns)
        try:
            return emit_inference(inference_program(subject, signature, self.data, self.hyper))
        except AuthoringError as error:
            logger.info("plan without predictions", extra={"reason": str(error)})
            return {}


@dataclass(frozen=True)
class AveragingPlan(_Described[P, R]):
    """A rule that combines diffs and can be built into a plan; made by `averaging_plan`."""

    iterative: bool = False
    max_diffs: int = 100

    @explained
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
        check_repeats(program, feeder, place)
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


def _about(function: Callable[P, R], name: str | None, description: str | None, author: str) -> dict[str, Any]:
    """Name and description of a plan: as given, else from the function and its docstring."""
    text = inspect.getdoc(function) or ""
    return {
        "function": function,
        "name": name or getattr(function, "__name__", type(function).__name__),
        "description": description if description is not None else text.split("\n\n")[0],
        "author": author,
    }


def _checked_call(decorator: Callable[P, R]) -> Callable[P, R]:
    """Make a wrong call of a decorator an `AuthoringError`, ``plan_options``, with the call to write instead."""
    name, signature = decorator.__name__, inspect.signature(decorator)
    needs_data = "data" in signature.parameters
    example = 'data={"x": pygrid.Tensor["batch", 64], "y": pygrid.Label(10)}' if needs_data else ""

    @functools.wraps(decorator)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        unknown = sorted(kwargs.keys() - signature.parameters.keys())
        reason = ""
        if args:
            reason = f"{name} takes its options by name, in parentheses: write @pygrid.{name}({example})"
        elif unknown and unknown[0] in _OPTIONS_OF_BUILD:
            reason = f"{unknown[0]} is an option of build: write LOSS.build(model, {unknown[0]}=...)"
        elif unknown:
            reason = unknown_field(name, unknown[0], list(signature.parameters))
        elif needs_data and "data" not in kwargs:
            reason = f"{name} needs the columns of the data by argument name: write @pygrid.{name}({example})"
        if reason:
            raise declaration_error(reason, code=codes.PLAN_OPTIONS)
        return decorator(*args, **kwargs)

    return checked


@_checked_call
def plan(
    *,
    data: Mapping[str, DataSpec],
    hyper: Mapping[str, Float] | None = None,
    metrics: Mapping[str, Reduction] | None = None,
    predict: Callable[..., Any] | None = None,
    max_batch_size: int | None = None,
    name: str | None = None,
    description: str | None = None,
    author: str = "",
) -> Callable[[Callable[P, R]], LossPlan[P, R]]:
    """Turn a loss into an object that builds a plan.

    The function takes the model, then data and hyperparameters by name. It returns the loss (one number) or
    ``(loss, {name: metric})``. It can use ordinary PyTorch, except decisions on data. Random numbers are drawn
    again for each step.

    Args:
        data: columns by argument name, for example ``{"x": pygrid.Tensor["batch", 64], "y": pygrid.Label(10)}``.
        hyper: hyperparameters by name; ``lr`` is the learning rate of the optimizer.
        metrics: how to combine a metric over batches: ``{"hits": "sum"}``; by default the mean weighted by batch size.
        predict: function of the model and some of the data, by name, that returns the predictions of a trained model: a
            tensor of shape [batch, ...], or a dict of such tensors. By default a prediction is what the model returns
            when the loss first calls it.
        max_batch_size: the largest batch that a runner may feed; by default 1024, or less for a model that would take
            more memory or time than a plan may.
    """
    columns, hyperparameters = _checked_ports(data, DataSpec, "data"), _checked_ports(hyper or {}, Float, "hyper")

    def decorate(function: Callable[P, R]) -> LossPlan[P, R]:
        return LossPlan(
            **_about(function, name, description, author),
            data=columns,
            hyper=hyperparameters,
            metrics=dict(metrics or {}),
            max_batch_size=max_batch_size,
            predict=predict,
        )

    return decorate


@_checked_call
def train_step(
    *,
    data: Mapping[str, DataSpec],
    hyper: Mapping[str, Float] | None = None,
    state: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]] | None = None,
    metrics: Mapping[str, Reduction] | None = None,
    predict: Callable[..., Any] | None = None,
    max_batch_size: int | None = None,
    name: str | None = None,
    description: str | None = None,
    author: str = "",
) -> Callable[[Callable[P, R]], StepPlan[P, R]]:
    """Turn an explicit training step into an object that builds a plan, for steps that `plan` cannot express.

    The function takes ``(params, state)``, dicts of tensors by name, then data and hyperparameters by name. It returns
    ``(params, state, metrics)``; the metrics include a ``loss``. Use `torch.func` for gradients.

    Args:
        state: returns the arrays of the state for the arrays of parameters, for example `torch.zeros_like` of them. The
            state starts at zeros.
        predict: as for `plan`; by default the model is called with the data that its ``forward`` takes by name, or with
            the first column.
    """
    columns, hyperparameters = _checked_ports(data, DataSpec, "data"), _checked_ports(hyper or {}, Float, "hyper")

    def decorate(function: Callable[P, R]) -> StepPlan[P, R]:
        return StepPlan(
            **_about(function, name, description, author),
            data=columns,
            hyper=hyperparameters,
            state=state,
            metrics=dict(metrics or {}),
            max_batch_size=max_batch_size,
            predict=predict,
        )

    return decorate


@_checked_call
def averaging_plan(
    *,
    iterative: bool = False,
    max_diffs: int = 100,
    name: str | None = None,
    description: str | None = None,
    author: str = "",
) -> Callable[[Callable[P, R]], AveragingPlan[P, R]]:
    """Turn a rule that combines diffs into an object that builds a plan.

    Not iterative: ``rule(diffs)`` takes all diffs, with one more leading dimension on each array. Iterative:
    ``rule(avg, item, num)`` takes the average so far, the next diff, and the number of diffs that are already in the
    average (shape [1]). Both return a dict of the same names.
    """

    def decorate(function: Callable[P, R]) -> AveragingPlan[P, R]:
        return AveragingPlan(**_about(function, name, description, author), iterative=iterative, max_diffs=max_diffs)

    return decorate


def _checked_ports(ports: object, kind: type, what: str) -> dict[str, Any]:
    if not isinstance(ports, Mapping):
        raise declaration_error(f"{what} is {ports!r:.80}; write a dict of names and types", code=codes.PLAN_PORT)
    for name, spec in ports.items():
        if not isinstance(spec, kind):
            example = {DataSpec: 'pygrid.Tensor["batch", 64] or pygrid.Label(10)', Float: "pygrid.Float(0.1)"}[kind]
            raise declaration_error(
                f"{what}[{name!r}] is {spec!r:.80}; write a type such as {example} (pygrid.plans.authoring.ports lists "
                "them)",
                code=codes.PLAN_PORT,
            )
    return dict(ports)
