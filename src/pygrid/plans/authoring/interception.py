"""Changes to torch while an author's code is traced.

While an `Interception` is active, torch functions that cannot be traced (attention, batch norm, recurrent layers) are
replaced by equal functions that can. Random numbers come from inputs of the plan. What can never be part of a plan
(decisions on data) is refused, with the author's line.
"""

from __future__ import annotations

import inspect
import math
import sys
import types
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch.distributions import Distribution
from torch.nn.modules.transformer import _detect_is_causal_mask
from torch.overrides import TorchFunctionMode

from pygrid import codes
from pygrid.plans.authoring import broadcasts, functions, matrices, noise, recurrent
from pygrid.plans.authoring.diagnostics import authoring_error, current_place, torch_caller
from pygrid.plans.authoring.noise import Noise

_BRANCH = ("plan_data_dependent", "a plan cannot branch on data; use torch.where")
_ITEM = ("plan_item", "a plan cannot take a number out of a tensor; keep it a tensor")
_SIZE = ("plan_data_dependent_size", "the size of the result depends on data; multiply by a mask")
_LENGTH = ("plan_batch_baked", "len() of a batch is a fixed number; write x.shape[0], which follows the batch size")
_RANDOM = (
    "plan_random",
    "{0} is not in the plan set; the random numbers of a plan are rand, randn, randint, normal, bernoulli, "
    "multinomial, exponential, gumbel_softmax and dropout",
)
_NO_DRAWS = ("plan_random", "this plan cannot draw random numbers; only losses and training steps can")
_FRACTIONAL = ("plan_random", "fractional pooling draws where its windows begin; use max_pool or adaptive_max_pool")
PACKED = (
    "plan_recurrent",
    "packed sequences are not in the plan set; use pygrid.run_with_lengths(layer, x, lengths), which does the same",
)


def _found(owner: Any, names: str) -> Iterable[Any]:
    return (getattr(owner, name) for name in names.split() if hasattr(owner, name))


def _refusals() -> dict[Any, tuple[str, str]]:
    table: dict[Any, tuple[str, str]] = {}
    table |= dict.fromkeys(_found(torch.Tensor, "__bool__ is_nonzero __contains__ equal allclose"), _BRANCH)
    table |= dict.fromkeys(_found(torch, "is_nonzero equal allclose"), _BRANCH)
    table |= dict.fromkeys(
        _found(torch.Tensor, "item tolist numpy __array__ __float__ __int__ __index__ __complex__ data_ptr"), _ITEM
    )
    sized = "nonzero argwhere masked_select unique unique_consecutive bincount"
    table |= dict.fromkeys([*_found(torch.Tensor, sized), *_found(torch, sized)], _SIZE)
    drawn, drawn_in_place = "poisson binomial rrelu _standard_gamma _sample_dirichlet", "random_ cauchy_ geometric_"
    table |= dict.fromkeys([*_found(torch, drawn), *_found(torch.Tensor, drawn_in_place), F.rrelu], _RANDOM)
    table |= dict.fromkeys(_found(F, " ".join(name for name in dir(F) if name.startswith("fractional_"))), _FRACTIONAL)
    table |= dict.fromkeys(_found(torch, "_pack_padded_sequence _pad_packed_sequence"), PACKED)
    return table


_REFUSED = _refusals()
_REPLACED: dict[Any, Callable[..., Any]] = {}
_NOISY: dict[Any, Callable[..., Any]] = {}


