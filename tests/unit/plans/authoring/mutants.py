"""Seeded bugs of the exporter: rules that lower an operator wrongly, and edits of a finished graph.

Each mutant has the network in which it matters. A rule is replaced in the registry of rules before the graph is
emitted; an edit changes the graph's bytes afterwards.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from families import Block, Sequence
from onnx import numpy_helper
from torch import nn

import pygrid
from pygrid.plans.authoring.emit import Emitted
from pygrid.plans.authoring.lowering.core import Context
from pygrid.plans.authoring.lowering.graph import LoweredValue
from pygrid.plans.authoring.optim import Optimizer
from pygrid.plans.authoring.ports import DataSpec

Rule = Callable[..., Any]
LABELS = pygrid.Label(4)
THREE = pygrid.Integers["batch", 3](4)


@dataclass(frozen=True)
class Network:
    """A model with its loss, its data and its optimizer."""

    model: Callable[[], nn.Module]
    data: dict[str, DataSpec]
    loss: Callable[..., Any]
    optimizer: Optimizer = field(default_factory=pygrid.optim.SGD)


@dataclass(frozen=True)
class Mutant:
    """A bug: a wrong rule for an operator (called with the right rule), or an edit of the graph."""

    network: str
    operator: str = ""
    rule: Rule | None = None
    edit: Callable[[onnx.GraphProto], None] | None = None


def classify(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(model(x), y)


def weighted(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Three labels for each example; class 2 does not count."""
    logits = torch.stack([model(x), model(2 * x), model(x - 1)], 2)
    return F.cross_entropy(logits, y, weight=torch.tensor([1.0, 2.0, 0.5, 3.0]), ignore_index=2)


