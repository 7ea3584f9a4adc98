"""Random programs: what the gate works out about them is what the runtime does.

A program is a few nodes with operators, inputs and attributes drawn at random, most of it nonsense. Three laws:
whatever it is, the analysis ends with a result or an InvalidPlan; if it has a result and the runtime runs the program,
every tensor has the shape that was worked out, at every batch size; and if the examples are said to be independent,
they are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from hypothesis import assume, event, given, settings

from pygrid.errors import InvalidPlan
from pygrid.plans.costs import analyse
from pygrid.plans.independence import judge
from pygrid.plans.sessions import OnnxSession
from pygrid.plans.sizes import at
from support.plans.handmade import f32
from support.plans.random_programs import INPUTS, PROFILE, feed, programs


@settings(PROFILE)
@given(programs(tries=8))
def test_shapes_are_those_of_the_runtime_or_refused(g):
    model = g.model(INPUTS, ())
    analysis = analyse(model.graph, name="program", max_n=8)
    made = [name for step in analysis.steps for name in step.output_names]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made)
    try:
        session = OnnxSession(model.SerializeToString(), name="program")
    except InvalidPlan:
        return
    for n in (1, 2, 5):
        try:
            results = session.run(made, feed(n))
        except InvalidPlan:
            return
        event("ran")
        for name, array in zip(made, results, strict=True):
            value = analysis.values[name]
            assert tuple(at(size, n) for size in value.shape) == array.shape, name
            assert value.dtype == array.dtype.name, name
            if value.known is not None:
                known = np.array([at(item, n) for item in value.known.reshape(-1)]).reshape(array.shape)
                np.testing.assert_array_equal(known, array)


@settings(PROFILE)
@given(programs(tries=8))
def test_examples_that_are_said_to_be_independent_are(g):
    """For f(batch) = fixed + factor * sum of f(example): swapping one example changes f by the same, whoever the other
    is.
    """
    last = g.nodes[-1].output[0]
    g.op("ReduceSum", last, keepdims=0, out="metrics/loss")
    model = g.model(INPUTS, (f32("metrics/loss"),))
    try:
        analysis = analyse(model.graph, name="grads", max_n=8)
        verdict = judge(analysis)
        session = OnnxSession(model.SerializeToString(), name="grads")
    except InvalidPlan:
        return
    assume(verdict.independent)
    ones, others = [feed(1, seed) for seed in (1, 2)], [feed(1, seed) for seed in (3, 4)]

    def loss(first: dict[str, Any], second: dict[str, Any]) -> float:
        both = {
            name: np.concatenate([first[name], second[name]]) if name.startswith("data/") else first[name]
            for name in first
        }
        return float(session.run(["metrics/loss"], both)[0])

    try:
        values = [loss(a, b) for a in ones for b in others]
    except InvalidPlan:
        return
    assume(np.isfinite(values).all())
    event("independent" if max(values) > min(values) else "independent, but of no data")
    difference = abs((values[0] - values[1]) - (values[2] - values[3]))
    assert difference <= 1e-4 * max(1.0, *(abs(value) for value in values)), verdict
