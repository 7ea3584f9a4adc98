"""The cycles of a process in a CSV file, in TensorBoard and in MLflow, by the libraries' own clients.

Should happen: each completed cycle is recorded once in each tracker, in order, also if recording begins late, is
interrupted in the middle of a cycle, or runs again after the end. Should not happen: cycles of two processes in one
file, names of metrics that become formulas or paths, a missing library that is not named.
"""

from __future__ import annotations

import csv
import datetime as dt
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from test_training_view import T0
from test_training_view import process as some_process

from pygrid.client.trackers import CsvTracker, MlflowTracker, Source, TensorBoardTracker, Tracker, record_cycles
from pygrid.errors import InvalidInput, PygridError, Unavailable
from pygrid.messages.processes import CycleInfo, EvaluationInfo, Event, ProcessInfo

FACTS = ["num_reports", "num_assigned", "num_examples", "num_clipped", "bytes_received", "duration_s"]


def cycle(number: int, **metrics: float) -> CycleInfo:
    done = T0 + dt.timedelta(minutes=number)
    return CycleInfo(
        number, "completed", 1, number, 5, 4, 100, 1, 4000, {"loss": 1 / number, **metrics}, T0, T0, None, done
    )


def evaluation(checkpoint: int, of_cycle: int) -> EvaluationInfo:
    return EvaluationInfo(checkpoint, of_cycle, "owner", {"loss": 1 / checkpoint}, T0)


class Lost(Exception):
    """The connection is lost, or the machine goes down."""


class Training:
    """A process whose cycles complete while it is followed."""

    def __init__(self, *cycles: CycleInfo, info: ProcessInfo | None = None) -> None:
        self.all, self.num_seen = list(cycles), 0
        self.evaluations: list[EvaluationInfo] = []
        self._info = info or some_process(None)
        self.name = self._info.name

    def info(self) -> ProcessInfo:
        return self._info

    def cycles(self, after: int = 0) -> list[CycleInfo]:
        found = [one for one in self.all[: self.num_seen] if one.sequence > after]
        return [*found, msgspec.structs.replace(cycle(self.num_seen + 1), state="open")]

    def events(self, after: int = 0) -> Iterator[Event]:
        for one in self.all:
            self.num_seen = max(self.num_seen, one.sequence)
            yield Event(2 * one.sequence, "cycle_opened", T0, one.sequence, {})
            yield Event(2 * one.sequence + 1, "cycle_completed", T0, one.sequence, {})
            if any(evaluation.cycle == one.sequence for evaluation in self.evaluations):
                yield Event(
                    100 + one.sequence, "checkpoint_evaluated", T0, one.sequence, {"checkpoint": one.sequence + 1}
                )


