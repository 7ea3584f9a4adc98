"""Random numbers for authors, drawn again for each step.

A plan has no random operators. Every draw becomes uniform noise in [0, 1) that the graph takes as an input, and other
distributions are computed from it. Runners fill the input: on a device from the runner's generator; in a private job,
for each record, from the job's secret bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

from pygrid import codes
from pygrid.plans.authoring.diagnostics import authoring_error, current_place

Shape = Sequence[Any]

SMALLEST = 2.0**-25
"""Below every uniform number but 0, whose logarithm would be infinite."""
MAX_RANGE = 2**24
"""Uniform numbers have 24 bits, so larger ranges of integers would have gaps."""


class Noise(Protocol):
    """Returns uniform noise in [0, 1)."""

    def draw(self, shape: Shape, *, dropout: bool = False) -> torch.Tensor: ...


Draw = Callable[..., torch.Tensor]
DRAWS: dict[Any, Draw] = {}
"""Function of torch -> function of a `Noise` and the same arguments."""


def _draws(*functions: Any) -> Callable[[Draw], Draw]:
    def register(draw: Draw) -> Draw:
        DRAWS.update(dict.fromkeys(functions, draw))
        return draw

    return register


def _shape(size: tuple[Any, ...], options: dict[str, Any]) -> Shape:
    given = options.pop("size", size)
    return tuple(given[0]) if len(given) == 1 and isinstance(given[0], Sequence) else tuple(given)


def _finished(values: torch.Tensor, options: dict[str, Any]) -> torch.Tensor:
    """The values with the options of torch's factories; layout, device and memory format do not matter in a plan."""
    if options.get("generator") is not None:
        reason = "generator= has no effect in a plan: its runner draws the numbers; leave it out"
        raise authoring_error(reason, current_place(), code=codes.PLAN_RANDOM)
    if options.get("dtype") is not None:
        values = values.to(options["dtype"])
    return values.requires_grad_() if options.get("requires_grad") else values


# -- distributions ---------------------------------------------------------------------------------------------------


def _exponential(noise: Noise, shape: Shape) -> torch.Tensor:
    """Exponential numbers of rate 1, positive and finite."""
    return -torch.log(noise.draw(shape).clamp(min=SMALLEST))


def _normal(noise: Noise, shape: Shape) -> torch.Tensor:
    """Normal numbers of mean 0 and standard deviation 1, at most 5.9 away from 0.

    Source: Box and Muller, "A note on the generation of random normal deviates", 1958.
    """
    return torch.sqrt(2.0 * _exponential(noise, shape)) * torch.cos(2.0 * math.pi * noise.draw(shape))


def _integers(noise: Noise, low: int, high: int, shape: Shape) -> torch.Tensor:
    """Whole numbers in ``[low, high)``, int64."""
    count = high - low
    if not 0 < count <= MAX_RANGE:
        reason = f"random integers of {low} to {high - 1} are not possible: a range has 1 to {MAX_RANGE:,} numbers"
        raise authoring_error(reason, current_place(), code=codes.PLAN_RANDOM)
    return (noise.draw(shape) * count).floor().clamp(max=count - 1).long() + low


# -- functions that make an array ------------------------------------------------------------------------------------


@_draws(torch.rand)
def rand(noise: Noise, *size: Any, **options: Any) -> torch.Tensor:
    return _finished(noise.draw(_shape(size, options)), options)


@_draws(torch.randn)
def randn(noise: Noise, *size: Any, **options: Any) -> torch.Tensor:
    return _finished(_normal(noise, _shape(size, options)), options)


@_draws(torch.randint)
def randint(noise: Noise, *args: Any, **options: Any) -> torch.Tensor:
    numbers = [*args, *(options.pop(name) for name in ("low", "high") if name in options)]
    size = options.pop("size") if "size" in options else numbers.pop()
    low, high = numbers if len(numbers) == 2 else (0, numbers[0])
    return _finished(_integers(noise, low, high, tuple(size)), options)


@_draws(torch.rand_like)
def rand_like(noise: Noise, input: torch.Tensor, **options: Any) -> torch.Tensor:
    return _finished(noise.draw(input.shape), {"dtype": input.dtype, **options})


@_draws(torch.randn_like)
def randn_like(noise: Noise, input: torch.Tensor, **options: Any) -> torch.Tensor:
    return _finished(_normal(noise, input.shape), {"dtype": input.dtype, **options})


