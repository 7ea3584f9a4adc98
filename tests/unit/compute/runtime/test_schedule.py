"""When the end of a private job is seen, and how long an evaluation may take: from public numbers alone.

Should happen: enough time for every unit; a job that could not give each unit its limit is refused.
Should not happen: a limit that ends honest evaluations; a time plan that depends on the data.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto

from pygrid.compute.runtime.contributions import PlanRows, PlanSums
from pygrid.compute.runtime.schedule import LEAST_LIMIT, VARIATION, make_time_plan
from pygrid.compute.runtime.sum_graph import sum_graph, without_names
from pygrid.compute.runtime.watch import Watch
from pygrid.core.job_spec import PrivacyTerms, held_s, max_evaluations, max_participations, unit_limit_s
from pygrid.errors import InvalidInput
from pygrid.plans import Port
from pygrid.plans.costs import analyse
from pygrid.plans.sessions import ORT_ERRORS, load, quiet_run, quiet_session
from pygrid.plans.structure import read_graph
from pygrid.privacy.clipping import Grid
from pygrid.privacy.noise import SecretBits
from support.plans.attacks import MODEL, contributing, fallback_plan, honest_plan, slow_plan
from support.plans.handmade import GraphBuilder, f32


def terms(rounds: int, rate: float, unit: str = "record") -> PrivacyTerms:
    return PrivacyTerms(1.0, 1.0, rounds, 1e-6, 1.0, sampling_rate=rate, unit=unit)  # type: ignore[arg-type]


@given(st.integers(1, 500), st.floats(1e-4, 1.0), st.integers(1, 5000))
def test_there_are_hardly_ever_more_evaluations_than_planned(rounds: int, rate: float, num_units: int) -> None:
    """Against draws: a chance below 1e-9 is not seen in a test."""
    drawn = np.random.default_rng(0).binomial(num_units, rate, rounds)
    assert drawn.sum() <= max_evaluations(terms(rounds, rate), num_units) <= rounds * num_units
    of_one = np.random.default_rng(1).binomial(rounds, rate, num_units)
    assert of_one.max() <= max_participations(terms(rounds, rate)) <= rounds


@given(st.integers(1, 1000), st.integers(1, 5000), st.floats(1e-6, 1e-2), st.floats(0.0, 1e-2))
def test_the_plan_has_time_for_slow_values_and_for_one_slow_unit(
    rounds: int, num_units: int, unit_s: float, round_s: float
) -> None:
    asked = terms(rounds, 1.0)
    if rounds * num_units * LEAST_LIMIT * unit_s > 0.8 * 3600:
        with pytest.raises(InvalidInput, match="evaluations") as caught:
            make_time_plan(asked, num_units, unit_s, round_s, 3600.0)
        assert caught.value.code == "job_too_slow"
        return
    plan = make_time_plan(asked, num_units, unit_s, round_s, 3600.0)
    assert LEAST_LIMIT * unit_s <= plan.limit_s <= unit_limit_s(unit_s)
    assert rounds * num_units * plan.limit_s <= 3600, "every unit can use its whole limit within the time of the job"
    needed = VARIATION * (rounds * num_units * unit_s + rounds * round_s) + rounds * plan.limit_s
    assert plan.planned_s >= needed


def test_the_limit_of_the_one_unit_of_a_domain_is_its_plan() -> None:
    plan = make_time_plan(terms(1, 1.0, "domain"), 1, 10.0, 0.1, 3600.0)
    assert plan.planned_s >= plan.limit_s >= VARIATION * 10.0


@given(st.floats(0, 1e4), st.floats(0, 1e4))
def test_the_end_is_held_at_the_planned_time_or_at_twice_as_much(elapsed: float, planned: float) -> None:
    held = held_s(elapsed, planned)
    assert held >= max(elapsed, planned)
    steps = math.log2(held / max(planned, 0.25))
    assert steps == pytest.approx(round(steps), abs=1e-9)


def test_a_watch_ends_a_long_evaluation_and_not_the_next_one() -> None:
    """The evaluation has many operators, so that it can be ended between two; the short ones after it are whole."""
    data = {"x": np.zeros((3, 1), np.float32), "y": np.zeros(3, np.int64)}
    long = PlanRows(slow_plan(operator="Pow", width=400_000, repeats=30), "grads", MODEL, data, bits=SecretBits())
    short = PlanRows(honest_plan(), "grads", MODEL, data, bits=SecretBits())
    num_threads = threading.active_count()
    with Watch(0.01) as watch:
        assert [block.failed.all() for block in long.blocks(np.arange(1), watch)] == [True]
        assert not any(block.failed.any() for _ in range(50) for block in short.blocks(np.arange(3), watch))
    assert threading.active_count() == num_threads


def seconds_of(build: Callable[[GraphBuilder], str]) -> float:
    """The planned time of a unit, less what its evaluation takes on made-up data, which is far below a millisecond."""
    data = {"x": np.zeros((3, 1), np.float32), "y": np.zeros(3, np.int64)}
    plan = contributing("values", build)
    return PlanRows(plan, "grads", MODEL, data, bits=SecretBits()).unit_s()


INDEXED: dict[str, Callable[[GraphBuilder], str]] = {
    "Gather": lambda g: g.op("Gather", g.const(np.zeros(4, np.float32)), "y"),
    "GatherElements": lambda g: g.op("GatherElements", g.const(np.zeros(4, np.float32)), "y", axis=0),
    "ScatterElements": lambda g: g.op("ScatterElements", g.const(np.zeros(4, np.float32)), "y", "x", axis=0),
}
"""The operators that fail for some values."""


@pytest.mark.parametrize("name", INDEXED)
def test_long_names_do_not_make_the_failure_of_a_record_slow(name: str) -> None:
    """ONNX Runtime writes names into its error, and the limit of an evaluation does not end that."""
    g = GraphBuilder()
    long = "n" * 100_000
    g.op("Identity", INDEXED[name](g), out="z")
    for node in g.nodes:
        node.name += long
    g.nodes[0].output[0] = g.nodes[1].input[0] = long
    inputs = (Port("x", "float32", (1,)), Port("y", "int64", (1,)))
    model = without_names(g.model(inputs, (Port("z", "float32", ("n",)),)))
    session = load(model.SerializeToString(), quiet_session(), name=name)
    with pytest.raises(ORT_ERRORS) as caught:
        session.run(["z"], {"x": np.ones(1, np.float32), "y": np.array([9])}, quiet_run())
    assert len(str(caught.value)) < 1000


def test_nodes_of_a_private_job_have_no_name() -> None:
    plan = fallback_plan()
    entry = plan.manifest.graphs["grads"]
    model = read_graph("grads", plan.graph("grads"), entry)
    graph = sum_graph(model, [port for port in entry.outputs if port.name == "grads/w"], Grid.fit(1.0, 1))
    assert not any(node.name for node in ModelProto.FromString(graph).graph.node)


@pytest.mark.parametrize("extra", ["failure_s", "add_s"])
def test_the_time_of_a_failure_and_of_clipping_outside_of_a_graph_is_planned(
    extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If all records fail, the end of a job is not seen later than otherwise."""
    monkeypatch.setattr(f"pygrid.compute.runtime.contributions.{extra}", lambda *_: 5.0)
    data = {"x": np.zeros((3, 1), np.float32), "y": np.zeros(3, np.int64)}
    for contributions in (
        PlanSums(1.0, honest_plan(), "grads", MODEL, data, bits=SecretBits()),
        PlanRows(honest_plan(), "eval", MODEL, data, bits=SecretBits()),
    ):
        assert VARIATION * contributions.unit_s() >= 5.0


