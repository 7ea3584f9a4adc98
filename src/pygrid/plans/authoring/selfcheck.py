"""Compares finished graphs with eager torch, before they are returned."""

from __future__ import annotations

import logging
import math
import traceback
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch

from pygrid import codes
from pygrid.errors import AuthoringError
from pygrid.plans.authoring.diagnostics import authoring_error, described, place_of_error
from pygrid.plans.authoring.emit import Emitted
from pygrid.plans.authoring.interception import PACKED
from pygrid.plans.authoring.reference import Feed, GraphInDoubles, eager, eager_in_doubles
from pygrid.plans.authoring.tracing import Program
from pygrid.plans.manifest import DataPort, Hyper, Port
from pygrid.plans.sessions import OnnxSession
from pygrid.tensors import Params

logger = logging.getLogger(__name__)

BATCH_SIZES = (2, 5, 1, 32)
TOLERANCE = 1e-4
"""Allowed difference between ONNX Runtime and torch in one step, relative to the larger of 1 and the largest element.

Float32 carries 6e-8. Sums over a batch, a kernel or a sequence lose two or three digits of it, because each side adds
in another order. Where rounding makes a larger error, the self-check measures it and allows a multiple.
"""
_EXACT = 1e-7
"""Allowed relative difference in float64: an error of this size is as small as the rounding of float32."""
_CANCELLED = 1e-13
"""Allowed difference in float64 of an output that is zero except for rounding, because numbers of size 1 cancel."""
_VANISHING = 1e-3
"""A gradient that vanishes, except for rounding, is compared on this part of the scale of the largest gradient."""
_MULTIPLE = 20.0
"""Allowed multiple of a measured error of rounding. The error varies from one order of additions to the next."""
_KINKS = 0.1
"""Allowed relative difference of an array in float32, after float64 showed that the graph is right."""
_KINKS_ALONE = 0.01
"""The same for a model that is too large for float64. A kink in one of many units moves a gradient little."""
_LARGEST_IN_DOUBLES = 16
"""Largest batch that is compared in float64, to keep builds short."""
_BLOCK = 1 << 20
_MAX_BYTES_IN_DOUBLES = 256 * 1024**2
"""Float32 bytes of model and optimizer state above which nothing is compared in float64, to save memory."""
_INDEPENDENT = 1e-3
"""Relative difference below which the gradient of a batch is the mean of its examples' gradients."""


class Feeder:
    """Random but repeatable inputs for the ports of a graph."""

    def __init__(self, data: dict[str, DataPort], hyper: dict[str, Hyper], initial: Params, symbol: str) -> None:
        self.data = data
        self.hyper = hyper
        self.initial = initial
        self.symbol = symbol
        self.random = np.random.default_rng(20)

    def feed(self, ports: Sequence[Port], size: int) -> Feed:
        return {
            port.name: self._array(port, tuple(size if s == self.symbol else int(s) for s in port.shape))
            for port in ports
        }

    def num_bytes(self, ports: Sequence[Port]) -> int:
        """Bytes of the inputs that do not grow with the batch."""
        fixed = (port.shape for port in ports if self.symbol not in port.shape)
        return sum(4 * math.prod(int(size) for size in shape) for shape in fixed)

    def _array(self, port: Port, shape: tuple[int, ...]) -> npt.NDArray[np.generic]:
        kind, _, name = port.name.partition("/")
        if kind in ("params", "buffers"):
            return self.initial[name]
        if kind == "hyper":
            return np.array(self.hyper[name].default, np.float32)
        if port.dtype == "float32":
            array = self.random.random(shape, dtype=np.float32)
            # Optimizers divide by the root of their state: away from zero, they do not amplify rounding.
            return np.asarray(array * np.float32(0.5) + np.float32(0.5)) if kind == "state" else np.asarray(array)
        if port.dtype == "bool":
            return self.random.random(shape) < 0.5
        return self._classes(self.data[name], shape).astype(port.dtype)

    def _classes(self, port: DataPort, shape: tuple[int, ...]) -> npt.NDArray[np.int64]:
        """Random classes; with the first, the last and the one for no label, as far as there is room for them."""
        num_classes = port.num_classes or 2
        classes = self.random.integers(0, num_classes, shape)
        flat = classes.reshape(-1)
        flat[:1] = num_classes - 1
        flat[1:2] = 0
        if isinstance(port.ignore, int):
            flat[3::4] = port.ignore
        return classes


