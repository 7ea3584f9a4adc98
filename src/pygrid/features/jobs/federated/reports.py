"""The report that leaves in a cycle: the stored bytes are those that are sent."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from pygrid.core.job_checks import metrics_of
from pygrid.errors import InvalidTensors
from pygrid.messages.media import METRIC_PREFIX, NUM_EXAMPLES
from pygrid.storage.blobs.protocol import Blobs
from pygrid.tensors import Params, decode
from pygrid.tensors.params import Difference
from pygrid.tensors.safetensors import make_layout


def write_report(reports: Blobs, model: Params, payload: bytes, num_examples: int, *, with_metrics: bool) -> str:
    """Store the report of a trained model durably, and return the name of its file, which is its SHA-256.

    Args:
        payload: safetensors bytes of the trained model, with its metrics in the metadata.
        with_metrics: report the metrics too; those of a private job depend on single records.
    Raises:
        InvalidTensors, ShapeMismatch: the payload is not such a model.
    """
    trained, metadata = decode(payload)
    if any(array.dtype != np.float32 for array in trained.values()):
        raise InvalidTensors("the trained model is not float32")
    diff = Difference(model, trained)
    sent = {NUM_EXAMPLES: str(num_examples)}
    if with_metrics:
        sent |= {
            METRIC_PREFIX + name: repr(value) for name, value in _read_metrics(metadata.get("metrics", "{}")).items()
        }
    layout, header = make_layout(diff.specs(), sent)
    with reports.writer() as writer:
        writer.write(header)
        for entry in layout.entries:
            array = np.ascontiguousarray(diff[entry.name])
            if array.size:
                writer.write(array.reshape(-1).view(np.uint8).data)
        return writer.commit()


def _read_metrics(text: str) -> dict[str, float]:
    try:
        return metrics_of(msgspec.json.decode(text, type=dict[str, Any]))
    except msgspec.DecodeError as error:
        raise InvalidTensors(f"the metrics cannot be read: {error}") from error
