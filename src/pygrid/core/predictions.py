"""Jobs that have a model answer for each record: whether a request makes sense, and how much would leave.

The model is an ONNX file that passed the gate of served models. Its inputs and outputs have to begin with the records,
so that row i of the result is the answer for record i. Nothing else of its answers is known: they may hold the record
as it is.
"""

from __future__ import annotations

from pygrid import codes
from pygrid.core.datasets import Schema
from pygrid.errors import InvalidConfig, InvalidInput, InvalidPlan
from pygrid.messages.jobs import JobRequest
from pygrid.plans.manifest import BATCH, DataPort, Port
from pygrid.plans.serving import MAX_BATCH_SIZE, MAX_PORTS, ServingReport, port_bytes

HEADER_BYTES = 64 * 1024
"""What a result may have beside the values of its arrays: names, dtypes and shapes."""


def check_predict_request(request: JobRequest) -> None:
    """Check what depends on nothing else.

    Raises:
        InvalidConfig: ``predict_not_private``; ``invalid_job``: names the field and what is wrong with it.
    """
    if request.privacy is not None:
        raise InvalidConfig(
            "an answer for each record can't be private: it is about that record and nothing else, and noise that "
            "hides the record hides the answer. Leave privacy out; a person decides, and signs the result off",
            code=codes.PREDICT_NOT_PRIVATE,
        )
    if request.hyper or request.optimizer or request.epochs != 1 or request.seed != 0:
        raise _invalid("hyper, optimizer, epochs and seed are for jobs with a plan; leave them out to predict")
    if request.batch_size > MAX_BATCH_SIZE:
        raise _invalid(f"batch_size is {request.batch_size}; to predict, use 1 to {MAX_BATCH_SIZE:,}")
    if len(request.select) > MAX_PORTS or len(set(request.select)) != len(request.select):
        raise _invalid(f"select: name up to {MAX_PORTS} outputs, each once")
    if request.max_records is not None and not 1 <= request.max_records < 2**63:
        raise _invalid(f"max_records is {request.max_records}; use 1 or more")


def refuse_predict_fields(request: JobRequest) -> None:
    """Refuse what only a job of kind ``predict`` may have. Raises InvalidConfig: ``invalid_job``."""
    if request.select or request.max_records is not None:
        raise _invalid("select and max_records are for jobs of kind predict")


def data_ports(report: ServingReport) -> dict[str, DataPort]:
    """The inputs of a model as ports to bind columns to.

    Raises:
        InvalidPlan: ``model_not_per_record``: one of them does not begin with the records.
    """
    return {port.name: DataPort(port.dtype, _sizes(port, "takes")) for port in report.inputs}


def chosen_outputs(request: JobRequest, report: ServingReport) -> tuple[Port, ...]:
    """The outputs that would leave, in the order of the model.

    Raises:
        InvalidInput: ``unknown_output``. InvalidPlan: ``model_not_per_record``: one does not begin with the records.
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
        _sizes(port, "gives")
    return chosen


def count_records(request: JobRequest, schema: Schema) -> int:
    """For how many records the model answers; the first ones."""
    return schema.num_records if request.max_records is None else min(request.max_records, schema.num_records)


def max_result_bytes(outputs: tuple[Port, ...], num_records: int) -> int:
    """The most bytes that a result with these arrays has."""
    return port_bytes(outputs, num_records) + HEADER_BYTES


def check_size(outputs: tuple[Port, ...], num_records: int, limit: int) -> None:
    """Refuse what would give more than a result may have. Raises InvalidInput: ``result_too_large``."""
    num_bytes = port_bytes(outputs, num_records)
    if num_bytes + HEADER_BYTES > limit:
        raise InvalidInput(
            f"the answers for {num_records:,} records have {num_bytes:,} bytes; a result may have {limit:,}. Ask for "
            "fewer outputs (select) or records (max_records)",
            code=codes.RESULT_TOO_LARGE,
            max_bytes=limit,
        )


def _sizes(port: Port, verb: str) -> tuple[int, ...]:
    """The shape for one record."""
    if not port.shape or port.shape[0] != BATCH:
        raise InvalidPlan(
            f"the model {verb} {port.name!r} of shape [{', '.join(map(str, port.shape))}], which does not begin with "
            "the number of records. Export the model with an open first size for all inputs and outputs",
            code=codes.MODEL_NOT_PER_RECORD,
            port=port.name,
        )
    return tuple(side for side in port.shape[1:] if isinstance(side, int))


def _invalid(detail: str) -> InvalidConfig:
    return InvalidConfig(detail, code=codes.INVALID_JOB)
