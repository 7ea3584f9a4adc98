"""Privacy events: records of the use of a budget, as frozen values that convert to JSON and back.

    Gaussian(z)                          one noisy sum; noise of z times the bound C of a contribution
    PoissonSampledGaussian(q, z, rounds) ``rounds`` noisy sums, each over a sample drawn by secret coins
    Laplace(scale)                       noise of ``scale`` times the L1 bound of a contribution
    PureDp(epsilon)                      any mechanism that is epsilon-DP
    ApproximateDp(epsilon, delta)        any mechanism that is (epsilon, delta)-DP; it has no Renyi curve

Two datasets are **neighbors** if they have the same number of units (records, subjects, or the one Domain), and one
unit of the first is replaced by any other in the second. The number of units is public. A noise multiplier of z is in
units of C, the largest norm of the contribution of one unit, and a sum changes by at most 2 C from neighbor to
neighbor.

An event consists of declared parameters only, never of data, so the cost of an event reveals nothing about the data.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import msgspec

from pygrid import codes
from pygrid.errors import InvalidInput
from pygrid.privacy.mechanisms import check_noise_multiplier

MAX_ROUNDS = 10_000_000
MIN_DELTA = 1e-18
"""A smaller delta would promise more than the samplers provide: a sample is within 2^-111 of the true distribution."""


class Gaussian(msgspec.Struct, frozen=True, tag="gaussian", forbid_unknown_fields=True):
    """Gaussian noise of ``noise_multiplier`` times the L2 bound of a contribution, ``rounds`` times."""

    noise_multiplier: float
    rounds: int = 1

    def __post_init__(self) -> None:
        check_noise_multiplier(self.noise_multiplier)
        _check_rounds(self.rounds)


class PoissonSampledGaussian(msgspec.Struct, frozen=True, tag="poisson_sampled_gaussian", forbid_unknown_fields=True):
    """`Gaussian`, where each unit takes part in a round with probability ``sampling_rate``, by coins that stay secret.

    Claim it only where trusted code draws the sample. Devices that volunteer are not such a sample.
    """

    sampling_rate: float
    noise_multiplier: float
    rounds: int

    def __post_init__(self) -> None:
        if not 0.0 < self.sampling_rate <= 1.0:
            raise InvalidInput(
                f"the sampling rate is {self.sampling_rate}: use a number above 0 and up to 1, such as "
                "batch size / number of records",
                code=codes.INVALID_SAMPLING_RATE,
            )
        check_noise_multiplier(self.noise_multiplier)
        _check_rounds(self.rounds)


class Laplace(msgspec.Struct, frozen=True, tag="laplace", forbid_unknown_fields=True):
    """Laplace noise of ``noise_multiplier`` times the L1 bound of a contribution."""

    noise_multiplier: float

    def __post_init__(self) -> None:
        check_noise_multiplier(self.noise_multiplier)


class PureDp(msgspec.Struct, frozen=True, tag="pure_dp", forbid_unknown_fields=True):
    """A mechanism that is known only to be ``epsilon``-DP for neighbors."""

    epsilon: float

    def __post_init__(self) -> None:
        check_epsilon(self.epsilon)


class ApproximateDp(msgspec.Struct, frozen=True, tag="approximate_dp", forbid_unknown_fields=True):
    """A mechanism that is known only to be (``epsilon``, ``delta``)-DP, with delta above 0."""

    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        check_epsilon(self.epsilon)
        check_delta(self.delta)


Event = Gaussian | PoissonSampledGaussian | Laplace | PureDp | ApproximateDp

_decoder: msgspec.json.Decoder[list[Event]] = msgspec.json.Decoder(list[Event])


def encode_events(events: Iterable[Event]) -> str:
    """The events as a canonical JSON list: equal events have equal text."""
    # `convert` makes a float of an integer in a float field, so both have the same text.
    same = msgspec.convert(msgspec.to_builtins(list(events)), list[Event])
    return msgspec.json.encode(same, order="sorted").decode()


def decode_events(text: str | bytes) -> tuple[Event, ...]:
    """The events of a JSON text.

    Raises:
        InvalidInput: ``invalid_event``: the text is not JSON, or an event has an unknown kind or lacks a field; or a
            value is out of range.
    """
    try:
        return tuple(_decoder.decode(text))
    except msgspec.DecodeError as error:
        raise InvalidInput(f"the privacy events cannot be read: {error}", code=codes.INVALID_EVENT) from error


def replaced(event: Event) -> Event:
    """Return the event for replaced units of one that was charged for added and removed ones, as in version 0.1.

    A noise multiplier counts in contributions, so its curve follows. To replace a unit is to remove one and to add one,
    so what is only known by its epsilon counts twice (group privacy).
    """
    match event:
        case PureDp(epsilon=epsilon):
            return PureDp(min(2 * epsilon, 1000.0))
        case ApproximateDp(epsilon=epsilon, delta=delta):
            doubled = min(0.999, delta * (1 + math.e ** min(epsilon, 50.0)))
            return ApproximateDp(min(2 * epsilon, 1000.0), doubled)
        case _:
            return event


def check_epsilon(epsilon: float) -> None:
    """Check that epsilon is a number from 1e-6 to 1000. Raises InvalidInput: ``invalid_epsilon``."""
    if not (_is_number(epsilon) and 1e-6 <= epsilon <= 1000.0):
        raise InvalidInput(f"epsilon is {epsilon}: use 1e-6 to 1000; 0.1 to 8 is common", code=codes.INVALID_EPSILON)


def check_delta(delta: float) -> None:
    """Check that delta is at least `MIN_DELTA` and below 1. Raises InvalidInput: ``invalid_delta``."""
    if not (_is_number(delta) and MIN_DELTA <= delta < 1.0):
        raise InvalidInput(
            f"delta is {delta}: use {MIN_DELTA:g} or more, and well below 1 / (number of records), such as 1e-6",
            code=codes.INVALID_DELTA,
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_rounds(rounds: int) -> None:
    if not 1 <= rounds <= MAX_ROUNDS:
        raise InvalidInput(f"the number of rounds is {rounds}: use 1 to {MAX_ROUNDS}", code=codes.INVALID_ROUNDS)
