"""The trusted runner, in this process: what leaves a private job, whatever the plan does.

Should happen: training comes near the exact one; noise has the size that was promised; failing records count as zero.
Should not happen: a record moves the noiseless sum by more than the clipping bound; an error, a metric or a loss
leaves.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest

from pygrid.aggregation.optimizers import ServerOptimizer
from pygrid.compute.runtime import execute
from pygrid.compute.runtime.inputs import MappedColumns
from pygrid.compute.runtime.job_process import preload
from pygrid.core.job_spec import ColumnRef, JobLimits, JobSpec, Outcome, PrivacyTerms, Progress, Statistic
from pygrid.errors import InvalidInput, InvalidPlan
from pygrid.plans import Plan
from pygrid.plans.gate import check
from pygrid.plans.runner import Runner
from pygrid.tensors import decode, encode
from support.plans.handmade import logistic_data, logistic_params, logistic_plan

SIZE = 400
TINY_NOISE = 0.01


def labelled(size: int = SIZE) -> dict[str, Any]:
    """Data that logistic regression can learn."""
    data = logistic_data(size)
    weight = np.random.default_rng(5).normal(size=(4, 3))
    return {"x": data["x"], "y": (data["x"] @ weight).argmax(axis=1)}


def job(kind: str = "train", **changes: Any) -> JobSpec:
    ref = ColumnRef("", "float32", (4,), SIZE)
    columns = {"x": ref, "y": ColumnRef("", "int64", (), SIZE), "who": ColumnRef("", "int32", (), SIZE)}
    values: dict[str, Any] = {
        "id": "job",
        "kind": kind,
        "columns": columns,
        "plan_path": "plan",
        "model_path": "model",
        "binding": {"x": "x", "y": "y"},
        "subject": "who",
        "limits": JobLimits(wall_s=60.0),
    }
    return JobSpec(**{**values, **changes})


def terms(**changes: Any) -> PrivacyTerms:
    values = {"clip": 1.0, "noise_multiplier": TINY_NOISE, "rounds": 40, "delta": 1e-5, "expected_size": SIZE / 4}
    return PrivacyTerms(**{**values, "sampling_rate": 0.25, **changes})


def run(
    spec: JobSpec, data: dict[str, Any], plan: Plan | None = None, **changes: Any
) -> tuple[Outcome, bytes, list[Progress]]:
    columns = {"who": np.arange(len(data["y"]), dtype=np.int32) // 4, **data}
    inputs = MappedColumns(columns, (plan or logistic_plan()).data, encode(logistic_params()))
    reports: list[Progress] = []
    started, announce = changes.get("started", time.monotonic()), changes.get("announce", lambda _: None)
    outcome, payload = execute.run(spec, inputs, reports.append, started=started, announce=announce)
    return outcome, payload, reports


def accuracy(payload: bytes, data: dict[str, Any]) -> float:
    return Runner(logistic_plan()).evaluate(decode(payload)[0], data)["accuracy"]


@pytest.mark.parametrize("unit", ["record", "subject"])
def test_private_training_learns(unit: str) -> None:
    data = labelled()
    changes = {"max_rows_per_subject": 4, "expected_size": SIZE / 16} if unit == "subject" else {}
    spec = job(privacy=terms(unit=unit, **changes), optimizer=ServerOptimizer(learning_rate=2.0))
    outcome, payload, reports = run(spec, data)
    assert accuracy(payload, data) > 0.85
    assert outcome.facts.num_zeroed == 0
    assert outcome.facts.bytes_in == sum(array.nbytes for array in data.values()) + 4 * SIZE
    assert decode(payload)[1] == {}, "no metric may leave"
    assert reports == []


@pytest.mark.parametrize("name", ["momentum", "adam", "adagrad", "yogi"])
def test_the_other_optimizers_learn_too(name: str) -> None:
    data = labelled()
    rate = {"momentum": 0.3, "adagrad": 0.5}.get(name, 0.1)
    optimizer = ServerOptimizer(name=name, learning_rate=rate)  # type: ignore[arg-type]
    _, payload, _ = run(job(privacy=terms(), optimizer=optimizer), data)
    assert accuracy(payload, data) > 0.8


def test_one_round_is_the_mean_of_clipped_gradients() -> None:
    """Against a calculation in float64 from the gradients that the plan gives for each record."""
    data = labelled(SIZE)
    spec = job(privacy=terms(rounds=1, sampling_rate=1.0, expected_size=SIZE, clip=0.5))
    _, payload, _ = run(spec, data)
    total = {name: np.zeros(array.shape) for name, array in logistic_params().items()}
    groups = [np.array([index]) for index in range(SIZE)]
    for one in Runner(logistic_plan()).iter_gradients(logistic_params(), data, groups):
        grads = {name: array.astype(np.float64) for name, array in one.grads.items()}
        norm = np.sqrt(sum((array**2).sum() for array in grads.values()))
        for name, array in grads.items():
            total[name] += array * min(1.0, 0.5 / norm)
    for name, array in decode(payload)[0].items():
        expected = logistic_params()[name] - total[name] / SIZE
        # Rounding to the grid and noise of 0.01 * 0.5 in the sum, six standard deviations.
        np.testing.assert_allclose(array, expected, atol=(6 * TINY_NOISE * 0.5 + 0.05) / SIZE)


def test_the_noise_has_the_promised_size() -> None:
    """No record takes part, so what leaves is noise alone."""
    spec = job(privacy=terms(rounds=1, sampling_rate=1e-9, noise_multiplier=3.0, clip=2.0, expected_size=10.0))
    samples = []
    for _ in range(60):
        _, payload, _ = run(spec, labelled())
        samples += [decode(payload)[0][name] - logistic_params()[name] for name in ("weight", "bias")]
    values = np.concatenate([sample.reshape(-1) for sample in samples])
    # 900 samples: the standard deviation is within 12 % (five of its own standard errors).
    assert values.std() == pytest.approx(3.0 * 2.0 / 10.0, rel=0.12)


def leak(models: dict[str, onnx.ModelProto]) -> None:
    """Turn the gradient by the bias into the record's own values, a million times as large."""
    graph = models["grads"].graph
    for node in graph.node:
        if node.output[0] == "grads/bias":
            node.output[0] = "unused"
    graph.initializer.append(onnx.numpy_helper.from_array(np.array([1e6], np.float32), "million"))
    graph.initializer.append(onnx.numpy_helper.from_array(np.array([0], np.int64), "axis"))
    graph.initializer.append(onnx.numpy_helper.from_array(np.array([0, 1, 2], np.int64), "three"))
    for kind, inputs, output in (
        ("ReduceSum", ["data/x", "axis"], "summed"),
        ("Gather", ["summed", "three"], "first"),
        ("Mul", ["first", "million"], "grads/bias"),
    ):
        attributes = {"keepdims": 0} if kind == "ReduceSum" else {}
        graph.node.append(onnx.helper.make_node(kind, inputs, [output], name=output, **attributes))


