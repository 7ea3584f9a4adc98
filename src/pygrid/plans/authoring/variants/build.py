"""Builds the variants of a plan from the trace of its ``train`` graph, specialised to each batch size."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from pygrid import codes
from pygrid.errors import AuthoringError, InvalidPlan
from pygrid.plans.archive import Plan
from pygrid.plans.authoring.diagnostics import SourceLocation
from pygrid.plans.authoring.emit import Emitted
from pygrid.plans.authoring.reference import eager
from pygrid.plans.authoring.selfcheck import Feeder
from pygrid.plans.authoring.variants import tfjs_layers, tfjs_operators
from pygrid.plans.authoring.variants.contract import Contract, ContractStep, contract_of
from pygrid.plans.authoring.variants.specialised import Specialised, specialise
from pygrid.plans.authoring.variants.tfjs import emit_tfjs
from pygrid.plans.authoring.variants.torch_list import emit_list
from pygrid.plans.authoring.variants.torchscript import emit_torchscript, run_torchscript
from pygrid.plans.dialects import program_of
from pygrid.plans.variants import DIALECTS, FORMAT, MAX_BATCH_SIZES, Dialect, Variant, VariantPlan, Variants
from pygrid.syft.plans import PlanMessage, write_plan

logger = logging.getLogger(__name__)

ONNX = "onnx"
"""The target that every plan has."""
LIST_RESULT = "torchscript-list"
"""The target for TorchScript that returns a list, for KotlinSyft of 2021, in place of a tuple."""
TARGETS = (*DIALECTS, LIST_RESULT)
DEFAULT_BATCH_SIZE = 32
TOLERANCE = 1e-4
_NAME = "training_plan"
_MODULES = (tfjs_layers, tfjs_operators)  # importing them fills the table of emitters


def checked_targets(
    targets: Sequence[str] | None, batch_sizes: Sequence[int] | None, max_batch_size: int
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The targets to build, without ``onnx``, and the batch sizes.

    Raises:
        AuthoringError: a target or a batch size is not valid.
    """
    wanted = [ONNX] if targets is None else list(targets)
    unknown = [name for name in wanted if name != ONNX and name not in TARGETS]
    if unknown:
        known = ", ".join((ONNX, *TARGETS))
        raise AuthoringError(f"targets has {unknown[0]!r}; known targets are {known}", code=codes.PLAN_OPTIONS)
    found = tuple(target for target in TARGETS if target in wanted)
    if len({_dialect_of(target) for target in found}) < len(found):
        raise AuthoringError(f"a plan has either torchscript or {LIST_RESULT}; choose one", code=codes.PLAN_OPTIONS)
    if batch_sizes is not None and not found:
        raise AuthoringError(
            "batch_sizes is for targets of clients of 2020; add targets=['tfjs']", code=codes.PLAN_OPTIONS
        )
    sizes = tuple(dict.fromkeys(batch_sizes if batch_sizes is not None else (min(DEFAULT_BATCH_SIZE, max_batch_size),)))
    if not 1 <= len(sizes) <= MAX_BATCH_SIZES or not all(
        isinstance(size, int) and 1 <= size <= max_batch_size for size in sizes
    ):
        raise AuthoringError(
            f"batch_sizes must be 1 to {MAX_BATCH_SIZES} whole numbers from 1 to {max_batch_size}",
            code=codes.PLAN_OPTIONS,
        )
    return found, sizes


def _dialect_of(target: str) -> Dialect:
    return next(dialect for dialect in DIALECTS if target in (dialect, f"{dialect}-list"))


