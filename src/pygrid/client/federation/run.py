"""A training across Domains, for the user who began it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from pygrid import codes
from pygrid.client.display.federation_view import CycleTable, TrainingDomains, show_training
from pygrid.client.display.live import ProgressView
from pygrid.client.domain import DomainClient
from pygrid.client.federation.records import VERSION, FederationMember, Record
from pygrid.client.federation.requests import ask
from pygrid.client.federation.states import DomainState, FederatedCycle
from pygrid.client.jobs import ENDED, get_job
from pygrid.client.process import Process
from pygrid.client.session import SessionApi
from pygrid.errors import Conflict, NotFound, PygridError, Unavailable
from pygrid.messages.jobs import JobInfo
from pygrid.messages.processes import Contribution, CycleInfo
from pygrid.plans import Plan
from pygrid.tensors import Params
from pygrid.transport import Api, RetryPolicy

if TYPE_CHECKING:
    from pygrid.plans.batches import Data

Model = TypeVar("Model")
_FIRST_POLL_S, _POLL_S = 0.1, 1.0
_MAX_AT_ONCE = 16
_BRIEFLY = RetryPolicy(max_elapsed_s=2.0)
"""For the state of a Domain; one that does not answer is shown as unknown."""
_TOO_LATE = "no decision in time"


@dataclass
class FederatedRun:
    """A training across Domains; `federate` and `resume_federated` return one."""

    coordinator: DomainClient
    _record: Record
    _apis: Mapping[str, Api]
    evaluate: Data | None = None
    _metrics: dict[int, dict[str, float]] = field(default_factory=dict)
    _trains_with: Plan | None = None

    def __post_init__(self) -> None:
        self.name = self._record.name

    # Before it begins

    def decide(
        self, *, within_s: float | None = None, progress: bool | None = None, is_first_try: bool = False
    ) -> None:
        """Send the missing requests, wait for all decisions, and host the process, unless it is hosted."""
        record = self._record
        if record.is_hosted:
            return
        for member in record.members:
            if not member.job_id and not member.refusal:
                ask(record, member, self._apis[member.name], is_first_try=is_first_try)
                record.save()
        self._wait_for_decisions(within_s, progress)
        record.save()
        self._host()

    def _wait_for_decisions(self, within_s: float | None, progress: bool | None) -> None:
        """Return when all have decided, too few are left, or the time is over; ``refusal`` marks those left out."""
        record = self._record
        give_up_at = time.monotonic() + (float("inf") if within_s is None else within_s)
        pause_s = _FIRST_POLL_S
        with ProgressView(self.name, progress) as view:
            while open_ones := [member for member in record.members if not member.refusal]:
                states = {state.name: state for state in self._states()}
                for member in open_ones:
                    if states[member.name].state in ENDED:
                        member.refusal = states[member.name].detail
                show_training(view, list(states.values()), [])
                undecided = [m for m in open_ones if not m.refusal and states[m.name].state != "running"]
                if not undecided or sum(not m.refusal for m in open_ones) < record.notes.min_domains:
                    return
                if time.monotonic() > give_up_at:
                    for member in undecided:
                        self._cancel(member)
                        member.refusal = _TOO_LATE
                    return
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, _POLL_S)

    def _host(self) -> None:
        record = self._record
        willing = [member for member in record.members if not member.refusal]
        if len(willing) >= record.notes.min_domains:
            record.host({"max_diffs": len(willing)})
            return
        for member in willing:
            self._cancel(member)
        record.delete()
        said = "; ".join(f"{member.name}: {member.refusal}" for member in record.members if member.refusal)
        raise Conflict(
            f"{len(willing)} of {len(record.members)} Domains take part, and {record.notes.min_domains} are needed: "
            f"nothing is trained. {said}",
            code=codes.TOO_FEW_DOMAINS,
        )

    # While it goes on

    @property
    def process(self) -> Process:
        """The process at the coordinator. Raises NotFound: it is not hosted."""
        if not self._record.is_hosted:
            raise NotFound(f"{self.name!r} is not hosted: not all Domains have decided", code=codes.PROCESS_NOT_FOUND)
        return self.coordinator.process(self.name, VERSION)

    @property
    def domains(self) -> TrainingDomains:
        """The Domains of the training, with their states, and the reasons of those that do not take part."""
        return TrainingDomains(self._states())

    @property
    def history(self) -> CycleTable:
        """The completed cycles, and the open one."""
        process = self.process
        return self._history(process, process.cycles())

    def model(self, checkpoint: int | str = "latest", path: str | os.PathLike[str] | None = None) -> Params:
        """The model as it is now, or as it was at a checkpoint; see `Process.download`."""
        return self.process.download(checkpoint, path)

    def load_into(self, model: Model, checkpoint: int | str = "latest") -> Model:
        """The same PyTorch model, with the trained weights copied into it. Raises as `Process.load_into`."""
        from pygrid.plans.authoring import load_into

        load_into(model, self.model(checkpoint))
        return model

    def wait(self, *, timeout_s: float | None = None, progress: bool | None = None) -> FederatedRun:
        """Wait until the training is over, and return this training.

        Args:
            progress: show the progress; None: on a terminal or in a notebook.
        Raises:
            Conflict: too few Domains are left to continue (``too_few_domains``); `model` returns the last model.
            Unavailable: ``timeout_s`` has passed (``wait_timeout``); the training continues.
        """
        process = self.process
        give_up_at = time.monotonic() + (float("inf") if timeout_s is None else timeout_s)
        pause_s = _FIRST_POLL_S
        with ProgressView(self.name, progress) as view:
            while True:
                info = process.info()
                history, domains = self._history(process, process.cycles()), self.domains
                show_training(view, domains, history, self._record.notes.rounds)
                if info.state == "finished":
                    return self
                self._check_enough(process, domains)
                if time.monotonic() > give_up_at:
                    raise Unavailable(
                        f"after {timeout_s} s, {info.num_checkpoints - 1} of {self._record.notes.rounds} cycles are "
                        "completed; the training continues",
                        code=codes.WAIT_TIMEOUT,
                    )
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, _POLL_S)

    def _check_enough(self, process: Process, domains: TrainingDomains) -> None:
        """Finish a process whose open cycle can no longer be completed. Raises Conflict."""
        num_left = sum(domain.state not in ENDED | {"refused"} for domain in domains)
        info = process.info()  # after the Domains were asked: those that have ended report no more
        cycle = info.cycle
        is_open = info.state == "active" and cycle is not None and cycle.state in ("hosted", "open")
        if not is_open or cycle is None or cycle.num_reports + num_left >= self._record.notes.min_domains:
            return
        process.finish()
        said = "; ".join(f"{domain.name} {domain.state}: {domain.detail}" for domain in domains)
        raise Conflict(
            f"{num_left} Domains are left, and {self._record.notes.min_domains} are needed: the training ended after "
            f"{info.num_checkpoints - 1} of {self._record.notes.rounds} cycles. {said}",
            code=codes.TOO_FEW_DOMAINS,
        )

    def cancel(self) -> None:
        """End the training: finish the process, and cancel the remaining jobs. Charges stay charged."""
        if self._record.is_hosted:
            self.process.finish()
        for member in self._record.members:
            self._cancel(member)
        if not self._record.is_hosted:
            self._record.delete()

    def _history(self, process: Process, cycles: list[CycleInfo]) -> CycleTable:
        by_cycle: dict[int, list[Contribution]] = {}
        for one in process.contributions():
            by_cycle.setdefault(one.cycle, []).append(one)
        found = []
        for cycle in cycles:
            took = None
            if cycle.completed_at is not None and cycle.opened_at is not None:
                took = (cycle.completed_at - cycle.opened_at).total_seconds()
            metrics = self._evaluate(process, cycle) if cycle.state == "completed" else {}
            contributions = tuple(sorted(by_cycle.get(cycle.sequence, ()), key=lambda one: one.client))
            found.append(FederatedCycle(cycle.sequence, cycle.state, contributions, metrics, took))
        return CycleTable(found)

    def _evaluate(self, process: Process, cycle: CycleInfo) -> dict[str, float]:
        """The metrics of the model that a completed cycle made, computed once."""
        if self.evaluate is None or not cycle.num_reports:
            return {}
        number = cycle.checkpoint + 1
        if number not in self._metrics:
            from pygrid.plans import Runner

            self._metrics[number] = Runner(self._plan(process)).evaluate(process.download(number), self.evaluate)
        return self._metrics[number]

    def _plan(self, process: Process) -> Plan:
        if self._trains_with is None:
            self._trains_with = process.plan()
        return self._trains_with

    def _states(self) -> list[DomainState]:
        """The states of all Domains, requested in parallel because an absent Domain answers late."""
        with ThreadPoolExecutor(min(_MAX_AT_ONCE, max(1, len(self._record.members)))) as pool:
            return list(pool.map(self._state_of, self._record.members))

    def _state_of(self, member: FederationMember) -> DomainState:
        def described(state: str, detail: str, num_reported: int = 0) -> DomainState:
            return DomainState(member.name, member.url, member.dataset, member.job_id, state, detail, num_reported)

        if not member.job_id:
            return described("refused" if member.refusal else "unknown", member.refusal or "no request was sent")
        try:
            api = self._apis[member.name]
            info = get_job(SessionApi(api.transport, token=api.token, retries=_BRIEFLY), member.job_id).info()
        except PygridError as error:
            return described("unknown", error.detail)
        return described(info.state, _in_words(info, member), info.federation.num_reported if info.federation else 0)

    def _cancel(self, member: FederationMember) -> None:
        if not member.job_id:
            return
        try:
            get_job(self._apis[member.name], member.job_id).cancel()
        except Conflict:
            return  # it has ended
        except PygridError as error:
            member.refusal = f"the job could not be cancelled: {error.detail}"

    def __repr__(self) -> str:
        return f"FederatedRun({self.name!r}, coordinator={self.coordinator.url!r})"

    def _repr_html_(self) -> str:
        parts: list[Callable[[], str]] = [lambda: self.domains._repr_html_(), lambda: self.history._repr_html_()]
        shown = [f"<b>{_escaped(self.name)}</b>"]
        for part in parts:
            try:
                shown.append(part())
            except PygridError as error:
                shown.append(_escaped(error.detail))
        return "".join(shown)


def _in_words(info: JobInfo, member: FederationMember) -> str:
    if info.state in ENDED:
        # Never empty: a denial can be without a comment.
        return (
            member.refusal
            if member.refusal == _TOO_LATE
            else info.comment or info.detail or f"the job was {info.state}"
        )
    return info.federation.doing if info.federation is not None and info.federation.doing else info.detail


def _escaped(text: str) -> str:
    import html

    return html.escape(text)
