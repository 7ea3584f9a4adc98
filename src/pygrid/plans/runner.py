"""Runs a plan on ONNX Runtime: training, evaluation, gradients. It uses neither PyTorch nor the author's code.

The loop follows the names of ports (`pygrid.plans.manifest`): run the graph, then feed each output ``new/NAME`` back as
the input ``NAME``. Arrays go in and come out without a copy, so a step costs little more than its graph.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pygrid import codes
from pygrid.errors import InvalidInput, InvalidPlan, ShapeMismatch, Unavailable
from pygrid.plans.archive import Plan
from pygrid.plans.batches import Batch, Batches, Data, batch_length, check_arrays, convert, draw_noise, noise_generator
from pygrid.plans.hyper import resolve_hyper
from pygrid.plans.manifest import Manifest, NoisePort, Port
from pygrid.plans.sessions import OnnxSession
from pygrid.tensors import Params

Array = npt.NDArray[Any]
Progress = Callable[[int, int, int | None, dict[str, float]], None]
"""Called after each update with: epoch (from 0), updates so far, total (None if unknown), metrics of the batch."""
Cancel = threading.Event | Callable[[], bool]
"""Checked between batches; training ends early when it is set or returns true."""

_MODEL_PREFIXES = ("params/", "buffers/")


@dataclass(frozen=True)
class TrainResult:
    """The result of a training run."""

    params: Params
    """The trained model: params and buffers by bare name, float32."""
    metrics: dict[str, float]
    """Metrics of the last epoch, combined over its batches as the manifest declares. Empty if nothing ran."""
    num_examples: int
    """Different examples that were trained on, counted once for all epochs: the weight of this run in an average."""
    num_updates: int
    cancelled: bool = False
    """True if `cancel` or `Runner.terminate` ended the run early; ``params`` holds the last complete update."""


@dataclass(frozen=True)
class Gradients:
    """The result of one call of the grads graph."""

    grads: Params
    """Gradients by bare name of the parameter, float32."""
    metrics: dict[str, float]
    num_examples: int


@dataclass
class _Meter:
    """Metrics over several batches, combined as the manifest declares."""

    manifest: Manifest
    sums: dict[str, float] = field(default_factory=dict)
    num_examples: int = 0

    def add(self, metrics: Mapping[str, float], size: int) -> None:
        for name, value in metrics.items():
            weight = 1 if self.manifest.metrics.get(name) == "sum" else size
            self.sums[name] = self.sums.get(name, 0.0) + value * weight
        self.num_examples += size

    def result(self) -> dict[str, float]:
        return {
            name: total if self.manifest.metrics.get(name) == "sum" else total / self.num_examples
            for name, total in self.sums.items()
        }


class Runner:
    """Runs a training plan. Keep it for many calls: graphs are loaded once, on first use.

    The plan must have passed the gate (`pygrid.plans.check`): the runner trusts the manifest to describe the graphs.
    Calls are serial; only `terminate` may be called from another thread.
    """

    def __init__(self, plan: Plan, *, num_threads: int = 1) -> None:
        """Prepare to run a plan.

        Args:
            plan: of kind ``training``.
            num_threads: threads inside an operator; more than one helps large models only.
        Raises:
            InvalidPlan: the plan is of another kind (``plan_kind``).
        """
        if plan.manifest.kind != "training":
            raise InvalidPlan(
                f"plan {plan.manifest.name!r} is of kind {plan.manifest.kind!r}, not training", code=codes.PLAN_KIND
            )
        self.plan = plan
        self.num_threads = num_threads
        self._loaded: dict[str, _Loaded] = {}
        self._terminated = False

    @property
    def model_spec(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """The model arrays that the plan takes: bare name -> (dtype, shape), params and buffers together."""
        return model_spec(self.plan.manifest)

    def train(
        self,
        params: Mapping[str, Array],
        data: Data,
        *,
        epochs: int = 1,
        batch_size: int = 32,
        hyper: Mapping[str, float] | None = None,
        seed: int = 0,
        max_updates: int | None = None,
        shuffle: bool = True,
        progress: Progress | None = None,
        cancel: Cancel | None = None,
    ) -> TrainResult:
        """Train a model on data; the state of the optimizer starts at zero.

        Args:
            params: params and buffers by bare name, float32; not modified.
            data: arrays by the name of the data port, ``[examples, ...]``, or an iterable of batches of them.
            epochs: passes over the data, >= 0.
            batch_size: examples per update; the last batch of an epoch can be smaller. Ignored for an iterable.
            hyper: values that differ from the plan's defaults, within the plan's ranges.
            seed: >= 0; determines the order of the examples and the noise. Equal seeds make equal runs.
            max_updates: number of updates after which the run ends, across epochs.
            shuffle: a new order each epoch; an iterable of batches keeps its own.
        Raises:
            ShapeMismatch, InvalidInput, NonFinite: model, data or settings do not fit the plan; nothing ran. A batch
                of an iterable is checked when its turn comes.
            InvalidPlan: the plan has no train graph, or the graph failed in a run.
        """
        graph = self._load("train")
        _check_counts(epochs=epochs, seed=seed, max_updates=max_updates)
        feed = self._start(graph, params, hyper)
        batches = Batches.of(self.plan.manifest, data, batch_size=batch_size, epochs=epochs)
        should_stop = _stop_check(cancel)
        total = _total_updates(batches, epochs, max_updates)
        meters: dict[int, _Meter] = {}
        num_updates, cancelled = 0, False
        for epoch, batch, noise in _schedule(batches, epochs if max_updates != 0 else 0, seed, shuffle):
            metrics = None if should_stop() else graph.step(feed, batch, noise)
            if metrics is None:
                cancelled = True
                break
            num_updates += 1
            meters.setdefault(epoch, _Meter(self.plan.manifest)).add(metrics, batch_length(batch))
            if progress is not None:
                progress(epoch, num_updates, total, metrics)
            if num_updates == max_updates:
                break
        last = meters[max(meters)].result() if meters else {}
        most_seen = max((meter.num_examples for meter in meters.values()), default=0)
        own = {name for _, name in graph.feedback} if num_updates else set()  # arrays of a run, not of the caller
        trained = {
            _bare(name): array if name in own else np.array(array)
            for name, array in feed.items()
            if name.startswith(_MODEL_PREFIXES)
        }
        passed_through = {name: np.array(array) for name, array in params.items() if name not in trained}
        return TrainResult({**trained, **passed_through}, last, most_seen, num_updates, cancelled)

    def evaluate(
        self,
        params: Mapping[str, Array],
        data: Data,
        *,
        batch_size: int = 256,
        hyper: Mapping[str, float] | None = None,
    ) -> dict[str, float]:
        """The metrics of a model on data, combined over batches as the manifest declares.

        Raises:
            As `train`; InvalidPlan also if the plan has no eval graph.
        """
        graph = self._load("eval")
        feed = self._start(graph, params, hyper)
        batch_size = min(batch_size, self.plan.manifest.max_batch_size)
        meter, noise = _Meter(self.plan.manifest), noise_generator(0, 0)
        for batch in Batches.of(self.plan.manifest, data, batch_size=batch_size).epoch(seed=0, epoch=0, shuffle=False):
            meter.add(graph.read_metrics(graph.run(feed, batch, noise)), batch_length(batch))
        if not meter.num_examples:
            raise InvalidInput("the data has no examples")
        return meter.result()

    def gradients(
        self,
        params: Mapping[str, Array],
        batch: Mapping[str, Any],
        *,
        hyper: Mapping[str, float] | None = None,
        seed: int = 0,
    ) -> Gradients:
        """The gradient of the loss on one batch.

        Raises:
            As `train`; InvalidPlan also if the plan has no grads graph.
        """
        size = batch_length(check_arrays(self.plan.manifest.data, batch))
        return next(iter(self.iter_gradients(params, batch, [np.arange(size)], hyper=hyper, seed=seed)))

    def iter_gradients(
        self,
        params: Mapping[str, Array],
        data: Mapping[str, Any],
        groups: Iterable[npt.NDArray[np.integer[Any]]],
        *,
        hyper: Mapping[str, float] | None = None,
        seed: int = 0,
    ) -> Iterator[Gradients]:
        """One gradient per group of examples. Each call sees only its group; clipping per person builds on that.

        Args:
            data: the whole dataset, checked once.
            groups: for each result, the indices of its examples; groups of one for a guarantee per record.
        Raises:
            As `gradients`, when the first group is taken; later only for a group of a wrong size or a failed run.
        """
        graph = self._load("grads")
        feed = self._start(graph, params, hyper)
        manifest = self.plan.manifest
        _check_counts(seed=seed)
        arrays = check_arrays(manifest.data, data)
        noise = noise_generator(seed, 0)
        for rows in groups:
            if not 1 <= len(rows) <= manifest.max_batch_size:
                raise InvalidInput(f"a group has {len(rows)} examples; this plan takes 1 to {manifest.max_batch_size}")
            batch = convert(manifest.data, {name: array[rows] for name, array in arrays.items()})
            outputs = graph.run(feed, batch, noise)
            yield Gradients(
                {name: outputs[position] for position, name in graph.grads}, graph.read_metrics(outputs), len(rows)
            )

    def terminate(self) -> None:
        """End the current run before its next operator, from another thread; the runner cannot be used afterwards."""
        self._terminated = True
        for graph in list(self._loaded.values()):
            graph.session.terminate()

    def _load(self, name: str) -> _Loaded:
        if name not in self._loaded:
            self._loaded[name] = _Loaded.of(self.plan, name, self.num_threads)
            if self._terminated:
                self._loaded[name].session.terminate()
        return self._loaded[name]

    def _start(self, graph: _Loaded, params: Mapping[str, Array], hyper: Mapping[str, float] | None) -> dict[str, Any]:
        """The inputs that do not come with a batch: model, hyperparameters, and zero state."""
        check_params(self.model_spec, params)
        values = resolve_hyper(self.plan.manifest, hyper)
        feed: dict[str, Any] = {}
        for port in graph.inputs:
            kind, _, bare = port.name.partition("/")
            if kind in ("params", "buffers"):
                feed[port.name] = np.require(params[bare], np.float32, ("C", "A"))
            elif kind == "state":
                feed[port.name] = np.zeros([int(size) for size in port.shape], port.dtype)
            elif kind == "hyper":
                feed[port.name] = np.array(values[bare], np.float32)
        return feed


@dataclass(frozen=True)
class _Loaded:
    """A loaded graph, with its ports sorted once, so that each run only looks up names."""

    session: OnnxSession
    inputs: tuple[Port, ...]
    outputs: tuple[str, ...]
    data: tuple[tuple[str, str], ...]
    """Bare name and port name of each data port."""
    noise: dict[str, NoisePort]
    feedback: tuple[tuple[int, str], ...]
    """Position of each output ``new/NAME``, and ``NAME``."""
    metrics: tuple[tuple[int, str], ...]
    grads: tuple[tuple[int, str], ...]

    @classmethod
    def of(cls, plan: Plan, name: str, num_threads: int) -> _Loaded:
        data = plan.graph(name)
        entry, noise = plan.manifest.graphs[name], plan.manifest.noise
        outputs = tuple(port.name for port in entry.outputs)

        def under(prefix: str) -> tuple[tuple[int, str], ...]:
            return tuple(
                (i, output.removeprefix(prefix)) for i, output in enumerate(outputs) if output.startswith(prefix)
            )

        taken = {port.name for port in entry.inputs}
        return cls(
            session=OnnxSession(data, name=name, num_threads=num_threads),
            inputs=entry.inputs,
            outputs=outputs,
            data=tuple((_bare(port), port) for port in sorted(taken) if port.startswith("data/")),
            noise={bare: port for bare, port in noise.items() if f"noise/{bare}" in taken},
            feedback=under("new/"),
            metrics=under("metrics/"),
            grads=under("grads/"),
        )

    def run(self, feed: dict[str, Any], batch: Batch, noise: np.random.Generator) -> list[Any]:
        """Run once and return the outputs in order. ``feed`` receives the batch and can be reused for the next run."""
        for bare, port in self.data:
            feed[port] = batch[bare]
        if self.noise:
            for bare, array in draw_noise(self.noise, batch_length(batch), noise).items():
                feed[f"noise/{bare}"] = array
        return self.session.run(self.outputs, feed)

    def step(self, feed: dict[str, Any], batch: Batch, noise: np.random.Generator) -> dict[str, float] | None:
        """Update ``feed`` in place; return the batch's metrics, or None if `terminate` ended the run first."""
        try:
            outputs = self.run(feed, batch, noise)
        except Unavailable as error:
            if error.code == "run_cancelled":
                return None
            raise
        for position, name in self.feedback:
            feed[name] = outputs[position]
        return self.read_metrics(outputs)

    def read_metrics(self, outputs: list[Any]) -> dict[str, float]:
        return {name: float(outputs[position]) for position, name in self.metrics}


