"""Applies the mean diff to the model: federated averaging and the adaptive server optimizers.

Source: Reddi et al., "Adaptive Federated Optimization", ICLR 2021, algorithm 2 (FedAdagrad, FedAdam, FedYogi) and its
FedAvgM.
In the paper, ``Delta`` is the mean of ``trained - original``, and the pseudo-gradient is ``-Delta``. Here a diff is
``original - trained``, so the mean diff ``d`` is the pseudo-gradient, and each update subtracts.

    sgd        new = old - lr * d
    momentum   m = momentum * m + d;                          new = old - lr * m
    adagrad    m = b1 * m + (1 - b1) * d;  v = v + d^2;        new = old - lr * m / (sqrt(v) + tau)
    adam       m as above;  v = b2 * v + (1 - b2) * d^2;       new as above
    yogi       m as above;  v = v - (1 - b2) * d^2 * sign(v - d^2);  new as above

As in the paper, there is no bias correction, and ``v`` starts at ``tau^2``.
"""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

_MOST = float(np.finfo(np.float32).max)


class ServerOptimizer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The rule that applies the mean diff to the model (Reddi et al., ICLR 2021, algorithm 2).

    ``sgd``: ``new = old - learning_rate * average``; 1.0 is plain federated averaging. ``tau`` is the adaptivity.
    """

    name: Literal["sgd", "momentum", "adagrad", "adam", "yogi"] = "sgd"
    learning_rate: float = 1.0
    momentum: float = 0.9
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3


SLOTS: dict[str, tuple[str, ...]] = {
    "sgd": (),
    "momentum": ("m",),
    "adagrad": ("m", "v"),
    "adam": ("m", "v"),
    "yogi": ("m", "v"),
}
"""The state vectors that each optimizer keeps between cycles."""


def initial_slot(optimizer: ServerOptimizer, slot: str) -> float:
    """The initial value of all entries of a state vector."""
    return optimizer.tau**2 if slot == "v" else 0.0


def step(
    optimizer: ServerOptimizer, model: Float32, mean_diff: Float64, state: dict[str, Float32]
) -> tuple[Float32, dict[str, Float32]]:
    """The new model and the new state. The step is elementwise, so it can be called block by block.

    Args:
        model: float32, any length.
        mean_diff: the mean of ``original - trained``; float64, of the same length.
        state: for each slot of the optimizer, a vector of the same length.
    """
    old, d, lr = model.astype(np.float64), mean_diff, optimizer.learning_rate
    if optimizer.name == "sgd":
        return to_float32(old - lr * d), {}
    m = state["m"].astype(np.float64)
    if optimizer.name == "momentum":
        m = optimizer.momentum * m + d
        return to_float32(old - lr * m), {"m": to_float32(m)}
    m = optimizer.beta1 * m + (1 - optimizer.beta1) * d
    v, squares = state["v"].astype(np.float64), d * d
    if optimizer.name == "adagrad":
        v = v + squares
    elif optimizer.name == "adam":
        v = optimizer.beta2 * v + (1 - optimizer.beta2) * squares
    else:
        v = v - (1 - optimizer.beta2) * squares * np.sign(v - squares)
    new = old - lr * m / (np.sqrt(v) + optimizer.tau)
    return to_float32(new), {"m": to_float32(m), "v": to_float32(v)}


def to_float32(values: Float64) -> Float32:
    """The values as float32, clipped to the finite range: an infinity in a model would never leave it."""
    return np.clip(values, -_MOST, _MOST).astype(np.float32)
