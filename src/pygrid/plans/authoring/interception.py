"""Changes to torch while an author's code is traced.

While an `Interception` is active, torch functions that cannot be traced (attention, batch norm, recurrent layers) are
replaced by equal functions that can. Dropout takes its noise from an input of the plan. What can never be part of a
plan (random numbers, decisions on data) is refused, with the author's line.
"""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from pygrid import codes
from pygrid.plans.authoring import recurrent
from pygrid.plans.authoring.diagnostics import authoring_error, current_place


class Noise(Protocol):
    """Returns uniform noise in [0, 1) with the shape of an example tensor, or of its first axes."""

    def draw(self, like: torch.Tensor, axes: int | None = None) -> torch.Tensor: ...


_BRANCH = ("plan_data_dependent", "a plan cannot branch on data; use torch.where")
_ITEM = ("plan_item", "a plan cannot take a number out of a tensor; keep it a tensor")
_SIZE = ("plan_data_dependent_size", "the size of the result depends on data; multiply by a mask")
_RANDOM = (
    "plan_random",
    "a plan has no random operators; use dropout, or take the random numbers as data (for example a mask column)",
)
_PACKED = ("plan_recurrent", "packed sequences are not in the plan set; unroll by hand or use a transformer")


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
    drawn = (
        "rand randn randint rand_like randn_like randint_like bernoulli multinomial normal randperm poisson binomial "
        "rrelu"
    )
    drawn_in_place = (
        "bernoulli multinomial bernoulli_ uniform_ normal_ random_ exponential_ cauchy_ geometric_ log_normal_"
    )
    functional = "alpha_dropout feature_alpha_dropout rrelu gumbel_softmax"
    table |= dict.fromkeys(
        [*_found(torch, drawn), *_found(torch.Tensor, drawn_in_place), *_found(F, functional)], _RANDOM
    )
    table |= dict.fromkeys(_found(torch, "_pack_padded_sequence _pad_packed_sequence"), _PACKED)
    return table


_REFUSED = _refusals()
_REPLACED: dict[Any, Callable[..., Any]] = {}
_NOISY: dict[Any, Callable[..., Any]] = {}