def check_runs(program: Program, feeder: Feeder) -> None:
    """Run the author's code once as ordinary torch code, so that ordinary errors look ordinary.

    Raises:
            AuthoringError: the code fails without tracing (``plan_source_fails``).
    """
    arrays = {
        name: torch.from_numpy(np.array(array)) for name, array in feeder.feed(program.inputs, BATCH_SIZES[1]).items()
    }
    rng = torch.random.get_rng_state()
    try:
        program.run(arrays)
    except AuthoringError:
        raise
    except Exception as error:  # any error of the author's code; it is chained as the cause
        if _is_about_packing(error):  # of lengths of 0, for example, which ports of integers have
            raise authoring_error(PACKED[1], place_of_error(error), code=PACKED[0]) from error
        reason = f"the code fails on a batch of {BATCH_SIZES[1]} even without tracing: {described(error)}"
        raise authoring_error(reason, place_of_error(error), code=codes.PLAN_SOURCE_FAILS) from error
    finally:
        torch.random.set_rng_state(rng)


def _is_about_packing(error: BaseException) -> bool:
    """Whether torch's functions for packed sequences raised an error."""
    packing = torch.nn.utils.rnn.__file__
    return any(frame.f_code.co_filename == packing for frame, _ in traceback.walk_tb(error.__traceback__))


def check_against_eager(graph: Emitted, feeder: Feeder, sizes: Sequence[int] = BATCH_SIZES) -> None:
    """Run several steps at several batch sizes, each from torch's last result, and compare every output with torch.

    The graph is evaluated in float64 and compared with torch in float64, which shows every fault of the exporter. Then
    ONNX Runtime runs it in float32; there, rounding can change a gradient much (see `_check_rounded`).

    Raises:
        AuthoringError: the graph and torch differ (``plan_deviates``): a fault of the exporter, not of the author.
    """
    small = feeder.num_bytes(graph.inputs) <= _MAX_BYTES_IN_DOUBLES
    sides = _Sides(graph, GraphInDoubles(graph) if small else None)
    moved: Feed = {}
    for size in sizes:
        moved = _check_step(sides, feeder, size, moved)


def _check_step(sides: _Sides, feeder: Feeder, size: int, moved: Feed) -> Feed:
    """One step from these parameters; returns those after it. Everything else of the step is freed."""
    graph = sides.graph
    feed = {**feeder.feed(graph.inputs, size), **moved}
    expected = sides.torch_in_doubles(feed) if size <= _LARGEST_IN_DOUBLES else None
    if expected is not None:
        sides.check_exact(feed, expected, size)
    else:
        try:
            expected = sides.torch(feed)
        except ValueError:
            if size == 1 and graph.batch_norm:
                return moved  # torch itself refuses batch norm over one value
            raise
    sides.check_rounded(feed, expected, size)
    with np.errstate(over="ignore"):
        after: Feed = {
            name.removeprefix("new/"): array.astype(np.float32, copy=False)
            for name, array in expected.items()
            if name.startswith(("new/params/", "new/buffers/"))
        }
    # Else the next step starts where this one did.
    return after if all(np.isfinite(array).all() for array in after.values()) else moved