def shaped(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Many operators on a square array, each with its own weight, so that no error cancels another."""
    h = model(x)
    t = h - 0.4
    rows = torch.cat([h[:, 1:5], h.flip(1)[:, :4], torch.roll(h, 2, 1)[:, 2:6]], 1)
    parts = [
        (h @ (h.t() @ h)).square().mean(),
        2 * h.amax(1).mean() + 3 * h.amin(1).square().mean(),
        h.var(1).mean() + 2 * h.var(1, correction=0).square().mean(),
        torch.linalg.vector_norm(h, 2, 1).mean() + torch.linalg.vector_norm(h, 3, 1).mean(),
        h.clamp(-0.1, 0.2).mean() * 3 + torch.where(t > 0, 2 * t, t * t).mean(),
        (h.abs() + 0.5).pow(1.5).mean() + torch.remainder(t, 0.3).square().mean(),
        torch.expm1(t).mean() + torch.log1p(h.abs()).mean() + torch.rsqrt(h.abs() + 0.2).mean(),
        (rows * torch.arange(1.0, 13.0)).mean() + h.select(1, 2).square().mean(),
        h.gather(1, y[:, None]).square().mean() + h.masked_fill(t > 0.1, 0.3).mean(),
        torch.zeros(4, 6).index_add(0, y, h).square().mean() + h.unfold(1, 3, 2).amax(2).mean(),
        torch.stack([h, h * h], 1).sum(2).square().mean() + torch.sin(h).mean() + torch.floor(3 * h).mul(h).mean(),
    ]
    return torch.stack([weight * part for weight, part in enumerate(parts, 1)]).sum() / 100


def image(norm: nn.Module) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, stride=2), norm, nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.Conv2d(4, 4, 2),
        nn.AvgPool2d(2, 1, 1), nn.Flatten(), nn.Linear(36, 4),
    )  # fmt: skip


def activations() -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 6), nn.GELU(), nn.Linear(6, 6), nn.ELU(0.7), nn.Linear(6, 6), nn.LeakyReLU(0.2), nn.Linear(6, 6),
        nn.Softplus(2.0), nn.LayerNorm(6), nn.Linear(6, 6), nn.Hardtanh(-0.3, 0.4), nn.Linear(6, 4),
    )  # fmt: skip


def token_net() -> nn.Module:
    return nn.Sequential(nn.Embedding(12, 5, padding_idx=3), nn.Flatten(), nn.Linear(30, 4))


def recurrent() -> nn.Module:
    model = Sequence(nn.LSTM)
    model.out = nn.Linear(12, 4)
    return model


VECTOR = {"x": pygrid.Tensor["batch", 6], "y": LABELS}
IMAGE = {"x": pygrid.Tensor["batch", 2, 9, 9], "y": LABELS}
TOKENS = {"x": pygrid.Integers["batch", 6](12), "y": LABELS}

NETWORKS: dict[str, Network] = {
    "batch norm": Network(lambda: image(nn.BatchNorm2d(4)), IMAGE, classify, pygrid.optim.SGD(momentum=0.8)),
    "group norm": Network(lambda: image(nn.GroupNorm(2, 4)), {**IMAGE, "y": THREE}, weighted),
    "activations": Network(activations, {**VECTOR, "y": THREE}, weighted, pygrid.optim.Adam()),
    "shapes": Network(lambda: nn.Linear(6, 6), VECTOR, shaped),
    "tokens": Network(token_net, TOKENS, classify),
    "lstm": Network(recurrent, TOKENS, classify),
    "attention": Network(Block, {"x": pygrid.Integers["batch", 6](30), "y": pygrid.Label(10)}, classify),
}


# -- wrong rules: each takes the right rule, the context and the operator's arguments ---------------------------------


def negated(right: Rule, c: Context, *args: Any, **kwargs: Any) -> Any:
    return c.elementwise("Neg", [right(c, *args, **kwargs)], "float32")


def scaled(factor: float) -> Rule:
    def rule(right: Rule, c: Context, *args: Any, **kwargs: Any) -> Any:
        return c.binary("Mul", right(c, *args, **kwargs), factor, "float32")

    return rule


def argument(position: int, value: Any) -> Rule:
    """The operator with another argument."""

    def rule(right: Rule, c: Context, *args: Any, **kwargs: Any) -> Any:
        return right(c, *args[:position], value, *args[position + 1 :], **kwargs)

    return rule


def option(**other: Any) -> Rule:
    def rule(right: Rule, c: Context, *args: Any, **kwargs: Any) -> Any:
        return right(c, *args, **{**kwargs, **other})

    return rule


def swapped(first: int, second: int) -> Rule:
    """The operator with two arguments in each other's place."""

    def rule(right: Rule, c: Context, *args: Any, **kwargs: Any) -> Any:
        given = list(args)
        given[first], given[second] = given[second], given[first]
        return right(c, *given, **kwargs)

    return rule


def passes_on(position: int) -> Rule:
    """The operator does nothing to one of its arguments."""
    return lambda right, c, *args, **kwargs: args[position]


def result(position: int, change: Callable[[Context, LoweredValue], LoweredValue]) -> Rule:
    """One of several results is changed."""

    def rule(right: Rule, c: Context, *args: Any, **kwargs: Any) -> Any:
        results = list(right(c, *args, **kwargs))
        if results[position] is not None:
            results[position] = change(c, results[position])
        return tuple(results)

    return rule


def zero(c: Context, value: LoweredValue) -> LoweredValue:
    return c.binary("Mul", value, 0.0, "float32")


def flipped_kernel(c: Context, value: LoweredValue) -> LoweredValue:
    ends = [c.ints([-1]), c.ints([-(2**63 - 1)]), c.ints([value.rank - 1]), c.ints([-1])]
    return c.op("Slice", [value, *ends], value.shape)


def doubled(c: Context, value: LoweredValue) -> LoweredValue:
    return c.binary("Mul", value, 2.0, "float32")


def transposed_first(right: Rule, c: Context, x: LoweredValue, *args: Any, **kwargs: Any) -> Any:
    """Another axis is summed: the last two, of equal length, are exchanged."""
    square = x.rank == 3 and x.shape[1:] == (2, 6)
    return right(c, c.reshape(c.transpose(x, [0, 2, 1]), x.shape) if square else x, *args, **kwargs)


def as_operator(name: str) -> Rule:
    """Another elementwise operator."""
    return lambda right, c, x, *_, **__: replace(c.elementwise(name, [c.full(x)], "float32"), shape=x.shape)


# -- edits of the graph ----------------------------------------------------------------------------------------------


def constant(old: float, new: float) -> Callable[[onnx.GraphProto], None]:
    """Another number in place of a constant."""

    def edit(graph: onnx.GraphProto) -> None:
        found = False
        for tensor in graph.initializer:
            array = numpy_helper.to_array(tensor)
            if array.dtype == np.float32 and array.size == 1 and np.isclose(array, old, rtol=1e-6).all():
                tensor.CopyFrom(numpy_helper.from_array(np.full(array.shape, new, np.float32), tensor.name))
                found = True
        assert found, f"no constant {old}"

    return edit


def each(op: str, change: Callable[[onnx.NodeProto], bool], which: int = 0) -> Callable[[onnx.GraphProto], None]:
    """A change of one node of an operator: the first one to which it applies after ``which`` others."""

    def edit(graph: onnx.GraphProto) -> None:
        left = which
        for node in graph.node:
            if node.op_type == op and change(node):
                if left == 0:
                    return
                left -= 1
        raise AssertionError(f"no {op} to change")

    return edit


def other_operator(name: str) -> Callable[[onnx.NodeProto], bool]:
    def change(node: onnx.NodeProto) -> bool:
        node.op_type = name
        return True

    return change


def operands_swapped(node: onnx.NodeProto) -> bool:
    first, second, *rest = node.input
    del node.input[:]
    node.input.extend([second, first, *rest])
    return first != second


def branches_swapped(node: onnx.NodeProto) -> bool:
    node.input[1], node.input[2] = node.input[2], node.input[1]
    return True


def without_attribute(name: str) -> Callable[[onnx.NodeProto], bool]:
    def change(node: onnx.NodeProto) -> bool:
        kept = [item for item in node.attribute if item.name != name]
        changed = len(kept) < len(node.attribute)
        del node.attribute[:]
        node.attribute.extend(kept)
        return changed

    return change


def without_bias(node: onnx.NodeProto) -> bool:
    if len(node.input) < 3:
        return False
    node.input.pop()
    return True


def attribute(name: str, value: int) -> Callable[[onnx.NodeProto], bool]:
    def change(node: onnx.NodeProto) -> bool:
        for item in node.attribute:
            if item.name == name and item.i != value:
                item.i = value
                return True
        return False

    return change


def edited(graph: Emitted, edit: Callable[[onnx.GraphProto], None]) -> Emitted:
    model = onnx.load_from_string(graph.data)
    edit(model.graph)
    other = copy.copy(graph)
    other.data = model.SerializeToString(deterministic=True)
    return other


MUTANTS: dict[str, Mutant] = {
    "conv: bias dropped": Mutant("batch norm", "convolution.default", argument(2, None)),
    "conv: no bias gradient": Mutant("group norm", "convolution_backward.default", result(2, zero)),
    "conv: kernel gradient flipped": Mutant("batch norm", "convolution_backward.default", result(1, flipped_kernel)),
    "conv: input gradient doubled": Mutant("batch norm", "convolution_backward.default", result(0, doubled)),
    "max pool: windows do not add": Mutant("batch norm", edit=each("ScatterElements", without_attribute("reduction"))),
    "avg pool: padding does not count": Mutant("group norm", "avg_pool2d.default", option(count_include_pad=False)),
    "avg pool: gradient not divided": Mutant("group norm", "avg_pool2d_backward.default", scaled(4.0)),
    "group norm: no eps": Mutant("group norm", "native_group_norm.default", argument(7, 0.0)),
    "group norm: weight ignored in backward": Mutant("group norm", "native_group_norm.default", result(2, doubled)),
    "batch norm: no eps": Mutant("batch norm", edit=constant(1e-5, 0.0)),
    "batch norm: momentum": Mutant("batch norm", edit=constant(0.1, 0.09)),
    "batch norm: momentum of the old value": Mutant("batch norm", edit=constant(0.9, 0.8)),
    "batch norm: biased running variance": Mutant("batch norm", edit=constant(-1.0, 0.0)),
    "layer norm: no eps": Mutant("activations", "native_layer_norm.default", argument(4, 0.0)),
    "layer norm: no bias": Mutant("activations", "native_layer_norm.default", argument(3, None)),
    "log softmax: other axis": Mutant("tokens", "_log_softmax.default", argument(1, 0)),
    "log softmax: gradient without its sum": Mutant("tokens", "_log_softmax_backward_data.default", passes_on(0)),
    "softmax: gradient without its factor": Mutant("attention", "_softmax_backward_data.default", passes_on(0)),
    "loss: sum for mean": Mutant("tokens", "nll_loss_forward.default", argument(3, 2)),
    "loss: class weights ignored": Mutant("group norm", "nll_loss2d_forward.default", argument(2, None)),
    "loss: ignored class counts": Mutant("group norm", "nll_loss2d_forward.default", argument(4, -100)),
    "loss: ignored class has a gradient": Mutant("group norm", "nll_loss2d_backward.default", argument(6, -100)),
    "loss: sign of the gradient": Mutant("tokens", "nll_loss_backward.default", negated),
    "embedding: padding has a gradient": Mutant("tokens", "embedding_dense_backward.default", argument(3, -1)),
    "linear: bias dropped": Mutant("tokens", edit=each("Gemm", without_bias)),
    "linear: bias doubled": Mutant(
        "tokens",
        "addmm.default",
        lambda right, c, bias, *args, **kw: right(c, c.binary("Add", bias, bias), *args, **kw),
    ),
    "matrix product: wrong order": Mutant("shapes", "mm.default", swapped(0, 1)),
    "matrix product: not transposed": Mutant("shapes", edit=each("Gemm", attribute("transB", 0))),
    "gelu: another function": Mutant("activations", edit=each("Erf", other_operator("Tanh"))),
    "elu: alpha": Mutant("activations", "elu.default", argument(1, 0.71)),
    "leaky relu: slope": Mutant("activations", edit=constant(0.2, 0.201)),
    "softplus: beta": Mutant("activations", "softplus.default", argument(1, 1.0)),
    "hardtanh: bounds": Mutant("activations", edit=constant(0.4, 0.41)),
    "adam: beta": Mutant("activations", edit=constant(0.999, 0.998)),
    "adam: rate of the mean": Mutant("activations", edit=constant(0.9, 0.91)),
    "momentum": Mutant("batch norm", edit=constant(0.8, 0.81)),
    "mean: one too few": Mutant("shapes", "mean", scaled(1.001)),
    "sum: other axis": Mutant("shapes", "sum", transposed_first),
    "variance: correction": Mutant("shapes", "var.correction", option(correction=0)),
    "maximum for minimum": Mutant("shapes", edit=each("ReduceMin", other_operator("ReduceMax"))),
    "norm: order": Mutant("shapes", "linalg_vector_norm", argument(1, 2.0)),
    "clamp: no upper bound": Mutant("shapes", "clamp", argument(2, None)),
    "where: branches swapped": Mutant("shapes", edit=each("Where", branches_swapped)),
    "power": Mutant("shapes", edit=constant(1.5, 1.5001)),
    "remainder: sign": Mutant("shapes", "remainder", negated),
    "expm1: another function": Mutant("shapes", edit=each("Tanh", other_operator("Sigmoid"))),
    "log1p for log": Mutant("shapes", "log1p.default", as_operator("Log")),
    "root for its inverse": Mutant("shapes", "rsqrt.default", as_operator("Sqrt")),
    "sine for cosine": Mutant("shapes", edit=each("Sin", other_operator("Cos"))),
    "flip: nothing": Mutant("shapes", "flip", passes_on(0)),
    "slice: one off": Mutant(
        "shapes",
        "slice.Tensor",
        lambda right, c, x, axis=0, start=None, end=None, step=1: right(
            c, x, axis, *((0, 4, step) if (start, end) == (1, 5) else (start, end, step))
        ),
    ),
    "cat: order": Mutant("shapes", "cat", lambda right, c, parts, axis=0: right(c, list(reversed(parts)), axis)),
    "select: other element": Mutant("shapes", "select.int", argument(2, 3)),
    "index: rows do not add": Mutant("shapes", "index_put", argument(3, False)),
    "difference: operands swapped": Mutant("lstm", edit=each("Sub", operands_swapped, 3)),
    "lstm: gates in another order": Mutant("lstm", edit=each("Tanh", other_operator("Sigmoid"))),
    "lstm: sigmoid for tanh": Mutant("lstm", edit=each("Sigmoid", other_operator("Tanh"), 2)),
    "attention: no mask": Mutant("attention", "masked_fill", passes_on(0)),
    "a factor is missing": Mutant("attention", edit=each("Mul", other_operator("Add"), 1)),
    "a sum is a difference": Mutant("attention", edit=each("Add", other_operator("Sub"), 2)),
    "a constant is off by 1e-5": Mutant("attention", edit=constant(1e-5, 2e-5)),
}
