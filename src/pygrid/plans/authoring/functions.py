"""Functions of torch written out with operators that can be traced; each equals the original.

`interception` puts them in place of the originals while an author's code is traced. `TRACED` lists them.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F

from pygrid import codes
from pygrid.errors import AuthoringError
from pygrid.plans.authoring import matrices
from pygrid.plans.authoring.diagnostics import authoring_error, current_place
from pygrid.plans.authoring.formulas import scanned
from pygrid.plans.authoring.recurrent import MAX_LENGTH

Replacement = Callable[..., Any]
TRACED: dict[Any, Replacement] = {}
"""Function of torch -> function with the same arguments."""
REFERENCE: dict[Any, Replacement] = {}
"""As `TRACED`, for the eager code that a plan is compared with: where torch leaves a result open, or rounds it more."""


def _registered_in(table: dict[Any, Replacement]) -> Callable[..., Callable[[Replacement], Replacement]]:
    def replaces(*functions: Any) -> Callable[[Replacement], Replacement]:
        def register(replacement: Replacement) -> Replacement:
            table.update(dict.fromkeys(functions, replacement))
            return replacement

        return register

    return replaces


_stands_for, _by_definition = _registered_in(TRACED), _registered_in(REFERENCE)


def _given(function: Callable[..., Any], *args: Any, **kwargs: Any) -> SimpleNamespace:
    """The arguments of a call by name, with torch's defaults."""
    bound = inspect.signature(function).bind(*args, **kwargs)
    bound.apply_defaults()
    return SimpleNamespace(**bound.arguments)


# -- pooling ---------------------------------------------------------------------------------------------------------