class _Sides:
    """Torch and the finished graph, for the same inputs."""

    def __init__(self, graph: Emitted, doubles: GraphInDoubles | None) -> None:
        self.graph = graph
        self.doubles = doubles
        self.is_exact = False
        """Whether the graph was found equal to torch in float64."""
        self.names = [port.name for port in graph.outputs]
        self.session = OnnxSession(graph.data, name=graph.program.name, keeps_memory=doubles is not None)
        self.parts = [self.names] if doubles is not None else _by_kind(self.names)
        """The outputs that are compared at once: of a large model one part after the other, to save memory."""

    def torch(self, feed: Feed) -> Feed:
        """Torch's outputs in float32."""
        return {name: tensor.detach().numpy() for name, tensor in eager(self.graph.program, feed).items()}

    def torch_in_doubles(self, feed: Feed) -> Feed | None:
        """Torch's outputs in float64; None if the model is too large for it, or the code insists on float32."""
        if self.doubles is None:
            return None
        try:
            outputs = eager_in_doubles(self.graph.program, feed)
        except Exception as error:  # code that runs in float32 can fail in float64 in any way
            logger.info("graph %s is not compared in float64: %s", self.graph.program.name, error)
            return None
        return {name: tensor.detach().numpy() for name, tensor in outputs.items()}

    def check_exact(self, feed: Feed, expected: Feed, size: int) -> None:
        """Compare in float64: what remains is far below the rounding of float32, unless the exporter is wrong."""
        if self.doubles is None:
            raise ValueError("this graph is compared in float32 only")
        actual = self._outputs(self.doubles, feed)
        allowed = {name: max(_EXACT * scale, _CANCELLED) for name, scale in _scales(expected).items()}
        if self._differing(expected, actual, allowed) is not None and not self.doubles.is_exact:
            # A constant that torch computed in float32 is not exact: allow for what one unit in its last place changes.
            moved = self._outputs(GraphInDoubles(self.graph, moved=2.0**-23), feed)
            for name in self.names:
                allowed[name] += _MULTIPLE * _largest_gap(actual[name], moved[name])
        self._refuse(self._differing(expected, actual, allowed), size)
        self.is_exact = True

    def check_rounded(self, feed: Feed, expected: Feed, size: int) -> None:
        """Compare ONNX Runtime with torch: within `TOLERANCE`, or within a multiple of the error that rounding makes.

        That error is measured: by torch in float32, from the inputs and from inputs that are moved by one unit in
        their last place. Arrays have a further allowance: where rounding moves one unit across the kink of a ReLU or to
        another maximum of a pool, a few elements of a gradient jump, in some runs and not in others.
        """
        scales = _scales(expected)
        allowed = {name: TOLERANCE * max(1.0, scale) for name, scale in scales.items()}
        if self._differing_of_runtime(feed, expected, allowed) is None:
            return
        kinks = _KINKS if self.is_exact else _KINKS_ALONE
        for name in self.names:
            if not name.startswith("metrics/"):
                allowed[name] = max(allowed[name], kinks * scales[name])
        for direction in (0, 1, -1):
            rounded = self.torch(_moved_by_an_ulp(feed, direction))
            if not all(np.array_equal(np.isfinite(expected[name]), np.isfinite(rounded[name])) for name in self.names):
                expected = rounded  # beyond the range of float32, or at its edge: there is no error to measure
            for name in self.names:
                allowed[name] = max(allowed[name], _MULTIPLE * _largest_gap(expected[name], rounded[name]))
        self._refuse(self._differing_of_runtime(feed, expected, allowed), size)

    def _differing_of_runtime(self, feed: Feed, expected: Feed, allowed: Mapping[str, float]) -> tuple[str, str] | None:
        """As `_differing`, for the outputs of ONNX Runtime."""
        for names in self.parts:
            differing = self._differing(expected, self._outputs(self.session, feed, names), allowed)
            if differing is not None:
                return differing
        return None

    def _outputs(self, evaluator: OnnxSession | GraphInDoubles, feed: Feed, names: Sequence[str] | None = None) -> Feed:
        """Outputs of the graph. Raises AuthoringError: it does not run, for example because shapes do not fit."""
        wanted = self.names if names is None else names
        try:
            return dict(zip(wanted, evaluator.run(wanted, feed), strict=True))
        except Exception as error:  # whatever the runtime raises; it is chained as the cause
            graph = self.graph.program.name
            raise AuthoringError(
                f"the {graph} graph does not run: {type(error).__name__}: {error}. The plan was not built. Rewrite the "
                "loss with simpler operators, and report this",
                code=codes.PLAN_DEVIATES,
                graph=graph,
            ) from error

    def _differing(self, expected: Feed, actual: Feed, allowed: Mapping[str, float]) -> tuple[str, str] | None:
        """The first output that differs by more than is allowed, and how it differs."""
        for name in actual:
            difference = _difference(expected[name], np.asarray(actual[name]), allowed[name])
            if difference:
                return name, difference
        return None

    def _refuse(self, differing: tuple[str, str] | None, size: int) -> None:
        if differing is None:
            return
        name, difference = differing
        raise AuthoringError(
            f"the {self.graph.program.name} graph does not compute what torch does: {name} has {difference} at batch "
            f"size {size}. The plan was not built. Rewrite the loss with simpler operators, and report this",
            code=codes.PLAN_DEVIATES,
            graph=self.graph.program.name,
            output=name,
        )


