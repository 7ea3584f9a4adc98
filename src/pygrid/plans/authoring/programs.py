"""Converts an author's function and model to the programs that become the graphs of a plan.

A program is a plain function on arrays by port name (`tracing.Program`). The same function runs on fakes for tracing,
and on real arrays as the reference for the finished graph.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch.func import functional_call
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parameter import is_lazy

from pygrid import codes
from pygrid.errors import AuthoringError
from pygrid.plans.authoring.diagnostics import (
    SourceLocation,
    authoring_error,
    described,
    place_of_function,
    without_gradient,
)
from pygrid.plans.authoring.optim import Optimizer
from pygrid.plans.authoring.ports import DataSpec, Float
from pygrid.plans.authoring.predictions import PREDICT, PREDICTIONS, first_result
from pygrid.plans.authoring.state import detached_copy, shared_copy
from pygrid.plans.authoring.tracing import TORCH_DTYPES, Arrays, Program
from pygrid.plans.manifest import BATCH, NUM_DIFFS, Port
from pygrid.tensors import Params

T = TypeVar("T")
Run = Callable[[Arrays], Arrays]
_FLOATS = (torch.float64, torch.float16, torch.bfloat16)


class Subject:
    """A private copy of an author's model, split into inputs of the plan and constants.

    Trainable parameters are ``params/``. Floating-point buffers and frozen parameters are ``buffers/``. Integer
    buffers, and buffers that are not in a checkpoint, are constants of the plan. A shared (tied) parameter counts once,
    under its first name.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        if not isinstance(model, torch.nn.Module):
            raise AuthoringError(f"build() needs a torch.nn.Module, got {type(model).__name__}", code=codes.PLAN_MODEL)
        if torch.is_inference_mode_enabled():
            raise AuthoringError(
                "a plan cannot be built in torch.inference_mode(): it has no gradients", code=codes.PLAN_MODEL
            )
        plain = getattr(model, "_orig_mod", model)  # a compiled model is traced as its original
        _check_model(plain)
        try:
            self.model = detached_copy(plain).to("cpu")
        except Exception as error:  # whatever copying an attribute raises; it is chained as the cause
            raise AuthoringError(
                f"the model cannot be copied: {type(error).__name__}: {error}. Pass a newly made model, without open "
                "files or generators as attributes",
                code=codes.PLAN_MODEL,
            ) from error
        self.called = self.model
        """The copy that the last `call` used, with the attributes that it left behind."""
        self.constants_after: Arrays = {}
        """The constants after the last `call`."""
        for tensor in [*self.model.parameters(), *self.model.buffers()]:
            if tensor.dtype in _FLOATS:
                tensor.data = tensor.data.float()
        saved = set(self.model.state_dict())
        named = dict(self.model.named_parameters())
        buffers = dict(self.model.named_buffers())
        self.params = {k: v.detach() for k, v in named.items() if v.requires_grad}
        frozen = {k: v.detach() for k, v in named.items() if not v.requires_grad}
        floating = {k: v for k, v in buffers.items() if v.is_floating_point() and k in saved}
        self.buffers = frozen | floating
        self.constants = {k: v for k, v in buffers.items() if k not in floating}
        if not self.params:
            raise AuthoringError(
                "the model has no parameter with requires_grad=True: there is nothing to train", code=codes.PLAN_MODEL
            )

    def ports(self) -> tuple[Port, ...]:
        def port(kind: str, name: str, tensor: torch.Tensor) -> Port:
            return Port(f"{kind}/{name}", "float32", tuple(tensor.shape))

        return (
            *(port("params", k, v) for k, v in self.params.items()),
            *(port("buffers", k, v) for k, v in self.buffers.items()),
        )

    def arrays(self) -> Params:
        """Parameters and buffers, not copied."""
        return {k: v.numpy() for k, v in {**self.params, **self.buffers}.items()}

    def initial(self) -> Params:
        """Parameters and buffers, copied."""
        return {k: np.array(v, dtype=np.float32) for k, v in self.arrays().items()}

    def continued(self, called: torch.nn.Module, run: Callable[[], T]) -> T:
        """The result of a run that starts from the Python attributes that an earlier `call` left behind."""
        before, self.model = self.model, called
        try:
            return run()
        finally:
            self.model = before

    def call(self, function: Callable[..., Any], arrays: Arrays, args: tuple[Any, ...], *, training: bool) -> Any:
        """``function(model, *args)`` with these arrays in the model; ``arrays`` receives the changes of buffers.

        Each call starts from the Python attributes that the author's model has.
        """
        self.called = shared_copy(self.model)
        if not (training and self.model.training):  # else, layers that the author put into evaluation mode stay in it
            self.called.train(training)
        constants = {k: v.clone() for k, v in self.constants.items()}
        prefixed = {f"model.{k}": v for k, v in {**arrays, **constants}.items()}
        result = functional_call(_Call(self.called, function), prefixed, args)
        arrays.update({k: prefixed[f"model.{k}"] for k in arrays})
        self.constants_after = {k: prefixed[f"model.{k}"] for k in constants}
        return result


