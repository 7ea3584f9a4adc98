"""Jobs in which a model predicts for each record of a dataset. See `pygrid.client.DomainClient.predict`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pygrid import codes
from pygrid.client.binding import complete_binding
from pygrid.client.datasets import Dataset, Datasets
from pygrid.client.hosting import FormPart
from pygrid.client.jobs import Job, send_request
from pygrid.client.models import OnnxSource, onnx_bytes
from pygrid.errors import InvalidInput
from pygrid.messages.media import TENSORS
from pygrid.plans import DataPort
from pygrid.transport import Api
from pygrid.transport.base import BytesBody


def request_predictions(
    api: Api,
    source: OnnxSource,
    dataset: Dataset | str,
    *,
    binding: Mapping[str, str] | None = None,
    version: int | None = None,
    **values: Any,
) -> Job:
    """Send the request.

    Args:
        values: further fields of `pygrid.messages.jobs.JobRequest`.
    """
    # Here, because onnx costs 0.1 s.
    from pygrid.plans.export_cleanup import tidy_model

    model = tidy_model(onnx_bytes(source))
    target = Datasets(api)[dataset] if isinstance(dataset, str) else dataset
    info = target.info(version)
    bound = complete_binding(_data_ports(model), info.schema, binding or {}, whose="model")
    # The version whose columns were read, so that a new version in between is not used.
    given = {"dataset": target.id, "kind": "predict", "version": version or info.version, "binding": bound, **values}
    return send_request(api, given, [FormPart("model", TENSORS, BytesBody(model))])


def _data_ports(model: bytes) -> dict[str, DataPort]:
    """The inputs of a model, each with the shape for one record.

    Raises:
        InvalidPlan: an input has no shape, or a dtype that is not supported.
        InvalidInput: the shape of an input does not begin with the number of records (``not_a_model``).
    """
    import onnx

    from pygrid.plans.structure import read_port

    graph = onnx.load_model_from_string(model).graph
    constants = {tensor.name for tensor in graph.initializer}
    ports = {}
    for info in graph.input:
        if info.name in constants:
            continue
        port = read_port("model", info)
        sizes = tuple(side for side in port.shape[1:] if isinstance(side, int))
        if not port.shape or len(sizes) != len(port.shape) - 1:
            raise InvalidInput(
                f"input {port.name!r} of the model has shape {list(port.shape)}; inputs begin with the number of "
                "records, which is the only size that may be open",
                code=codes.NOT_A_MODEL,
            )
        ports[port.name] = DataPort(port.dtype, sizes)
    return ports
