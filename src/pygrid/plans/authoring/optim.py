"""Optimizers as short array arithmetic; they are traced into the ``train`` graph after the gradients.

The learning rate is not part of an optimizer: it is the hyperparameter ``lr`` of the plan. State starts at zeros on
each device and in each cycle. It is in the ``state/...`` ports.

**FedProx** (``prox_mu``; Li et al., MLSys 2020) pulls a device back to the model it started from: the gradient becomes
``g + mu * (w - w0)``. A graph has no memory of ``w0``, so the state ``prox/NAME`` holds the displacement ``w - w0``. It
starts at zero, as all state does, and each step adds its change of the weights. The sum of all changes is ``w - w0``.

**Clipping** (``max_grad_norm``) scales the gradients together if their joint L2 norm is larger.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, fields
from typing import Any, ClassVar, TypeVar

import torch

from pygrid import codes
from pygrid.configs import unknown_field
from pygrid.plans.authoring.diagnostics import declaration_error

Arrays = dict[str, torch.Tensor]


K = TypeVar("K", bound="type[Optimizer]")


def _checked_call(kind: K) -> K:
    """Make a wrong call of an optimizer an `AuthoringError`, ``plan_optimizer``, with the call to write instead."""
    begin, known = kind.__init__, [field.name for field in fields(kind)]

    @functools.wraps(begin)
    def checked(self: Optimizer, *args: object, **options: Any) -> None:
        if args or "lr" in options or "learning_rate" in options:
            raise declaration_error(
                f"{kind.__name__} takes its options by name, and the learning rate is not one of them: it is the "
                "hyperparameter lr, so that it can change without another plan; write "
                f'pygrid.optim.{kind.__name__}() and hyper={{"lr": pygrid.Float(0.1)}} of the plan',
                code=codes.PLAN_OPTIMIZER,
            )
        for name in options.keys() - known:
            raise declaration_error(unknown_field(kind.__name__, name, known), code=codes.PLAN_OPTIMIZER)
        begin(self, **options)

    kind.__init__ = checked  # type: ignore[method-assign]
    return kind


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """Decay, the proximal term and clipping, for all optimizers. Subclasses implement `step`."""

    weight_decay: float = 0.0
    prox_mu: float = 0.0
    max_grad_norm: float | None = None

    default_lr: ClassVar[float] = 0.1

    def __post_init__(self) -> None:
        for name in ("weight_decay", "prox_mu"):
            if not getattr(self, name) >= 0:
                raise declaration_error(
                    f"{name} must be at least 0, got {getattr(self, name)}", code=codes.PLAN_OPTIMIZER
                )
        if self.max_grad_norm is not None and not self.max_grad_norm > 0:
            raise declaration_error(
                f"max_grad_norm must be above 0, got {self.max_grad_norm}", code=codes.PLAN_OPTIMIZER
            )

    def __str__(self) -> str:
        """The name of the optimizer and every option that is not the default."""
        defaults = type(self)()
        options = [f"{k}={v}" for k, v in vars(self).items() if v != getattr(defaults, k)]
        return f"{type(self).__name__}({', '.join(options)})"

    def init(self, params: Arrays) -> Arrays:
        """The state before the first step: zeros."""
        state = self.init_step(params)
        if self.prox_mu:
            state |= _zeros("prox", params)
        return state

    def update(self, params: Arrays, grads: Arrays, state: Arrays, lr: torch.Tensor) -> tuple[Arrays, Arrays]:
        """Parameters and state after one step; the arguments are not changed."""
        if self.max_grad_norm is not None:
            grads = clip_by_global_norm(grads, self.max_grad_norm)
        if self.prox_mu:
            grads = {k: g + self.prox_mu * state[f"prox/{k}"] for k, g in grads.items()}
        moved, new_state = self.step(params, grads, state, lr)
        if self.prox_mu:
            new_state |= {f"prox/{k}": state[f"prox/{k}"] + (moved[k] - w) for k, w in params.items()}
        return moved, new_state

    def init_step(self, params: Arrays) -> Arrays:
        raise NotImplementedError

    def step(self, params: Arrays, grads: Arrays, state: Arrays, lr: torch.Tensor) -> tuple[Arrays, Arrays]:
        raise NotImplementedError


def _zeros(name: str, params: Arrays) -> Arrays:
    return {f"{name}/{k}": torch.zeros_like(w) for k, w in params.items()}


def clip_by_global_norm(grads: Arrays, limit: float) -> Arrays:
    """The gradients, scaled to a joint L2 norm of at most ``limit`` (as ``torch.nn.utils.clip_grad_norm_``)."""
    total = torch.stack([g.square().sum() for g in grads.values()]).sum()
    scale = (limit / (total.sqrt() + 1e-6)).clamp(max=1.0)
    return {k: g * scale for k, g in grads.items()}


def checked_optimizer(optimizer: object) -> Optimizer:
    """An optimizer of a plan; `SGD` for None.

    Raises:
        AuthoringError: ``plan_optimizer``: it is something else, with the call to write instead.
    """
    if optimizer is None:
        return SGD()
    if isinstance(optimizer, Optimizer):
        return optimizer
    if isinstance(optimizer, torch.optim.Optimizer):
        given, options = f"a torch.optim.{type(optimizer).__name__}", _torch_options(optimizer)
        name = type(optimizer).__name__
    else:
        named = optimizer if isinstance(optimizer, str) else getattr(optimizer, "__name__", "")
        given, name, options = repr(optimizer)[:80], str(named), ""
    known = next((kind.__name__ for kind in (SGD, Adam, AdamW) if kind.__name__.lower() == name.lower()), None)
    instead = f"pygrid.optim.{known}({options})" if known else "pygrid.optim.SGD(), Adam() or AdamW()"
    raise declaration_error(
        f"optimizer is {given}; an optimizer of pygrid becomes part of the plan: write optimizer={instead}, and the "
        'learning rate as hyper={"lr": pygrid.Float(0.1)} of the plan',
        code=codes.PLAN_OPTIMIZER,
    )


def _torch_options(optimizer: torch.optim.Optimizer) -> str:
    """The options of a torch optimizer that are not the default, as arguments of the one of pygrid."""
    given = dict(optimizer.defaults)
    if "betas" in given:
        given["beta1"], given["beta2"] = given["betas"]
    defaults = {"momentum": 0.0, "nesterov": False, "weight_decay": 0.0, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8}
    if isinstance(optimizer, torch.optim.AdamW):
        defaults["weight_decay"] = AdamW.weight_decay
    return ", ".join(f"{k}={given[k]}" for k, default in defaults.items() if k in given and given[k] != default)


@_checked_call
@dataclass(frozen=True, kw_only=True)
class SGD(Optimizer):
    """Stochastic gradient descent (``torch.optim.SGD``, without dampening)."""

    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.momentum < 1:
            raise declaration_error(f"momentum must be in [0, 1), got {self.momentum}", code=codes.PLAN_OPTIMIZER)
        if self.nesterov and not self.momentum:
            raise declaration_error("nesterov needs a momentum above 0", code=codes.PLAN_OPTIMIZER)

    def init_step(self, params: Arrays) -> Arrays:
        return _zeros("momentum", params) if self.momentum else {}

    def step(self, params: Arrays, grads: Arrays, state: Arrays, lr: torch.Tensor) -> tuple[Arrays, Arrays]:
        moved, new_state = {}, {}
        for k, w in params.items():
            g = grads[k] + self.weight_decay * w if self.weight_decay else grads[k]
            if self.momentum:
                velocity = self.momentum * state[f"momentum/{k}"] + g
                new_state[f"momentum/{k}"] = velocity
                g = g + self.momentum * velocity if self.nesterov else velocity
            moved[k] = w - lr * g
        return moved, new_state


@_checked_call
@dataclass(frozen=True, kw_only=True)
class Adam(Optimizer):
    """Adam (Kingma and Ba, ICLR 2015; ``torch.optim.Adam``). ``weight_decay`` is added to the gradient."""

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    default_lr: ClassVar[float] = 0.001
    decoupled: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1 and self.eps > 0):
            raise declaration_error("beta1 and beta2 must be in [0, 1) and eps above 0", code=codes.PLAN_OPTIMIZER)

    def init_step(self, params: Arrays) -> Arrays:
        return {"t": torch.zeros(())} | _zeros("m", params) | _zeros("v", params)

    def step(self, params: Arrays, grads: Arrays, state: Arrays, lr: torch.Tensor) -> tuple[Arrays, Arrays]:
        t = state["t"] + 1
        rate = lr / (1 - self.beta1**t)
        spread = (1 - self.beta2**t).sqrt()
        moved, new_state = {}, {"t": t}
        for k, w in params.items():
            g = grads[k]
            if self.weight_decay and self.decoupled:
                w = w - lr * self.weight_decay * w
            elif self.weight_decay:
                g = g + self.weight_decay * w
            m = self.beta1 * state[f"m/{k}"] + (1 - self.beta1) * g
            v = self.beta2 * state[f"v/{k}"] + (1 - self.beta2) * g * g
            new_state[f"m/{k}"], new_state[f"v/{k}"] = m, v
            moved[k] = w - rate * m / (v.sqrt() / spread + self.eps)
        return moved, new_state


@_checked_call
@dataclass(frozen=True, kw_only=True)
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter, ICLR 2019; ``torch.optim.AdamW``)."""

    weight_decay: float = 0.01

    decoupled: ClassVar[bool] = True


__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "clip_by_global_norm"]