def with_variants(
    plan: Plan,
    graph: Emitted,
    feeder: Feeder,
    targets: Sequence[str],
    sizes: Sequence[int],
    place: SourceLocation | None,
) -> Plan:
    """The plan with variants for these targets, each compared with eager torch; one that cannot be made has its reason.

    Args:
        graph: the train graph of the plan, which has its trace.
    Raises:
        AuthoringError: ``plan_deviates``: a variant computes something else than torch.
    """
    if not targets:
        return plan
    made: list[Variant] = []
    unavailable: dict[str, str] = {}
    try:
        contract = contract_of(graph.traced, feeder.data, feeder.hyper, place)
    except AuthoringError as error:
        unavailable = dict.fromkeys(map(_dialect_of, targets), error.detail)
        return plan.with_variants(Variants(FORMAT, plan.id, (), unavailable))
    step = ContractStep(contract, feeder.data)
    specialised = {size: specialise(step, size) for size in sizes}
    for target in targets:
        dialect = _dialect_of(target)
        try:
            plans = tuple(
                VariantPlan(size, write_plan(_checked(target, specialised[size], contract, graph, feeder)))
                for size in sizes
            )
        except AuthoringError as error:
            if error.code != codes.PLAN_VARIANT_UNAVAILABLE:
                raise
            unavailable[dialect] = error.detail
            logger.info("plan without a variant", extra={"dialect": dialect, "reason": error.detail})
        else:
            made.append(Variant(FORMAT, plan.id, dialect, plans))
    return plan.with_variants(Variants(FORMAT, plan.id, tuple(made), unavailable))


def _checked(target: str, step: Specialised, contract: Contract, graph: Emitted, feeder: Feeder) -> PlanMessage:
    """A variant for one batch size, after it was compared with eager torch."""
    message, run = _made(target, step, contract, feeder)
    inputs, expected = _example(contract, graph, feeder, step.batch)
    try:
        found = run(inputs)
    except InvalidPlan as error:
        raise _deviates(target, error.detail) from error
    names = ["loss", "metric", *contract.params]
    for name, right, ours in zip(names, expected, found, strict=True):
        ours = np.asarray(ours)
        if ours.shape != right.shape:
            raise _deviates(target, f"{name} has shape {list(ours.shape)}, expected {list(right.shape)}")
        scale = max(1.0, float(np.abs(right).max(initial=0.0)))
        difference = float(np.abs(ours - right).max(initial=0.0))
        if not difference <= TOLERANCE * scale:
            raise _deviates(target, f"{name} differs by {difference:.2g}")
    return message


def _made(
    target: str, specialised: Specialised, contract: Contract, feeder: Feeder
) -> tuple[PlanMessage, Callable[[Sequence[Any]], list[Any]]]:
    """A variant, and what runs it."""
    if (dialect := _dialect_of(target)) == "torchscript":
        step = ContractStep(contract, feeder.data)
        message = emit_torchscript(specialised, step, _NAME, as_list=target == LIST_RESULT)
        return message, partial(run_torchscript, message)
    message = emit_tfjs(specialised, _NAME) if dialect == "tfjs" else emit_list(specialised, _NAME)
    program = program_of(dialect, message)
    program.check()
    return message, program.run


def _example(
    contract: Contract, graph: Emitted, feeder: Feeder, batch: int
) -> tuple[list[Any], list[npt.NDArray[Any]]]:
    """Random inputs in the form of the contract, and the results of eager torch."""
    feed = feeder.feed(graph.inputs, batch)
    named = {name: np.asarray(tensor.detach()) for name, tensor in eager(graph.program, feed).items()}
    y = feed[f"data/{contract.y}"]
    if contract.num_classes is not None:
        y = np.eye(contract.num_classes, dtype=np.float32)[y]
    params = [feed[f"params/{name}"] for name in contract.params]
    inputs: list[Any] = [feed[f"data/{contract.x}"], y, np.float32(batch), feed["hyper/lr"], *params]
    wanted = ["metrics/loss", contract.metric, *(f"new/params/{name}" for name in contract.params)]
    return inputs, [named[name] for name in wanted]


def _deviates(target: str, why: str) -> AuthoringError:
    return AuthoringError(
        f"the variant {target} does not compute what torch does: {why}. The plan was not built. Rewrite the loss with "
        "simpler operators, and report this",
        code=codes.PLAN_DEVIATES,
    )
