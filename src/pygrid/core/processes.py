"""A hosted process as the rules see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pygrid.aggregation.rules import Aggregation
from pygrid.core.process_config import ServerConfig
from pygrid.errors import ShapeMismatch
from pygrid.tensors.safetensors import Layout


@dataclass(frozen=True)
class HostedPlan:
    """A plan of a process: the number that the API calls it by, and the name of its bytes."""

    id: int
    name: str
    plan_hash: str
    size_bytes: int


@dataclass(frozen=True)
class HostedProcess:
    """What never changes about a process once it is hosted; its state and its cycles are in the store."""

    id: int
    name: str
    version: str
    config: ServerConfig
    client_config: Mapping[str, Any]
    model: Layout
    """Names, shapes and order of the model's arrays, the same in every checkpoint."""
    plans: tuple[HostedPlan, ...]
    averaging_plan: HostedPlan | None

    @property
    def rule(self) -> Aggregation:
        """How its diffs are averaged; with an averaging plan, how they are bounded before the plan gets them."""
        rule = self.config.rule
        return Aggregation("mean") if self.averaging_plan is not None and rule.is_centred else rule

    @property
    def max_report_bytes(self) -> int:
        """Bytes of a report at the most: the model's, and room for another writer's header."""
        return int(self.model.total_bytes * 1.05) + 64 * 1024


def check_fits(model: Layout, spec: Mapping[str, tuple[str, tuple[int, ...]]], plan: str) -> None:
    """Check that a plan's parameters are the arrays of a model.

    Args:
        spec: the plan's parameters and buffers: name -> (dtype, shape).
        plan: its name, for the message.
    Raises:
        ShapeMismatch: names the first array that one has and the other has not, or has otherwise.
    """
    arrays = {entry.name: (entry.dtype.name, entry.shape) for entry in model.entries}
    for name, wanted in spec.items():
        given = arrays.pop(name, None)
        if given is None:
            raise ShapeMismatch(f"plan {plan!r} needs array {name!r}, which the model has not", array=name, plan=plan)
        if given != wanted:
            raise ShapeMismatch(
                f"plan {plan!r} needs array {name!r} as {wanted[0]} {list(wanted[1])}; "
                f"the model has {given[0]} {list(given[1])}",
                array=name,
                plan=plan,
            )
    for name in arrays:
        raise ShapeMismatch(f"the model has array {name!r}, which plan {plan!r} does not take", array=name, plan=plan)