class Interception(TorchFunctionMode):  # type: ignore[misc]
    """The mode in which an author's code is traced; a context manager."""

    def __init__(self, source: Noise | None, *, tracing: bool, dropout: bool = True) -> None:
        """Set up the mode.

        Args:
            source: source of random numbers; None: there are none, and dropout is off.
            tracing: False for the eager reference, which keeps most torch functions.
            dropout: whether dropout is on.
        """
        super().__init__()
        self.source = source
        self.dropout = dropout
        self.tracing = tracing
        self.batch_norm_seen = False
        self._copies: dict[Any, Any] = {}
        self._fast_path: list[bool] = []
        self._validates: list[bool] = []

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _NOISY:
            return _NOISY[func](self, *args, **kwargs)
        if func in _LOSSES and not self.tracing:
            return _labelled(func(*args, **kwargs), _loss_arguments(func, args, kwargs))
        if func is torch.Tensor.__bool__ and _is_hint_of_torch():
            return False
        if func in noise.DRAWS and (self.source is not None or self.tracing):
            with self:
                return noise.DRAWS[func](self.noise(), *args, **kwargs)
        if self.tracing:
            self._refuse(func, args, kwargs)
            broadcasts.check(func, args, kwargs)
        elif func in functions.REFERENCE:
            with self:
                return functions.REFERENCE[func](*args, **kwargs)
        if func in _REPLACED and (self.tracing or _drops_inside(func, args, kwargs)):
            with self:
                return _REPLACED[func](self, *args, **kwargs)
        copy = self._python_function(func)
        if copy is not None:
            with self:
                return copy(*args, **kwargs)
        return func(*args, **kwargs)

    def __enter__(self) -> Interception:
        # The fast path of nn.Transformer cannot be traced. Its results at padded positions are not those of training.
        self._fast_path.append(torch.backends.mha.get_fastpath_enabled())
        torch.backends.mha.set_fastpath_enabled(False)
        # Checks of arguments, which decide on data; `check_runs` already ran the code with them.
        self._validates.append(Distribution._validate_args)
        Distribution.set_default_validate_args(False)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        torch.backends.mha.set_fastpath_enabled(self._fast_path.pop())
        Distribution.set_default_validate_args(self._validates.pop())

    def drops(self, training: bool, p: float) -> bool:
        """Whether dropout with these options changes anything."""
        return self.source is not None and self.dropout and training and p > 0

    def noise(self) -> Noise:
        if self.source is None:
            raise authoring_error(_NO_DRAWS[1], current_place(), code=_NO_DRAWS[0])
        return self.source

    def _refuse(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        refused = _REFUSED.get(func)
        if func is F.rrelu and not kwargs.get("training", False):
            refused = None
        if func is torch.Tensor.__getitem__ and _has_mask(args[1]):
            refused = _SIZE
        if func is torch.where and len(args) + len(kwargs) == 1:
            refused = _SIZE
        if func is torch.Tensor.__len__ and not isinstance(args[0].shape[0], int):
            refused = _LENGTH
        if refused is not None:
            inside = torch_caller()
            reason = refused[1].format(getattr(func, "__name__", func))
            reason = f"torch's own code does this here ({inside}): {reason}" if inside else reason
            raise authoring_error(reason, current_place(), code=refused[0])

    def _python_function(self, func: Any) -> Any:
        """A copy of a function of torch.nn.functional, in which this mode sees the functions that it calls.

        The original asks first whether a mode is active, and would call this mode without end. The copy gets the answer
        no.
        """
        if not isinstance(func, types.FunctionType) or func.__globals__ is not vars(F):
            return None
        if func not in self._copies:
            blind = dict.fromkeys(
                ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic"), lambda *_: False
            )
            scope = {**func.__globals__, **blind}
            copy = types.FunctionType(func.__code__, scope, func.__name__, func.__defaults__, func.__closure__)
            copy.__kwdefaults__ = func.__kwdefaults__
            self._copies[func] = copy
        return self._copies[func]


def _has_mask(index: Any) -> bool:
    parts = index if isinstance(index, tuple | list) else (index,)
    return any(
        isinstance(part, torch.Tensor) and part.dtype in (torch.bool, torch.uint8) and part.dim() > 0 for part in parts
    )


def _is_hint_of_torch() -> bool:
    """Whether nn.Transformer asks if a mask is causal, only to choose a faster kernel; "no" is always right."""
    return sys._getframe(2).f_code is _detect_is_causal_mask.__code__


def _drops_inside(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a torch function would draw its own dropout noise, so that the reference must use the replacement."""
    if func is F.scaled_dot_product_attention:
        return bool(kwargs.get("dropout_p", args[4] if len(args) > 4 else 0.0))
    if func in (torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu):
        return bool(args[5]) and bool(args[6])
    if func is recurrent.run_with_lengths:
        return bool(args[0].dropout) and bool(args[0].training)
    return False


def _replaces(*functions: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def register(replacement: Callable[..., Any]) -> Callable[..., Any]:
        for function in functions:
            _REPLACED[function] = replacement
        return replacement

    return register


def _without_mode(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(_: Interception, /, *args: Any, axis: Any = None, **kwargs: Any) -> Any:
        return function(*args, **kwargs, **({} if axis is None else {"dim": axis}))

    return call


_REPLACED |= {original: _without_mode(function) for original, function in (functions.TRACED | matrices.TRACED).items()}


# -- dropout ---------------------------------------------------------------------------------------------------------


def _drop(
    mode: Interception, x: torch.Tensor, p: float, training: bool, inplace: bool, axes: int | None
) -> torch.Tensor:
    if not mode.drops(training, p):
        return x
    if p >= 1:
        mask = torch.zeros((), dtype=x.dtype)
    else:
        drawn = mode.noise().draw(noise.noise_shape(x, axes), dropout=True)
        mask = (drawn >= p).to(x.dtype) * (1.0 / (1.0 - p))
    return x.mul_(mask) if inplace else x * mask


def _dropout(axes: int | None) -> Callable[..., torch.Tensor]:
    return lambda mode, input, p=0.5, training=True, inplace=False: _drop(mode, input, p, training, inplace, axes)


def _alpha_dropout(axes: int | None) -> Callable[..., torch.Tensor]:
    def drop(
        mode: Interception, input: torch.Tensor, p: float = 0.5, training: bool = False, inplace: bool = False
    ) -> torch.Tensor:
        result = noise.alpha_dropout(mode.noise(), input, p, axes) if mode.drops(training, p) else input
        return input.copy_(result) if inplace else result

    return drop


_NOISY[F.dropout] = _dropout(None)
_NOISY[F.alpha_dropout] = _alpha_dropout(None)
_NOISY[F.feature_alpha_dropout] = _alpha_dropout(2)
_NOISY[torch.dropout] = lambda mode, input, p, train: _drop(mode, input, p, train, False, None)
_NOISY |= dict.fromkeys((F.dropout1d, F.dropout2d, F.dropout3d), _dropout(2))


# -- means over labels ---------------------------------------------------------------------------------------------


_LOSSES = {loss: inspect.signature(loss) for loss in (F.cross_entropy, F.nll_loss)}


def _loss_arguments(loss: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a loss by name."""
    bound = _LOSSES[loss].bind(*args, **kwargs)
    bound.apply_defaults()
    return bound.arguments


def _is_mean_over_labels(call: dict[str, Any]) -> bool:
    is_mean = call["reduction"] == "mean" and call["size_average"] is not False and call["reduce"] is not False
    return is_mean and not call["target"].is_floating_point()


def _labelled(result: torch.Tensor, call: dict[str, Any]) -> torch.Tensor:
    """Torch's loss, but 0 for a batch without labels, or with classes of weight 0 alone: torch's mean is NaN there."""
    if not _is_mean_over_labels(call):
        return result
    labels = call["target"][call["target"] != call["ignore_index"]]
    total = len(labels) if call["weight"] is None else call["weight"][labels].sum()
    # A sum of zeros that depends on the input, so that it has gradients, which are 0.
    x = call["input"]
    return result if total else torch.where(torch.tensor(True), torch.zeros_like(x), x).sum()


# -- functions that cannot be traced unchanged -----------------------------------------------------------------------


@_replaces(F.linear)
def _linear(
    mode: Interception, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Rows first: on more than two axes, torch's own linear fixes the batch size."""
    rows = input.reshape(-1, input.shape[-1])
    product = rows @ weight.t() if bias is None else torch.addmm(bias, rows, weight.t())
    return product.reshape(*input.shape[:-1], weight.shape[0])


@_replaces(F.cross_entropy)
def _cross_entropy(mode: Interception, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Smoothed labels written out, so that the mean over no labels is 0; all else is torch's own."""
    call = _loss_arguments(F.cross_entropy, args, kwargs)
    smoothing = call["label_smoothing"]
    if not smoothing or not _is_mean_over_labels(call):
        return mode._python_function(F.cross_entropy)(**call)
    input, target, weight, ignore_index = (call[name] for name in ("input", "target", "weight", "ignore_index"))
    axis = 1 if input.dim() > 1 else 0
    scores = F.log_softmax(input, axis)
    exact = F.nll_loss(scores, target, weight, ignore_index=ignore_index)
    ignored = target == ignore_index
    kept = torch.where(ignored, 0, target)
    shares = torch.ones_like(kept, dtype=torch.float32) if weight is None else weight[kept]
    if weight is not None:
        scores = scores * weight.view(-1, *([1] * (input.dim() - axis - 1)))
    spread = -scores.sum(axis).masked_fill(ignored, 0.0).sum()
    total = shares.masked_fill(ignored, 0.0).sum()
    spread = torch.where(total == 0, 0.0, spread / torch.where(total == 0, 1.0, total))
    return (1 - smoothing) * exact + smoothing / input.shape[axis] * spread


@_replaces(F.scaled_dot_product_attention)
def _attention(
    mode: Interception, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0, is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
) -> torch.Tensor:  # fmt: skip
    if enable_gqa:
        times = query.shape[-3] // key.shape[-3]
        key, value = _repeat_heads(key, times), _repeat_heads(value, times)
    factor = 1.0 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = (query * factor) @ key.transpose(-2, -1)
    if is_causal:
        causal = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool).tril()
        scores = scores.masked_fill(~causal, float("-inf"))
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, float("-inf")) if attn_mask.dtype == torch.bool else scores + attn_mask
    weights = torch.softmax(scores, -1) if attn_mask is None else _softmax_of_some(scores)
    return _drop(mode, weights, dropout_p, dropout_p > 0, False, None) @ value


def _softmax_of_some(scores: torch.Tensor) -> torch.Tensor:
    """The softmax, but zeros in a row in which everything is masked, as torch's attention has it."""
    nothing = (scores == float("-inf")).all(-1, keepdim=True)
    return torch.softmax(scores.masked_fill(nothing, 0.0), -1).masked_fill(nothing, 0.0)


def _repeat_heads(x: torch.Tensor, times: int) -> torch.Tensor:
    wide = x.unsqueeze(-3).expand(*x.shape[:-2], times, *x.shape[-2:])
    return wide.reshape(*x.shape[:-3], x.shape[-3] * times, *x.shape[-2:])


@_replaces(F.batch_norm)
def _batch_norm(
    mode: Interception, input: torch.Tensor, running_mean: torch.Tensor | None, running_var: torch.Tensor | None,
    weight: torch.Tensor | None = None, bias: torch.Tensor | None = None, training: bool = False, momentum: float = 0.1,
    eps: float = 1e-5,
) -> torch.Tensor:  # fmt: skip
    if training:
        mode.batch_norm_seen = True
    axes = [axis for axis in range(input.dim()) if axis != 1]
    per_channel = [-1 if axis == 1 else 1 for axis in range(input.dim())]
    if training or running_mean is None or running_var is None:
        mean = input.mean(axes)
        centred = input - mean.view(per_channel)
        var = (centred * centred).mean(axes)
        if running_mean is not None and running_var is not None:
            count = input.numel() // input.shape[1]
            # torch has no variance for a single value; 0 keeps the running variance finite
            unbiased = var.detach() * (count / torch.full((), count - 1.0).clamp(min=1.0))
            with torch.no_grad():
                running_mean.mul_(1 - momentum).add_(mean.detach() * momentum)
                running_var.mul_(1 - momentum).add_(unbiased * momentum)
    else:
        var = running_var
        centred = input - running_mean.view(per_channel)
    result = centred * torch.rsqrt(var + eps).view(per_channel)
    if weight is not None:
        result = result * weight.view(per_channel)
    return result if bias is None else result + bias.view(per_channel)


@_replaces(F.instance_norm)
def _instance_norm(
    mode: Interception, input: torch.Tensor, running_mean: torch.Tensor | None = None,
    running_var: torch.Tensor | None = None,
    weight: torch.Tensor | None = None, bias: torch.Tensor | None = None, use_input_stats: bool = True,
    momentum: float = 0.1, eps: float = 1e-5,
) -> torch.Tensor:  # fmt: skip
    if running_mean is not None:
        raise authoring_error(
            "InstanceNorm with running statistics is not in the plan set; use track_running_stats=False",
            current_place(),
            code=codes.PLAN_OPERATOR_UNSUPPORTED,
        )
    return F.group_norm(input, input.shape[1], weight, bias, eps)


@_replaces(torch._weight_norm)
def _weight_norm(mode: Interception, v: torch.Tensor, g: torch.Tensor, dim: int = 0) -> torch.Tensor:
    return v * (g / torch.norm_except_dim(v, 2, dim))


def _unroll(mode: str) -> Callable[..., Any]:
    return lambda _, *args: recurrent.UNROLLED[mode](_recurrent_call(mode.partition("_")[0], args))


for _mode in recurrent.UNROLLED:
    _REPLACED[getattr(torch, _mode.lower())] = _unroll(_mode)


def _recurrent_call(kind: str, args: tuple[Any, ...]) -> recurrent.RecurrentCall:
    if isinstance(args[3], list | tuple):  # (data, batch_sizes, hx, params, ...): a packed sequence
        raise authoring_error(PACKED[1], current_place(), code=PACKED[0])
    return _checked_call(kind, recurrent.RecurrentCall(*args))


def _checked_call(kind: str, call: recurrent.RecurrentCall) -> recurrent.RecurrentCall:
    reason = None
    if not isinstance(call.length, int):
        reason = f"the sequence axis of the {kind} is the batch; use batch_first=True, or transpose the input"
    elif call.length > recurrent.MAX_LENGTH:
        reason = f"the {kind} has {call.length} steps, which are unrolled; at most {recurrent.MAX_LENGTH} are allowed"
    if reason is not None:
        raise authoring_error(reason, current_place(), code=codes.PLAN_RECURRENT)
    return call


@_replaces(recurrent.run_with_lengths)
def _run_with_lengths(
    mode: Interception, layer: torch.nn.RNNBase, x: torch.Tensor, lengths: torch.Tensor, hx: Any = None
) -> Any:
    call = recurrent.call_of(layer, x, lengths, hx)
    return recurrent.finished(layer, recurrent.UNROLLED[layer.mode](_checked_call(layer.mode, call)))
