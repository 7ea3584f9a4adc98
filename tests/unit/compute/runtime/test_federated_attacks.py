"""Federated jobs against those who see every diff and choose the next model by the diffs before.

Should happen: what all diffs of a job tell about a record that fails, is slow or is marked stays within the epsilon
that the whole job is charged, at all cycles together.
Should not happen: a model that makes one record count more, or a cycle that shows more than its share.
"""

from __future__ import annotations

import time
from typing import Any

import msgspec
import numpy as np
import pytest
from test_attack_plans import MARK, SLOW, data, least_epsilon

from pygrid.compute.runtime import execute
from pygrid.compute.runtime.inputs import MappedColumns
from pygrid.core.job_spec import ColumnRef, JobSpec, PrivacyTerms
from pygrid.core.job_terms import epsilon_alone, make_terms
from pygrid.messages.datasets import Column, Schema
from pygrid.messages.jobs import FederationRequest, JobRequest, PrivacyRequest
from pygrid.plans import Plan
from pygrid.tensors import Params, decode, encode
from pygrid.tensors.params import Difference
from support.plans.attacks import contributing, fallback_plan, plus_or_minus, slow_plan
from support.plans.handmade import GraphBuilder
from support.thorough import THOROUGH

EPSILON, DELTA, CYCLES, SIZE = 1.0, 1e-6, 2, 40
NUM_JOBS = 400 if THOROUGH else 60
"""On each of two neighboring datasets. With 60, a leak of everything is a bound of epsilon 1.5."""
FAR = 1000.0
"""A parameter that the steps of a training do not bring to the other side of zero."""


def steered_plan() -> Plan:
    """A marked record contributes the sign of the parameter, and every other record the opposite."""

    def build(g: GraphBuilder) -> str:
        marked = g.op("Equal", g.op("Unsqueeze", "data/y", g.ints(1)), g.const(np.array(MARK, np.int64)))
        return g.op("Mul", plus_or_minus(g, marked), g.op("Sign", "params/w"))

    return contributing("steered", build)


PLANS = {"steered": steered_plan, "failing": fallback_plan, "slow": lambda: slow_plan(operator="Pow")}


def terms_of(unit: str, rate: float) -> PrivacyTerms:
    """The terms that a Domain makes of a request for a federated job."""
    request = JobRequest(
        dataset=1,
        kind="train",
        reason="attack",
        privacy=PrivacyRequest(EPSILON, DELTA, unit=unit, sampling_rate=rate),  # type: ignore[arg-type]
        federation=FederationRequest("http://hub.example", "shared", "1", CYCLES),
    )
    columns = (Column("x", "float32", (1,)), Column("y", "int64"), Column("who", "text"))
    people: dict[str, Any] = {"subject": "who", "max_records_per_subject": 4, "num_subjects": SIZE // 4}
    made = make_terms(request, Schema(columns, SIZE, **(people if unit == "subject" else {})), ())
    assert made is not None
    assert made.cycles == CYCLES
    return made


def train(model: Params, columns: dict[str, Any], plan: Plan, terms: PrivacyTerms) -> float:
    """The diff that a Domain reports for a cycle that begins with this model."""
    refs = {
        "x": ColumnRef("", "float32", (1,), SIZE),
        "y": ColumnRef("", "int64", (), SIZE),
        "who": ColumnRef("", "int32", (), SIZE),
    }
    spec = JobSpec("job", "train", refs, "plan", "model", {"x": "x", "y": "y"}, subject="who", privacy=terms)
    who = np.arange(SIZE, dtype=np.int32) // 4
    inputs = MappedColumns({**columns, "who": who}, plan.data, encode(model))
    _, payload = execute.run(spec, inputs, lambda _: None, started=time.monotonic())
    return float(Difference(model, decode(payload)[0])["w"][0])


def seen_by_coordinator(columns: dict[str, Any], plan: Plan, terms: PrivacyTerms) -> float:
    """The evidence for the marked record: a malicious coordinator sends the model that tells more, by what it saw."""
    evidence = 0.0
    for _ in range(CYCLES):
        direction = 1.0 if evidence >= 0 else -1.0
        model = {"w": np.full(1, direction * FAR, np.float32)}
        evidence += direction * train(model, columns, plan, terms)
    return evidence


def seen_by_domain(columns: dict[str, Any], plan: Plan, terms: PrivacyTerms) -> float:
    """The same for a malicious Domain in the training: it knows its own diff, so the mean tells the other one, and it
    moves the model with a diff of any size.
    """
    evidence, model = 0.0, {"w": np.full(1, FAR, np.float32)}
    for _ in range(CYCLES):
        before, direction = float(model["w"][0]), float(np.sign(model["w"][0]))
        own = 2 * (before - (FAR if evidence >= 0 else -FAR))
        mean = (train(model, columns, plan, terms) + own) / 2
        model = {"w": np.full(1, before - mean, np.float32)}
        evidence += direction * (2 * (before - float(model["w"][0])) - own)
    return evidence


CASES = [
    (name, unit, rate, view)
    for name in PLANS
    for unit in ("record", "subject")
    for rate in (1.0, 0.1)
    for view in (seen_by_coordinator, seen_by_domain)
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "unit", "rate", "view"), CASES if THOROUGH else CASES[::9])
def test_all_diffs_of_a_job_do_not_tell_a_record_beyond_epsilon(name: str, unit: str, rate: float, view: Any) -> None:
    terms, plan = terms_of(unit, rate), PLANS[name]()
    assert epsilon_alone(terms) <= EPSILON * 1.0001
    marked = data(SIZE, x={20: SLOW}, y={20: MARK})
    samples = [np.array([view(columns, plan, terms) for _ in range(NUM_JOBS)]) for columns in (data(SIZE), marked)]
    least_noise = 0.5 * terms.noise_multiplier * np.sqrt(terms.rounds * CYCLES) / terms.expected_size
    assert samples[0].std() > least_noise, "the noise of each cycle is there"
    assert least_epsilon(*samples, DELTA) <= EPSILON


def test_a_job_whose_cycles_each_had_the_noise_of_one_would_be_found_out() -> None:
    """The bound finds a leak: the same attack on noise that is far too small."""
    terms = msgspec.structs.replace(terms_of("record", 1.0), noise_multiplier=0.3)
    marked = data(SIZE, y={20: MARK})
    samples = [
        np.array([seen_by_coordinator(columns, steered_plan(), terms) for _ in range(40)])
        for columns in (data(SIZE), marked)
    ]
    assert least_epsilon(*samples, DELTA) > EPSILON
