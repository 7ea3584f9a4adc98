"""The step as TorchScript for KotlinSyft and SwiftSyft, of operators that libtorch 1.7 has.

The module is called as ``forward(X, y, batch_size, lr, params)``, with ``params`` a list. It returns a tuple
``(loss, metric, *params)``, or a list of the same. Gradients are off on the device, so the backward pass is explicit.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from pygrid import codes
from pygrid.errors import AuthoringError
from pygrid.plans.authoring.diagnostics import authoring_error
from pygrid.plans.authoring.variants.contract import ContractStep
from pygrid.plans.authoring.variants.specialised import Specialised
from pygrid.syft.plans import PlanMessage

_OLD_OPERATORS_TEXT = """
abs acos add addmm alias amax amin any all argmax asin atan bitwise_and bitwise_not bitwise_or bmm cat ceil clamp
clamp_max clamp_min clone constant_pad_nd contiguous convolution _convolution cos cosh detach div embedding
embedding_dense_backward eq erf exp expand expm1 floor full full_like gather ge gt le log log1p _log_softmax
logical_and logical_not logical_or lt max_pool2d_with_indices max_pool2d_with_indices_backward maximum mean minimum
mm mul narrow native_layer_norm ne neg nll_loss_forward nll_loss_backward ones ones_like permute pow reciprocal relu
reshape round rsqrt rsub scalar_tensor scatter select sigmoid sign sin sinh slice _softmax sqrt squeeze sub sum t
tan tanh threshold_backward to transpose type_as unsqueeze _unsafe_view view var where zeros zeros_like
avg_pool2d avg_pool2d_backward split_with_sizes empty
"""
OLD_OPERATORS = frozenset(_OLD_OPERATORS_TEXT.split())
"""Operators of libtorch 1.7 that a variant may have, by the name in its schema."""


_SIZES = "sizes"


def emit_torchscript(specialised: Specialised, step: ContractStep, name: str, *, as_list: bool) -> PlanMessage:
    """The step as a plan that holds TorchScript.

    Args:
        as_list: return a list of tensors instead of a tuple, for KotlinSyft from 2021.
    Raises:
        AuthoringError: ``plan_variant_unavailable``: an operator is newer than libtorch 1.7.
    """
    _note_sizes(specialised.module)
    module = _Module(specialised.module, as_list)
    x, y, _, _, *params = [torch.zeros(one.shape) for one in step.examples(specialised.batch)]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's successor of TorchScript does not run on devices
        traced = torch.jit.trace(
            module, (x, y, torch.ones(1, dtype=torch.int64), torch.ones(1), params), check_trace=False, strict=False
        )
    newer = sorted({node.kind() for node in traced.inlined_graph.nodes() if _is_newer(node.kind())})
    if newer:
        operator = newer[0].removeprefix("aten::")
        found = [node for node in specialised.module.graph.nodes if operator in str(node.target)]
        reason = f"operator {operator} is not in libtorch 1.7, which mobile clients have; use simpler operators"
        place = specialised.place(found[0]) if found else None
        raise authoring_error(reason, place, code=codes.PLAN_VARIANT_UNAVAILABLE)
    data = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(traced, data)
    return PlanMessage(name, torchscript=data.getvalue())


def run_torchscript(message: PlanMessage, inputs: Sequence[Any]) -> list[Any]:
    """The results of a plan's TorchScript, as a device would call it. Only for plans that were built here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        module = torch.jit.load(io.BytesIO(message.torchscript))
    x, y, batch, rate, *params = [torch.as_tensor(one) for one in inputs]
    with torch.no_grad():
        results = module(x, y, batch.reshape(1).long(), rate.reshape(1), params)
    return [one.numpy() for one in results]


def _is_newer(kind: str) -> bool:
    return kind.startswith("aten::") and kind.removeprefix("aten::") not in OLD_OPERATORS


class _Module(torch.nn.Module):  # type: ignore[misc]
    def __init__(self, graph: fx.GraphModule, as_list: bool) -> None:
        super().__init__()
        self._run = _OldForms(graph)
        self._as_list = as_list

    def forward(
        self, x: torch.Tensor, y: torch.Tensor, batch_size: torch.Tensor, lr: torch.Tensor, params: list[torch.Tensor]
    ) -> Any:
        results = self._run.run(x, y, batch_size.reshape([]).to(torch.float32), lr.reshape([]), *params)
        results = [one.clone() for one in results]
        return results if self._as_list else tuple(results)