def test_a_plan_that_returns_the_data_moves_the_sum_by_the_bound_at_most() -> None:
    """The same job with and without one record, with hardly any noise: the models differ by one clipped
    contribution.
    """
    plan = logistic_plan(edit=leak)
    data = labelled()
    without = {name: array.copy() for name, array in data.items()}
    without["x"][7] = np.nan  # counts as zero: as good as not there
    spec = job(privacy=terms(rounds=1, sampling_rate=1.0, clip=1.0, expected_size=1.0))
    models = [decode(run(spec, each, plan)[1])[0] for each in (data, without)]
    change = np.sqrt(sum(((models[0][name] - models[1][name]) ** 2).sum() for name in models[0]))
    assert 0.5 < change < 1.0 + 12 * TINY_NOISE


def test_a_plan_that_fails_on_one_record_tells_nobody() -> None:
    """A look-up beyond the table, for one record only."""

    def trap(models: dict[str, onnx.ModelProto]) -> None:
        graph = models["grads"].graph
        constants = {
            "table": np.zeros(50, np.float32),
            "column": np.array([0], np.int64),
            "batch": np.array([0], np.int64),
        }
        for name, array in constants.items():
            graph.initializer.append(onnx.numpy_helper.from_array(array, name))
        for node in graph.node:
            if node.output[0] == "grads/bias":
                node.output[0] = "honest"
        for kind, inputs, output, attributes in (
            ("Gather", ["data/x", "column"], "first", {"axis": 1}),
            ("Cast", ["first"], "index", {"to": onnx.TensorProto.INT64}),
            ("Gather", ["table", "index"], "looked", {"axis": 0}),
            ("ReduceSum", ["looked", "batch"], "summed", {"keepdims": 0}),
            ("Add", ["honest", "summed"], "grads/bias", {}),
        ):
            graph.node.append(onnx.helper.make_node(kind, inputs, [output], name=output, **attributes))

    data = labelled()
    data["x"][11, 0] = 1000.0
    outcome, payload, reports = run(job(privacy=terms(rounds=3, sampling_rate=1.0)), data, logistic_plan(edit=trap))
    assert outcome.failure is None
    assert outcome.facts.num_zeroed == 3
    assert np.isfinite(decode(payload)[0]["bias"]).all()
    assert reports == []


