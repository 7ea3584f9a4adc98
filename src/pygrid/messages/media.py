"""Media types and headers of the native protocol."""

JSON = "application/json"
TENSORS = "application/octet-stream"
"""Models and diffs: safetensors bytes."""
PLAN = "application/octet-stream"
"""A plan archive."""
PROBLEM = "application/problem+json"
"""Every refusal: a problem document (RFC 9457) with a stable ``code``."""

NUM_EXAMPLES = "num_examples"
"""Key in a report's safetensors metadata: how many examples the client trained on, a decimal integer >= 1."""
METRIC_PREFIX = "metric."
"""Prefix of keys in a report's safetensors metadata: ``metric.loss`` = a decimal number."""

CHECKPOINT_HEADER = "PyGrid-Checkpoint"
"""Response header of a model download: the number of the checkpoint sent."""
