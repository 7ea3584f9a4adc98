"""A hosted process, as its owner uses it."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from pygrid import codes
from pygrid.client.display.process_tables import CheckpointTable, ContributionTable, CyclesTable
from pygrid.client.display.tables import html_facts, html_or_error
from pygrid.client.display.training_view import watch
from pygrid.client.downloads import read_checked, write_checked
from pygrid.client.events import parse_events
from pygrid.client.hosting import PlanSource, load_plan
from pygrid.errors import InvalidInput, NotFound, Unavailable
from pygrid.messages.processes import CheckpointInfo, ContributionList, CycleInfo, Event, ProcessInfo
from pygrid.plans import MAX_PLAN_BYTES, Plan
from pygrid.tensors import Params, decode
from pygrid.transport import Api, Request

if TYPE_CHECKING:
    from pygrid.plans.batches import Data

_PAGE = 100
_LONG_PAGE = 1000
_SILENCE_S = 60.0
_PATIENCE_S = 600.0
_POLL_S = 0.5


class _Cycles(msgspec.Struct):
    cycles: list[CycleInfo]


class _Checkpoints(msgspec.Struct):
    checkpoints: list[CheckpointInfo]


class Process:
    """A process on a Domain; `DomainClient.host` and `DomainClient.process` return one."""

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

    def download(self, checkpoint: int | str = "latest", path: str | os.PathLike[str] | None = None) -> Params:
        """The model as it is now, or as it was at a checkpoint.

        Args:
            checkpoint: its number, or ``latest``.
            path: also write the safetensors file there, completely or not at all; the arrays are mapped from it.
        Raises:
            NotFound: there is no such checkpoint (``checkpoint_not_found``).
        """
        query = {"name": self.name, "version": self.version, "checkpoint": str(checkpoint)}
        request = Request("GET", "/model-centric/retrieve-model", query)
        if path is None:
            return decode(read_checked(self._api, request))[0]
        target = write_checked(self._api, request, path)
        with target.open("rb") as file:
            return decode(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))[0]

    def plan(self, name: str | None = None) -> Plan:
        """A hosted plan of the process; None: ``training_plan``, or the only training plan.

        Raises:
            NotFound: the process has no such plan (``plan_not_found``).
        """
        plans = self.info().plans
        training = [plan for plan in plans if plan.kind == "training"]
        wanted = name or ("training_plan" if len(training) != 1 else training[0].name)
        for plan in plans:
            if plan.name == wanted:
                request = Request("GET", f"{self._path}/plans/{plan.id}")
                return Plan.from_bytes(self._api.exchange(request, lambda response: response.read(MAX_PLAN_BYTES)))
        there = ", ".join(plan.name for plan in plans)
        raise NotFound(f"process {self.name!r} has no plan {wanted!r}; it has: {there}", code=codes.PLAN_NOT_FOUND)

    def evaluate(
        self,
        data: Data,
        *,
        plan: PlanSource | None = None,
        checkpoint: int | str = "latest",
        batch_size: int = 256,
    ) -> dict[str, float]:
        """The metrics of the model on local data, computed here.

        Args:
            data: arrays by the name of the plan's data port; or an iterable of such batches.
            plan: a plan with an ``eval`` graph; None: the training plan of the process.
        """
        from pygrid.plans import Runner

        chosen = self.plan() if plan is None else load_plan(plan)
        return Runner(chosen).evaluate(self.download(checkpoint), data, batch_size=batch_size)

    def finish(self) -> ProcessInfo:
        """End the training: an open cycle with reports is completed, and no further cycle opens."""
        return self._api.post(f"{self._path}/finish", ProcessInfo, once=True)

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
            time.sleep(_POLL_S)

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
                if time.monotonic() - last_seen > _PATIENCE_S:
                    raise
            if told_all:
                return
            time.sleep(_POLL_S)

    def _stream(self, after: int) -> Iterator[Event | None]:
        """The events of one connection; None for a keep-alive. Ends early if the process is finished."""
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
        request = Request("GET", f"{self._path}/events", headers=headers, timeout_s=_SILENCE_S, is_stream=True)
        with self._api.open(request) as response:
            was_quiet = False
            for raw in parse_events(response.chunks()):
                is_quiet = not raw.kind
                if is_quiet and was_quiet and self.info().state == "finished":
                    return
                was_quiet = is_quiet
                yield None if is_quiet else _event(raw.data)

    def watch(self, *, plain: bool | None = None) -> None:
        """Show the training until it is over: a live table on a terminal or in a notebook, else a line per change.

        An interrupt ends the view; training continues.

        Args:
            plain: True: lines in any case.
        """
        watch(self, plain=plain)

    def __repr__(self) -> str:
        return f"Process({self.name!r}, version={self.version!r}, url={self._api.url!r})"

    def _repr_html_(self) -> str:
        return html_or_error(self, lambda: html_facts(_facts(self.info()).items()))


def _event(data: str) -> Event | None:
    try:
        return msgspec.json.decode(data, type=Event)
    except msgspec.ValidationError:  # a kind that this version does not know
        return None


def _facts(info: ProcessInfo) -> dict[str, Any]:
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
    return rows
