"""The results of cycles in files and experiment trackers: CSV, TensorBoard, MLflow.

`record_cycles` follows a process and records each completed cycle once, also over several runs: a tracker knows from
its own content which cycles it has. MLflow and TensorBoard need the extras ``mlflow`` and ``tensorboard``.
"""

from __future__ import annotations

import contextlib
import csv as csv_files
import hashlib
import io
import json
import os
import re
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from pygrid import codes
from pygrid.client.display.process_tables import seconds
from pygrid.durable import write_atomically
from pygrid.errors import InvalidInput, Unavailable
from pygrid.messages.processes import CycleInfo, EvaluationInfo, Event, ProcessInfo

if TYPE_CHECKING:
    from mlflow import MlflowClient

_OTHER_CHARACTERS = re.compile(r"[^A-Za-z0-9_.\-/]")
_EVALUATION = "evaluation/"
_LENGTH = struct.Struct("<Q")
_FRAME = 16
"""Bytes of a record of TensorBoard in addition to its data: its length, and two checksums."""
_MAX_PARAM = 500
"""Characters of a setting in MLflow."""


class TrackedProcess(Protocol):
    """What is followed: a `Process`."""

    @property
    def name(self) -> str: ...

    def info(self) -> ProcessInfo: ...

    def cycles(self, after: int = 0) -> Sequence[CycleInfo]: ...

    def events(self, after: int = 0) -> Iterator[Event]: ...

    @property
    def evaluations(self) -> Sequence[EvaluationInfo]: ...


class Tracker(Protocol):
    """Records cycles; write your own for another service, and pass it to `Process.log_to`."""

    def last_cycle(self) -> int:
        """The newest cycle that is recorded completely; 0: none."""

    def record(self, cycle: CycleInfo) -> None:
        """Record a completed cycle; cycles come in their order."""

    def close(self, *, finished: bool) -> None:
        """Called at the end; ``finished``: the training is over."""


@runtime_checkable
class EvaluationTracker(Protocol):
    """A tracker that records evaluations, too."""

    def record_evaluation(self, evaluation: EvaluationInfo) -> None:
        """Record the metrics of the checkpoint that a cycle made, unless they are recorded."""


@dataclass(frozen=True)
class Source:
    """The process whose cycles are recorded, for people and as an identity."""

    url: str
    info: ProcessInfo

    @property
    def label(self) -> str:
        return f"{self.info.name} {self.info.version}"

    @property
    def identity(self) -> str:
        return hashlib.sha256(json.dumps([self.url, self.info.id, self.label]).encode()).hexdigest()


def open_trackers(
    source: Source,
    *,
    csv: str | os.PathLike[str] | None = None,
    tensorboard: str | os.PathLike[str] | None = None,
    mlflow: str | None = None,
) -> list[Tracker]:
    """The trackers that are named. Raises as their classes."""
    found: list[Tracker] = []
    if mlflow is not None:
        found.append(MlflowTracker(mlflow, source))
    if csv is not None:
        found.append(CsvTracker(csv, source))
    if tensorboard is not None:
        found.append(TensorBoardTracker(tensorboard, source))
    return found


def record_cycles(process: TrackedProcess, trackers: Sequence[Tracker]) -> Iterator[CycleInfo]:
    """Record each completed cycle in each tracker that does not have it; yield it; end when the training is over.

    Raises:
        InvalidInput: there is no tracker.
        Unavailable: the Domain could not be reached for ten minutes, or a tracker does not answer. What is recorded
            stays, and another call continues after it.
    """
    if not trackers:
        raise InvalidInput("nothing to record in: name a CSV file, a folder for TensorBoard, or an address of MLflow")
    recorded = {id(tracker): tracker.last_cycle() for tracker in trackers}
    last, finished = min(recorded.values()), False
    evaluated: set[int] = set()
    try:
        for event in _changes(process):
            if event is not None and event.kind == "checkpoint_evaluated":
                if event.data["checkpoint"] not in evaluated:
                    evaluated |= _record_evaluations(process, trackers, last)
                continue
            if event is not None and event.cycle <= last:
                continue
            for cycle in process.cycles(after=last):
                if cycle.state != "completed":
                    break
                for tracker in trackers:
                    if cycle.sequence > recorded[id(tracker)]:
                        tracker.record(cycle)
                last = cycle.sequence
                yield cycle
        _record_evaluations(process, trackers, last)
        finished = True
    finally:
        for tracker in trackers:
            tracker.close(finished=finished)