def _check_model(model: torch.nn.Module) -> None:
    """Refuse layers whose way of working a plan cannot have. Raises AuthoringError: ``plan_model``."""
    for path, module in model.named_modules():
        reason = _unfit(module)
        if reason:
            where = f"layer {path!r}" if path else "the model"
            raise AuthoringError(f"{where} ({type(module).__name__}) {reason}", code=codes.PLAN_MODEL, layer=path)


def _unfit(module: torch.nn.Module) -> str:
    """What makes a module unfit for plans; empty if nothing does."""
    own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    if any(is_lazy(tensor) for tensor in own):
        return "has no weights before its first call: call the model on an example, model(torch.zeros(1, ...))"
    if any(tensor.is_meta for tensor in own):
        return "has weights on the device meta, without values: make it on the CPU, or load its weights first"
    if any(tensor.is_complex() for tensor in own):
        return "has complex numbers, which plans do not: keep the real and the imaginary part in two float32 tensors"
    if isinstance(module, _NormBase) and module.momentum is None and module.track_running_stats:
        return "has momentum=None, an average that counts its batches: set a momentum, for example 0.1"
    if isinstance(module, torch.nn.Embedding | torch.nn.EmbeddingBag) and module.max_norm is not None:
        return "has max_norm, which changes weights in forward: normalize the rows that you look up"
    if isinstance(module, torch.nn.Embedding | torch.nn.EmbeddingBag) and module.sparse:
        return "has sparse=True, and plans have dense gradients: set sparse=False"
    if isinstance(module, torch.nn.CrossMapLRN2d):
        return "is not in the plan set: use LocalResponseNorm, which is equal for an odd size"
    if isinstance(module, torch.nn.DataParallel | torch.nn.parallel.DistributedDataParallel):
        return "spreads a model over devices: build the plan for model.module"
    if isinstance(module, torch.jit.ScriptModule):
        return "is scripted, and cannot be traced again: build the plan for the module that you scripted"
    return ""


class _Call(torch.nn.Module):  # type: ignore[misc]
    def __init__(self, model: torch.nn.Module, function: Callable[..., Any]) -> None:
        super().__init__()
        self.model = model
        self.function = function

    def forward(self, *args: Any) -> Any:
        return self.function(self.model, *args)


def make_model(factory: Any, *, seed: int) -> torch.nn.Module:
    """The model of a class or function, with first weights drawn from this seed; a model is returned unchanged.

    The state of torch's own generator does not change.
    """
    if isinstance(factory, torch.nn.Module):
        return factory
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return factory()


def initial_params(model: torch.nn.Module) -> Params:
    """The model's weights as a checkpoint: parameters and floating-point buffers by name, float32, copied.

    Counters such as BatchNorm's ``num_batches_tracked`` are left out, because no plan reads them.
    """
    return Subject(model).initial()


def under(prefix: str, arrays: Arrays) -> Arrays:
    """The arrays whose names begin with ``prefix/``, by the rest of their names."""
    cut = len(prefix) + 1
    return {k[cut:]: v for k, v in arrays.items() if k.startswith(f"{prefix}/")}