def test_a_job_without_the_time_for_all_units_is_refused_before_it_reads_them() -> None:
    announced: list[float] = []
    with pytest.raises(InvalidInput) as caught:
        run(
            job(privacy=terms(rounds=2000, sampling_rate=1.0)),
            labelled(),
            started=time.monotonic() - 59.9,
            announce=announced.append,
        )
    assert caught.value.code == "job_too_slow"
    assert announced == []


@pytest.mark.parametrize("unit", ["record", "subject"])
def test_a_plan_that_could_take_most_of_the_memory_is_refused_before_it_reads_the_data(unit: str) -> None:
    """Else what was kept from earlier units could decide whether a unit finds memory, and counts."""
    peak = check(logistic_plan().data).graphs["grads"].peak_bytes
    for memory_bytes, is_enough in ((2 * peak, True), (100, False)):
        asked = terms(unit=unit, rounds=1, max_rows_per_subject=4)
        spec = job(privacy=asked, limits=JobLimits(memory_bytes=memory_bytes, wall_s=60.0))
        if is_enough:
            assert run(spec, labelled())[1]
            continue
        announced: list[float] = []
        with pytest.raises(InvalidPlan, match="half of the 100 bytes") as caught:
            run(spec, labelled(), announce=announced.append)
        assert (caught.value.code, announced) == ("plan_memory_too_large", [])


def test_the_end_is_planned_before_the_data_is_read() -> None:
    """The same for any data: only the number of units counts."""
    announced: list[float] = []
    outcome, _, _ = run(job(privacy=terms(rounds=2)), labelled(), announce=announced.append)
    assert len(announced) == 1
    assert announced[0] >= 0.25
    assert outcome.facts.unit_s > 0


def test_the_whole_domain_as_one_contribution() -> None:
    data = labelled()
    exact, _ = decode(run(job(epochs=3), data)[1])
    spec = job(epochs=3, privacy=terms(unit="domain", rounds=1, sampling_rate=1.0, clip=100.0, expected_size=1.0))
    spec = msgspec.structs.replace(spec, privacy=msgspec.structs.replace(spec.privacy, noise_multiplier=0.01))
    private, _ = decode(run(spec, data)[1])
    for name, array in exact.items():
        # sgd with a rate of one: the model moves by the clipped difference. Noise of 0.01 * 100, six standard
        # deviations.
        np.testing.assert_allclose(private[name], array, atol=6.5)
    tight = msgspec.structs.replace(spec, privacy=msgspec.structs.replace(spec.privacy, clip=0.01))
    private, _ = decode(run(tight, data)[1])
    moved = np.sqrt(sum(((private[name] - array) ** 2).sum() for name, array in logistic_params().items()))
    assert moved < 0.011


