"""The immutable data of a hosted process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pygrid import codes
from pygrid.aggregation.rules import Aggregation
from pygrid.configuration import ServerConfig
from pygrid.core.access import OWNER, Permission, Principal
from pygrid.errors import Conflict, ShapeMismatch
from pygrid.tensors.safetensors import Layout

ANY_BATCH = 0
"""Batch size of a variant that takes batches of any size, as plans that PySyft traced."""


@dataclass(frozen=True)
class HostedVariant:
    """A plan in a dialect of clients of 2020, for one batch size."""

    dialect: str
    batch_size: int
    blob_hash: str


@dataclass(frozen=True)
class HostedPlan:
    """A plan of a process. ``id`` is its number in the API, ``plan_hash`` is the hash of its bytes."""

    id: int
    name: str
    plan_hash: str
    size_bytes: int
    variants: tuple[HostedVariant, ...] = ()
    is_traced: bool = False
    """Whether it is a plan of 2020, which PySyft traced: it has variants, and no ONNX graph."""

    @property
    def dialects(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(variant.dialect for variant in self.variants))

    def find_variant(self, dialect: str, batch_size: int | None) -> HostedVariant | None:
        """The variant in a dialect for a batch size; without a batch size the first one."""
        fits = (None, ANY_BATCH)
        found = (
            one
            for one in self.variants
            if one.dialect == dialect and (batch_size in fits or one.batch_size in (batch_size, ANY_BATCH))
        )
        return next(found, None)


@dataclass(frozen=True)
class HostedProcess:
    """The data of a process that never changes after hosting. Its state and its cycles are in the store."""

    id: int
    name: str
    version: str
    config: ServerConfig
    client_config: Mapping[str, Any]
    model: Layout
    """Names, shapes and order of the arrays of the model. They are the same in every checkpoint."""
    plans: tuple[HostedPlan, ...]
    averaging_plan: HostedPlan | None

    @property
    def rule(self) -> Aggregation:
        """The rule for averaging diffs; with an averaging plan, the bounds of the diffs that the plan receives."""
        rule = self.config.rule
        return Aggregation(name="mean") if self.averaging_plan is not None and rule.is_centred else rule

    @property
    def max_report_bytes(self) -> int:
        """Maximum bytes of a report: those of the model, and room for the headers of other writers."""
        return int(self.model.total_bytes * 1.05) + 64 * 1024

    def batch_size_in(self, sequence: int) -> int | None:
        """The batch size of a cycle for clients of 2020; None: neither the configuration nor a variant has one."""
        values = {**self.client_config, **self.config.client_values_in(sequence)}
        found = values.get("batch_size")
        if isinstance(found, int):
            return found
        return next((one.batch_size for plan in self.plans for one in plan.variants if one.batch_size), None)

    @property
    def is_native(self) -> bool:
        """Whether native devices can train it: each of its plans has an ONNX graph."""
        return not any(plan.is_traced for plan in self.plans)

    def find_obstacle(self, sequence: int) -> str:
        """Why clients of 2020 cannot train this process in a cycle; empty if they can."""
        size = self.batch_size_in(sequence)
        for plan in self.plans:
            if not plan.variants:
                return (
                    f"plan {plan.name!r} of this process was not built for clients of 2020; its owner can build it "
                    "with targets=['tfjs']"
                )
            if not any(plan.find_variant(dialect, size) for dialect in plan.dialects):
                return f"plan {plan.name!r} of this process has no variant for batches of {size}"
        return ""


def process_not_native(name: str) -> Conflict:
    """Return the error for a use of a process that needs plans with ONNX graphs."""
    return Conflict(
        f"process {name!r} was hosted with plans of PySyft 0.2, which have no ONNX graph; only clients of 2020 can "
        "train it. Host its model with plans of pygrid",
        code=codes.PROCESS_NOT_NATIVE,
        name=name,
    )


def can_manage(principal: Principal, created_by: int | None) -> bool:
    """Whether the caller may finish, pause, restore or delete a process, and list its contributions.

    Args:
        created_by: the user who hosted it; None: a caller without an account, so only an Owner may.
    """
    if principal.role.id == OWNER.id:
        return True
    return principal.user_id == created_by and principal.may(Permission.HOST_MODELS)


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
