"""Private evaluation: the metrics of a plan, each within bounds of its own, over the units that the noisy sum counts.

Should happen: a metric comes near the mean over units; a unit on which the plan fails counts nowhere.
Should not happen: a public or a wrong number of units scales a metric; one metric shrinks another.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pygrid.compute.runtime import execute
from pygrid.compute.runtime.contributions import ContributionBlock
from pygrid.compute.runtime.inputs import MappedColumns
from pygrid.compute.runtime.metric_rows import MetricRows
from pygrid.compute.runtime.watch import Watch
from pygrid.core.job_spec import ColumnRef, JobSpec, PrivacyTerms
from pygrid.core.metric_bounds import check_metric_bounds, resolve_metric_bounds
from pygrid.errors import InvalidConfig, InvalidInput
from pygrid.messages.jobs import JobRequest, PrivacyRequest
from pygrid.plans import DataPort, Plan
from pygrid.plans.runner import Runner
from pygrid.tensors import encode
from support.plans.handmade import logistic_data, logistic_params, logistic_plan

SIZE = 400
BOUNDS = {"loss": (0.0, 10.0), "accuracy": (0.0, 1.0)}
NOISE = 0.05


class Table:
    """Metrics that are known beforehand, as contributions."""

    miss_s = 0.0

    def __init__(self, values: npt.NDArray[Any]) -> None:
        self.values = values
        self.num_units, self.size = values.shape
        self.names = tuple(f"m{index}" for index in range(self.size))

    def set_params(self, params: Mapping[str, Any]) -> None:
        """There is no model."""

    def unit_s(self) -> float:
        return 1e-6

    def blocks(self, units: npt.NDArray[Any], _watch: Watch) -> Iterator[ContributionBlock]:
        rows = self.values[units]
        yield ContributionBlock(rows, ~np.isfinite(rows).all(axis=1))


def vectors_of(rows: MetricRows, units: npt.NDArray[Any]) -> ContributionBlock:
    """The vectors of these units, in one block."""
    (block,) = rows.blocks(units, Watch())
    return block


def evaluate(
    data: dict[str, Any], unit: str = "record", most: int = 1, plan: Plan | None = None, **changes: Any
) -> dict[str, Any]:
    size = len(data["y"])
    refs = {
        "x": ColumnRef("", "float32", (4,), size),
        "y": ColumnRef("", "int64", (), size),
        "who": ColumnRef("", "int32", (), size),
    }
    # The expected size is wrong on purpose: nothing may be divided by it.
    terms = PrivacyTerms(1.0, NOISE, 1, 1e-6, 7.0, unit=unit, max_rows_per_subject=most)  # type: ignore[arg-type]
    values: dict[str, Any] = {"privacy": terms, "metric_bounds": BOUNDS, **changes}
    binding = {"x": "x", "y": "y"}
    spec = JobSpec("job", "evaluate", refs, plan_path="p", model_path="m", binding=binding, subject="who", **values)
    inputs = MappedColumns(data, (plan or logistic_plan()).data, encode(logistic_params()))
    answer: dict[str, Any] = json.loads(execute.run(spec, inputs, lambda _: None, started=time.monotonic())[1])
    return answer


def labelled(subjects: npt.NDArray[Any]) -> dict[str, Any]:
    """Data on which the model is often right, each record with its subject."""
    data = logistic_data(len(subjects))
    right = (data["x"] @ logistic_params()["weight"].T + logistic_params()["bias"]).argmax(axis=1)
    is_right = np.random.default_rng(2).random(len(subjects)) < 0.7
    return {"x": data["x"], "y": np.where(is_right, right, (right + 1) % 3), "who": subjects.astype(np.int32)}


def of_each(data: dict[str, Any], groups: list[npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    one = Runner(logistic_plan())
    found = [one.evaluate(logistic_params(), {"x": data["x"][group], "y": data["y"][group]}) for group in groups]
    return {name: np.array([metrics[name] for metrics in found]) for name in BOUNDS}


def assert_near(answer: dict[str, Any], expected: dict[str, npt.NDArray[Any]], num_units: int) -> None:
    """Within six standard errors, and what rounding to the grid of 1,024 steps moves: sqrt(3) / 2 steps for each unit
    at most, in a direction of its own, so that the mean over hundreds of units moves by less than a step."""
    assert abs(answer["count"] - num_units) < 6 * answer["count_noise_std"] + num_units * 2e-3
    for name, values in expected.items():
        lower, upper = BOUNDS[name]
        mean = np.clip(values, lower, upper).mean()
        assert abs(answer["metrics"][name] - mean) < 6 * answer["noise_std"][name] + (upper - lower) * 2e-3


def test_metrics_are_means_over_records() -> None:
    data = labelled(np.arange(SIZE))
    answer = evaluate(data)
    assert answer["unit"] == "record"
    assert_near(answer, of_each(data, [np.array([index]) for index in range(SIZE)]), SIZE)


@pytest.mark.parametrize("per_subject", [1, 2, 5])
def test_metrics_are_means_over_subjects_whatever_their_number(per_subject: int) -> None:
    """Up to five records of a subject count; most subjects have fewer, and one has more."""
    data = labelled(np.minimum(np.arange(SIZE) // per_subject, SIZE // per_subject - 4))
    answer = evaluate(data, "subject", most=5)
    groups = [np.flatnonzero(data["who"] == subject)[:5] for subject in np.unique(data["who"])]
    assert answer["unit"] == "subject"
    assert_near(answer, of_each(data, groups), len(groups))


def test_a_large_loss_does_not_shrink_the_accuracy() -> None:
    data = labelled(np.arange(SIZE))
    data["x"] = data["x"] * np.float32(1e4)  # a loss of thousands, which counts as its bound
    answer = evaluate(data)
    assert_near(answer, of_each(data, [np.array([index]) for index in range(SIZE)]), SIZE)


def test_units_that_fail_are_not_counted() -> None:
    data = labelled(np.arange(SIZE))
    good = np.arange(100, SIZE)
    data["x"][:50] = np.nan  # metrics that are not numbers
    data["y"][50:100] = 9  # labels that the plan does not take
    answer = evaluate(data)
    assert_near(answer, of_each(data, [np.array([index]) for index in good]), len(good))


def test_an_absent_label_that_the_plan_declares_is_counted() -> None:
    """Of the labels 0 to 2, the port declares 2 as that of records without a label."""
    ports = {"x": DataPort("float32", (4,)), "y": DataPort("int64", (), "", 2, ignore=2)}
    data = labelled(np.arange(SIZE))
    data["y"][:50] = 3
    answer = evaluate(data, plan=logistic_plan(data=ports))
    assert (data["y"] == 2).sum() > 50
    assert abs(answer["count"] - (SIZE - 50)) < 6 * answer["count_noise_std"] + SIZE * 2e-3


def test_an_exact_evaluation_says_of_how_many_records_it_is() -> None:
    data = labelled(np.arange(SIZE) // 3)
    answer = evaluate(data, privacy=None, metric_bounds={})
    expected = Runner(logistic_plan()).evaluate(logistic_params(), {"x": data["x"], "y": data["y"]})
    assert answer == {"metrics": pytest.approx(expected), "unit": "record", "count": SIZE}


def test_the_noise_of_the_result_is_as_large_as_it_is_said_to_be() -> None:
    """200 noisy ratios: their standard deviation is the one that is told, within 20 percent (four standard errors)."""
    values = np.random.default_rng(0).uniform(2.0, 3.0, (500, 1))
    rows = MetricRows(Table(values), {"m0": (0.0, 4.0)})
    sums = vectors_of(rows, np.arange(500)).rows.sum(axis=0)
    noise = np.random.default_rng(1).normal(0.0, 3.0, (200, 2))
    answers = [rows.read_answer(sums + one, 3.0) for one in noise]
    found = np.std([answer["metrics"]["m0"] for answer in answers])
    assert found == pytest.approx(np.mean([answer["noise_std"]["m0"] for answer in answers]), rel=0.2)


def test_a_metric_that_is_a_sum_is_the_sum_over_units() -> None:
    values = np.array([[1.0, 0.5], [3.0, 0.25], [np.nan, 1.0], [9.0, 0.75]])
    rows = MetricRows(Table(values), {"m0": (0.0, 5.0), "m1": (0.0, 1.0)}, {"m0": "sum", "m1": "mean"})
    vectors, failed = vectors_of(rows, np.arange(4))
    answer = rows.read_answer(vectors.sum(axis=0), 0.0)
    assert failed.tolist() == [False, False, True, False]
    assert answer["metrics"] == {"m0": pytest.approx(1 + 3 + 5), "m1": pytest.approx(0.5)}
    assert answer["count"] == pytest.approx(3)


VALUES = hnp.arrays(np.float32, st.tuples(st.integers(1, 30), st.integers(1, 4)), elements=st.floats(width=32))


@given(VALUES, st.randoms(use_true_random=False), st.integers(1, 35))
def test_a_vector_has_a_norm_of_at_most_one_and_depends_on_its_unit_alone(
    values: npt.NDArray[Any], random: Any, chunk: int
) -> None:
    bounds = {f"m{index}": (-(10.0**index), 3.0) for index in range(values.shape[1])}
    whole, _ = vectors_of(MetricRows(Table(values), bounds), np.arange(len(values)))
    assert (np.sqrt((whole**2).sum(axis=1)) <= 1 + 1e-12).all()
    order = np.array(random.sample(range(len(values)), len(values)))
    moved = MetricRows(Table(values[order]), bounds)
    for begin in range(0, len(order), chunk):
        units = np.arange(begin, min(begin + chunk, len(order)))
        assert vectors_of(moved, units).rows.tobytes() == whole[order[units]].tobytes()


@pytest.mark.parametrize("bounds", [{}, {"loss": (0.0, 1.0)}, {**BOUNDS, "other": (0.0, 1.0)}])
def test_a_worker_refuses_bounds_of_other_metrics(bounds: dict[str, tuple[float, float]]) -> None:
    with pytest.raises(InvalidInput, match="accuracy"):
        evaluate(labelled(np.arange(10)), metric_bounds=bounds)


def asked(**changes: Any) -> JobRequest:
    values: dict[str, Any] = {
        "dataset": 1,
        "kind": "evaluate",
        "reason": "a test",
        "privacy": PrivacyRequest(1.0, 1e-6),
    }
    return JobRequest(**{**values, **changes})


def test_bounds_are_those_of_the_request_else_defaults() -> None:
    manifest = logistic_plan().manifest
    assert resolve_metric_bounds(asked(), manifest) == {"loss": (0.0, 10.0), "accuracy": (0.0, 1.0)}
    assert resolve_metric_bounds(asked(metric_bounds={"loss": (0.0, 3.0)}), manifest)["loss"] == (0.0, 3.0)
    assert resolve_metric_bounds(asked(privacy=None), manifest) == {}
    with pytest.raises(InvalidConfig, match="loss, accuracy"):
        resolve_metric_bounds(asked(metric_bounds={"f1": (0.0, 1.0)}), manifest)


@pytest.mark.parametrize(("name", "how"), [("accuracy", "sum"), ("loss", "sum"), ("mae", "mean"), ("top5", "mean")])
def test_a_metric_without_a_default_needs_bounds(name: str, how: str) -> None:
    manifest = logistic_plan().manifest
    renamed = {"eval": _renamed(manifest.graphs["eval"], name)}
    manifest = msgspec.structs.replace(manifest, graphs={**manifest.graphs, **renamed}, metrics={name: how})
    with pytest.raises(InvalidConfig) as caught:
        resolve_metric_bounds(asked(), manifest)
    assert caught.value.code == "metric_bounds_missing"
    assert resolve_metric_bounds(asked(metric_bounds={name: (-1.0, 2.0)}), manifest)[name] == (-1.0, 2.0)


def _renamed(graph: Any, name: str) -> Any:
    outputs = tuple(port for port in graph.outputs if port.name == "metrics/loss")
    return msgspec.structs.replace(graph, outputs=(msgspec.structs.replace(outputs[0], name=f"metrics/{name}"),))


@pytest.mark.parametrize(
    "changes",
    [
        {"metric_bounds": {"loss": (1.0, 1.0)}},
        {"metric_bounds": {"loss": (2.0, 1.0)}},
        {"metric_bounds": {"loss": (0.0, float("inf"))}},
        {"metric_bounds": {"loss": (float("nan"), 1.0)}},
        {"metric_bounds": {"loss": (0.0, 1e31)}},
        {"metric_bounds": {"loss": (0.0, 1e-31)}},
        {"metric_bounds": {"loss": (0.0, 1.0)}, "privacy": None},
        {"metric_bounds": {"loss": (0.0, 1.0)}, "kind": "train"},
    ],
)
def test_bounds_that_make_no_sense_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidConfig) as caught:
        check_metric_bounds(asked(**changes))
    assert caught.value.code == "invalid_metric_bounds"
