"""The traced step for one batch size: a graph of simple ATen operators whose shapes are numbers."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch._decomp import core_aten_decompositions, get_decompositions
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from pygrid.plans.authoring.diagnostics import SourceLocation
from pygrid.plans.authoring.variants.contract import ContractStep

aten = torch.ops.aten

_ALSO = [
    aten.native_layer_norm, aten.native_layer_norm_backward, aten.native_group_norm, aten.native_group_norm_backward,
    aten.gelu, aten.gelu_backward, aten._log_softmax_backward_data, aten._softmax_backward_data,
    aten.silu, aten.silu_backward, aten.elu, aten.elu_backward, aten.softplus, aten.softplus_backward,
    aten.leaky_relu, aten.leaky_relu_backward, aten.hardtanh, aten.hardtanh_backward, aten.sigmoid_backward,
    aten.tanh_backward, aten.mse_loss, aten.mse_loss_backward, aten.embedding_dense_backward, aten.rsub,
    aten.linalg_vector_norm, aten.clamp_min, aten.clamp_max, aten.masked_fill, aten.new_full,
]  # fmt: skip
_KEPT = ("addmm", "threshold_backward", "nll_loss_forward", "nll_loss_backward", "embedding_dense_backward", "t")
"""Operators for which each dialect has a short form of its own."""


@dataclass(frozen=True)
class Specialised:
    """A step for one batch size. Placeholders are in the order of the contract."""

    module: fx.GraphModule
    batch: int
    places: Mapping[str, SourceLocation]
    """The author's line by operator, as in `Trace`."""

    def place(self, node: fx.Node) -> SourceLocation | None:
        """The author's line for a node."""
        for target in (node.meta.get("original_aten"), node.target):
            if isinstance(target, torch._ops.OpOverload):
                name = target._schema.name
                found = self.places.get(name) or self.places.get(name.removesuffix("_backward"))
                if found is not None:
                    return found
        return None


def specialise(step: ContractStep, batch: int) -> Specialised:
    """The step for batches of exactly ``batch`` examples."""
    traced = step.contract.traced
    with FakeTensorMode(allow_non_fake_inputs=True), fx.traceback.preserve_node_meta():
        arguments = step.examples(batch)
        module = make_fx(
            lambda *given: step(fx.Interpreter(traced.module), *given), decompositions(), _allow_non_fake_inputs=True
        )(*arguments)
    module.graph.eliminate_dead_code()
    return Specialised(module, batch, traced.places)


@functools.cache
def decompositions() -> dict[Any, Callable[..., Any]]:
    """Rules that turn operators into those of the dialects' tables."""
    table = {**core_aten_decompositions(), **get_decompositions(_ALSO)}
    kept = {f"aten::{name}" for name in _KEPT}
    return {op: rule for op, rule in table.items() if op._schema.name not in kept}
