"""The privacy terms of a job: its noise, its rounds, and its privacy cost.

All numbers come from declared and published numbers, never from the data, so the cost reveals nothing about the data.

    units       the published number of records or of subjects; or one Domain
    rounds      training: epochs / sampling_rate; otherwise 1
    cycles      federated job: how many times all rounds run and are charged; otherwise 1
    noise       the smallest noise with which these rounds are (epsilon, delta)-DP and fit into an empty budget if
                epsilon does
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from pygrid import codes
from pygrid.core.datasets import Schema
from pygrid.core.job_spec import PrivacyTerms
from pygrid.errors import InvalidInput
from pygrid.messages.jobs import JobRequest, PrivacyRequest, Unit
from pygrid.privacy.accountants import calibrate, epsilon_of
from pygrid.privacy.clipping import MAX_CLIP, MIN_CLIP
from pygrid.privacy.events import Event, PoissonSampledGaussian, check_epsilon
from pygrid.privacy.ledger import Cap, Cost, check_delta_for, cost_of
from pygrid.units import decimal

MAX_ROUNDS = 1_000_000


def unit_of(schema: Schema) -> Unit:
    """The unit that a budget of this dataset protects by default."""
    return "record" if schema.subject is None else "subject"


def make_terms(
    request: JobRequest, schema: Schema, caps: Sequence[Cap], unit: Unit | None = None
) -> PrivacyTerms | None:
    """The terms of a request on a version of a dataset. None for a non-private request.

    Args:
        caps: caps of the budgets that are charged.
        unit: unit that these budgets protect. None: any, for a preview.
    Raises:
        InvalidInput: a number is out of range, or the dataset or the kind of job does not support the unit;
            ``unit_not_budgeted``: the budget protects another unit.
    """
    asked = request.privacy
    if asked is None:
        return None
    check_epsilon(asked.epsilon)
    check_delta_for(asked.delta, schema.num_records)
    if unit is not None and asked.unit != unit:
        raise InvalidInput(
            f"the unit is {asked.unit!r}, but the budget of this dataset protects the unit {unit!r}: set unit={unit!r}",
            code=codes.UNIT_NOT_BUDGETED,
            unit=unit,
        )
    if not MIN_CLIP <= asked.clip <= MAX_CLIP:
        raise _invalid(f"clip is {asked.clip}; it is a number from {MIN_CLIP:g} to {MAX_CLIP:g}, such as 1.0")
    for cap in caps:
        if asked.delta > cap.delta:
            raise _invalid(f"delta is {asked.delta}; the budget has delta {decimal(cap.delta)}; use at most that")
    num_units = _num_units(request, schema, asked)
    rate = _sampling_rate(request, asked, num_units)
    cycles = 1 if request.federation is None else request.federation.cycles
    # Computed as a float first, because it is infinite for the smallest rates.
    wanted = max(1.0, request.epochs / rate - 1e-9) if request.kind == "train" and asked.unit != "domain" else 1.0
    if wanted * cycles > MAX_ROUNDS:
        asked_for = f"{request.epochs} epochs at a sampling rate of {rate:g}" + (
            "" if cycles == 1 else f", {cycles:,} times,"
        )
        raise _invalid(f"{asked_for} are {wanted * cycles:,.0f} rounds; at most {MAX_ROUNDS:,}")
    rounds = math.ceil(wanted)
    return PrivacyTerms(
        clip=asked.clip,
        noise_multiplier=_noise(asked, rate, rounds * cycles, caps),
        rounds=rounds,
        cycles=cycles,
        delta=asked.delta,
        expected_size=rate * num_units,
        sampling_rate=rate,
        unit=asked.unit,
        max_rows_per_subject=schema.max_records_per_subject or 1,
    )


def events_of(terms: PrivacyTerms) -> tuple[Event, ...]:
    """The charged events of a job: all rounds of all cycles."""
    return (PoissonSampledGaussian(terms.sampling_rate, terms.noise_multiplier, terms.rounds * terms.cycles),)


def epsilon_alone(terms: PrivacyTerms) -> float:
    """The epsilon of a job by itself, at its own delta."""
    return epsilon_of(cost_of(events_of(terms)).curve, terms.delta)


def add(spent: Cost, more: Cost) -> Cost:
    """The spent cost after a further charge."""
    return Cost(
        spent.curve + more.curve, spent.basic_epsilon + more.basic_epsilon, spent.basic_delta + more.basic_delta
    )


def _num_units(request: JobRequest, schema: Schema, asked: PrivacyRequest) -> float:
    if schema.num_records < 1:
        raise _invalid("the dataset has no records")
    if asked.unit == "domain":
        if request.kind != "train":
            raise _invalid("the unit 'domain' is for training; use 'record' or 'subject'")
        return 1.0
    if schema.subject is None:
        if asked.unit == "subject":
            raise _invalid("the dataset has no subject column, so the unit can't be 'subject'; use 'record'")
        return float(schema.num_records)
    if asked.unit == "record":
        raise _invalid(
            "a person can have several records in this dataset, so the unit 'record' protects nobody; use 'subject'"
        )
    if schema.num_subjects is not None:
        return float(schema.num_subjects)
    # A version of pygrid 0.1 without records on the disk. No job can run on it.
    return math.ceil(schema.num_records / (schema.max_records_per_subject or 1))


def _sampling_rate(request: JobRequest, asked: PrivacyRequest, num_units: float) -> float:
    if request.kind != "train" or asked.unit == "domain":
        if asked.sampling_rate not in (None, 1.0):
            raise _invalid("sampling_rate is for training with the unit record or subject; leave it out")
        return 1.0
    if asked.sampling_rate is None:
        return min(1.0, request.batch_size / num_units)
    if not 0.0 < asked.sampling_rate <= 1.0:
        raise _invalid(f"sampling_rate is {asked.sampling_rate}; it lies above 0 and is at most 1")
    return asked.sampling_rate


def _noise(asked: PrivacyRequest, rate: float, rounds: int, caps: Sequence[Cap]) -> float:
    """The noise multiplier of a job.

    It is calibrated at the best order for the job alone. A ledger uses one order, where the same noise may cost
    slightly more. A request within a whole budget therefore gets enough noise to fit into it.
    """
    noise = calibrate(asked.epsilon, asked.delta, rate, rounds)
    for cap in caps:
        if asked.epsilon <= cap.epsilon - cap.basic_epsilon:
            price = cost_of((PoissonSampledGaussian(rate, noise, rounds),)).at(cap.order).divergence
            if price > cap.divergence:
                fits = calibrate(cap.epsilon - cap.basic_epsilon, cap.delta - cap.basic_delta, rate, rounds, cap.order)
                noise = max(noise, fits)
    return noise


def _invalid(detail: str) -> InvalidInput:
    return InvalidInput(detail, code=codes.INVALID_PRIVACY_TERMS)
