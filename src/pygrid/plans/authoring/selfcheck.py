"""Compares finished graphs with eager torch, before they are returned."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from pygrid import codes
from pygrid.errors import AuthoringError
from pygrid.plans.authoring.diagnostics import authoring_error, place_of_error
from pygrid.plans.authoring.emit import Emitted
from pygrid.plans.authoring.interception import Interception
from pygrid.plans.authoring.tracing import Arrays, GivenNoise, Program
from pygrid.plans.manifest import DataPort, Hyper, Port
from pygrid.plans.sessions import OnnxSession
from pygrid.tensors import Params

BATCH_SIZES = (2, 5, 1, 32)
TOLERANCE = 1e-4
"""Allowed difference between ONNX Runtime and torch in one step, relative to the larger of 1 and the largest element.

Float32 carries 6e-8. Sums over a batch, a kernel or a sequence lose two or three digits of it, because each side adds
in another order. A wrong operator or a wrong axis shows as 1e-2 or more.
"""
_INDEPENDENT = 1e-3
"""Relative difference below which the gradient of a batch is the mean of its examples' gradients."""

Feed = dict[str, npt.NDArray[np.generic]]


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
        classes = self.data[name].num_classes or 2
        return self.random.integers(0, classes, shape).astype(port.dtype)


def eager(program: Program, feed: Feed) -> Arrays:
    """The outputs of the program in eager torch, with torch's own layers and the same dropout noise."""
    arrays = {name: torch.from_numpy(np.array(array)) for name, array in feed.items()}
    noise = [arrays.pop(name) for name in list(arrays) if name.startswith("noise/")]
    with Interception(GivenNoise(noise) if program.dropout else None, tracing=False):
        return program.run(arrays)


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
        reason = f"the code fails on a batch of {BATCH_SIZES[1]} even without tracing: {type(error).__name__}: {error}"
        raise authoring_error(reason, place_of_error(error), code=codes.PLAN_SOURCE_FAILS) from error
    finally:
        torch.random.set_rng_state(rng)


def check_against_eager(graph: Emitted, feeder: Feeder, sizes: Sequence[int] = BATCH_SIZES) -> None:
    """Run several steps at several batch sizes, each from torch's last result, and compare every output.

    Raises:
        AuthoringError: the graph and torch differ (``plan_deviates``): a fault of the exporter, not of the author.
    """
    session = OnnxSession(graph.data, name=graph.program.name)
    names = [port.name for port in graph.outputs]
    moved: Feed = {}
    for size in sizes:
        feed = {**feeder.feed(graph.inputs, size), **moved}
        try:
            reference = eager(graph.program, feed)
        except ValueError:
            if size == 1 and graph.batch_norm:
                continue  # torch itself refuses batch norm over one value
            raise
        expected = {name: tensor.detach().numpy() for name, tensor in reference.items()}
        actual = dict(zip(names, session.run(names, feed), strict=True))
        for name in names:
            _compare(graph.program.name, name, expected[name], np.asarray(actual[name]), size)
        moved = {
            name.removeprefix("new/"): array
            for name, array in expected.items()
            if name.startswith(("new/params/", "new/buffers/"))
        }


def _compare(
    graph: str, name: str, expected: npt.NDArray[np.generic], actual: npt.NDArray[np.generic], size: int
) -> None:
    if expected.shape != actual.shape:
        difference = f"shape {list(actual.shape)} instead of {list(expected.shape)}"
    elif not np.array_equal(np.isfinite(expected), np.isfinite(actual)):
        difference = "values that are finite in only one of the two"
    else:
        with np.errstate(invalid="ignore"):
            gap = np.nan_to_num(np.abs(expected.astype(np.float64) - actual.astype(np.float64)))
        largest = float(np.abs(np.nan_to_num(expected.astype(np.float64), posinf=0, neginf=0)).max(initial=0.0))
        worst = float(gap.max(initial=0.0))
        if worst <= TOLERANCE * max(1.0, largest):
            return
        difference = f"a difference of {worst:.2g} (largest element {largest:.2g})"
    raise AuthoringError(
        f"the {graph} graph does not compute what torch does: {name} has {difference} at batch size {size}. "
        "The plan was not built. Rewrite the loss with simpler operators, and report this",
        code=codes.PLAN_DEVIATES,
        graph=graph,
        output=name,
    )


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