def _adaptive_places(given: Sequence[int], wanted: Sequence[int]) -> torch.Tensor:
    """``[outputs, places]``: the places of each window in a flattened image; short windows repeat their last place."""
    windows = [
        [range(i * size // out, -(-(i + 1) * size // out)) for i in range(out)]
        for size, out in zip(given, wanted, strict=True)
    ]
    strides = [math.prod(given[axis + 1 :]) for axis in range(len(given))]
    rows = [
        [sum(p * s for p, s in zip(place, strides, strict=True)) for place in itertools.product(*window)]
        for window in itertools.product(*windows)
    ]
    longest = max(len(row) for row in rows)
    return torch.tensor([row + [row[-1]] * (longest - len(row)) for row in rows])


def _adaptive_max_pool(n: int) -> Callable[..., Any]:
    """Adaptive max pooling over ``n`` axes; its windows need not be equal."""
    pool: Callable[..., Any] = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[n - 1]

    def adaptive_max_pool(input: torch.Tensor, output_size: Any, return_indices: bool = False) -> Any:
        sizes = output_size if isinstance(output_size, Sequence) else [output_size] * n
        given = [int(size) for size in input.shape[-n:]]
        wanted = [size if out is None else int(out) for size, out in zip(given, sizes, strict=True)]
        if not any(size % out for size, out in zip(given, wanted, strict=True)):
            kernel = [size // out for size, out in zip(given, wanted, strict=True)]
            return pool(input, kernel, return_indices=return_indices)
        places = _adaptive_places(given, wanted)
        values, chosen = input.flatten(-n)[..., places].max(-1)
        shape = (*input.shape[:-n], *wanted)
        if not return_indices:
            return values.reshape(shape)
        indices = torch.gather(places.expand(*values.shape, -1), -1, chosen.unsqueeze(-1))
        return values.reshape(shape), indices.reshape(shape)

    return adaptive_max_pool


def _with_indices(pool: Callable[..., Any]) -> Callable[..., Any]:
    return lambda input, output_size, return_indices=False: pool(input, output_size, True)


for _n in (1, 2, 3):
    TRACED[getattr(F, f"adaptive_max_pool{_n}d")] = _adaptive_max_pool(_n)
    TRACED[getattr(F, f"adaptive_max_pool{_n}d_with_indices")] = _with_indices(_adaptive_max_pool(_n))


# -- order -----------------------------------------------------------------------------------------------------------


@_by_definition(torch.topk, torch.Tensor.topk)
def _stable_topk(input: torch.Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:
    values, indices = torch.sort(input, dim=dim, descending=largest, stable=True)
    return torch.return_types.topk((values.narrow(dim, 0, k), indices.narrow(dim, 0, k)))


@_by_definition(torch.kthvalue, torch.Tensor.kthvalue)
@_stands_for(torch.kthvalue, torch.Tensor.kthvalue)
def kthvalue(input: torch.Tensor, k: int, dim: int = -1, keepdim: bool = False) -> Any:
    values, indices = (part.narrow(dim, k - 1, 1) for part in torch.sort(input, dim=dim, stable=True))
    parts = (values, indices) if keepdim else (values.squeeze(dim), indices.squeeze(dim))
    return torch.return_types.kthvalue(parts)


@_by_definition(torch.median, torch.Tensor.median)
@_stands_for(torch.median, torch.Tensor.median)
def median(input: torch.Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
    """The lower of the two middle elements, as torch defines it."""
    if dim is None:
        return kthvalue(input.reshape(-1), (input.numel() + 1) // 2, 0)[0]
    return torch.return_types.median(tuple(kthvalue(input, (input.shape[dim] + 1) // 2, dim, keepdim)))


# -- products and sums along an axis ---------------------------------------------------------------------------------


@_stands_for(torch.prod, torch.Tensor.prod)
def prod(input: torch.Tensor, dim: int | None = None, keepdim: bool = False, *, dtype: Any = None) -> torch.Tensor:
    """A product of halves: its gradient is that of products of two, also where elements are 0."""
    x = input.to(dtype or (input.dtype if input.is_floating_point() else torch.int64))
    if dim is None:
        x, dim, keepdim = x.reshape(-1), 0, False
    _checked_length(x, dim, "prod")
    while (size := x.shape[dim]) > 1:
        half = size // 2
        pairs = x.narrow(dim, 0, half) * x.narrow(dim, half, half)
        x = torch.cat([pairs, x.narrow(dim, 2 * half, 1)], dim) if size % 2 else pairs
    return x if keepdim else x.squeeze(dim)


@_stands_for(torch.cumprod, torch.Tensor.cumprod)
def cumprod(input: torch.Tensor, dim: int, *, dtype: Any = None) -> torch.Tensor:
    _checked_length(input, dim, "cumprod")
    return scanned(input.to(dtype or input.dtype), dim, torch.mul)


@_stands_for(torch.logcumsumexp, torch.Tensor.logcumsumexp)
def logcumsumexp(input: torch.Tensor, dim: int) -> torch.Tensor:
    if isinstance(size := input.shape[dim], int):
        return scanned(input, dim, torch.logaddexp)
    places = torch.arange(size)
    sums = input.movedim(dim, -1).unsqueeze(-2).masked_fill(places > places.unsqueeze(1), float("-inf")).logsumexp(-1)
    return sums.movedim(-1, dim)


def _checked_length(x: torch.Tensor, dim: int, name: str) -> None:
    if not isinstance(x.shape[dim], int):
        raise _refused(f"{name} over the batch", "take it along another axis")


# -- look-up and products --------------------------------------------------------------------------------------------


@_stands_for(torch.bucketize)
def bucketize(input: Any, boundaries: torch.Tensor, **options: Any) -> torch.Tensor:
    return searchsorted(boundaries, input, **options)


@_stands_for(torch.searchsorted)
def searchsorted(sorted_sequence: torch.Tensor, input: Any, *, sorter: Any = None, **options: Any) -> torch.Tensor:
    """The number of boundaries that are smaller; with ``right``, those that are equal, too. NaN comes last."""
    edges = sorted_sequence if sorter is None else sorted_sequence.gather(-1, sorter)
    x, edges = torch.as_tensor(input).unsqueeze(-1), edges if edges.dim() == 1 else edges.unsqueeze(-2)
    is_before = ~(edges > x) if options.get("right") or options.get("side") == "right" else ~(edges >= x)
    return is_before.sum(-1, dtype=torch.int32 if options.get("out_int32") else torch.int64)


@_stands_for(torch.scatter_reduce, torch.Tensor.scatter_reduce)
def scatter_reduce(input: torch.Tensor, dim: int, index: torch.Tensor, src: Any, reduce: str, **more: Any) -> Any:
    if reduce == "prod":
        raise _refused("scatter_reduce of products", "add logarithms with scatter_add, and take exp of the sum")
    return torch.ops.aten.scatter_reduce.two(input, dim, index, src, reduce, **more)


@_stands_for(torch.take_along_dim, torch.Tensor.take_along_dim)
def take_along_dim(input: torch.Tensor, indices: torch.Tensor, dim: int | None = None) -> torch.Tensor:
    """As `torch.gather`, after axes of length 1 are brought to the length of the other array."""
    if dim is None:
        return input.reshape(-1).gather(0, indices.reshape(-1))
    wide = [b if isinstance(a, int) and a == 1 else a for a, b in zip(input.shape, indices.shape, strict=True)]
    shapes = []
    for array in (input, indices):
        shapes.append([*wide])
        shapes[-1][dim] = array.shape[dim]
    return input.expand(shapes[0]).gather(dim, indices.expand(shapes[1]))


@_stands_for(torch.kron)
def kron(input: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    rank = max(input.dim(), other.dim())
    a, b = ((*[1] * (rank - x.dim()), *x.shape) for x in (input, other))
    left = input.reshape([part for size in a for part in (size, 1)])
    right = other.reshape([part for size in b for part in (1, size)])
    return (left * right).reshape([x * y for x, y in zip(a, b, strict=True)])


@_stands_for(torch.linalg.multi_dot)
def multi_dot(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    return functools.reduce(torch.matmul, tensors)


TRACED[torch.chain_matmul] = lambda *matrices: multi_dot(matrices)


@_stands_for(F.affine_grid)
def affine_grid(theta: torch.Tensor, size: Sequence[int], align_corners: bool | None = None) -> torch.Tensor:
    axes = [
        torch.linspace(-1, 1, length) if align_corners and length > 1 else (torch.arange(length) * 2 + 1) / length - 1
        for length in size[2:]
    ]
    places = torch.stack([*reversed(torch.meshgrid(*axes, indexing="ij")), torch.ones(*size[2:])], -1)
    return (places.flatten(0, -2) @ theta.transpose(1, 2)).unflatten(1, size[2:])


@_stands_for(F.grid_sample)
def grid_sample(
    input: torch.Tensor, grid: torch.Tensor, mode: str = "bilinear", padding_mode: str = "zeros",
    align_corners: bool | None = None,
) -> torch.Tensor:  # fmt: skip
    """The weighted sum of the neighbors of each place: ``input [n, c, *sizes]``, ``grid [n, *places, axes]``.

    The value at a place that is NaN is NaN.
    """
    if mode not in ("bilinear", "nearest") or padding_mode not in ("zeros", "border"):
        raise _refused(f"grid_sample with {mode}, {padding_mode}", "use bilinear or nearest, with zeros or border")
    sizes = input.shape[2:]
    neighbors: list[list[tuple[torch.Tensor, torch.Tensor]]] = []
    for place, size in zip(grid.unbind(-1)[::-1], sizes, strict=True):
        place = (place + 1) * ((size - 1) / 2) if align_corners else ((place + 1) * size - 1) / 2
        if padding_mode == "border":  # at the border the gradient is 0
            place = torch.where(place <= 0, 0.0, torch.where(place >= size - 1, size - 1.0, place))
        low = place.floor()
        both = [(low, 1 - (place - low)), (low + 1, place - low)]
        neighbors.append(both if mode == "bilinear" else [(place.round(), 1 + 0 * place)])
    total = torch.zeros(())
    for corner in itertools.product(*neighbors):
        index, weight = torch.zeros((), dtype=torch.int64), torch.ones(())
        for (place, share), size in zip(corner, sizes, strict=True):
            weight = weight * torch.where((place < 0) | (place > size - 1), 0.0, share)
            index = index * size + place.long().clamp(0, size - 1)
        index = index.flatten(1).unsqueeze(1).expand(-1, input.shape[1], -1)
        total = total + input.flatten(2).gather(2, index) * weight.flatten(1).unsqueeze(1)
    return total.reshape(*input.shape[:2], *grid.shape[1:-1])


@_by_definition(torch.embedding)
@_stands_for(torch.embedding)
def embedding(
    weight: torch.Tensor, indices: torch.Tensor, padding_idx: int = -1, scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> torch.Tensor:  # fmt: skip
    """With a dense gradient: a plan has no sparse arrays."""
    return torch.ops.aten.embedding.default(weight, indices, padding_idx, scale_grad_by_freq)


@_by_definition(F.embedding_bag)
@_stands_for(F.embedding_bag)
def embedding_bag(input: torch.Tensor, weight: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """The sum, mean or maximum of the rows of each bag; a bag is a row of ``input [bags, size]``."""
    if input.dim() != 2:
        raise _refused("EmbeddingBag with offsets", "use bags of one size, [batch, size], filled with padding_idx")
    given = _given(F.embedding_bag, input, weight, *args, **kwargs)
    if given.max_norm is not None or given.scale_grad_by_freq:
        raise _refused("EmbeddingBag with max_norm or scale_grad_by_freq", "leave them out")
    rows = F.embedding(input, weight)
    if given.per_sample_weights is not None:
        rows = rows * given.per_sample_weights.unsqueeze(-1)
    if given.padding_idx is None:
        return {"sum": rows.sum(1), "mean": rows.mean(1), "max": rows.max(1).values}[given.mode]
    kept = (input != given.padding_idx % weight.shape[0]).unsqueeze(-1)
    count = kept.sum(1)
    if given.mode == "max":
        largest = torch.where(kept, rows, float("-inf")).max(1).values
        return torch.where(count > 0, largest, 0.0)
    total = torch.where(kept, rows, 0.0).sum(1)
    return total / count.clamp(min=1) if given.mode == "mean" else total


@_stands_for(F.bilinear)
def bilinear(
    input1: torch.Tensor, input2: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """``x1 @ W[o] @ x2`` for each output o."""
    outputs, first, second = weight.shape
    left = input1.reshape(-1, first) @ weight.permute(1, 0, 2).reshape(first, outputs * second)
    result = (left.reshape(-1, outputs, second) * input2.reshape(-1, 1, second)).sum(-1)
    result = result if bias is None else result + bias
    return result.reshape(*input1.shape[:-1], outputs)


@_by_definition(torch.cdist)
@_stands_for(torch.cdist)
def cdist(x1: torch.Tensor, x2: torch.Tensor, p: float = 2.0, compute_mode: str | None = None) -> torch.Tensor:
    """The p-norm of the difference of each row of ``x1 [..., a, m]`` and each row of ``x2 [..., b, m]``.

    Where two rows are equal the gradient is 0. torch may compute the distances by a product of matrices, which loses
    half of the digits.
    """
    gap = (x1.unsqueeze(-2) - x2.unsqueeze(-3)).abs()
    if p == 1:
        return gap.sum(-1)
    if math.isinf(p):
        return gap.amax(-1)
    if p == 0:
        return (gap != 0).to(gap.dtype).sum(-1)
    total = (gap * gap if p == 2 else gap.pow(p)).sum(-1)
    is_apart = total > 0
    root = torch.where(is_apart, total, 1.0)
    return torch.where(is_apart, root.sqrt() if p == 2 else root.pow(1 / p), 0.0)


def _refused(what: str, way_out: str) -> AuthoringError:
    reason = f"{what} is not in the plan set; {way_out}"
    return authoring_error(reason, current_place(), code=codes.PLAN_OPERATOR_UNSUPPORTED)


# -- statistics ------------------------------------------------------------------------------------------------------


@_stands_for(torch.cov, torch.Tensor.cov)
def cov(input: torch.Tensor, *, correction: float = 1, fweights: Any = None, aweights: Any = None) -> torch.Tensor:
    """Covariances of the rows; columns are observations."""
    x = input.reshape(1, -1) if input.dim() < 2 else input
    given = [weights for weights in (fweights, aweights) if weights is not None]
    weights = functools.reduce(torch.mul, given, torch.ones(x.shape[1]))
    total = weights.sum()
    lost = total if aweights is None else (weights * aweights).sum()
    centered = x - (x * weights).sum(1, keepdim=True) / total
    result = (centered * weights) @ centered.t() / (total - correction * lost / total).clamp(min=0)
    return result if x.shape[0] != 1 else result.reshape(())


@_stands_for(torch.corrcoef, torch.Tensor.corrcoef)
def corrcoef(input: torch.Tensor) -> torch.Tensor:
    covariances = cov(input)
    spread = (matrices.diagonal(covariances) if covariances.dim() else covariances).sqrt()
    return (covariances / spread.unsqueeze(-1) / spread).clamp(-1, 1).reshape(covariances.shape)


# -- alignment of sequences ------------------------------------------------------------------------------------------

_IMPOSSIBLE = -1e30
"""Logarithm of a probability of zero: finite, so that gradients are."""


@_stands_for(F.ctc_loss)
def ctc_loss(log_probs: torch.Tensor, targets: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Connectionist temporal classification: minus the log-probability of all alignments of a target.

    Args:
        log_probs: ``[time, batch, classes]``.
        targets: ``[batch, length]``.
    Source: Graves et al., "Connectionist temporal classification", ICML 2006, section 4.1.
    """
    if targets.dim() != 2:
        raise _refused("ctc_loss with targets in one row", "use targets of shape [batch, length]")
    if log_probs.shape[0] > MAX_LENGTH:
        raise _refused(f"ctc_loss over {log_probs.shape[0]} steps, which are unrolled,", f"use at most {MAX_LENGTH}")
    given = _given(F.ctc_loss, log_probs, targets, *args, **kwargs)
    steps, labels = torch.as_tensor(given.input_lengths), torch.as_tensor(given.target_lengths)
    blanks = torch.full_like(targets, given.blank)
    # blank, label, blank, label, ..., blank
    path = torch.cat([torch.stack([blanks, targets], -1).flatten(1), blanks[:, :1]], 1)
    score = log_probs.gather(2, path.unsqueeze(0).expand(log_probs.shape[0], -1, -1))
    # What stands between two different labels may be skipped; a target that contains the blank has it as a label.
    may_skip = F.pad(path[:, 2:] != path[:, :-2], (2, 0))
    begins = torch.arange(path.shape[1]) < 2
    alpha = torch.where(begins, score[0], _IMPOSSIBLE)
    for time in range(1, log_probs.shape[0]):
        one = F.pad(alpha[:, :-1], (1, 0), value=_IMPOSSIBLE)
        two = torch.where(may_skip, F.pad(alpha[:, :-2], (2, 0), value=_IMPOSSIBLE), _IMPOSSIBLE)
        moved = _log_sum(alpha, one, two) + score[time]
        alpha = torch.where((steps > time).unsqueeze(1), moved, alpha)
    end = 2 * labels.unsqueeze(1)
    at_label = torch.where(end[:, 0] > 0, alpha.gather(1, (end - 1).clamp(min=0))[:, 0], _IMPOSSIBLE)
    loss = -_log_sum(alpha.gather(1, end)[:, 0], at_label)
    loss = torch.where(loss < -_IMPOSSIBLE / 2, loss, 0.0 if given.zero_infinity else float("inf"))
    if given.reduction == "mean":
        return (loss / labels.clamp(min=1)).mean()
    return loss.sum() if given.reduction == "sum" else loss


@_by_definition(F.ctc_loss)
def _ctc_of_torch(*args: Any, **kwargs: Any) -> torch.Tensor:
    """Torch's kernel. Its gradient is wrong for many targets that contain the blank, for example as the last label."""
    call = _given(F.ctc_loss, *args, **kwargs)
    if call.targets.dim() == 2 and (call.targets == call.blank).any():
        return ctc_loss(*args, **kwargs)
    lengths = call.input_lengths, call.target_lengths
    reduction = ("none", "mean", "sum").index(call.reduction)
    return torch.ctc_loss(call.log_probs, call.targets, *lengths, call.blank, reduction, call.zero_infinity)


def _log_sum(*parts: torch.Tensor) -> torch.Tensor:
    """The logarithm of the sum of exponentials, element by element."""
    largest = torch.stack(parts).amax(0).detach()
    return largest + torch.log(sum(torch.exp(part - largest) for part in parts))


# -- losses ----------------------------------------------------------------------------------------------------------


@_stands_for(F.gaussian_nll_loss)
def _gaussian_nll_loss(*args: Any, **kwargs: Any) -> torch.Tensor:
    """Torch also raises an error for a negative variance, which depends on data; here, ``eps`` takes its place."""
    call = _given(F.gaussian_nll_loss, *args, **kwargs)
    var = torch.as_tensor(call.var, dtype=call.input.dtype)
    if var.dim() == call.input.dim() - 1:
        var = var.unsqueeze(-1)
    # The clamp has no gradient in torch.
    var = var + (var.clamp(min=call.eps) - var).detach()
    loss = 0.5 * (torch.log(var) + (call.input - call.target) ** 2 / var)
    if call.full:
        loss = loss + 0.5 * math.log(2 * math.pi)
    return {"mean": loss.mean, "sum": loss.sum, "none": loss.clone}[call.reduction]()


@_stands_for(F.multilabel_margin_loss)
def _multilabel_margin_loss(*args: Any, **kwargs: Any) -> torch.Tensor:
    """Torch's own version for tracing counts labels behind the first -1, too."""
    call = _given(F.multilabel_margin_loss, *args, **kwargs)
    classes = call.input.shape[-1]
    is_label = (call.target == -1).long().cumsum(-1) == 0
    label = torch.where(is_label, call.target, 0)
    is_own = ((label.unsqueeze(-1) == torch.arange(classes)) & is_label.unsqueeze(-1)).any(-2)
    gaps = (1 - call.input.gather(-1, label).unsqueeze(-1) + call.input.unsqueeze(-2)).clamp(min=0)
    loss = torch.where(is_label.unsqueeze(-1) & ~is_own.unsqueeze(-2), gaps, 0.0).sum((-2, -1)) / classes
    return {"mean": loss.mean, "sum": loss.sum, "none": loss.clone}[call.reduction]()
