"""pygrid: data owners and data scientists train models together without moving private data.

The names for authors of plans (``pygrid.plan``, ``pygrid.Tensor``, ``pygrid.optim`` ...) are loaded on first use, because
they need PyTorch; everything that a Domain, a Worker or a device imports works without it.
"""

import os

# ONNX Runtime reads this when it is first imported; set here so that no part of pygrid can load it with telemetry on.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"

_AUTHORING = frozenset({"plan", "train_step", "averaging_plan", "Tensor", "Label", "Integers", "Float", "optim"})


def __getattr__(name: str) -> object:
    if name in _AUTHORING:
        from pygrid.plans import authoring

        return getattr(authoring, name)
    raise AttributeError(f"module 'pygrid' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_AUTHORING])