def source(info: ProcessInfo | None = None, url: str = "http://a.example") -> Source:
    return Source(url, info or some_process(None))


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows, read with the protocol of tensorboardX."""
    from tensorboardX.proto.event_pb2 import Event as Record

    found: dict[str, list[tuple[int, float]]] = {}
    for path in sorted(folder.glob("*/events.out.tfevents.*")):
        data, position = path.read_bytes(), 0
        while position + 16 <= len(data):
            size = int.from_bytes(data[position : position + 8], "little")
            if position + 16 + size > len(data):
                break
            record = Record.FromString(data[position + 12 : position + 12 + size])
            for value in record.summary.value:
                found.setdefault(value.tag, []).append((record.step, round(value.simple_value, 4)))
            position += 16 + size
    return found


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    return f"file://{tmp_path / 'mlruns'}"


def runs(uri: str) -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("pygrid")
    return list(client.search_runs([experiment.experiment_id])) if experiment else []


def history(uri: str, run: Any, name: str) -> list[tuple[int, float]]:
    from mlflow import MlflowClient

    return [
        (m.step, round(m.value, 4)) for m in MlflowClient(tracking_uri=uri).get_metric_history(run.info.run_id, name)
    ]


@pytest.fixture(params=["csv", "tensorboard", "mlflow"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Callable[[], Tracker], Callable[[], Any]]:
    """Makes a tracker, and reads (cycle, loss) of what is recorded."""
    if request.param == "csv":
        path = tmp_path / "cycles.csv"
        return lambda: CsvTracker(path, source()), lambda: [
            (int(row["cycle"]), round(float(row["loss"]), 4)) for row in (rows(path) if path.exists() else [])
        ]
    if request.param == "tensorboard":
        pytest.importorskip("tensorboardX")
        return lambda: TensorBoardTracker(tmp_path, source()), lambda: scalars(tmp_path).get("loss", [])
    uri = request.getfixturevalue("store")
    return lambda: MlflowTracker(uri, source()), lambda: [x for run in runs(uri) for x in history(uri, run, "loss")]


def expected(number: int) -> list[tuple[int, float]]:
    return [(k, round(1 / k, 4)) for k in range(1, number + 1)]


def test_each_cycle_is_recorded_once(make: Any) -> None:
    tracker, recorded = make
    training = Training(*(cycle(k) for k in range(1, 5)))
    assert [one.sequence for one in record_cycles(training, [tracker()])] == [1, 2, 3, 4]
    assert recorded() == expected(4)
    # Again, after the end: nothing is new.
    assert list(record_cycles(training, [tracker()])) == []
    assert recorded() == expected(4)


def test_recording_continues_after_an_interruption(make: Any) -> None:
    tracker, recorded = make
    training = Training(*(cycle(k) for k in range(1, 7)))
    for number in (2, 3):
        following = record_cycles(training, [tracker()])
        for _ in range(number):
            next(following)
        following.close()
    assert recorded() == expected(5)
    assert [one.sequence for one in record_cycles(training, [tracker()])] == [6]
    assert recorded() == expected(6)


def test_recording_may_begin_late(make: Any) -> None:
    tracker, recorded = make
    training = Training(*(cycle(k) for k in range(1, 5)))
    training.num_seen = 3
    list(record_cycles(training, [tracker()]))
    assert recorded() == expected(4)


def test_evaluations_are_recorded_once_next_to_their_cycle(tmp_path: Path, store: str) -> None:
    """With a metric of a device that pretends to be an evaluation."""
    pytest.importorskip("tensorboardX")
    training = Training(cycle(1), cycle(2, **{"evaluation/loss": 0.001}), cycle(3))
    training.evaluations = [evaluation(1, 0), evaluation(2, 1), evaluation(4, 3)]

    def trackers() -> list[Tracker]:
        return [
            CsvTracker(tmp_path / "a.csv", source()),
            TensorBoardTracker(tmp_path, source()),
            MlflowTracker(store, source()),
        ]

    following = record_cycles(training, trackers())
    next(following)
    next(following)
    following.close()
    training.evaluations.insert(2, evaluation(3, 2))  # computed while nothing was recorded
    for _ in range(2):
        list(record_cycles(training, trackers()))
    expected = [(1, 0.5), (2, 0.3333), (3, 0.25)]
    assert [
        (int(row["cycle"]), round(float(row["evaluation/loss"]), 4)) for row in rows(tmp_path / "a.csv")
    ] == expected
    assert sorted(scalars(tmp_path)["evaluation/loss"]) == expected
    (run,) = runs(store)
    assert sorted(history(store, run, "evaluation/loss")) == expected
    assert scalars(tmp_path)["metrics/evaluation/loss"] == [(2, 0.001)]
    assert len(scalars(tmp_path)["loss"]) == 3


def test_several_trackers_each_continue_where_they_are(tmp_path: Path) -> None:
    training = Training(*(cycle(k) for k in range(1, 4)))
    list(record_cycles(Training(*training.all[:2]), [CsvTracker(tmp_path / "a.csv", source())]))
    list(record_cycles(training, [CsvTracker(tmp_path / name, source()) for name in ("a.csv", "b.csv")]))
    for name in ("a.csv", "b.csv"):
        assert [row["cycle"] for row in rows(tmp_path / name)] == ["1", "2", "3"]


def test_a_csv_file_has_all_facts_and_later_metrics(tmp_path: Path) -> None:
    path = tmp_path / "cycles.csv"
    training = Training(cycle(1), cycle(2, accuracy=0.5, **{"=cmd|' /C calc'!A0": 1.0, "cycle": 7.0}))
    list(record_cycles(training, [CsvTracker(path, source())]))
    first, second = rows(path)
    assert list(first)[:3] == ["process", "cycle", "completed_at"]
    assert set(FACTS) < set(first)
    assert (first["num_reports"], first["duration_s"], first["accuracy"]) == ("4", "60.0", "")
    assert (second["accuracy"], second["metrics/cycle"]) == ("0.5", "7.0")
    assert not [name for name in first if name[0] in "=+-@"]


def test_a_file_of_something_else_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "cycles.csv"
    list(record_cycles(Training(cycle(1)), [CsvTracker(path, source())]))
    other = msgspec.structs.replace(some_process(None), name="other")
    for content in (path.read_bytes(), b"a,b\n1,2\n", b"\x00\xff\xfe", b'process,cycle\n"x'):
        path.write_bytes(content)
        with pytest.raises(InvalidInput, match="choose another name"):
            CsvTracker(path, source(other))
        assert path.read_bytes() == content


def test_a_torn_record_of_tensorboard_is_recorded_again(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    training = Training(*(cycle(k) for k in range(1, 4)))
    list(record_cycles(training, [TensorBoardTracker(tmp_path, source())]))
    (path,) = tmp_path.glob("*/events.out.tfevents.*")
    path.write_bytes(path.read_bytes()[:-5])
    assert [one.sequence for one in record_cycles(training, [TensorBoardTracker(tmp_path, source())])] == [3]
    found = scalars(tmp_path)
    assert found["loss"] == expected(3)
    assert found["cycle/num_reports"] == [(1, 4.0), (2, 4.0), (3, 4.0)]


def test_names_of_processes_and_metrics_stay_in_the_folder(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    odd = msgspec.structs.replace(some_process(None), name="../../x", version="1/..")
    list(record_cycles(Training(cycle(1)), [TensorBoardTracker(tmp_path / "logs", source(odd))]))
    (path,) = tmp_path.rglob("events.out*")
    assert path.is_relative_to(tmp_path / "logs")


def test_a_run_of_mlflow_has_settings_and_an_end(store: str) -> None:
    info = msgspec.structs.replace(some_process(None), server_config={"max_diffs": 4}, client_config={"lr": 0.1})
    tracker = MlflowTracker(store, source(info))
    list(record_cycles(Training(cycle(1), cycle(2)), [tracker]))
    (run,) = runs(store)
    assert run.info.status == "FINISHED"
    assert run.data.tags["pygrid.process"] == source().label
    assert run.data.params == {"client.lr": "0.1", "server.max_diffs": "4"}
    assert history(store, run, "cycle/num_examples") == [(1, 100.0), (2, 100.0)]
    # Another process, or another Domain, has a run of its own.
    list(record_cycles(Training(cycle(1)), [MlflowTracker(store, source(url="http://b.example"))]))
    assert len(runs(store)) == 2


def test_a_half_recorded_cycle_of_mlflow_is_completed(store: str) -> None:
    from mlflow import MlflowClient

    list(record_cycles(Training(cycle(1)), [MlflowTracker(store, source())]))
    (run,) = runs(store)
    MlflowClient(tracking_uri=store).log_metric(run.info.run_id, "loss", 0.5, step=2)
    list(record_cycles(Training(cycle(1), cycle(2)), [MlflowTracker(store, source())]))
    assert history(store, run, "loss") == expected(2)
    assert history(store, run, "cycle/num_reports") == [(1, 4.0), (2, 4.0)]


def test_an_mlflow_that_is_away_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    with pytest.raises(Unavailable, match=r"MLflow at http://127\.0\.0\.1:9") as caught:
        MlflowTracker("http://127.0.0.1:9", source())
    assert caught.value.code == "tracker_unavailable"


@pytest.mark.parametrize(
    ("tracker", "module", "extra"),
    [(TensorBoardTracker, "tensorboardX", "tensorboard"), (MlflowTracker, "mlflow", "mlflow")],
)
def test_a_missing_library_is_named(
    tracker: Any, module: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(PygridError, match=rf"pip install 'pygrid\[{extra}\]'") as caught:
        tracker(str(tmp_path), source())
    assert caught.value.code == "tracker_not_installed"