def test_reads_of_a_large_table_are_planned_as_misses() -> None:
    """A table of 4 MiB that is read where the data says; one of 1 KiB stays in the cache."""

    def read(size: int) -> Callable[[GraphBuilder], str]:
        def build(g: GraphBuilder) -> str:
            table = g.op("ConstantOfShape", g.ints(size))
            places = g.op("Expand", g.op("Unsqueeze", "data/y", g.ints(1)), g.ints(1, 1_000_000))
            return g.op(
                "Add", "data/x", g.op("ReduceMax", g.op("Gather", table, places, axis=0), g.ints(1), keepdims=1)
            )

        return build

    misses_s = 1_000_000 * 150e-9
    assert seconds_of(read(1 << 20)) >= misses_s
    assert seconds_of(read(1 << 8)) < misses_s


WIDTH = 50_000


def pooled(g: GraphBuilder, **attributes: Any) -> str:
    return g.op("MaxPool", g.op("Reshape", "x", g.ints(1, 1, -1)), kernel_shape=[8], **attributes)


def places_of_maxima(g: GraphBuilder) -> None:
    pooled(g)
    g.nodes[-1].output.append("places")


SLOW: dict[str, Callable[[GraphBuilder], object]] = {
    "power": lambda g: g.op("Pow", "x", g.op("ReduceMax", "x", keepdims=0)),
    "constant power": lambda g: g.op("Pow", "x", g.const(np.float32(0.5))),
    "sine": lambda g: g.op("Sin", "x"),
    "cosine": lambda g: g.op("Cos", "x"),
    "remainder": lambda g: g.op("Mod", g.op("Cast", "x", to=TensorProto.INT64), g.const(np.array(7))),
    "places of maxima": places_of_maxima,
    "maxima with gaps": lambda g: pooled(g, dilations=[2]),
}
STEADY: dict[str, Callable[[GraphBuilder], object]] = {
    "square": lambda g: g.op("Pow", "x", g.const(np.float32(2))),
    "cube": lambda g: g.op("Pow", "x", g.const(np.array([3], np.float32))),
    "product": lambda g: g.op("Mul", "x", "x"),
    "maxima": pooled,
    "sine of a constant": lambda g: g.op("Add", "x", g.op("Sin", g.const(np.ones(WIDTH, np.float32)))),
}


