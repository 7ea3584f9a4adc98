"""A model that answers for each record, as the trusted runner has it answer, and what the Domain takes for its answers.

Should happen: batches of any size give the same rows in the order of the records; columns become the dtypes of the
inputs. Should not happen: a model that gives something else than the gate foretold; a result with other arrays than
were asked for.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pygrid.compute.results import find_fault
from pygrid.compute.runtime.execute import run
from pygrid.compute.runtime.inputs import MappedColumns
from pygrid.core.job_spec import ColumnRef, JobSpec, Progress, check_spec
from pygrid.errors import InvalidInput, InvalidPlan
from pygrid.plans.manifest import BATCH, Port
from pygrid.tensors import decode, encode
from support.plans.models import WEIGHT, linear, lookup

X = np.random.default_rng(0).standard_normal((10, 4)).astype(np.float32)


def spec(column: npt.NDArray[Any] = X, **changes: Any) -> JobSpec:
    values: dict[str, Any] = {
        "id": "job",
        "kind": "predict",
        "columns": {"features": ColumnRef("", column.dtype.name, column.shape[1:], len(column))},  # type: ignore[arg-type]
        "model_path": "model",
        "binding": {"x": "features"},
        "inputs": (Port("x", "float32", (BATCH, 4)),),
        "outputs": (Port("y", "float32", (BATCH, 3)),),
        "batch_size": 4,
    }
    return JobSpec(**{**values, **changes})


def answers(
    job: JobSpec, column: npt.NDArray[Any] = X, model: bytes | None = None
) -> tuple[dict[str, Any], list[Progress]]:
    told: list[Progress] = []
    inputs = MappedColumns({"features": column}, b"", linear() if model is None else model)
    outcome, payload = run(job, inputs, told.append, started=time.monotonic())
    assert outcome.failure is None
    assert find_fault(job, payload) is None
    return dict(decode(payload)[0]), told


@pytest.mark.parametrize("batch_size", [1, 3, 4, 10, 64])
def test_rows_are_in_the_order_of_the_records(batch_size: int) -> None:
    found, told = answers(spec(batch_size=batch_size))
    np.testing.assert_allclose(found["y"], X @ WEIGHT, rtol=1e-5)
    assert [progress.done for progress in told][-1:] == [10]
    assert len(told) == -(-10 // batch_size)


@pytest.mark.parametrize("dtype", ["float64", "uint8", "int32", "int64", "bool"])
def test_columns_become_what_the_input_takes(dtype: str) -> None:
    column = (np.arange(40).reshape(10, 4) % 2).astype(dtype)
    found, _ = answers(spec(column), column)
    np.testing.assert_allclose(found["y"], column.astype(np.float32) @ WEIGHT, rtol=1e-5)
    assert found["y"].dtype == np.float32


def test_a_dataset_without_records() -> None:
    found, told = answers(spec(X[:0]), X[:0])
    assert found["y"].shape == (0, 3)
    assert told == []


def test_what_is_not_a_number_may_leave() -> None:
    column = np.full((2, 4), np.nan, np.float32)
    assert np.isnan(answers(spec(column), column)[0]["y"]).all()


@pytest.mark.parametrize("outputs", [(Port("y", "float32", (BATCH, 2)),), (Port("y", "int64", (BATCH, 3)),)])
def test_a_model_that_gives_something_else_than_was_foretold(outputs: tuple[Port, ...]) -> None:
    with pytest.raises(InvalidPlan) as caught:
        answers(spec(outputs=outputs))
    assert caught.value.code == "model_output"


@pytest.mark.parametrize("column", [X[:, :3], X.astype(np.complex64)])
def test_a_column_that_does_not_fit(column: npt.NDArray[Any]) -> None:
    with pytest.raises(InvalidInput) as caught:
        answers(spec(), column)
    assert caught.value.code == "invalid_job"


def test_a_model_that_fails_on_a_record() -> None:
    column = np.array([0, 1, 99])
    job = spec(column, inputs=(Port("token", "int64", (BATCH,)),), binding={"token": "features"})
    with pytest.raises(InvalidPlan) as caught:
        answers(job, column, lookup())
    assert caught.value.code == "plan_run_failed"


@pytest.mark.parametrize(
    "payload",
    [
        b"{}",
        encode({}),
        encode({"y": np.zeros((9, 3), np.float32)}),
        encode({"y": np.zeros((10, 3))}),
        encode({"z": np.zeros((10, 3), np.float32)}),
        encode({"y": np.zeros((10, 3), np.float32), "more": np.zeros(1, np.float32)}),
        encode({"y": np.zeros((10, 3), np.float32)}, {"more": "a message"}),
    ],
)
def test_a_worker_that_gives_something_else_is_not_believed(payload: bytes) -> None:
    fault = find_fault(spec(), payload)
    assert fault is not None
    assert fault.kind == "crashed"


@pytest.mark.parametrize(
    "changes",
    [
        {"model_path": ""},
        {"inputs": ()},
        {"outputs": ()},
        {"binding": {}},
        {"binding": {"x": "features", "z": "features"}},
    ],
)
def test_specifications_that_no_worker_could_run(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_spec(spec(**changes))
    assert caught.value.code == "invalid_job"


def test_the_file_of_a_column_may_be_longer_than_what_is_asked_for(tmp_path: Path) -> None:
    from pygrid.compute.runtime.inputs import open_inputs

    X.tofile(tmp_path / "0.bin")
    (tmp_path / "model").write_bytes(linear())
    first = ColumnRef(str(tmp_path / "0.bin"), "float32", (4,), 3)
    job = spec(columns={"features": first}, model_path=str(tmp_path / "model"))
    outcome, payload = run(job, open_inputs(job), lambda progress: None, started=time.monotonic())
    np.testing.assert_allclose(decode(payload)[0]["y"], X[:3] @ WEIGHT, rtol=1e-5)
    assert (outcome.facts.num_records, outcome.facts.bytes_in) == (3, 48)
