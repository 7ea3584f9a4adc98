"""The immutable data of a hosted process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pygrid.aggregation.rules import Aggregation
from pygrid.core.access import OWNER, Permission, Principal
from pygrid.core.process_config import ProcessConfig
from pygrid.errors import ShapeMismatch
from pygrid.tensors.safetensors import Layout


@dataclass(frozen=True)
class HostedPlan:
    """A plan of a process. ``id`` is its number in the API, ``plan_hash`` is the hash of its bytes."""

    id: int
    name: str
    plan_hash: str
    size_bytes: int


@dataclass(frozen=True)
class HostedProcess:
    """The data of a process that never changes after hosting. Its state and its cycles are in the store."""

    id: int
    name: str
    version: str
    config: ProcessConfig
    client_config: Mapping[str, Any]
    model: Layout
    """Names, shapes and order of the arrays of the model. They are the same in every checkpoint."""
    plans: tuple[HostedPlan, ...]
    averaging_plan: HostedPlan | None

    @property
    def rule(self) -> Aggregation:
        """The rule for averaging diffs; with an averaging plan, the bounds of the diffs that the plan receives."""
        rule = self.config.rule
        return Aggregation("mean") if self.averaging_plan is not None and rule.is_centred else rule

    @property
    def max_report_bytes(self) -> int:
        """Maximum bytes of a report: those of the model, and room for the headers of other writers."""
        return int(self.model.total_bytes * 1.05) + 64 * 1024


def can_manage(principal: Principal, created_by: int | None) -> bool:
    """Whether the caller may finish a process and list its contributions.

    Args:
        created_by: the user who hosted it; None: a caller without an account, so only an Owner may.
    """
    if principal.role.id == OWNER.id:
        return True
    return principal.user_id == created_by and principal.may(Permission.UPLOAD_DATA)


def check_fits(model: Layout, spec: Mapping[str, tuple[str, tuple[int, ...]]], plan: str) -> None:
    """Check that a plan's parameters are the arrays of a model.

    Args:
        spec: dtype and shape of each parameter and buffer of the plan by name.
        plan: name of the plan, for the message.
    Raises:
        ShapeMismatch: names the first array that is missing or differs.
    """
    arrays = {entry.name: (entry.dtype.name, entry.shape) for entry in model.entries}
    for name, wanted in spec.items():
        given = arrays.pop(name, None)
        if given is None:
            raise ShapeMismatch(
                f"plan {plan!r} needs array {name!r}, which the model does not have", array=name, plan=plan
            )
        if given != wanted:
            raise ShapeMismatch(
                f"plan {plan!r} needs array {name!r} as {wanted[0]} {list(wanted[1])}; "
                f"the model has {given[0]} {list(given[1])}",
                array=name,
                plan=plan,
            )
    for name in arrays:
        raise ShapeMismatch(f"the model has array {name!r}, which plan {plan!r} does not take", array=name, plan=plan)