def _by_kind(names: Sequence[str]) -> list[list[str]]:
    """The names in parts that are about as large as the model: ``new/params/...``, ``new/state/m/...``."""
    parts: dict[str, list[str]] = {}
    for name in names:
        kind, *path = name.removeprefix("new/").split("/")
        single = kind == "state" and len(path) == 1  # such as the number of steps
        parts.setdefault("metrics" if single else f"{kind}/{path[0]}" if kind == "state" else kind, []).append(name)
    return list(parts.values())


def _scales(arrays: Feed) -> dict[str, float]:
    """For each output its largest element; for gradients that vanish, a fraction of the largest gradient."""
    own = {name: _largest(array) for name, array in arrays.items()}
    kinds: dict[str, float] = {}
    for name, scale in own.items():
        kind = name.partition("/")[0]
        kinds[kind] = max(kinds.get(kind, 0.0), scale)
    return {name: max(scale, _VANISHING * kinds[name.partition("/")[0]]) for name, scale in own.items()}


def _largest(array: npt.NDArray[np.generic]) -> float:
    return max(
        (float(np.abs(np.nan_to_num(part, posinf=0, neginf=0)).max(initial=0.0)) for part in _blocks(array)),
        default=0.0,
    )


def _largest_gap(a: npt.NDArray[np.generic], b: npt.NDArray[np.generic]) -> float:
    with np.errstate(invalid="ignore"):
        return max(
            (
                float(np.nan_to_num(np.abs(x - y), posinf=0).max(initial=0.0))
                for x, y in zip(_blocks(a), _blocks(b), strict=True)
            ),
            default=0.0,
        )


def _blocks(array: npt.NDArray[np.generic]) -> Iterator[npt.NDArray[np.float64]]:
    """The elements in float64, a part at a time: a large array is not copied as a whole."""
    flat = array.reshape(-1)
    for start in range(0, flat.size, _BLOCK):
        yield flat[start : start + _BLOCK].astype(np.float64)


def _difference(expected: npt.NDArray[np.generic], actual: npt.NDArray[np.generic], allowed: float) -> str:
    """How two arrays differ by more than is allowed; empty if they do not."""
    if expected.shape != actual.shape:
        return f"shape {list(actual.shape)} instead of {list(expected.shape)}"
    if not np.array_equal(np.isfinite(expected), np.isfinite(actual)):
        return "values that are finite in only one of the two"
    worst = _largest_gap(expected, actual)
    return f"a difference of {worst:.2g} (largest element {_largest(expected):.2g})" if worst > allowed else ""


def _moved_by_an_ulp(feed: Feed, direction: int) -> Feed:
    """Parameters, buffers and data, each element moved by one unit in its last place, in turn up and down."""
    if direction == 0:
        return feed
    moved = dict(feed)
    for name, array in feed.items():
        if array.dtype == np.float32 and name.startswith(("params/", "buffers/", "data/")):
            signs = np.where(np.arange(array.size).reshape(array.shape) % 2, -direction, direction)
            moved[name] = np.nextafter(array, np.copysign(np.float32(np.inf), signs, dtype=np.float32))
    return moved


def is_per_example_independent(grads: Emitted, feeder: Feeder) -> bool:
    """Whether the gradient of a batch is the mean (or the sum) of the gradients of its single examples.

    It is not if examples of a batch influence each other: batch norm, contrastive losses, weights normalized over it.
    """
    if grads.batch_norm:
        return False
    size = 5
    session = OnnxSession(grads.data, name="grads")
    names = [port.name for port in grads.outputs if port.name.startswith("grads/")]
    feed = feeder.feed(grads.inputs, size)
    together = session.run(names, feed)
    per_example = {port.name for port in grads.inputs if port.name.startswith(("data/", "noise/"))}
    totals = [np.zeros(np.shape(array), np.float64) for array in together]
    for row in range(size):
        alone = {name: array[row : row + 1] if name in per_example else array for name, array in feed.items()}
        for total, array in zip(totals, session.run(names, alone), strict=True):
            total += array
    for divisor in (size, 1):
        if all(_close(whole, total / divisor) for whole, total in zip(together, totals, strict=True)):
            return True
    return False


def _close(a: npt.NDArray[np.generic], b: npt.NDArray[np.float64]) -> bool:
    scale = max(float(np.abs(b).max(initial=0.0)), 1e-3)
    return float(np.abs(np.asarray(a, np.float64) - b).max(initial=0.0)) <= _INDEPENDENT * scale
