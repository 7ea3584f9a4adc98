"""What was used of a privacy budget, as frozen values that become JSON and back.

    Gaussian(z)                          one noisy sum, noise of z times the bound C of a contribution
    PoissonSampledGaussian(q, z, rounds) ``rounds`` of them, each over a sample drawn by secret coins
    Laplace(scale)                       noise of ``scale`` times the L1 bound of a contribution
    PureDp(epsilon)                      anything that is epsilon-DP
    ApproximateDp(epsilon, delta)        anything that is (epsilon, delta)-DP; it has no Renyi curve

Two datasets are **neighbors** if they have the same number of units (records, subjects, or the one Domain), and one
unit of the first is replaced by any other in the second. The number of units is public. So a noise multiplier of z
counts in units of what one unit contributes at most, C, and a sum changes by at most 2 C from neighbor to neighbor.

An event is made of declared parameters alone, never of the data, so that a price tells nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import msgspec

from pygrid.errors import InvalidInput
from pygrid.privacy.mechanisms import check_noise_multiplier

MAX_ROUNDS = 10_000_000
MIN_DELTA = 1e-18
"""A smaller delta would promise more than the samplers keep: their distance to the true noise is 2^-111 a sample."""


class Gaussian(msgspec.Struct, frozen=True, tag="gaussian", forbid_unknown_fields=True):
    """Gaussian noise of ``noise_multiplier`` times the L2 bound of a contribution, ``rounds`` times."""

    noise_multiplier: float
    rounds: int = 1

    def __post_init__(self) -> None:
        check_noise_multiplier(self.noise_multiplier)
        _check_rounds(self.rounds)


class PoissonSampledGaussian(msgspec.Struct, frozen=True, tag="poisson_sampled_gaussian", forbid_unknown_fields=True):
    """`Gaussian`, where each unit takes part in each round with probability ``sampling_rate``, by coins that stay secret.

    It may be claimed only where trusted code draws the sample. Devices that volunteer are no such sample.
    """

    sampling_rate: float
    noise_multiplier: float
    rounds: int

    def __post_init__(self) -> None:
        if not 0.0 < self.sampling_rate <= 1.0:
            raise InvalidInput(
                f"a sampling rate of {self.sampling_rate} makes no sense: use a number above 0 and up to 1, such as "
                "batch size / number of records",
                code="invalid_sampling_rate",
            )
        check_noise_multiplier(self.noise_multiplier)
        _check_rounds(self.rounds)


class Laplace(msgspec.Struct, frozen=True, tag="laplace", forbid_unknown_fields=True):
    """Laplace noise of ``noise_multiplier`` times the L1 bound of a contribution."""

    noise_multiplier: float

    def __post_init__(self) -> None:
        check_noise_multiplier(self.noise_multiplier)


class PureDp(msgspec.Struct, frozen=True, tag="pure_dp", forbid_unknown_fields=True):
    """A mechanism of which only this is known: it is ``epsilon``-DP for neighbors."""

    epsilon: float

    def __post_init__(self) -> None:
        check_epsilon(self.epsilon)


class ApproximateDp(msgspec.Struct, frozen=True, tag="approximate_dp", forbid_unknown_fields=True):
    """A mechanism of which only this is known: it is (``epsilon``, ``delta``)-DP, delta above 0."""

    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        check_epsilon(self.epsilon)
        check_delta(self.delta)


Event = Gaussian | PoissonSampledGaussian | Laplace | PureDp | ApproximateDp

_decoder: msgspec.json.Decoder[list[Event]] = msgspec.json.Decoder(list[Event])


def encode_events(events: Iterable[Event]) -> str:
    """The events as canonical JSON, a list: equal events give equal text."""
    # Through `convert`, so that a whole number given for a float is the same text as the float.
    same = msgspec.convert(msgspec.to_builtins(list(events)), list[Event])
    return msgspec.json.encode(same, order="sorted").decode()


def decode_events(text: str | bytes) -> tuple[Event, ...]:
    """The events of a JSON text.

    Raises:
        InvalidInput: no JSON, an unknown kind or a missing field (``invalid_event``), or a value out of range.
    """
    try:
        return tuple(_decoder.decode(text))
    except msgspec.DecodeError as error:
        raise InvalidInput(f"these are no privacy events: {error}", code="invalid_event") from error


def check_epsilon(epsilon: float) -> None:
    """Raises InvalidInput: ``invalid_epsilon`` unless it is a number from 1e-6 to 1000."""
    if not (_is_number(epsilon) and 1e-6 <= epsilon <= 1000.0):
        raise InvalidInput(
            f"an epsilon of {epsilon} makes no sense: use a number above 0; 0.1 to 8 is common", code="invalid_epsilon"
        )


def check_delta(delta: float) -> None:
    """Raises InvalidInput: ``invalid_delta`` unless it is from `MIN_DELTA` to below 1."""
    if not (_is_number(delta) and MIN_DELTA <= delta < 1.0):
        raise InvalidInput(
            f"delta is {delta}: use {MIN_DELTA:g} or more, and well below 1 / (number of records), such as 1e-6",
            code="invalid_delta",
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_rounds(rounds: int) -> None:
    if not 1 <= rounds <= MAX_ROUNDS:
        raise InvalidInput(f"{rounds} rounds make no sense: use 1 to {MAX_ROUNDS}", code="invalid_rounds")