def test_exact_jobs_report_and_are_repeatable() -> None:
    data = labelled()
    first, second = run(job(epochs=2, seed=3), data), run(job(epochs=2, seed=3), data)
    assert first[1] == second[1]
    assert first[2][-1].done == first[2][-1].total == 2 * 13
    assert json.loads(decode(first[1])[1]["metrics"])["accuracy"] > 0


def test_no_records_are_an_answer_too() -> None:
    """How many records there are may be private itself; noise comes all the same."""
    empty = {"x": np.zeros((0, 4), np.float32), "y": np.zeros(0, np.int64), "who": np.zeros(0, np.int32)}
    for unit in ("record", "subject"):
        outcome, payload, _ = run(job(privacy=terms(unit=unit, rounds=2)), empty)
        assert outcome.facts.num_records == 0
        assert not np.array_equal(decode(payload)[0]["weight"], logistic_params()["weight"])
    with pytest.raises(InvalidInput):
        run(job(), empty)


def test_two_private_runs_differ() -> None:
    spec = job(privacy=terms(rounds=1))
    assert run(spec, labelled())[1] != run(spec, labelled())[1]


def test_nothing_is_imported_once_the_sandbox_is_closed() -> None:
    preload()
    loaded = set(sys.modules)
    statistics = (Statistic("quantile", "y", edges=(0.0, 1.0, 2.0)),)
    bounds = {"loss": (0.0, 10.0), "accuracy": (0.0, 1.0)}
    for privacy in (None, terms(rounds=1)):
        for kind in ("train", "evaluate", "statistics"):
            run(job(kind, privacy=privacy, statistics=statistics, metric_bounds=bounds), labelled())
    assert {name for name in set(sys.modules) - loaded if not name.startswith(("tests", "_pytest"))} == set()


@pytest.mark.parametrize(
    "changes",
    [
        {"clip": 0.0},
        {"clip": float("nan")},
        {"clip": float("inf")},
        {"noise_multiplier": -1.0},
        {"noise_multiplier": 0.0},
        {"delta": 0.0},
        {"delta": 1.0},
        {"delta": float("nan")},
        {"sampling_rate": 0.0},
        {"sampling_rate": 1.5},
        {"rounds": 0},
        {"expected_size": 0.0},
        {"max_rows_per_subject": 0},
        {"unit": "domain"},
    ],
)
def test_terms_that_make_no_sense_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput) as caught:
        run(job(privacy=terms(**changes)), labelled())
    assert caught.value.code == "invalid_job"


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"binding": {"x": "x"}}, "'y'"),
        ({"binding": {"x": "y", "y": "x"}}, "shape"),
        ({"binding": {"x": "x", "y": "nothing"}}, "nothing"),
        ({"epochs": -1}, "epochs"),
        ({"seed": -1}, "seed"),
        ({"columns": {}}, "column"),
        ({"binding": {}}, "binding"),
    ],
)
def test_jobs_that_do_not_fit_are_refused(changes: dict[str, Any], word: str) -> None:
    with pytest.raises(InvalidInput, match=word):
        run(job(**changes), labelled())


def test_a_private_job_needs_a_grads_graph() -> None:
    train_only = logistic_plan()
    graphs = {"train": train_only.manifest.graphs["train"]}
    from pygrid.plans import build_archive

    manifest = msgspec.structs.replace(train_only.manifest, graphs=graphs)
    plan = Plan.from_bytes(build_archive(manifest, {"train": train_only.graph("train")}, "source"))
    with pytest.raises(InvalidPlan, match="grads"):
        run(job(privacy=terms()), labelled(), plan)
