"""The manifest (``plan.json``) of a plan: what its graphs take, give and cost.

Names in graphs follow one scheme, by prefix, so that a runner is a short loop: run, feed each ``new/NAME`` back as ``NAME``.

    inputs   params/fc1.weight   buffers/bn.running_mean   state/momentum/fc1.weight   hyper/lr   data/x   noise/dropout0
    outputs  new/params/...      new/buffers/...           new/state/...               metrics/loss        grads/...

A plan of kind ``averaging`` has one graph, ``average``: if iterative ``avg/NAME, item/NAME, num -> new/avg/NAME``, else
``diffs/NAME`` (one more leading dimension, ``num_diffs``) ``-> avg/NAME``.

A checkpoint and a diff carry the bare names (``fc1.weight``, ``bn.running_mean``) of both ``params/`` and ``buffers/``.
"""

from __future__ import annotations

from typing import Literal

import msgspec

FORMAT = 1
BATCH = "batch"
"""The symbolic leading dimension of data and noise."""
NUM_DIFFS = "num_diffs"
"""The symbolic leading dimension of the inputs of an averaging plan that takes all diffs at once."""

DType = Literal["float32", "int64", "int32", "bool"]
GraphName = Literal["train", "grads", "eval", "average"]
PlanKind = Literal["training", "averaging"]


class Port(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One input or output of a graph; a dimension is a size or the name of a symbol (``batch``, ``num_diffs``)."""

    name: str
    dtype: DType
    shape: tuple[int | str, ...]


class Graph(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One ONNX graph of the archive. Costs are claims of the exporter; the gate computes them again."""

    sha256: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    num_nodes: int
    flops_fixed: int
    """Floating-point operations of a call that do not depend on the batch size."""
    flops_per_example: int
    """Floating-point operations that each further example adds."""


class DataPort(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A column of data that the plan asks for; ``shape`` is that of one example, without the batch dimension."""

    dtype: DType
    shape: tuple[int, ...]
    meaning: str = ""
    """In words, to match a data set's schema: ``image 1x28x28 in 0..1``, ``label 0..9``."""
    num_classes: int | None = None
    """For labels and tokens: values are in ``[0, num_classes)``."""
    optional: bool | msgspec.UnsetType = msgspec.UNSET
    """True: values can be missing and arrive as NaN; float32 only. UNSET is false, and keeps the bytes of older manifests."""


class NoisePort(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Seeded noise that the runner feeds, e.g. for dropout; uniform in [0, 1), float32, ``shape`` per example."""

    shape: tuple[int, ...]


class Hyper(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A hyperparameter: a float32 scalar with a default and the range that the author allows (both ends included)."""

    default: float
    min: float
    max: float


class TestVector(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Lets every runtime test itself: the loss of one training step on generated inputs (`plans/selftest.py`)."""

    __test__ = False  # pytest: this is not a test class

    batch_size: int
    loss: float
    tolerance: float = 1e-4


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole of ``plan.json``."""

    format: int
    kind: PlanKind
    name: str
    description: str
    author: str
    opset: int
    graphs: dict[str, Graph]
    data: dict[str, DataPort] = {}
    noise: dict[str, NoisePort] = {}
    hyper: dict[str, Hyper] = {}
    metrics: dict[str, Literal["mean", "sum"]] = {}
    """How a metric of several batches is combined: mean weighted by batch size, or sum."""
    max_batch_size: int = 1024
    per_example_independent: bool = True
    """False where examples of a batch influence each other (BatchNorm); such a plan is refused for private jobs."""
    iterative: bool = False
    """Averaging plans: one diff at a time."""
    optimizer: str = ""
    """In words, e.g. ``SGD(momentum=0.9)``."""
    test_vector: TestVector | None = None
