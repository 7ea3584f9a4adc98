"""The step as a list of torch commands, as PySyft 0.2.9 runs them on a worker.

A command is a function of ``torch`` with placeholders as arguments. Shapes and numbers are plain arguments.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import fx

from pygrid import codes
from pygrid.errors import AuthoringError
from pygrid.plans.authoring.diagnostics import authoring_error
from pygrid.plans.authoring.variants.specialised import Specialised
from pygrid.syft.ids import Id
from pygrid.syft.plans import Action, PlanMessage, Ref

_SAME_NAME_TEXT = """
neg exp log log1p expm1 sqrt rsqrt reciprocal abs sign sin cos tan asin acos atan sinh cosh tanh sigmoid erf relu
floor ceil round mul div pow eq ne lt le gt ge mm bmm t
"""
_SAME_NAME = frozenset(_SAME_NAME_TEXT.split())
"""Operators that are functions of torch 1.4 with the same arguments, which are arrays or numbers."""


def emit_list(step: Specialised, name: str) -> PlanMessage:
    """The step as a plan of torch commands.

    Raises:
        AuthoringError: ``plan_variant_unavailable``: an operator has no command; the message names the author's line.
    """
    emission = _Emission()
    outputs: Sequence[Any] = ()
    for node in step.module.graph.nodes:
        try:
            if node.op == "output":
                outputs = node.args[0]
            else:
                emission.add(node, step.module)
        except AuthoringError as error:
            raise authoring_error(error.detail, step.place(node), code=codes.PLAN_VARIANT_UNAVAILABLE) from error
    return emission.finish(name, [emission.done[one] for one in outputs])


class _Emission:
    def __init__(self) -> None:
        self.done: dict[fx.Node, Any] = {}
        self.actions: list[Action] = []
        self.inputs: list[int] = []
        self.constants: dict[int, Any] = {}
        self._next = 1

    def new_id(self) -> int:
        self._next += 1
        return self._next - 1

    def call(self, command: str, *args: Any) -> Ref:
        """The result of a command."""
        ref = self.new_id()
        self.actions.append(Action(f"torch.{command}", tuple(args), ref))
        return Ref(ref)

    def add(self, node: fx.Node, module: fx.GraphModule) -> None:
        """Emit one node."""
        if node.op == "placeholder":
            self.inputs.append(self.new_id())
            self.done[node] = Ref(self.inputs[-1])
        elif node.op == "get_attr":
            ref = self.new_id()
            self.constants[ref] = np.ascontiguousarray(getattr(module, str(node.target)).detach().numpy())
            self.done[node] = Ref(ref)
        else:
            args = fx.node.map_arg(node.args, lambda one: self.done[one])
            self.done[node] = self._call(node, args, dict(node.kwargs))

    def _call(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if node.target is operator.getitem:
            return args[0][args[1]]
        name = node.target._schema.name.removeprefix("aten::") if hasattr(node.target, "_schema") else str(node.target)
        if name in _SAME_NAME and not kwargs:
            return self.call(name, *args)
        form = _FORMS.get(name)
        if form is None:
            raise AuthoringError(
                f"operator {name} has no form as a torch command; build without the target list",
                code=codes.PLAN_VARIANT_UNAVAILABLE,
            )
        return form(self, node, *args, **kwargs)

    def finish(self, name: str, outputs: Sequence[Any]) -> PlanMessage:
        """The plan, whose outputs are arrays of their own."""
        results: list[Id] = []
        for one in outputs:
            ref = one.id if isinstance(one, Ref) else self.call("full", (), one).id
            if ref in results or ref in self.inputs or ref in self.constants:
                ref = self.call("mul", Ref(ref), 1).id
            results.append(ref)
        needed: set[Id] = set(results)
        kept: list[Action] = []
        for action in reversed(self.actions):
            if action.result in needed:
                kept.append(action)
                needed |= _used(action.args)
        constants: dict[Id, Any] = {ref: array for ref, array in self.constants.items() if ref in needed}
        return PlanMessage(name, tuple(self.inputs), tuple(results), tuple(reversed(kept)), constants)


def _used(value: Any) -> set[Any]:
    if isinstance(value, Ref):
        return {value.id}
    return {one for part in value for one in _used(part)} if isinstance(value, tuple) else set()


def _shape(node: Any) -> tuple[int, ...]:
    found = node.meta["val"]
    return tuple(int(size) for size in (found[0] if isinstance(found, tuple | list) else found).shape)


def _same(_e: _Emission, _node: fx.Node, x: Any, *_: Any, **__: Any) -> Any:
    return x


def _reshape(e: _Emission, node: fx.Node, x: Any, *_: Any) -> Any:
    shape = _shape(node)
    return x if shape == _shape(node.args[0]) else e.call("reshape", x, shape)


def _sum_of(command: str) -> Callable[..., Any]:
    def form(e: _Emission, _node: fx.Node, a: Any, b: Any, *, alpha: float = 1) -> Any:
        return e.call(command, a, b if alpha == 1 else e.call("mul", b, alpha))

    return form


def _addmm(e: _Emission, _node: fx.Node, bias: Any, a: Any, b: Any, **_: Any) -> Any:
    return e.call("add", e.call("mm", a, b), bias)


def _reduction(command: str) -> Callable[..., Any]:
    def form(e: _Emission, node: fx.Node, x: Any, axes: Any = None, keepdim: bool = False, **_: Any) -> Any:
        if axes is None or len(axes) == 0:
            found = e.call(command, x)
            return e.call("reshape", found, _shape(node)) if keepdim else found
        return e.call(command, x, tuple(axes), bool(keepdim))

    return form


def _argmax(e: _Emission, _node: fx.Node, x: Any, axis: int | None = None, keepdim: bool = False) -> Any:
    return e.call("argmax", x) if axis is None else e.call("argmax", x, axis, bool(keepdim))


def _permute(e: _Emission, node: fx.Node, x: Any, order: Sequence[int]) -> Any:
    """Exchanges of two axes, because torch 1.4 has no function for more."""
    want = [axis % len(order) for axis in order]
    now = list(range(len(want)))
    for place, axis in enumerate(want):
        other = now.index(axis)
        if other != place:
            x = e.call("transpose", x, place, other)
            now[place], now[other] = now[other], now[place]
    return x


def _full(e: _Emission, node: fx.Node, *given: Any, **_: Any) -> Any:
    return e.call("full", _shape(node), float(given[-1]))


def _cast(e: _Emission, node: fx.Node, x: Any, **_: Any) -> Any:
    before = node.args[0].meta["val"].dtype
    if node.meta["val"].dtype == torch.float32:
        return x if before == torch.float32 else e.call("mul", x, 1.0)
    if before.is_floating_point:
        raise AuthoringError("rounding to integers has no form as a torch command", code=codes.PLAN_VARIANT_UNAVAILABLE)
    return x


def _expand(e: _Emission, node: fx.Node, x: Any, *_: Any, **__: Any) -> Any:
    return e.call("mul", x, e.call("ones", _shape(node)))


def _threshold_backward(e: _Emission, _node: fx.Node, grad: Any, x: Any, threshold: float) -> Any:
    return e.call("mul", grad, e.call("mul", e.call("gt", x, float(threshold)), 1.0))


def _where(e: _Emission, node: fx.Node, condition: Any, a: Any, b: Any) -> Any:
    parts = [one if isinstance(one, Ref) else e.call("full", (), float(one)) for one in (a, b)]
    return e.call("where", condition, *[_wide(e, one, _shape(node)) for one in parts])


def _wide(e: _Emission, x: Any, shape: tuple[int, ...]) -> Any:
    return e.call("mul", x, e.call("ones", shape))


def _softmax(command: str) -> Callable[..., Any]:
    def form(e: _Emission, _node: fx.Node, x: Any, axis: int, _half: bool) -> Any:
        return e.call(command, x, axis)

    return form


def _hot(e: _Emission, x: Any, target: Any, num_classes: int, rows: int) -> Any:
    """Rows of zeros with a one at the class."""
    numbers = e.call("reshape", e.call("arange", num_classes), (1, num_classes))
    return e.call("mul", e.call("eq", e.call("reshape", target, (rows, 1)), numbers), 1.0)


def _nll_loss(e: _Emission, node: fx.Node, x: Any, target: Any, *options: Any) -> tuple[Any, Any]:
    weight, reduction, _ = options
    rows, num_classes = _shape(node.args[0])
    if weight is not None or reduction == 0:
        raise AuthoringError(
            "a loss with weights, or without a mean or a sum, has no form as torch commands",
            code=codes.PLAN_VARIANT_UNAVAILABLE,
        )
    total = e.call("sum", e.call("mul", x, _hot(e, x, target, num_classes, rows)))
    return e.call("mul", total, -1.0 / rows if reduction == 1 else -1.0), rows


def _nll_loss_backward(e: _Emission, node: fx.Node, grad: Any, x: Any, target: Any, *options: Any) -> Any:
    _, reduction, _, _ = options
    rows, num_classes = _shape(node.args[1])
    scale = e.call("mul", grad, -1.0 / rows if reduction == 1 else -1.0)
    return e.call("mul", _hot(e, x, target, num_classes, rows), scale)


_FORMS: Mapping[str, Callable[..., Any]] = {
    **dict.fromkeys(("alias", "detach", "clone", "lift_fresh_copy"), _same),
    **dict.fromkeys(("view", "_unsafe_view", "squeeze", "unsqueeze", "reshape"), _reshape),
    **dict.fromkeys(("full", "full_like", "scalar_tensor"), _full),
    "add": _sum_of("add"),
    "sub": _sum_of("sub"),
    "addmm": _addmm,
    "sum": _reduction("sum"),
    "mean": _reduction("mean"),
    "argmax": _argmax,
    "permute": _permute,
    "_to_copy": _cast,
    "expand": _expand,
    "threshold_backward": _threshold_backward,
    "where": _where,
    "_log_softmax": _softmax("log_softmax"),
    "_softmax": _softmax("softmax"),
    "nll_loss_forward": _nll_loss,
    "nll_loss_backward": _nll_loss_backward,
}
