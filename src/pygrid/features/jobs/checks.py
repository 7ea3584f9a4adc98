"""Checks the contents of a job before anything is stored: a plan and its model, an ONNX model, or statistics."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from pygrid.core.datasets import Schema
from pygrid.core.job_checks import check_binding, check_plan, read_statistics
from pygrid.core.predictions import check_size, chosen_outputs, count_records, data_ports
from pygrid.core.processes import check_fits
from pygrid.features.jobs.presenter import describe_model, describe_plan, describe_statistics
from pygrid.messages.decoding import invalid_form
from pygrid.messages.jobs import JobRequest
from pygrid.plans.archive import Plan
from pygrid.plans.gate import check_async
from pygrid.plans.serving import ServingLimits, check_model_async
from pygrid.tensors.safetensors import Layout

MAX_MODEL_BYTES = 256 * 1024**2


@dataclass(frozen=True)
class Submission:
    """The parts of the form. The model's bytes are in a blob writer, not committed."""

    config: bytes
    plan: bytes | None = None
    has_model: bool = False
    arrays: Layout | None = None
    """Layout of a model of named arrays, which is checked; None for an ONNX model (kind ``predict``), which is not."""


@dataclass(frozen=True)
class CheckedRequest:
    """Results of the checks of a job."""

    summary: str
    """Text for the data owner."""
    plan_id: str = ""
    plan_name: str = ""
    report: bytes = b""
    """The gate's report on an ONNX model (`pygrid.plans.serving.ServingReport`), as JSON."""


async def check_asked(
    request: JobRequest, submission: Submission, schema: Schema, model: Path, *, max_result_bytes: int
) -> CheckedRequest:
    """Check the parts of a form against each other, the dataset and the gate.

    Args:
        model: path of the form's model.
        max_result_bytes: limit of a result with a row for each record.
    Raises:
        InvalidInput: a part is not valid.
    """
    if request.kind == "statistics":
        if submission.plan is not None or submission.has_model:
            raise invalid_form("a job of kind statistics has no plan and no model")
        return CheckedRequest(describe_statistics(read_statistics(request, schema), request))
    if request.kind == "predict":
        return await _check_model(request, submission, schema, model, max_result_bytes)
    if submission.plan is None or submission.arrays is None:
        raise invalid_form(f"a job of kind {request.kind} needs the parts plan and model")
    report = await check_async(submission.plan)
    plan = Plan.from_bytes(submission.plan)
    check_plan(request, plan.manifest, report)
    spec = {name: (array.dtype, array.shape) for name, array in report.model_spec.items()}
    check_fits(submission.arrays, spec, plan.manifest.name)
    check_binding(request, plan.manifest.data, schema)
    return CheckedRequest(describe_plan(plan, report), plan.id, plan.manifest.name)


async def _check_model(
    request: JobRequest, submission: Submission, schema: Schema, model: Path, max_result_bytes: int
) -> CheckedRequest:
    if submission.plan is not None:
        raise invalid_form("a job of kind predict has no plan, only a model")
    if not submission.has_model or submission.arrays is not None:
        raise invalid_form("a job of kind predict needs the parts config and model (ONNX), in this order")
    report = await check_model_async(model, request.batch_size, ServingLimits(max_model_bytes=MAX_MODEL_BYTES))
    check_binding(request, data_ports(report), schema)
    outputs, num_records = chosen_outputs(request, report), count_records(request, schema)
    check_size(outputs, num_records, max_result_bytes)
    return CheckedRequest(
        describe_model(request, report, outputs, schema, num_records), report=msgspec.json.encode(report)
    )