@dataclass(frozen=True)
class Signature:
    """The data and hyperparameters that an author's function takes, after its first arguments."""

    function: Callable[..., Any]
    names: tuple[str, ...]

    @property
    def place(self) -> SourceLocation | None:
        return place_of_function(self.function)

    @classmethod
    def read(
        cls,
        function: Callable[..., Any],
        data: Mapping[str, DataSpec],
        hyper: Mapping[str, Float],
        leading: tuple[str, ...],
        *,
        takes_all: bool = True,
    ) -> Signature:
        """Match a function's arguments with the ports by name.

        Args:
            takes_all: whether the function must take all data.
        Raises:
            AuthoringError: an argument is neither data nor a hyperparameter, or the function does not take some data.
        """
        parameters = inspect.signature(function).parameters
        names = list(parameters)
        signature = cls(function, tuple(names[len(leading) :]))
        if len(names) < len(leading):
            reason = f"the function takes ({', '.join(names)}); it must begin with ({', '.join(leading)})"
            raise authoring_error(reason, signature.place, code=codes.PLAN_SIGNATURE)
        for name in signature.names:
            if name not in data and name not in hyper:
                known = ", ".join([*data, *hyper])
                reason = f"argument {name!r} is neither in data= nor in hyper= of the plan ({known})"
                raise authoring_error(reason, signature.place, code=codes.PLAN_SIGNATURE)
        for name, parameter in parameters.items():
            if (
                parameter.kind is not parameter.POSITIONAL_ONLY
                and parameter.kind is not parameter.POSITIONAL_OR_KEYWORD
            ):
                reason = f"argument {name!r} is not positional; list the arguments without * and **"
                raise authoring_error(reason, signature.place, code=codes.PLAN_SIGNATURE)
        for name in data if takes_all else ():
            if name not in signature.names:
                reason = f"data {name!r} is declared, but the function has no argument of that name"
                raise authoring_error(reason, signature.place, code=codes.PLAN_SIGNATURE)
        return signature

    def arguments(self, arrays: Arrays) -> tuple[torch.Tensor, ...]:
        named = under("data", arrays) | under("hyper", arrays)
        return tuple(named[name] for name in self.names)


def data_ports(data: Mapping[str, DataSpec]) -> tuple[Port, ...]:
    return tuple(Port(f"data/{name}", spec.dtype, (BATCH, *spec.shape)) for name, spec in data.items())


def hyper_ports(names: Mapping[str, Float] | tuple[str, ...]) -> tuple[Port, ...]:
    return tuple(Port(f"hyper/{name}", "float32", ()) for name in names)


def bounded_ports(data: Mapping[str, DataSpec]) -> frozenset[str]:
    """Ports of integers that are known not to be negative, because every runner checks their values."""
    return frozenset(
        f"data/{name}" for name, spec in data.items() if spec.num_classes is not None and (spec.ignore or 0) >= 0
    )


