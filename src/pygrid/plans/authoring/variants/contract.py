"""The contract of training plans for devices of 2020, and the plans that fit it.

    X, y, batch_size, lr, *params -> loss, metric, *new_params

``X`` and ``y`` are float32; class numbers arrive as one-hot rows. A plan with state, noise or further inputs does not
fit: the devices of that time know nothing of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from pygrid import codes
from pygrid.errors import AuthoringError
from pygrid.plans.authoring.diagnostics import SourceLocation, authoring_error
from pygrid.plans.authoring.tracing import TORCH_DTYPES, Trace
from pygrid.plans.manifest import DataPort, Hyper


@dataclass(frozen=True)
class Contract:
    """How the inputs and outputs of a trace belong to the contract."""

    traced: Trace
    x: str
    y: str
    num_classes: int | None
    """Columns of the one-hot rows; None: the device sends ``y`` as it is."""
    params: tuple[str, ...]
    """Parameters in the order of the contract."""
    metric: str
    """The metric after the loss; the loss again, if the plan has no other."""

    def shapes(self, ports: Mapping[str, DataPort], batch: int) -> list[tuple[int, ...]]:
        """The shapes of ``X`` and ``y``."""
        y = (self.num_classes,) if self.num_classes is not None else ports[self.y].shape
        return [(batch, *ports[self.x].shape), (batch, *y)]


def contract_of(
    traced: Trace, data: Mapping[str, DataPort], hyper: Mapping[str, Hyper], place: SourceLocation | None
) -> Contract:
    """The contract of a trace of ``train``.

    Raises:
        AuthoringError: ``plan_variant_unavailable``: the plan does not fit; the message has the reason.
    """
    reason = _misfit(traced, data, hyper)
    if reason:
        raise authoring_error(reason, place, code=codes.PLAN_VARIANT_UNAVAILABLE)
    x, y = data
    others = [name for name in traced.outputs if name.startswith("metrics/") and name != "metrics/loss"]
    params = tuple(port.name.removeprefix("params/") for port in traced.inputs if port.name.startswith("params/"))
    return Contract(traced, x, y, data[y].num_classes, params, others[0] if others else "metrics/loss")


def _misfit(traced: Trace, data: Mapping[str, DataPort], hyper: Mapping[str, Hyper]) -> str:
    """Why a plan does not fit the contract; empty if it does."""
    inputs = [port.name for port in traced.inputs]
    for prefix, what in (
        ("state/", "optimizer state ({}), which devices of 2020 do not keep: use plain SGD"),
        ("buffers/", "the buffer {!r}, which devices of 2020 do not have: use layers without buffers"),
    ):
        if found := [name.removeprefix(prefix) for name in inputs if name.startswith(prefix)]:
            return f"the plan has {what.format(found[0])}"
    if traced.noise_axes:
        return "the plan draws random numbers, for example for dropout; devices of 2020 have none for plans"
    if others := [name for name in hyper if name != "lr"]:
        return f"the plan has the hyperparameter {others[0]!r}; devices of 2020 send lr alone"
    if len(data) != 2:
        return f"the plan reads {len(data)} data ports ({', '.join(data)}); devices of 2020 send X and y"
    x, y = data.values()
    if x.dtype != "float32":
        return f"the first data port is {x.dtype}; devices of 2020 send float32"
    if y.dtype not in ("float32", "int64", "int32") or (y.dtype != "float32" and (y.shape or y.num_classes is None)):
        return "the second data port must be float32 or one class number, pygrid.Label(N)"
    if isinstance(y.ignore, int):
        return f"the label {y.ignore} has no class, and one-hot rows cannot say so"
    return ""


class ContractStep:
    """The trace as a function of the contract's arguments."""

    def __init__(self, contract: Contract, data: Mapping[str, DataPort]) -> None:
        self.contract = contract
        self._data = data

    def examples(self, batch: int) -> list[torch.Tensor]:
        """Arrays of the right shapes, without content."""
        ports = {port.name: port for port in self.contract.traced.inputs}
        shapes = self.contract.shapes(self._data, batch)
        params = [ports[f"params/{name}"].shape for name in self.contract.params]
        shapes += [(), (), *(tuple(int(size) for size in shape) for shape in params)]
        return [torch.empty(shape) for shape in shapes]

    def __call__(self, run: torch.fx.Interpreter, *arguments: torch.Tensor) -> list[torch.Tensor]:
        """Run the traced module on the arguments, and return the results in the order of the contract."""
        contract = self.contract
        x, y, _, lr, *params = arguments
        if contract.num_classes is not None:
            y = y.argmax(1).to(TORCH_DTYPES[self._data[contract.y].dtype])
        feed = {f"data/{contract.x}": x, f"data/{contract.y}": y, "hyper/lr": lr}
        feed |= {f"params/{name}": value for name, value in zip(contract.params, params, strict=True)}
        results = run.run(*[feed[port.name] for port in contract.traced.inputs])
        named = dict(zip(contract.traced.outputs, results, strict=True))
        wanted = ["metrics/loss", contract.metric, *(f"new/params/{name}" for name in contract.params)]
        return [named[name] for name in wanted]


def not_available(reason: str, place: SourceLocation | None) -> AuthoringError:
    """The error for a variant that cannot be made."""
    return authoring_error(reason, place, code=codes.PLAN_VARIANT_UNAVAILABLE)
