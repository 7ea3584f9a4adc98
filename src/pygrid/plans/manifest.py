"""The manifest (``plan.json``) of a plan: inputs, outputs and costs of its graphs.

Names in graphs have prefixes, so a runner is a short loop: run, then feed each ``new/NAME`` back as ``NAME``.

    inputs   params/fc1.weight  buffers/bn.running_mean  state/momentum/fc1.weight  hyper/lr  data/x  noise/dropout0
    outputs  new/params/...     new/buffers/...          new/state/...              metrics/loss      grads/...

The graph ``predict`` is for whoever serves the trained model: ``data/x -> predictions/output``, in evaluation mode. No
device and no job runs it.

A plan of kind ``averaging`` has one graph, ``average``. If iterative: ``avg/NAME, item/NAME, num -> new/avg/NAME``.
Otherwise: ``diffs/NAME`` (one more leading dimension, ``num_diffs``) ``-> avg/NAME``.

A checkpoint and a diff use the bare names (``fc1.weight``, ``bn.running_mean``) of both ``params/`` and ``buffers/``.
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
PlanKind = Literal["training", "averaging"]


class Port(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One input or output of a graph; a dimension is a size or the name of a symbol (``batch``, ``num_diffs``)."""

    name: str
    dtype: DType
    shape: tuple[int | str, ...]


class Graph(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One ONNX graph of the archive. The costs are claims of the exporter; the gate computes them again."""

    sha256: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    num_nodes: int
    flops_fixed: int
    """Floating-point operations of a call that do not depend on the batch size."""
    flops_per_example: int
    """Floating-point operations that each additional example adds."""


class DataPort(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A column of data that the plan takes; ``shape`` is that of one example, without the batch dimension."""

    dtype: DType
    shape: tuple[int, ...]
    meaning: str = ""
    """Text to compare with a dataset's schema, for example ``image 1x28x28 in 0..1`` or ``label 0..9``."""
    num_classes: int | None = None
    """For labels and tokens: values are in ``[0, num_classes)``."""
    optional: bool | msgspec.UnsetType = msgspec.UNSET
    """True: values can be missing and arrive as NaN; float32 only. UNSET is false, older manifests keep their bytes."""
    ignore: int | msgspec.UnsetType = msgspec.UNSET
    """A value outside ``[0, num_classes)`` that is also valid; it marks examples without a label, such as 255."""
    tokenizer: str | msgspec.UnsetType = msgspec.UNSET
    """The tokenizer whose tokens the port takes: ``bytes``, or ``words:`` and the SHA-256 of its vocabulary."""


class NoisePort(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Seeded noise from the runner, for example for dropout: uniform in [0, 1), float32, ``shape`` per example."""

    shape: tuple[int, ...]


class Hyper(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A hyperparameter: a float32 scalar with a default and the range that the author allows (both ends included)."""

    default: float
    min: float
    max: float


class TestVector(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The loss of one training step on generated inputs, so that each runtime can test itself (`plans/selftest.py`)."""

    __test__ = False  # pytest: this is not a test class

    batch_size: int
    loss: float
    tolerance: float = 1e-4


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of ``plan.json``."""

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
    """How the values of a metric are combined over batches: mean weighted by batch size, or sum."""
    max_batch_size: int = 1024
    per_example_independent: bool = True
    """False if examples of a batch influence each other (BatchNorm); private jobs refuse such a plan."""
    iterative: bool = False
    """Averaging plans: the graph takes one diff at a time."""
    optimizer: str = ""
    """Text for people, for example ``SGD(momentum=0.9)``."""
    test_vector: TestVector | None = None