@pytest.mark.parametrize("name", [*SLOW, *STEADY])
def test_operators_that_are_slow_for_some_values_are_planned_as_if_all_were(name: str) -> None:
    """A power takes 45 times as long as the square that a plan can make of the made-up data."""
    g = GraphBuilder()
    {**SLOW, **STEADY}[name](g)
    analysis = analyse(g.model((f32("x", 1, WIDTH),), ()).graph, name="values", max_n=1)
    assert analysis.slow_operations(1) >= WIDTH if name in SLOW else analysis.slow_operations(1) == 0


def test_a_plan_with_slow_operators_is_planned_with_their_longest_time() -> None:
    def power(g: GraphBuilder) -> str:
        wide = g.op("Expand", "data/x", g.ints(1, WIDTH))
        return g.op(
            "ReduceMax", g.op("Pow", wide, g.op("Add", "data/x", g.const(np.float32(1)))), g.ints(1), keepdims=1
        )

    assert seconds_of(power) >= WIDTH * 60e-9


def test_a_plan_that_fails_on_made_up_data_gets_time_for_its_nodes() -> None:
    """Such a plan cannot be measured; many small nodes have few operations, and take about a microsecond each."""

    def build(g: GraphBuilder) -> str:
        value = g.op("Gather", g.const(np.ones(2, np.float32)), g.op("Sub", "data/y", g.const(np.array(9))), axis=0)
        for number in range(500):
            value = g.op("Sin" if number % 2 else "Exp", value)
        return g.op("Unsqueeze", value, g.ints(1))

    assert seconds_of(build) >= 500 * 1e-5