class _OldForms(fx.Interpreter):  # type: ignore[misc]
    """Runs a graph, with old forms of operators that libtorch 1.7 does not have."""

    def run_node(self, n: fx.Node) -> Any:
        if n.op == "call_function" and isinstance(n.target, torch._ops.OpOverload):
            form = _FORMS.get(n.target._schema.name.removeprefix("aten::"))
            if form is not None:
                args, kwargs = self.fetch_args_kwargs_from_env(n)
                return form(n, *args, **kwargs)
        return super().run_node(n)


def _shape(node: Any) -> tuple[int, ...]:
    """The shape of a node's first result."""
    found: tuple[int, ...] = node.meta[_SIZES]
    return found


def _note_sizes(graph: fx.GraphModule) -> None:
    """Store the shapes of all nodes: while a module is traced, a look at a shape would become part of the trace."""
    for node in graph.graph.nodes:
        found = node.meta.get("val")
        first = found[0] if isinstance(found, tuple | list) and found else found
        if isinstance(first, torch.Tensor):
            node.meta[_SIZES] = tuple(int(size) for size in first.shape)


def _same(_node: fx.Node, x: torch.Tensor, **_: Any) -> torch.Tensor:
    return x


def _to_copy(_node: fx.Node, x: torch.Tensor, *, dtype: torch.dtype | None = None, **_: Any) -> torch.Tensor:
    return x if dtype is None else x.to(dtype)


def _reshape(node: fx.Node, x: torch.Tensor, *_: Any) -> torch.Tensor:
    return x.reshape(_shape(node))


def _where(_node: fx.Node, condition: torch.Tensor, a: Any, b: Any) -> torch.Tensor:
    like = next((one for one in (a, b) if isinstance(one, torch.Tensor)), None)
    dtype = torch.float32 if like is None else like.dtype
    a, b = (one if isinstance(one, torch.Tensor) else torch.full([], one, dtype=dtype) for one in (a, b))
    return torch.where(condition, a, b)


def _var_mean(
    node: fx.Node, x: torch.Tensor, axes: list[int] | None = None, *, correction: float | None = None,
    keepdim: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    shape = _shape(node.args[0])
    along = list(range(len(shape))) if axes is None else axes
    wide = x.mean(along, True)
    squares = ((x - wide) * (x - wide)).mean(along, keepdim)
    count = math.prod(shape) // max(math.prod(_shape(node)), 1)
    factor = count / (count - (1 if correction is None else correction))
    return squares * factor, wide.reshape(_shape(node))


def _var(node: fx.Node, x: torch.Tensor, axes: list[int] | None = None, **options: Any) -> torch.Tensor:
    return _var_mean(node, x, axes, **options)[0]


def _full(node: fx.Node, *given: Any, dtype: torch.dtype | None = None, **_: Any) -> torch.Tensor:
    return torch.full(_shape(node), given[-1], dtype=dtype or torch.float32)


def _convolution_backward(
    node: fx.Node, grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, *options: Any
) -> tuple[torch.Tensor | None, ...]:
    """The gradients of a convolution as convolutions."""
    _, stride, padding, dilation, transposed, _, groups, mask = options
    place = "the gradient of a grouped or transposed convolution has no form in libtorch 1.7"
    if transposed or groups != 1:
        raise AuthoringError(place, code=codes.PLAN_VARIANT_UNAVAILABLE)
    grads, inputs, kernel = (_shape(one)[2:] for one in node.args[:3])
    grad_x = grad_w = grad_b = None
    if mask[0]:
        sizes = zip(inputs, grads, kernel, stride, padding, dilation, strict=True)
        extra = [n - ((g - 1) * s - 2 * p + d * (k - 1) + 1) for n, g, k, s, p, d in sizes]
        grad_x = torch.convolution(grad, weight, None, stride, padding, dilation, True, extra, 1)
    if mask[1]:
        zeros = [0] * len(stride)
        wide = torch.convolution(
            x.transpose(0, 1), grad.transpose(0, 1), None, dilation, padding, stride, False, zeros, 1
        )
        for axis, size in enumerate(kernel, start=2):
            wide = wide.narrow(axis, 0, size)
        grad_w = wide.transpose(0, 1)
    if mask[2]:
        grad_b = grad.sum([0, *range(2, 2 + len(kernel))])
    return grad_x, grad_w, grad_b


_FORMS: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(("alias", "detach", "lift_fresh_copy", "clone"), _same),
    **dict.fromkeys(("view", "_unsafe_view", "squeeze", "unsqueeze"), _reshape),
    **dict.fromkeys(("full", "full_like", "scalar_tensor", "new_full"), _full),
    "_to_copy": _to_copy,
    "where": _where,
    "var_mean": _var_mean,
    "var": _var,
    "convolution_backward": _convolution_backward,
}
