"""A hosted process, as its owner uses it."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar, Unpack, overload

import msgspec

from pygrid import codes
from pygrid.client.display.process_tables import CheckpointTable, ContributionTable, CyclesTable, EvaluationTable
from pygrid.client.display.tables import html_facts, html_or_error
from pygrid.client.display.training_view import watch
from pygrid.client.downloads import read_checked, write_checked
from pygrid.client.evaluation import Evaluate, Evaluator, best_checkpoint, early_stop
from pygrid.client.events import FollowTimings, parse_events
from pygrid.client.hosting import PlanSource, load_plan
from pygrid.client.models import HostedModel, ServingOptions, serve_model
from pygrid.client.trackers import Source, Tracker, open_trackers, record_cycles
from pygrid.configuration.evaluation import EarlyStop
from pygrid.durable import write_atomically
from pygrid.errors import Conflict, InvalidInput, NotFound, Unavailable
from pygrid.messages.processes import (
    CheckpointInfo,
    ContributionList,
    CycleInfo,
    EvaluationInfo,
    EvaluationList,
    EvaluationRequest,
    Event,
    ProcessInfo,
)
from pygrid.plans import MAX_PLAN_BYTES, Plan
from pygrid.tensors import Params, decode
from pygrid.transport import Api, Request
from pygrid.transport.base import BytesBody

if TYPE_CHECKING:
    from pygrid.plans.batches import Data

Model = TypeVar("Model")
_PAGE = 100
_LONG_PAGE = 1000
_MAX_ANSWER_BYTES = 64 * 1024


class _Cycles(msgspec.Struct):
    cycles: list[CycleInfo]


class _Checkpoints(msgspec.Struct):
    checkpoints: list[CheckpointInfo]


class Process:
    """A process on a Domain; `DomainClient.host` and `DomainClient.process` return one."""

    timings: ClassVar = FollowTimings()

    def __init__(self, api: Api, info: ProcessInfo) -> None:
        self._api = api
        self.id = info.id
        self.name = info.name
        self.version = info.version

    @property
    def _path(self) -> str:
        return f"/model-centric/processes/{self.id}"

    def info(self) -> ProcessInfo:
        """The process as it is now: state, configuration, plans, newest cycle."""
        return self._api.get(self._path, ProcessInfo)

    def cycles(self, after: int = 0) -> CyclesTable:
        """All cycles with a sequence number above ``after``, oldest first, with their results."""
        found = CyclesTable()
        while True:
            position = found[-1].sequence if found else after
            query = {"after": str(position), "limit": str(_PAGE)}
            page = self._api.get(f"{self._path}/cycles", _Cycles, query=query).cycles
            found += page
            if len(page) < _PAGE:
                return found

    def contributions(self, after: int = 0) -> ContributionTable:
        """The accepted reports with an id above ``after``, with their cycles and clients (``""``: without a name).

        Raises:
            Forbidden: you may not see the reports of this process.
        """
        found = ContributionTable()
        while True:
            query = {"after": str(found[-1].id if found else after), "limit": str(_LONG_PAGE)}
            page = self._api.get(f"{self._path}/contributions", ContributionList, query=query).contributions
            found += page
            if len(page) < _LONG_PAGE:
                return found

    def checkpoints(self) -> CheckpointTable:
        """All checkpoints of the model, oldest first; number 1 is the hosted model."""
        return CheckpointTable(self._api.get(f"{self._path}/checkpoints", _Checkpoints).checkpoints)

    @property
    def evaluations(self) -> EvaluationTable:
        """The metrics of checkpoints on held-out data, in the order of the checkpoints; `watch` stores them."""
        found = EvaluationTable()
        while True:
            query = {"after": str(found[-1].checkpoint if found else 0), "limit": str(_LONG_PAGE)}
            page = self._api.get(f"{self._path}/evaluations", EvaluationList, query=query).evaluations
            found += page
            if len(page) < _LONG_PAGE:
                return found

    def record_evaluation(self, checkpoint: int, metrics: Mapping[str, float]) -> EvaluationInfo:
        """Store the metrics of a checkpoint that you computed; they replace earlier ones.

        Raises:
            NotFound: ``checkpoint_not_found``. Forbidden: you do not manage the process.
            InvalidInput: a name or a number is not valid. Nothing was changed.
        """
        body = BytesBody(msgspec.json.encode(EvaluationRequest(dict(metrics))))
        path, headers = f"{self._path}/evaluations/{checkpoint}", {"Content-Type": "application/json"}
        request = Request("PUT", path, headers=headers, body=body)
        answer = self._api.exchange(request, lambda response: response.read(_MAX_ANSWER_BYTES), idempotent=True)
        return msgspec.json.decode(answer, type=EvaluationInfo)

    def best(self, metric: str = "loss", mode: Literal["min", "max"] | None = None) -> int:
        """The number of the checkpoint whose evaluation has the best value of a metric; of equal ones, the first.

        Args:
            mode: None: the largest value for accuracy and similar metrics, else the smallest.
        Raises:
            NotFound: no evaluation has the metric (``evaluation_not_found``).
        """
        return best_checkpoint(self.evaluations, metric, mode)

    def model(self, *, best: bool = False, metric: str = "loss", mode: Literal["min", "max"] | None = None) -> Params:
        """The newest model, or the one of the best checkpoint. Raises: as `best` and `download`."""
        return self.download(self.best(metric, mode) if best else "latest")

    def download(self, checkpoint: int | str = "latest", path: str | os.PathLike[str] | None = None) -> Params:
        """The model as it is now, or as it was at a checkpoint.

        Args:
            checkpoint: its number, ``latest``, or ``best``: the evaluated one with the smallest loss, or with the best
                metric of the early stopping on the Domain.
            path: also write the safetensors file there, completely or not at all; the arrays are mapped from it.
        Raises:
            NotFound: there is no such checkpoint (``checkpoint_not_found``), or none was evaluated
                (``evaluation_not_found``).
        """
        query = {"name": self.name, "version": self.version, "checkpoint": str(checkpoint)}
        request = Request("GET", "/model-centric/retrieve-model", query)
        if path is None:
            return decode(read_checked(self._api, request))[0]
        target = write_checked(self._api, request, path)
        with target.open("rb") as file:
            return decode(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))[0]

    def load_into(self, model: Model, checkpoint: int | str = "latest") -> Model:
        """The same PyTorch model, with the trained parameters and buffers copied into it; see `pygrid.load_into`.

        Raises:
            ShapeMismatch: the model is not the one that was hosted; the message lists names and shapes. It did not
                change. NotFound: there is no such checkpoint. AuthoringError: PyTorch is not installed
                (``torch_missing``).
        """
        from pygrid.plans.authoring import load_into

        load_into(model, self.download(checkpoint))
        return model

    @overload
    def export_onnx(
        self, path: None = None, *, checkpoint: int | str = "latest", plan: PlanSource | None = None
    ) -> bytes: ...
    @overload
    def export_onnx(
        self, path: str | os.PathLike[str], *, checkpoint: int | str = "latest", plan: PlanSource | None = None
    ) -> Path: ...
    def export_onnx(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        checkpoint: int | str = "latest",
        plan: PlanSource | None = None,
    ) -> bytes | Path:
        """The ONNX file that predicts as the trained model does in evaluation mode; or its path, after it was written.

        Its inputs have the names of the plan's data; its outputs are what the model returns (``output``). PyTorch is
        not needed.

        Args:
            plan: a plan with a graph for predictions; None: the training plan of the process.
        Raises:
            InvalidPlan: the plan has no graph for predictions (``plan_graph_missing``).
            NotFound: there is no such checkpoint.
        """
        from pygrid.plans import export_onnx

        chosen = self.plan() if plan is None else load_plan(plan)
        data = export_onnx(chosen, self.download(checkpoint))
        if path is None:
            return data
        write_atomically(Path(path), data, mode=0o666, sync=False)
        return Path(path)

    def serve(
        self,
        model_id: str | None = None,
        *,
        checkpoint: int | str = "latest",
        plan: PlanSource | None = None,
        **options: Unpack[ServingOptions],
    ) -> HostedModel:
        """Serve the trained model at the Domain of the process; predictions are what `export_onnx` computes.

        A later checkpoint needs another id, or the deletion of the served model.

        Args:
            model_id: an id that the Domain does not have; None: the name of the process.
            plan: as for `export_onnx`.
            options: as for `DomainClient.serve`, for example ``allow_remote_inference=True``.
        Raises:
            As `export_onnx` and `DomainClient.serve`.
        """
        onnx = self.export_onnx(checkpoint=checkpoint, plan=plan)
        return serve_model(self._api, model_id or self.name, onnx, options)

    def plan(self, name: str | None = None) -> Plan:
        """A hosted plan of the process; None: ``training_plan``, or the only training plan.

        Raises:
            NotFound: the process has no such plan (``plan_not_found``).
            Conflict: it is a plan of PySyft 0.2 (``process_not_native``).
        """
        plans = self.info().plans
        training = [plan for plan in plans if plan.kind.startswith("training")]
        wanted = name or ("training_plan" if len(training) != 1 else training[0].name)
        for plan in plans:
            if plan.name == wanted:
                if plan.kind.endswith("_2020"):
                    text = f"plan {wanted!r} of process {self.name!r} is a plan of PySyft 0.2, which has no ONNX graph"
                    raise Conflict(text, code=codes.PROCESS_NOT_NATIVE, name=self.name)
                request = Request("GET", f"{self._path}/plans/{plan.id}")
                return Plan.from_bytes(self._api.exchange(request, lambda response: response.read(MAX_PLAN_BYTES)))
        there = ", ".join(plan.name for plan in plans)
        raise NotFound(f"process {self.name!r} has no plan {wanted!r}; it has: {there}", code=codes.PLAN_NOT_FOUND)

    def evaluate(
        self, data: Data, *, plan: PlanSource | None = None, checkpoint: int | str = "latest", batch_size: int = 256
    ) -> dict[str, float]:
        """The metrics of the model on local data, computed here.

        Args:
            data: arrays by the name of the plan's data port; or an iterable of such batches.
            plan: a plan with an ``eval`` graph; None: the training plan of the process.
        """
        from pygrid.plans import Runner

        chosen = self.plan() if plan is None else load_plan(plan)
        return Runner(chosen).evaluate(self.download(checkpoint), data, batch_size=batch_size)

    def log_to(
        self,
        *trackers: Tracker,
        csv: str | os.PathLike[str] | None = None,
        tensorboard: str | os.PathLike[str] | None = None,
        mlflow: str | None = None,
    ) -> int:
        """Record the metrics of each completed cycle until the training is over; return how many cycles were recorded.

        Each cycle is recorded once: a call after an interruption continues with the next one. An interrupt (Ctrl-C)
        ends the recording, not the training.

        Args:
            trackers: objects of your own, see `pygrid.client.trackers.Tracker`.
            csv: path of a CSV file, with a row for each cycle.
            tensorboard: folder for event files; needs ``pip install 'pygrid[tensorboard]'``.
            mlflow: address of an MLflow server or store; needs ``pip install 'pygrid[mlflow]'``.
        Raises:
            InvalidInput: no tracker was named; a library is missing (``tracker_not_installed``); or the CSV file has
                other content (``tracker_content``).
            Unavailable: MLflow does not answer (``tracker_unavailable``), or the Domain was away for ten minutes. What
                was recorded stays.
        """
        found = open_trackers(Source(self._api.url, self.info()), csv=csv, tensorboard=tensorboard, mlflow=mlflow)
        return sum(1 for _ in record_cycles(self, [*trackers, *found]))

    def finish(self) -> ProcessInfo:
        """End the training: an open cycle with reports is completed, and no further cycle opens."""
        return self._api.post(f"{self._path}/finish", ProcessInfo, once=True)

    def pause(self) -> ProcessInfo:
        """Admit no devices until `resume`. Devices that train at present can report.

        Raises:
            Forbidden: another user hosts it (``not_your_process``). Conflict: training is over (``process_finished``).
        """
        return self._api.post(f"{self._path}/pause", ProcessInfo, once=True)

    def resume(self) -> ProcessInfo:
        """End a pause; devices that wait are admitted at once. Raises as `pause`."""
        return self._api.post(f"{self._path}/resume", ProcessInfo, once=True)

    def delete(self) -> None:
        """Finish the training, and delete the process with its plans, checkpoints and cycles. Its name is free again.

        Raises:
            Forbidden: another user hosts it (``not_your_process``). Nothing was changed.
        """
        if self.info().state != "finished":
            self.finish()
        self._api.exchange(Request("DELETE", self._path), lambda response: response.read(1024), idempotent=False)

    def restore(self, checkpoint: int) -> ProcessInfo:
        """Continue from an earlier checkpoint: it becomes the newest one, and the open cycle starts from it.

        Reports of the open cycle stay and count; devices that train at present start again.

        Raises:
            NotFound: ``checkpoint_not_found``. Conflict: ``process_finished``. Unavailable: that checkpoint is damaged
                as well (``blob_damaged``). Nothing was changed.
        """
        return self._api.post(f"{self._path}/restore", ProcessInfo, json={"checkpoint": checkpoint}, once=True)

    def wait(self, num_cycles: int | None = None, *, timeout_s: float | None = None) -> ProcessInfo:
        """Wait until ``num_cycles`` cycles are completed, or training is over, and return the process as it is then.

        Raises:
            Unavailable: ``timeout_s`` has passed (``wait_timeout``); training continues.
        """
        if num_cycles is not None and num_cycles < 1:
            raise InvalidInput(f"num_cycles is {num_cycles}; it must be at least 1, or None to wait for the end")
        give_up_at = time.monotonic() + (float("inf") if timeout_s is None else timeout_s)
        while True:
            info = self.info()
            # Checkpoint 1 is the model that was hosted; each completed cycle adds one.
            if info.state == "finished" or (num_cycles is not None and info.num_checkpoints > num_cycles):
                return info
            if time.monotonic() >= give_up_at:
                raise Unavailable(
                    f"after {timeout_s} s process {self.name!r} has completed {info.num_checkpoints - 1} cycles; "
                    "training continues",
                    code=codes.WAIT_TIMEOUT,
                )
            time.sleep(self.timings.poll_s)

    def events(self, after: int = 0) -> Iterator[Event]:
        """The past events of the process, then each new one, until training is over.

        After a lost connection, the stream continues with the next event.

        Args:
            after: id of an event; only later events are yielded. 0: all events.
        Raises:
            Unavailable: the Domain could not be reached for ten minutes.
        """
        last_seen = time.monotonic()
        while True:
            told_all = False
            try:
                for event in self._stream(after):
                    if event is not None:
                        after = event.id
                        yield event
                        if event.kind == "process_finished":
                            return
                    last_seen = time.monotonic()
                told_all = self.info().state == "finished"
            except Unavailable:
                if time.monotonic() - last_seen > self.timings.patience_s:
                    raise
            if told_all:
                return
            time.sleep(self.timings.poll_s)

    def _stream(self, after: int) -> Iterator[Event | None]:
        """The events of one connection; None for a keep-alive. Ends early if the process is finished."""
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
        request = Request(
            "GET", f"{self._path}/events", headers=headers, timeout_s=self.timings.silence_s, is_stream=True
        )
        with self._api.open(request) as response:
            was_quiet = False
            for raw in parse_events(response.chunks()):
                is_quiet = not raw.kind
                if is_quiet and was_quiet and self.info().state == "finished":
                    return
                was_quiet = is_quiet
                yield None if is_quiet else _event(raw.data)

    def watch(
        self, *, plain: bool | None = None, evaluate: Evaluate | None = None, stop_after: int | EarlyStop | None = None
    ) -> None:
        """Show the training until it is over: a live table on a terminal or in a notebook, else a line per change.

        An interrupt ends the view; training continues.

        Args:
            plain: True: lines in any case.
            evaluate: held-out data on this machine (arrays by the name of the data port, or `HeldOut`), or a function
                ``params -> metrics``. Each new checkpoint is evaluated here once, and its metrics are stored on the
                Domain: see `evaluations` and `best`.
            stop_after: finish the process after this many evaluations without a better loss; `EarlyStop` names another
                metric. It needs ``evaluate``.
        Raises:
            InvalidInput, ShapeMismatch: the data does not fit the plan; before the first cycle is shown.
            Forbidden: you do not manage the process, so no evaluation can be stored.
        """
        stop = early_stop(stop_after)
        if stop is not None and evaluate is None:
            raise InvalidInput("stop_after needs evaluate: held-out data, or a function that returns metrics")
        watch(self, plain=plain, evaluator=None if evaluate is None else Evaluator(self, evaluate, stop))

    def __repr__(self) -> str:
        return f"Process({self.name!r}, version={self.version!r}, url={self._api.url!r})"

    def _repr_html_(self) -> str:
        return html_or_error(self, lambda: html_facts(process_facts(self.info())))


def _event(data: str) -> Event | None:
    try:
        return msgspec.json.decode(data, type=Event)
    except msgspec.ValidationError:  # a kind that this version does not know
        return None


def process_facts(info: ProcessInfo) -> Iterable[tuple[str, Any]]:
    """The state of a process as names and values."""
    cycle = info.cycle
    rows: dict[str, Any] = {
        "process": f"{info.name} {info.version}",
        "state": info.state,
        "parameters": f"{info.num_parameters:,}",
        "completed cycles": info.num_checkpoints - 1,
    }
    if cycle is not None:
        rows["cycle"] = f"{cycle.sequence} ({cycle.state}): {cycle.num_reports} reports of {cycle.num_assigned} devices"
        rows |= {name: f"{value:.4g}" for name, value in cycle.metrics.items()}
    return rows.items()
