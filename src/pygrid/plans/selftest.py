"""A self-test for runtimes: one training step on inputs from a formula, and the loss that it must compute.

A few lines of any language make the inputs. Sort the names of the graph's inputs by code point; let s be a port's
position in that list, from 0, and k the index of an element in row-major order, from 0. With

    u(k) = ((k + 1) * (7919 + 2 s) mod 65521) / 65521        a number in [0, 1), computed in float64

an element is, rounded to the port's dtype:

    params/      (u - 0.5) / 5
    buffers/     0.5 + u                                     so that variances are positive
    state/       0
    hyper/       the default
    noise/       u
    data/        float32: u      bool: u >= 0.5      integers: floor(u * num_classes), without classes floor(u * 2)

The graph is ``train`` if the plan has it, else ``grads``; the result is its ``metrics/loss``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pygrid import codes
from pygrid.errors import InvalidPlan, Unavailable
from pygrid.plans.archive import Plan
from pygrid.plans.manifest import Manifest, Port
from pygrid.plans.sessions import OnnxSession

_MODULUS = 65_521
_FACTOR = 7_919


@dataclass(frozen=True)
class SelfTest:
    """The result of a self-test."""

    loss: float
    expected: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the loss differs by at most the tolerance times the larger of 1 and the expected magnitude."""
        return abs(self.loss - self.expected) <= self.tolerance * max(1.0, abs(self.expected))


def selftest_graph(manifest: Manifest) -> str:
    """The graph that the self-test runs."""
    return "train" if "train" in manifest.graphs else "grads"


def selftest_inputs(manifest: Manifest, batch_size: int) -> dict[str, npt.NDArray[Any]]:
    """The inputs of the self-test, by port name."""
    ports = manifest.graphs[selftest_graph(manifest)].inputs
    names = sorted(port.name for port in ports)
    return {port.name: _array(manifest, port, names.index(port.name), batch_size) for port in ports}


def selftest_loss(plan: Plan, batch_size: int, *, num_threads: int = 1) -> float:
    """The loss that this machine computes for a batch of the self-test.

    Raises:
        InvalidPlan: the plan is of kind averaging, or its graph failed in the run.
    """
    if plan.manifest.kind != "training":
        raise InvalidPlan("an averaging plan has no self-test", code=codes.PLAN_KIND)
    graph = selftest_graph(plan.manifest)
    session = OnnxSession(plan.graph(graph), name=graph, num_threads=num_threads)
    return float(session.run(["metrics/loss"], selftest_inputs(plan.manifest, batch_size))[0])


def run_selftest(plan: Plan, *, num_threads: int = 1) -> SelfTest | None:
    """The result of the plan's test vector on this machine; None if the plan has no test vector.

    Raises:
        Unavailable: this runtime computes another loss (``selftest_failed``), so it would train wrong models.
    """
    vector = plan.manifest.test_vector
    if vector is None:
        return None
    loss = selftest_loss(plan, vector.batch_size, num_threads=num_threads)
    result = SelfTest(loss, vector.loss, vector.tolerance)
    if not result.passed:
        raise Unavailable(
            f"plan {plan.manifest.name!r} computes a wrong result on this machine: the loss of its self-test is "
            f"{loss:.6g}, expected {vector.loss:.6g}. The runtime on this machine cannot be used for it",
            code=codes.SELFTEST_FAILED,
        )
    return result


def _array(manifest: Manifest, port: Port, position: int, batch_size: int) -> npt.NDArray[Any]:
    kind, _, bare = port.name.partition("/")
    shape = tuple(batch_size if isinstance(size, str) else size for size in port.shape)
    if kind == "state":
        return np.zeros(shape, port.dtype)
    if kind == "hyper":
        return np.full(shape, manifest.hyper[bare].default, np.float32)
    k = np.arange(np.prod(shape, dtype=np.int64), dtype=np.int64)
    u = ((k + 1) * (_FACTOR + 2 * position) % _MODULUS / _MODULUS).reshape(shape)
    if kind == "params":
        u = (u - 0.5) / 5
    elif kind == "buffers":
        u = 0.5 + u
    elif port.dtype == "bool":
        return u >= 0.5
    elif port.dtype.startswith("int"):
        u = np.floor(u * (manifest.data[bare].num_classes or 2))
    return u.astype(port.dtype)
