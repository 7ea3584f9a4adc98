"""Checks the plans of a process that a model owner of 2020 hosts: PySyft traced them, so they have no ONNX graph."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pygrid.configuration import ServerConfig
from pygrid.errors import InvalidConfig
from pygrid.tensors.safetensors import Layout

if TYPE_CHECKING:
    from pygrid.plans.dialects.traced import CheckedPlans

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TracedForm:
    """The plans, as they were sent."""

    plans: Mapping[str, Mapping[str, bytes]]
    """Name -> suffix, see `pygrid.plans.dialects.traced.SUFFIXES` -> bytes of a protobuf Plan."""
    averaging_plan: bytes
    """Empty: none."""
    is_lenient: bool
    """Whether an averaging plan that does not fit the model is hosted with a warning, as in 2020."""

    @property
    def originals(self) -> dict[str, bytes]:
        """The bytes that identify each plan: its first part."""
        return {name: next(iter(parts.values())) for name, parts in self.plans.items()}


async def check_traced_form(form: TracedForm, config: ServerConfig, model: Layout) -> CheckedPlans:
    """Check the plans in a child process, and translate them into what clients get.

    Raises:
        InvalidPlan: as `pygrid.plans.dialects.traced.check_traced_in_child`.
        InvalidConfig: the configuration needs plans with ONNX graphs, or does not fit the averaging plan.
    """
    from pygrid.plans.dialects.traced import AveragingSpec, TracedPlans, check_traced_async

    for name in ("schedules", "evaluation"):
        if getattr(config, name):
            raise InvalidConfig(f"server_config.{name} needs plans of pygrid, with ONNX graphs", field=name)
    spec = AveragingSpec(tuple(entry.shape for entry in model.entries), config.iterative_plan)
    plans = {name: dict(parts) for name, parts in form.plans.items()}
    checked = await check_traced_async(TracedPlans(plans, form.averaging_plan, spec, form.is_lenient))
    for name, reason in checked.unavailable.items():
        logger.warning("plan has no form in tfjs", extra={"plan": name, "reason": reason})
    if checked.averaging_misfit:
        logger.warning("averaging plan does not fit the model", extra={"reason": checked.averaging_misfit})
    needed = checked.num_diffs
    if needed is not None and not form.is_lenient and (config.min_diffs, config.max_diffs) != (needed, needed):
        raise InvalidConfig(
            f"the averaging plan takes {needed} diffs at once, so server_config.min_diffs and max_diffs must be "
            f"{needed}",
            field="max_diffs",
        )
    return checked
