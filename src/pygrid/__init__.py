"""pygrid: data owners and data scientists train models together without moving private data.

The names for authors of plans (``pygrid.plan``, ``pygrid.Tensor``, ``pygrid.optim`` ...) are loaded on first use,
because they need PyTorch; everything that a Domain, a Worker or a device imports works without it. So are the
configurations of a process (``pygrid.ServerConfig``, ``pygrid.ClientConfig`` ...), which need no PyTorch.
"""

import os
from typing import TYPE_CHECKING

# ONNX Runtime reads this when it is first imported; set here so that no part of pygrid can load it with telemetry on.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.2.0.dev0"

if TYPE_CHECKING:
    from pygrid.configuration import (
        Aggregation,
        Authentication,
        ClientConfig,
        EarlyStop,
        Evaluation,
        Schedule,
        ServerConfig,
        ServerOptimizer,
    )
    from pygrid.plans.authoring import (
        Float,
        Integers,
        Label,
        Tensor,
        Text,
        averaging_plan,
        load_into,
        optim,
        plan,
        run_with_lengths,
        train_step,
    )
    from pygrid.plans.tokenizers import tokenize

_CONFIGURATIONS = (
    "Aggregation",
    "Authentication",
    "ClientConfig",
    "EarlyStop",
    "Evaluation",
    "Schedule",
    "ServerConfig",
    "ServerOptimizer",
)
__all__ = [
    "Aggregation",
    "Authentication",
    "ClientConfig",
    "EarlyStop",
    "Evaluation",
    "Float",
    "Integers",
    "Label",
    "Schedule",
    "ServerConfig",
    "ServerOptimizer",
    "Tensor",
    "Text",
    "averaging_plan",
    "load_into",
    "optim",
    "plan",
    "run_with_lengths",
    "tokenize",
    "train_step",
]


def __getattr__(name: str) -> object:
    if name in _CONFIGURATIONS:
        from pygrid import configuration

        return getattr(configuration, name)
    if name == "tokenize":
        from pygrid.plans.tokenizers import tokenize

        return tokenize
    if name in __all__:
        from pygrid.plans import authoring

        return getattr(authoring, name)
    raise AttributeError(f"module 'pygrid' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