@_draws(torch.randint_like)
def randint_like(noise: Noise, input: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
    return randint(noise, *args, size=input.shape, **{"dtype": input.dtype, **options})


@_draws(torch.normal)
def normal(noise: Noise, mean: Any = 0.0, std: Any = 1.0, size: Any = None, **options: Any) -> torch.Tensor:
    if size is None:
        shapes = [value.shape for value in (mean, std) if isinstance(value, torch.Tensor)]
        size = torch.broadcast_shapes(*shapes)
    return _finished(mean + std * _normal(noise, tuple(size)), options)


@_draws(torch.bernoulli, torch.Tensor.bernoulli)
def bernoulli(noise: Noise, input: torch.Tensor, p: float | None = None, **options: Any) -> torch.Tensor:
    limit = input if p is None else p
    return _finished((noise.draw(input.shape) < limit).to(input.dtype), options)


@_draws(torch.randperm)
def randperm(noise: Noise, n: Any, **options: Any) -> torch.Tensor:
    """The order of ``n`` uniform numbers. A permutation of the batch mixes examples, so it is not for private plans."""
    return _finished(torch.argsort(noise.draw((n,))), options)


@_draws(torch.multinomial, torch.Tensor.multinomial)
def multinomial(
    noise: Noise, input: torch.Tensor, num_samples: int, replacement: bool = False, **options: Any
) -> torch.Tensor:
    """Classes drawn in proportion to ``input [..., classes]``: the first arrivals in a race of exponential clocks.

    Source: Gumbel-max trick; Yellott, "The relationship between Luce's choice axiom ...", 1977.
    """
    if not replacement:
        clocks = torch.log(input) - torch.log(_exponential(noise, input.shape))
        return _finished(torch.topk(clocks, num_samples, -1).indices, options)
    shape = (*input.shape[:-1], num_samples, input.shape[-1])
    clocks = torch.log(input).unsqueeze(-2) - torch.log(_exponential(noise, shape))
    return _finished(clocks.argmax(-1), options)


# -- methods that fill an array --------------------------------------------------------------------------------------


@_draws(torch.Tensor.normal_)
def normal_(noise: Noise, x: torch.Tensor, mean: float = 0.0, std: float = 1.0, **options: Any) -> torch.Tensor:
    return x.copy_(_finished(mean + std * _normal(noise, x.shape), options))


@_draws(torch.Tensor.uniform_)
def uniform_(noise: Noise, x: torch.Tensor, a: float = 0.0, b: float = 1.0, **options: Any) -> torch.Tensor:
    """As ``x.uniform_(a, b)``; its first arguments are called ``from`` and ``to``."""
    low, high = options.pop("from", a), options.pop("to", b)
    return x.copy_(_finished(low + (high - low) * noise.draw(x.shape), options))


@_draws(torch.Tensor.log_normal_)
def log_normal_(noise: Noise, x: torch.Tensor, mean: float = 1.0, std: float = 2.0, **options: Any) -> torch.Tensor:
    return x.copy_(_finished(torch.exp(mean + std * _normal(noise, x.shape)), options))


@_draws(torch.Tensor.exponential_)
def exponential_(noise: Noise, x: torch.Tensor, lambd: float = 1.0, **options: Any) -> torch.Tensor:
    return x.copy_(_finished(_exponential(noise, x.shape) / lambd, options))


@_draws(torch.Tensor.bernoulli_)
def bernoulli_(noise: Noise, x: torch.Tensor, p: Any = 0.5, **options: Any) -> torch.Tensor:
    return x.copy_(_finished((noise.draw(x.shape) < p).to(x.dtype), options))


# -- dropout for self-normalizing networks ---------------------------------------------------------------------------

_SELU_LOW = -1.7580993408473766
"""What SELU tends to for large negative inputs: the value of a dropped element."""


def alpha_dropout(noise: Noise, input: torch.Tensor, p: float, axes: int | None) -> torch.Tensor:
    """Elements (with ``axes``, whole channels) at SELU's lowest value, then scaled to keep mean and variance.

    Source: Klambauer et al., "Self-normalizing neural networks", 2017.
    """
    if p >= 1:
        return torch.zeros_like(input)
    scale = ((1 - p) * (1 + p * _SELU_LOW**2)) ** -0.5
    kept = noise.draw(noise_shape(input, axes), dropout=True) >= p
    return torch.where(kept, input, _SELU_LOW) * scale - scale * _SELU_LOW * p


def noise_shape(like: torch.Tensor, axes: int | None) -> Shape:
    """The shape of dropout noise for an array; with ``axes``, one number for all elements after these axes."""
    shape = tuple(like.shape)
    return shape if axes is None else shape[:axes] + (1,) * (len(shape) - axes)