class Interception(TorchFunctionMode):  # type: ignore[misc]
    """The mode in which an author's code is traced; a context manager."""

    def __init__(self, noise: Noise | None, *, tracing: bool) -> None:
        """Set up the mode.

        Args:
            noise: source of dropout noise; None turns dropout off.
            tracing: False for the eager reference, which keeps all other torch functions.
        """
        super().__init__()
        self.noise = noise
        self.tracing = tracing
        self.batch_norm_seen = False
        self._copies: dict[Any, Any] = {}

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _NOISY:
            return _NOISY[func](self, *args, **kwargs)
        if self.tracing:
            self._refuse(func, args, kwargs)
        if func in _REPLACED and (self.tracing or _drops_inside(func, args, kwargs)):
            with self:
                return _REPLACED[func](self, *args, **kwargs)
        copy = self._python_function(func)
        if copy is not None:
            with self:
                return copy(*args, **kwargs)
        return func(*args, **kwargs)

    def _refuse(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        refused = _REFUSED.get(func)
        if func is F.rrelu and not kwargs.get("training", False):
            refused = None
        if func is torch.Tensor.__getitem__ and _has_mask(args[1]):
            refused = _SIZE
        if func is torch.where and len(args) + len(kwargs) == 1:
            refused = _SIZE
        if refused is not None:
            raise authoring_error(refused[1], current_place(), code=refused[0])

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


def _drops_inside(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a torch function would draw its own dropout noise, so that the reference must use the replacement."""
    if func is F.scaled_dot_product_attention:
        return bool(kwargs.get("dropout_p", args[4] if len(args) > 4 else 0.0))
    if func in (torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu):
        return bool(args[5]) and bool(args[6])
    return False


def _replaces(*functions: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def register(replacement: Callable[..., Any]) -> Callable[..., Any]:
        for function in functions:
            _REPLACED[function] = replacement
        return replacement

    return register


# -- dropout ---------------------------------------------------------------------------------------------------------


def _drop(
    mode: Interception, x: torch.Tensor, p: float, training: bool, inplace: bool, axes: int | None
) -> torch.Tensor:
    if mode.noise is None or not training or p == 0:
        return x
    if p >= 1:
        mask = torch.zeros((), dtype=x.dtype)
    else:
        noise = mode.noise.draw(x, axes)
        mask = (noise >= p).to(x.dtype) * (1.0 / (1.0 - p))
    return x.mul_(mask) if inplace else x * mask


def _dropout(
    mode: Interception, input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> torch.Tensor:
    return _drop(mode, input, p, training, inplace, None)


def _dropout_channels(
    mode: Interception, input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> torch.Tensor:
    return _drop(mode, input, p, training, inplace, 2)


def _dropout_call(mode: Interception, input: torch.Tensor, p: float, train: bool) -> torch.Tensor:
    return _drop(mode, input, p, train, False, None)


_NOISY[F.dropout] = _dropout
_NOISY[torch.dropout] = _dropout_call
for _function in (F.dropout1d, F.dropout2d, F.dropout3d):
    _NOISY[_function] = _dropout_channels


# -- functions that cannot be traced unchanged -----------------------------------------------------------------------


@_replaces(F.linear)
def _linear(
    mode: Interception, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Rows first: on more than two axes, torch's own linear fixes the batch size."""
    rows = input.reshape(-1, input.shape[-1])
    product = rows @ weight.t() if bias is None else torch.addmm(bias, rows, weight.t())
    return product.reshape(*input.shape[:-1], weight.shape[0])


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
    weights = _drop(mode, torch.softmax(scores, -1), dropout_p, dropout_p > 0, False, None)
    return weights @ value


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


@_replaces(F.adaptive_max_pool1d, F.adaptive_max_pool2d)
def _adaptive_max_pool(
    mode: Interception, input: torch.Tensor, output_size: Any, return_indices: bool = False
) -> torch.Tensor:
    n = 2 if input.dim() == 4 else 1
    wanted = [output_size] * n if isinstance(output_size, int) else list(output_size)
    given = list(input.shape[-n:])
    if return_indices or any(out is None or size % out for size, out in zip(given, wanted, strict=True)):
        reason = f"adaptive pooling from {given} to {wanted} needs windows of unequal size; choose sizes that divide"
        raise authoring_error(reason, current_place(), code=codes.PLAN_OPERATOR_UNSUPPORTED)
    kernel = [size // out for size, out in zip(given, wanted, strict=True)]
    return F.max_pool2d(input, kernel) if n == 2 else F.max_pool1d(input, kernel[0])


@_replaces(torch._weight_norm)
def _weight_norm(mode: Interception, v: torch.Tensor, g: torch.Tensor, dim: int = 0) -> torch.Tensor:
    return v * (g / torch.norm_except_dim(v, 2, dim))


@_replaces(torch.lstm)
def _lstm(mode: Interception, *args: Any) -> Any:
    return recurrent.lstm(_recurrent_call("LSTM", args))


@_replaces(torch.gru)
def _gru(mode: Interception, *args: Any) -> Any:
    return recurrent.gru(_recurrent_call("GRU", args))


@_replaces(torch.rnn_tanh)
def _rnn_tanh(mode: Interception, *args: Any) -> Any:
    return recurrent.elman(_recurrent_call("RNN", args), torch.tanh)


@_replaces(torch.rnn_relu)
def _rnn_relu(mode: Interception, *args: Any) -> Any:
    return recurrent.elman(_recurrent_call("RNN", args), torch.relu)


def _recurrent_call(kind: str, args: tuple[Any, ...]) -> recurrent.RecurrentCall:
    if isinstance(args[3], list | tuple):  # (data, batch_sizes, hx, params, ...): a packed sequence
        raise authoring_error(_PACKED[1], current_place(), code=_PACKED[0])
    call = recurrent.RecurrentCall(*args)
    reason = None
    if call.bidirectional:
        reason = f"a bidirectional {kind} is not in the plan set; unroll by hand or use a transformer"
    elif len(call.weights) != call.num_layers * (4 if call.has_biases else 2):
        reason = f"a {kind} with proj_size is not in the plan set; put a linear layer behind it"
    elif not isinstance(call.length, int):
        reason = f"the sequence axis of the {kind} is the batch; use batch_first=True, or transpose the input"
    elif call.length > recurrent.MAX_LENGTH:
        reason = f"the {kind} has {call.length} steps, which are unrolled; at most {recurrent.MAX_LENGTH} are allowed"
    if reason is not None:
        raise authoring_error(reason, current_place(), code=codes.PLAN_RECURRENT)
    return call