def model_spec(manifest: Manifest) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Bare name -> (dtype, shape) of each model array that any graph of a training plan takes, sorted by name."""
    spec: dict[str, tuple[str, tuple[int, ...]]] = {}
    for graph in manifest.graphs.values():
        for port in graph.inputs:
            if port.name.startswith(_MODEL_PREFIXES):
                spec[_bare(port.name)] = (port.dtype, tuple(int(size) for size in port.shape))
    return dict(sorted(spec.items()))


def check_params(spec: Mapping[str, tuple[str, tuple[int, ...]]], params: Mapping[str, Array]) -> None:
    """Check that a model has exactly the arrays of a spec.

    Raises:
        ShapeMismatch: the message names the first array that is missing, not expected, or of another shape or dtype.
    """
    for name, (dtype, shape) in spec.items():
        if name not in params:
            raise ShapeMismatch(f"the model has no array {name!r}, which the plan takes", array=name)
        array = params[name]
        if array.shape != shape or array.dtype != dtype:
            raise ShapeMismatch(
                f"array {name!r} of the model is {array.dtype} {list(array.shape)}; the plan takes {dtype} "
                f"{list(shape)}",
                array=name,
            )
    for name in params:
        if name not in spec:
            raise ShapeMismatch(f"the model has an array {name!r}, which the plan does not take", array=name)


def _bare(port: str) -> str:
    return port.partition("/")[2]


def _total_updates(batches: Batches, epochs: int, max_updates: int | None) -> int | None:
    total = None if batches.num_batches is None else epochs * batches.num_batches
    if max_updates is None:
        return total
    return max_updates if total is None else min(total, max_updates)


def _schedule(
    batches: Batches, epochs: int, seed: int, shuffle: bool
) -> Iterator[tuple[int, Batch, np.random.Generator]]:
    """Every batch of a run, with its epoch and the generator of that epoch's noise."""
    for epoch in range(epochs):
        noise = noise_generator(seed, epoch)
        for batch in batches.epoch(seed=seed, epoch=epoch, shuffle=shuffle):
            yield epoch, batch, noise


def _check_counts(**counts: int | None) -> None:
    for name, value in counts.items():
        if value is not None and value < 0:
            raise InvalidInput(f"{name} is {value}; it must not be negative")


def _stop_check(cancel: Cancel | None) -> Callable[[], bool]:
    if cancel is None:
        return lambda: False
    return cancel.is_set if isinstance(cancel, threading.Event) else cancel
