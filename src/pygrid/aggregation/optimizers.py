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

from collections.abc import Collection, Iterator
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt

from pygrid.configs import Config, FieldFault, Spec, listed

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

_MOST = float(np.finfo(np.float32).max)


class ServerOptimizer(Config, frozen=True):
    """The rule that applies the mean diff to the model (Reddi et al., ICLR 2021, algorithm 2)."""

    name: Annotated[Literal["sgd", "momentum", "adagrad", "adam", "yogi"], Spec("adam")] = "sgd"
    """``sgd`` with ``learning_rate`` 1.0 is plain federated averaging."""
    learning_rate: Annotated[float, Spec(0.01, 1e-9, 1e6)] = 1.0
    """Factor of the step."""
    momentum: Annotated[float, Spec(0.9, 0.0, 0.999_999)] = 0.9
    """``momentum``: share of the earlier steps."""
    beta1: Annotated[float, Spec(0.9, 0.0, 0.999_999)] = 0.9
    """``adagrad``, ``adam``, ``yogi``: decay of the mean of diffs."""
    beta2: Annotated[float, Spec(0.99, 0.0, 0.999_999)] = 0.99
    """``adam``, ``yogi``: decay of the mean of squared diffs."""
    tau: Annotated[float, Spec(1e-3, 1e-12, 1e6)] = 1e-3
    """``adagrad``, ``adam``, ``yogi``: adaptivity, added to the root of the squares."""

    def find_faults(self, given: Collection[str]) -> Iterator[FieldFault]:
        for field in given:
            users = USERS.get(field)
            if users is not None and self.name not in users:
                yield FieldFault(field, f"has no effect with {self.name!r}; it belongs to {listed(users)}")


USERS: dict[str, tuple[str, ...]] = {
    "momentum": ("momentum",),
    "beta1": ("adagrad", "adam", "yogi"),
    "beta2": ("adam", "yogi"),
    "tau": ("adagrad", "adam", "yogi"),
}
"""The optimizers that use a field; all use the others."""
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
