"""Checks of jobs of kind ``predict``: the request, and the size of its result.

The model is an ONNX file that passed the gate of served models. The first axis of its inputs and outputs is the
records, so row i of the result is the prediction for record i. A prediction may contain the record itself.
"""

from __future__ import annotations

from pygrid import codes
from pygrid.core.datasets import Schema
from pygrid.errors import InvalidConfig, InvalidInput, InvalidPlan
from pygrid.messages.jobs import JobRequest
from pygrid.plans.manifest import BATCH, DataPort, Port
from pygrid.plans.serving import MAX_BATCH_SIZE, MAX_PORTS, ServingReport, port_bytes

HEADER_BYTES = 64 * 1024
"""Bytes of a result in addition to the values of its arrays: names, dtypes and shapes."""


def check_predict_request(request: JobRequest) -> None:
    """Check a request by itself.

    Raises:
        InvalidConfig: ``predict_not_private``; ``invalid_job``: names the field and the fault.
    """
    if request.privacy is not None:
        raise InvalidConfig(
            "a prediction for each record can't be private: noise that hides the record also hides the prediction. "
            "Leave privacy out; a person then approves the job and releases the result",
            code=codes.PREDICT_NOT_PRIVATE,
        )
    if request.hyper or request.optimizer or request.epochs != 1 or request.seed != 0:
        raise _invalid("hyper, optimizer, epochs and seed are for jobs with a plan; leave them out for predict")
    if request.batch_size > MAX_BATCH_SIZE:
        raise _invalid(f"batch_size is {request.batch_size}; for predict, use 1 to {MAX_BATCH_SIZE:,}")
    if len(request.select) > MAX_PORTS or len(set(request.select)) != len(request.select):
        raise _invalid(f"select: name up to {MAX_PORTS} outputs, each once")
    if request.max_records is not None and not 1 <= request.max_records < 2**63:
        raise _invalid(f"max_records is {request.max_records}; use 1 or more")


def refuse_predict_fields(request: JobRequest) -> None:
    """Refuse fields of jobs of kind ``predict`` in other jobs. Raises InvalidConfig: ``invalid_job``."""
    if request.select or request.max_records is not None:
        raise _invalid("select and max_records are for jobs of kind predict")


def data_ports(report: ServingReport) -> dict[str, DataPort]:
    """The inputs of a model as data ports.

    Raises:
        InvalidPlan: ``model_not_per_record``: the first axis of an input is not the records.
    """
    return {port.name: DataPort(port.dtype, _sizes(port, "takes")) for port in report.inputs}


def chosen_outputs(request: JobRequest, report: ServingReport) -> tuple[Port, ...]:
    """The outputs in the result, in the order of the model.

    Raises:
        InvalidInput: ``unknown_output``. InvalidPlan: ``model_not_per_record``: the first axis of an output is not
            the records.
    """
    there = {port.name: port for port in report.outputs}
    for name in request.select:
        if name not in there:
            raise InvalidInput(
                f"the model has no output {name[:100]!r}; it has {', '.join(there)}",
                code=codes.UNKNOWN_OUTPUT,
                output=name[:100],
            )
    chosen = tuple(port for port in report.outputs if not request.select or port.name in request.select)
    for port in chosen:
        _sizes(port, "returns")
    return chosen


def count_records(request: JobRequest, schema: Schema) -> int:
    """The number of predicted records, from the start."""
    return schema.num_records if request.max_records is None else min(request.max_records, schema.num_records)


def max_result_bytes(outputs: tuple[Port, ...], num_records: int) -> int:
    """Maximum bytes of a result with these arrays."""
    return port_bytes(outputs, num_records) + HEADER_BYTES


def check_size(outputs: tuple[Port, ...], num_records: int, limit: int) -> None:
    """Refuse a request with a larger result than the limit. Raises InvalidInput: ``result_too_large``."""
    num_bytes = port_bytes(outputs, num_records)
    if num_bytes + HEADER_BYTES > limit:
        raise InvalidInput(
            f"the predictions for {num_records:,} records have {num_bytes:,} bytes; the limit is {limit:,}. Request "
            "fewer outputs (select) or records (max_records)",
            code=codes.RESULT_TOO_LARGE,
            max_bytes=limit,
        )


def _sizes(port: Port, verb: str) -> tuple[int, ...]:
    """The shape for one record."""
    if not port.shape or port.shape[0] != BATCH:
        raise InvalidPlan(
            f"the model {verb} {port.name!r} of shape [{', '.join(map(str, port.shape))}], whose first axis is "
            "not the records. Export the model with a dynamic first axis for all inputs and outputs",
            code=codes.MODEL_NOT_PER_RECORD,
            port=port.name,
        )
    return tuple(side for side in port.shape[1:] if isinstance(side, int))


def _invalid(detail: str) -> InvalidConfig:
    return InvalidConfig(detail, code=codes.INVALID_JOB)