@dataclass(frozen=True)
class LossPrograms:
    """The ``train``, ``grads`` and ``eval`` programs of a loss."""

    subject: Subject
    signature: Signature
    data: Mapping[str, DataSpec]
    hyper: Mapping[str, Float]
    optimizer: Optimizer
    inference: Signature | None = None
    """The author's function for predictions; None: predictions are what the loss gets from its model."""

    @property
    def train(self) -> Program:
        return self._program("train", self._train, (*self._state(), *hyper_ports(self.hyper)), ("new/", "metrics/"))

    @property
    def grads(self) -> Program:
        # Besides the gradients only the loss: under privacy nothing else of a single example may come out.
        return self._program("grads", self._grads, self._own_hyper(), ("grads/", "metrics/loss"))

    @property
    def train_and_grads(self) -> Program:
        """Both programs at once: it also outputs the gradients that training computes."""
        program = self.train
        return dataclasses.replace(program, run=self._train_and_grads, outputs=(*program.outputs, "grads/"))

    @property
    def eval(self) -> Program:
        return self._program("eval", self._eval, self._own_hyper(), ("metrics/",), dropout=False)

    @property
    def predict(self) -> Program:
        return self._program(PREDICT, self._predict, self._own_hyper(), (f"{PREDICTIONS}/",), dropout=False)

    @property
    def eval_and_predict(self) -> Program:
        """Both programs at once, for predictions that the loss computes."""
        program = self.eval
        return dataclasses.replace(program, outputs=(*program.outputs, f"{PREDICTIONS}/"))

    def _program(
        self,
        name: str,
        run: Callable[[Arrays], Arrays],
        more: tuple[Port, ...],
        outputs: tuple[str, ...],
        *,
        dropout: bool = True,
    ) -> Program:
        inputs = (*self.subject.ports(), *more, *data_ports(self.data))
        return Program(name, inputs, run, bounded_ports(self.data), dropout, outputs)

    def _state(self) -> tuple[Port, ...]:
        state = self.optimizer.init(self.subject.params)
        return tuple(Port(f"state/{k}", "float32", tuple(v.shape)) for k, v in state.items())

    def _own_hyper(self) -> tuple[Port, ...]:
        """The hyperparameters that the loss itself takes."""
        return hyper_ports(tuple(name for name in self.hyper if name in self.signature.names))

    def _train(self, arrays: Arrays) -> Arrays:
        return {name: array for name, array in self._train_and_grads(arrays).items() if not name.startswith("grads/")}

    def _train_and_grads(self, arrays: Arrays) -> Arrays:
        params, grads, buffers, metrics = self._backward(arrays)
        with torch.no_grad():
            moved, state = self.optimizer.update(params, grads, under("state", arrays), arrays["hyper/lr"])
        results = {f"new/params/{k}": moved[k] for k in params}
        results |= {f"new/buffers/{k}": v for k, v in buffers.items()}
        results |= {f"new/state/{k}": state[k] for k in under("state", arrays)}
        return results | metrics | {f"grads/{k}": v for k, v in grads.items()}

    def _grads(self, arrays: Arrays) -> Arrays:
        _, grads, _, metrics = self._backward(arrays)
        return {f"grads/{k}": v for k, v in grads.items()} | {"metrics/loss": metrics["metrics/loss"]}

    def _eval(self, arrays: Arrays) -> Arrays:
        model = under("params", arrays) | {k: v.clone() for k, v in under("buffers", arrays).items()}
        # Gradients stay on: without them, torch uses fused attention that cannot be traced.
        with first_result(self.subject.model) as found:
            result = self.subject.call(self.signature.function, model, self.signature.arguments(arrays), training=False)
        loss, metrics = self._checked(result)
        return _metric_outputs(loss, metrics) | found

    def _predict(self, arrays: Arrays) -> Arrays:
        """The predictions alone, also without the data that only the loss needs."""
        given = next(array for name, array in arrays.items() if name.startswith("data/"))
        unused = {f"hyper/{name}": torch.tensor(spec.default) for name, spec in self.hyper.items()}
        for port in data_ports(self.data):
            unused[port.name] = torch.zeros((given.shape[0], *port.shape[1:]), dtype=TORCH_DTYPES[port.dtype])
        results = self._eval(unused | arrays)
        return {name: array for name, array in results.items() if name.startswith(f"{PREDICTIONS}/")}

    def _backward(self, arrays: Arrays) -> tuple[Arrays, Arrays, Arrays, Arrays]:
        """Parameters, their gradients, the buffers after the pass, and metrics."""
        params = under("params", arrays)
        buffers = under("buffers", arrays)
        with torch.enable_grad():
            leaves = {k: v.detach().requires_grad_() for k, v in params.items()}
            model = leaves | {k: v.clone() for k, v in buffers.items()}
            arguments = self.signature.arguments(arrays)

            def forward() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
                return self._checked(self.subject.call(self.signature.function, model, arguments, training=True))

            loss, metrics = forward()
            if not loss.requires_grad:
                reason = "the loss does not depend on any parameter of the model through differentiable operations"
                raise authoring_error(reason, self.signature.place, code=codes.PLAN_LOSS)
            try:
                grads = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
            except RuntimeError as error:  # an operator without a gradient, or a graph that backward() used up
                operator, place = "", None
                if "second time" not in str(error):
                    operator, place = without_gradient(lambda: forward()[0], list(leaves.values()))
                way_out = "Return the loss without calling backward(), and use operators that have a gradient"
                what, way_out = (operator, "Use another operator here") if operator else ("the loss", way_out)
                reason = f"the gradient of {what} cannot be computed: {described(error)}. {way_out}"
                raise authoring_error(reason, place or self.signature.place, code=codes.PLAN_LOSS) from error
        named = {
            k: torch.zeros_like(params[k]) if grad is None else grad for k, grad in zip(leaves, grads, strict=True)
        }
        changed = {k: model[k].detach() for k in buffers}
        return params, named, changed, _metric_outputs(loss, metrics)

    def _checked(self, result: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Loss and metrics, checked, from the result of the author's function."""
        loss, metrics = result if isinstance(result, tuple) and len(result) == 2 else (result, {})
        if not isinstance(loss, torch.Tensor) or not isinstance(metrics, dict):
            reason = "the function must return the loss, or (loss, {name: metric}), as tensors"
            raise authoring_error(reason, self.signature.place, code=codes.PLAN_LOSS)
        for name, value in {"loss": loss, **metrics}.items():
            if not isinstance(value, torch.Tensor):
                reason = f"metric {name!r} is a {type(value).__name__}; keep it a tensor"
                raise authoring_error(reason, self.signature.place, code=codes.PLAN_LOSS)
            if value.dim() != 0:
                reason = f"{name!r} has shape {list(value.shape)}; it must be a single number: take .mean() or .sum()"
                raise authoring_error(reason, self.signature.place, code=codes.PLAN_LOSS)
        if not loss.is_floating_point():
            raise authoring_error(
                "the loss must be a floating-point number", self.signature.place, code=codes.PLAN_LOSS
            )
        return loss, metrics


def _metric_outputs(loss: torch.Tensor, metrics: dict[str, torch.Tensor]) -> Arrays:
    return {f"metrics/{k}": v.detach().float() for k, v in {"loss": loss, **metrics}.items()}


@dataclass(frozen=True)
class StepProgram:
    """The ``train`` program of an explicit training step."""

    subject: Subject
    signature: Signature
    data: Mapping[str, DataSpec]
    hyper: Mapping[str, Float]
    state: Mapping[str, torch.Tensor]

    def program(self) -> Program:
        state = tuple(Port(f"state/{k}", "float32", tuple(v.shape)) for k, v in self.state.items())
        inputs = (*self.subject.ports(), *state, *hyper_ports(self.hyper), *data_ports(self.data))
        return Program("train", inputs, self._train, bounded_ports(self.data))

    def _train(self, arrays: Arrays) -> Arrays:
        model = under("params", arrays) | under("buffers", arrays)
        state = under("state", arrays)
        result = self.signature.function(dict(model), dict(state), *self.signature.arguments(arrays))
        if not (isinstance(result, tuple) and len(result) == 3 and all(isinstance(part, dict) for part in result)):
            reason = "a train step must return (params, state, metrics), three dicts of tensors"
            raise authoring_error(reason, self.signature.place, code=codes.PLAN_STEP)
        new_model, new_state, metrics = result
        self._same_names("params", {k: model[k] for k in self.subject.params}, new_model, model)
        self._same_names("state", state, new_state, state)
        if "loss" not in metrics or any(not isinstance(v, torch.Tensor) or v.dim() for v in metrics.values()):
            reason = "the metrics of a train step must be single numbers (tensors of shape []) and include 'loss'"
            raise authoring_error(reason, self.signature.place, code=codes.PLAN_STEP)
        kinds = {k: "params" if k in self.subject.params else "buffers" for k in model}
        outputs = {f"new/{kinds[k]}/{k}": v.detach() for k, v in new_model.items()}
        outputs |= {f"new/state/{k}": new_state[k].detach() for k in state}
        return outputs | {f"metrics/{k}": v.detach().float() for k, v in metrics.items()}

    def _same_names(self, what: str, needed: Arrays, given: Arrays, allowed: Arrays) -> None:
        for name, old in needed.items():
            if name not in given:
                raise authoring_error(
                    f"the train step returns no {what} {name!r}", self.signature.place, code=codes.PLAN_STEP
                )
            if given[name].shape != old.shape:
                reason = (
                    f"the train step returns {what} {name!r} with shape {list(given[name].shape)}, not "
                    f"{list(old.shape)}"
                )
                raise authoring_error(reason, self.signature.place, code=codes.PLAN_STEP)
        for name in given:
            if name not in allowed:
                raise authoring_error(
                    f"the train step returns unknown {what} {name!r}", self.signature.place, code=codes.PLAN_STEP
                )


def average_program(
    function: Callable[..., Any], spec: Mapping[str, tuple[int, ...]], *, iterative: bool, place: SourceLocation | None
) -> Program:
    """The program of an averaging rule for arrays of these names and shapes."""
    if iterative:
        inputs = tuple(
            Port(f"{kind}/{name}", "float32", shape) for kind in ("avg", "item") for name, shape in spec.items()
        )
        inputs = (*inputs, Port("num", "float32", (1,)))
    else:
        inputs = tuple(Port(f"diffs/{name}", "float32", (NUM_DIFFS, *shape)) for name, shape in spec.items())
    result_prefix = "new/avg" if iterative else "avg"

    def run(arrays: Arrays) -> Arrays:
        if iterative:
            result = function(under("avg", arrays), under("item", arrays), arrays["num"])
        else:
            result = function(under("diffs", arrays))
        if not isinstance(result, dict) or set(result) != set(spec):
            raise authoring_error(
                "an averaging rule must return a dict with the names it was given", place, code=codes.PLAN_AVERAGE
            )
        for name, shape in spec.items():
            if tuple(result[name].shape) != shape:
                reason = f"the average of {name!r} has shape {list(result[name].shape)}; a diff has {list(shape)}"
                raise authoring_error(reason, place, code=codes.PLAN_AVERAGE)
        return {f"{result_prefix}/{name}": result[name] for name in spec}

    return Program("average", inputs, run, dropout=False, may_draw=False)