def _record_evaluations(process: TrackedProcess, trackers: Sequence[Tracker], last: int) -> set[int]:
    """Record the evaluations of the models that the cycles up to ``last`` made; returns all evaluated checkpoints."""
    found = process.evaluations
    for evaluation in found:
        for tracker in trackers:
            if 0 < evaluation.cycle <= last and isinstance(tracker, EvaluationTracker):
                tracker.record_evaluation(evaluation)
    return {evaluation.checkpoint for evaluation in found}


def _changes(process: TrackedProcess) -> Iterator[Event | None]:
    """Each completion of a cycle and each evaluation; None at the end of the training."""
    for event in process.events():
        if event.kind in ("cycle_completed", "checkpoint_evaluated"):
            yield event
    yield None


def facts(cycle: CycleInfo) -> dict[str, float]:
    """The numbers of a completed cycle, besides its metrics."""
    found = {
        "num_reports": cycle.num_reports,
        "num_assigned": cycle.num_assigned,
        "num_examples": cycle.num_examples,
        "num_clipped": cycle.num_clipped,
        "bytes_received": cycle.bytes_received,
        "duration_s": seconds(cycle),
    }
    return {name: value for name, value in found.items() if value is not None}


def _named(values: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics or settings by names that files and services take: others choose the names."""
    return {_OTHER_CHARACTERS.sub("_", name)[:200] or "_": value for name, value in values.items()}


def _cycle_metrics(cycle: CycleInfo) -> dict[str, float]:
    """The metrics that devices report; none of them can pass for an evaluation."""
    own = _named(cycle.metrics)
    return {f"metrics/{name}" if name.startswith(_EVALUATION) else name: value for name, value in own.items()}


def _evaluation_metrics(evaluation: EvaluationInfo) -> dict[str, float]:
    """The metrics of an evaluation, by the names that they have next to those of a cycle."""
    return {f"{_EVALUATION}{name}": value for name, value in _named(evaluation.metrics).items()}


def _time_s(cycle: CycleInfo) -> float:
    assert cycle.completed_at is not None
    return cycle.completed_at.timestamp()


class CsvTracker:
    """A row for each cycle in a CSV file, which is replaced as a whole for each new row."""

    def __init__(self, path: str | os.PathLike[str], source: Source) -> None:
        """Read the rows that are there.

        Raises:
            InvalidInput: the file is not one of this process.
        """
        self._path, self._source = Path(path), source
        self._rows: list[dict[str, str]] = []
        self._last = 0
        if self._path.exists():
            self._read()

    def _read(self) -> None:
        try:
            with self._path.open(newline="", encoding="utf-8") as file:
                self._rows = list(csv_files.DictReader(file, strict=True))
            self._last = max((int(row["cycle"]) for row in self._rows), default=0)
            others = {row["process"] for row in self._rows} - {self._source.label}
        except (ValueError, KeyError, TypeError, csv_files.Error) as error:
            raise InvalidInput(
                f"{self._path} is not a CSV file of cycles; choose another name", code=codes.TRACKER_CONTENT
            ) from error
        if others:
            raise InvalidInput(
                f"{self._path} has the cycles of {min(others)!r}, not of {self._source.label!r}; choose another name",
                code=codes.TRACKER_CONTENT,
            )

    def last_cycle(self) -> int:
        return self._last

    def record(self, cycle: CycleInfo) -> None:
        assert cycle.completed_at is not None
        own: dict[str, Any] = {"process": self._source.label, "cycle": cycle.sequence}
        own |= {"completed_at": cycle.completed_at.isoformat(), **facts(cycle)}
        metrics = {f"metrics/{name}" if name in own else name: x for name, x in _cycle_metrics(cycle).items()}
        self._rows.append({name: str(value) for name, value in (own | metrics).items()})
        self._write()
        self._last = cycle.sequence

    def record_evaluation(self, evaluation: EvaluationInfo) -> None:
        metrics = {name: str(value) for name, value in _evaluation_metrics(evaluation).items()}
        for row in self._rows:
            if row["cycle"] == str(evaluation.cycle) and not any(row.get(name) for name in metrics):
                row |= metrics
                self._write()

    def _write(self) -> None:
        columns = list(dict.fromkeys(name for row in self._rows for name in row))
        text = io.StringIO()
        writer = csv_files.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows)
        write_atomically(self._path, text.getvalue().encode(), mode=0o666)

    def close(self, *, finished: bool) -> None: ...


class TensorBoardTracker:
    """Scalars in an event file of ``DIR/NAME-VERSION``; all of a cycle are one record of the file."""

    def __init__(self, folder: str | os.PathLike[str], source: Source) -> None:
        """Read the cycles that are there.

        Raises:
            InvalidInput: tensorboardX is not installed (``tracker_not_installed``).
        """
        with _installed("tensorboardX", "tensorboard"):
            from tensorboardX.event_file_writer import EventsWriter
            from tensorboardX.proto import event_pb2
        self._protocol = event_pb2
        run = _OTHER_CHARACTERS.sub("_", f"{source.info.name}-{source.info.version}").replace("/", "_")
        self._folder = Path(folder) / run.lstrip(".")
        self._folder.mkdir(parents=True, exist_ok=True)
        steps = [(event.step, event.summary.value[0].tag) for event in self._events() if event.summary.value]
        self._evaluated = {step for step, tag in steps if tag.startswith(_EVALUATION)}
        self._last = max((step for step, tag in steps if not tag.startswith(_EVALUATION)), default=0)
        # The library names a file by the second: without a suffix, a second file of this second replaces the first.
        make: Any = EventsWriter
        self._open: Callable[[], Any] = lambda: make(str(self._folder / "events"), f".{time.time_ns()}")
        self._writer: Any = None

    def _events(self) -> Iterator[Any]:
        for path in sorted(self._folder.glob("events.out.tfevents.*")):
            for data in _records(path.read_bytes()):
                event = self._protocol.Event()
                event.ParseFromString(data)
                yield event

    def last_cycle(self) -> int:
        return self._last

    def record(self, cycle: CycleInfo) -> None:
        cycle_facts = {f"cycle/{name}": value for name, value in facts(cycle).items()}
        self._write(_time_s(cycle), cycle.sequence, cycle_facts | _cycle_metrics(cycle) | cycle_facts)
        self._last = cycle.sequence

    def record_evaluation(self, evaluation: EvaluationInfo) -> None:
        if evaluation.cycle not in self._evaluated:
            self._write(evaluation.at.timestamp(), evaluation.cycle, _evaluation_metrics(evaluation))
            self._evaluated.add(evaluation.cycle)

    def _write(self, at_s: float, step: int, scalars: Mapping[str, float]) -> None:
        event = self._protocol.Event(wall_time=at_s, step=step)
        for name, value in scalars.items():
            event.summary.value.add(tag=name, simple_value=value)
        self._writer = self._writer or self._open()
        self._writer.write_event(event)
        self._writer.flush()

    def close(self, *, finished: bool) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _records(data: bytes) -> Iterator[bytes]:
    """The records of an event file; an incomplete last one, after a crash, is left out.

    Source: ``tensorflow/core/lib/io/record_writer.h``: length (uint64), checksum, data, checksum; little-endian.
    """
    position = 0
    while position + _FRAME <= len(data):
        (size,) = _LENGTH.unpack_from(data, position)
        if position + _FRAME + size > len(data):
            return
        yield data[position + 12 : position + 12 + size]
        position += _FRAME + size


class MlflowTracker:
    """A run of MLflow for the process, found again by a tag; the metrics of a cycle are one request."""

    def __init__(self, uri: str, source: Source) -> None:
        """Find the run of this process, or make it in the experiment MLFLOW_EXPERIMENT_NAME (default: pygrid).

        Raises:
            InvalidInput: mlflow-skinny is not installed (``tracker_not_installed``).
            Unavailable: MLflow does not answer, or refuses (``tracker_unavailable``).
        """
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        with _installed("mlflow-skinny", "mlflow"):
            from mlflow import MlflowClient
        self._uri = uri
        with self._answers():
            self._client = MlflowClient(tracking_uri=uri)
            self._run_id = _find_run(self._client, source) or _make_run(self._client, source)
            self._last = self._newest_step()
        self._starts = True
        self._evaluated: dict[str, set[int]] = {}
        """Steps of each metric of evaluations that are recorded."""

    def _newest_step(self) -> int:
        """The newest step of the metric that is sent last of each cycle."""
        history = self._client.get_metric_history(self._run_id, "cycle/num_reports")
        return max((metric.step for metric in history), default=0)

    @contextlib.contextmanager
    def _answers(self) -> Iterator[None]:
        from mlflow.exceptions import MlflowException

        try:
            yield
        except MlflowException as error:
            raise Unavailable(
                f"MLflow at {self._uri} refuses or does not answer: {str(error)[:300]}. Start again later: recording "
                "continues after the last recorded cycle",
                code=codes.TRACKER_UNAVAILABLE,
            ) from error

    def last_cycle(self) -> int:
        return self._last

    def record(self, cycle: CycleInfo) -> None:
        from mlflow.entities import Metric

        own = {f"cycle/{name}": value for name, value in reversed(facts(cycle).items())}
        numbers = {**_cycle_metrics(cycle), **own}
        at_ms = int(_time_s(cycle) * 1000)
        with self._answers():
            known = self._known(numbers, cycle.sequence) if self._starts else frozenset[str]()
            self._client.log_batch(
                self._run_id,
                metrics=[Metric(k, float(v), at_ms, cycle.sequence) for k, v in numbers.items() if k not in known],
            )
        self._last, self._starts = cycle.sequence, False

    def record_evaluation(self, evaluation: EvaluationInfo) -> None:
        from mlflow.entities import Metric

        numbers = _evaluation_metrics(evaluation)
        at_ms = int(evaluation.at.timestamp() * 1000)
        with self._answers():
            for name in numbers.keys() - self._evaluated.keys():
                history = self._client.get_metric_history(self._run_id, name)
                self._evaluated[name] = {metric.step for metric in history}
            new = [name for name in numbers if evaluation.cycle not in self._evaluated[name]]
            metrics = [Metric(name, float(numbers[name]), at_ms, evaluation.cycle) for name in new]
            if metrics:
                self._client.log_batch(self._run_id, metrics=metrics)
        for name in new:
            self._evaluated[name].add(evaluation.cycle)

    def _known(self, names: Iterable[str], step: int) -> frozenset[str]:
        """The metrics of a cycle that arrived before an earlier recording was interrupted."""
        return frozenset(
            name
            for name in names
            if any(metric.step == step for metric in self._client.get_metric_history(self._run_id, name))
        )

    def close(self, *, finished: bool) -> None:
        if finished:
            with self._answers():
                self._client.set_terminated(self._run_id)


def _find_run(client: MlflowClient, source: Source) -> str | None:
    """The id of the run that an earlier recording of this process made."""
    experiment = client.get_experiment_by_name(_experiment_name())
    if experiment is None:
        return None
    runs = client.search_runs([experiment.experiment_id], f"tags.`pygrid.identity` = '{source.identity}'")
    return str(runs[0].info.run_id) if runs else None


def _make_run(client: MlflowClient, source: Source) -> str:
    from mlflow.entities import Param

    info, name = source.info, _experiment_name()
    experiment = client.get_experiment_by_name(name)
    experiment_id = client.create_experiment(name) if experiment is None else experiment.experiment_id
    tags = {"pygrid.identity": source.identity, "pygrid.url": source.url, "pygrid.process": source.label}
    run_id = str(client.create_run(experiment_id, tags=tags, run_name=source.label).info.run_id)
    settings = {f"client.{k}": v for k, v in info.client_config.items()}
    settings |= {f"server.{k}": v for k, v in info.server_config.items()}
    params = [Param(name, json.dumps(value)[:_MAX_PARAM]) for name, value in _named(settings).items()]
    client.log_batch(run_id, params=params[:100])
    return run_id


def _experiment_name() -> str:
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or "pygrid"


@contextlib.contextmanager
def _installed(package: str, extra: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise InvalidInput(
            f"this needs {package}, which is not installed: pip install 'pygrid[{extra}]'",
            code=codes.TRACKER_NOT_INSTALLED,
        ) from error
