"""pygrid: data owners and data scientists train models together without moving private data.

The names for authors of plans (``pygrid.plan``, ``pygrid.Tensor``, ``pygrid.optim`` ...) are loaded on first use,
because they need PyTorch; everything that a Domain, a Worker or a device imports works without it.
"""

import os
from typing import TYPE_CHECKING

# ONNX Runtime reads this when it is first imported; set here so that no part of pygrid can load it with telemetry on.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.2.0.dev0"

if TYPE_CHECKING:
    from pygrid.plans.authoring import Float, Integers, Label, Tensor, averaging_plan, optim, plan, train_step

__all__ = ["Float", "Integers", "Label", "Tensor", "averaging_plan", "optim", "plan", "train_step"]


def __getattr__(name: str) -> object:
    if name in __all__:
        from pygrid.plans import authoring

        return getattr(authoring, name)
    raise AttributeError(f"module 'pygrid' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
