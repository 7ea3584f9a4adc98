"""Jobs on data that one does not see: ask, wait, take the result; and for those who hold the data: look at it, decide.

job = domain.submit(plan, dataset="patients", model=params, epochs=10, epsilon=3.0, delta=1e-6, reason="...")
job.wait()
params = job.result()

for job in domain.requests:
    print(job.sheet())
    job.approve()
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from pygrid import codes
from pygrid.client.binding import complete_binding
from pygrid.client.datasets import Dataset, Datasets
from pygrid.client.display.job_progress import shown
from pygrid.client.display.review import cost_in_words, privacy_in_words, sheet
from pygrid.client.display.tables import Table, TableColumn, html_facts, html_or_error, text_facts
from pygrid.client.downloads import MAX_MEMORY_BYTES
from pygrid.client.events import parse_events
from pygrid.client.hosting import FormBody, FormPart, ModelSource, PlanSource, load_plan, model_body
from pygrid.client.statistics import StatisticAnswer
from pygrid.errors import Conflict, InvalidInput, NotFound, PygridError, Unavailable
from pygrid.messages.jobs import (
    DecisionRequest,
    JobCost,
    JobInfo,
    JobKind,
    JobList,
    JobRequest,
    JobState,
    PrivacyRequest,
    StatisticRequest,
    Unit,
)
from pygrid.messages.media import PLAN, TENSORS
from pygrid.tensors import Params, decode
from pygrid.transport import Api, Request, Response
from pygrid.transport.base import BytesBody

T = TypeVar("T")

ENDED: frozenset[JobState] = frozenset({"released", "rejected", "denied", "revoked", "cancelled", "failed"})
"""States that a job never leaves."""

WITH_ARRAYS: frozenset[JobKind] = frozenset({"train", "predict"})
"""Kinds whose result is a safetensors file."""

_PATH = "/data-centric/jobs"
_PAGE = 100
_ID_CHARS, _MIN_PREFIX, _MAX_LISTED = 32, 6, 10
_SILENCE_S = 60.0
_PATIENCE_S = 600.0
_FIRST_POLL_S, _POLL_S = 0.05, 0.5


class Job:
    """A job on a Domain. `DomainClient.submit` and `job` give one.

    A decision made through it is bound to the job as it was last seen through it.
    """

    def __init__(self, api: Api, info: JobInfo) -> None:
        self._api = api
        self._seen = info
        self.id = info.id
        self.kind = info.kind
        self.dataset = info.dataset_name

    @property
    def _path(self) -> str:
        return f"{_PATH}/{self.id}"

    def info(self) -> JobInfo:
        """What the Domain says of the job now."""
        self._seen = self._api.get(self._path, JobInfo)
        return self._seen

    @property
    def request_hash(self) -> str:
        """SHA-256 of all that is asked."""
        return self._seen.request_hash

    @property
    def state(self) -> JobState:
        """Where the job is now; see the diagram in the documentation of states."""
        return self.info().state

    @property
    def cost(self) -> JobCost | None:
        """What it takes from the privacy budget; None for an exact job."""
        return self.info().cost

    def sheet(self) -> str:
        """What the job asks, costs and lets out, in lines for a person to decide by."""
        return text_facts(sheet(self.info()))

    def changes(self) -> Iterator[JobInfo]:
        """The job as it is, and again at each change, until it has ended. A lost connection is taken up again.

        Raises:
            Unavailable: the Domain can't be reached for ten minutes.
        """
        last_seen, shown = time.monotonic(), self.info()
        yield shown
        while shown.state not in ENDED:
            try:
                for info in self._stream():
                    last_seen = time.monotonic()
                    if info is not None and info != shown:
                        self._seen = shown = info
                        yield info
                        if info.state in ENDED:
                            return
            except Unavailable:
                if time.monotonic() - last_seen > _PATIENCE_S:
                    raise
            time.sleep(_POLL_S)

    def _stream(self) -> Iterator[JobInfo | None]:
        """The job as it is, then each change, over one connection; None for a sign of life."""
        headers = {"Accept": "text/event-stream"}
        request = Request("GET", f"{self._path}/events", headers=headers, timeout_s=_SILENCE_S, is_stream=True)
        with self._api.open(request) as response:
            for event in parse_events(response.chunks()):
                yield msgspec.json.decode(event.data, type=JobInfo) if event.kind else None

    def wait(
        self,
        until: JobState | Sequence[JobState] = (),
        *,
        timeout_s: float | None = None,
        progress: bool | None = None,
    ) -> Job:
        """Wait until the job has ended, or is in one of the states ``until``, and return this job.

        Args:
            progress: show a bar, or elsewhere than on a terminal or in a notebook a line per change; None: a bar where
                there is one, else nothing.
        Raises:
            Unavailable: ``timeout_s`` have passed (``wait_timeout``); the job goes on.
        """
        wanted = ENDED | {until} if isinstance(until, str) else ENDED | frozenset(until)
        with shown(f"{self.kind} on {self.dataset}", progress) as show:
            for info in self._until(timeout_s):
                show(info)
                if info.state in wanted:
                    return self
        raise AssertionError("a job is followed until it has ended")

    def _until(self, timeout_s: float | None) -> Iterator[JobInfo]:
        """`changes` where it may take as long as it takes, else by asking again and again, so that no silence is too
        long.
        """
        if timeout_s is None:
            yield from self.changes()
            return
        give_up_at, pause_s = time.monotonic() + timeout_s, _FIRST_POLL_S
        while True:
            info = self.info()
            yield info
            left_s = give_up_at - time.monotonic()
            if left_s <= 0:
                raise Unavailable(
                    f"after {timeout_s} s the job is {info.state}; it goes on, and can be waited for again",
                    code=codes.WAIT_TIMEOUT,
                )
            time.sleep(min(pause_s, left_s))
            pause_s = min(2 * pause_s, _POLL_S)

    def result(self, path: str | Path | None = None) -> Params | dict[str, Any]:
        """What was released: the arrays of a trained model by name, the outputs of a model for each record, or the
        figures of any other kind. Who may let a result out may look at it while it is held.

        Args:
            path: write the bytes there as well, a safetensors file or JSON, at once or not at all.
        Raises:
            Conflict: nothing is released yet, or never will be (``result_not_released``); the text says why.
        """
        info = self.info()
        refusal = Conflict(_why_not(info), code=codes.RESULT_NOT_RELEASED, state=info.state)
        if info.state not in ("released", "held") or info.federation is not None:
            raise refusal
        try:
            data = self._download()
        except Conflict as error:
            raise refusal from error
        if path is not None:
            _write(data, Path(path))
        return decode(data)[0] if info.kind in WITH_ARRAYS else msgspec.json.decode(data, type=dict[str, Any])

    def params(self, path: str | Path | None = None) -> Params:
        """The released arrays by name: of a trained model, or the outputs of a model for each record.

        Args:
            path: write the safetensors bytes there as well.
        Raises:
            InvalidInput: the result of this kind of job has no arrays. Conflict: as `result`.
        """
        if self.kind not in WITH_ARRAYS:
            raise InvalidInput(f"the result of a job of kind {self.kind} has no arrays; use job.result()")
        return self.result(path)

    def answers(self) -> list[StatisticAnswer]:
        """The released answers of a statistics job, in the order of the questions.

        Raises:
            InvalidInput: the job is of another kind. Conflict: as `result`.
        """
        if self.kind != "statistics":
            raise InvalidInput(f"a job of kind {self.kind} has no answers; use job.result()")
        return msgspec.convert(self.result()["answers"], list[StatisticAnswer])

    def _download(self) -> bytearray:
        def read(response: Response) -> bytearray:
            data = response.collect(MAX_MEMORY_BYTES)
            announced = response.headers.get("etag", "").strip('"')
            if announced and announced != hashlib.sha256(data).hexdigest():
                raise PygridError(
                    "the result is not what the Domain announced (its SHA-256 differs)", code=codes.CONTENT_MISMATCH
                )
            return data

        return self._api.exchange(Request("GET", f"{self._path}/result"), read)

    def cancel(self) -> JobInfo:
        """End it, as the one who asked. What was charged stays charged.

        Raises:
            Conflict: it has ended already.
        """
        return self._api.post(f"{self._path}/cancel", JobInfo, once=True)

    def approve(self, comment: str = "") -> JobInfo:
        """Let the job run; or, if its result is held, let that out.

        Raises:
            Conflict: somebody else decided first (``job_decided``), or the job is not what was last seen through this
                object.
            Forbidden: it is one's own request, or not one's to decide.
        """
        return self._decide("approve", comment)

    def deny(self, comment: str = "") -> JobInfo:
        """Refuse the job, or its held result; the one who asked reads the comment. Raises as `approve`."""
        return self._decide("deny", comment)

    def revoke(self) -> JobInfo:
        """Take an approval back before the job runs; of a federated job until it has ended.

        Raises Conflict: it is too late.
        """
        return self._api.post(f"{self._path}/revoke", JobInfo, once=True)

    def _decide(self, decision: Literal["approve", "deny"], comment: str) -> JobInfo:
        seen = self._seen.state
        if seen not in ("waiting", "held"):
            raise Conflict(
                f"the job is {seen}, so there is nothing to decide; if it has moved on since, look at it again",
                code=codes.JOB_DECIDED,
                state=seen,
            )
        body = DecisionRequest(self.request_hash, comment, seen)
        return self._api.post(f"{self._path}/{decision}", JobInfo, json=body, once=True)

    def __repr__(self) -> str:
        return f"Job({self.id!r}, {self.kind} on {self.dataset!r}, url={self._api.url!r})"

    def _repr_html_(self) -> str:
        return html_or_error(self, lambda: html_facts(sheet(self.info())))


class JobTable(Table[Job]):
    """Jobs, as they were when they were listed."""

    def __init__(self, api: Api, infos: Sequence[JobInfo]) -> None:
        super().__init__(Job(api, info) for info in infos)
        self.infos = tuple(infos)

    def columns(self) -> Sequence[TableColumn[Job]]:
        infos = {info.id: info for info in self.infos}
        return (
            TableColumn("job", lambda job: job.id, weight=6, is_id=True),
            TableColumn("kind", lambda job: job.kind, weight=3),
            TableColumn("dataset", lambda job: f"{job.dataset} v{infos[job.id].version}", weight=5),
            TableColumn("state", lambda job: infos[job.id].state, weight=5),
            TableColumn("asked by", lambda job: infos[job.id].requested_by_email, weight=4),
            TableColumn("privacy", lambda job: privacy_in_words(infos[job.id]), min=20, weight=2),
            TableColumn("budget", lambda job: cost_in_words(infos[job.id]) or "-", weight=2),
            TableColumn("reason", lambda job: infos[job.id].reason, min=20),
        )


class Requests:
    """What waits for a decision on datasets that the caller holds.

    `DomainClient.requests` gives it; a call gives a list.
    """

    def __init__(self, api: Api) -> None:
        self._api = api

    def __call__(self, dataset: str | None = None) -> JobTable:
        """The jobs that wait for an approval, and those whose result is held until it is signed off; newest first."""
        infos = [
            info
            for state in ("waiting", "held")
            for info in find_jobs(self._api, dataset=dataset, state=state)
            if info.waiting_beside is not None  # else it is one's own, on somebody else's data
        ]
        return JobTable(self._api, sorted(infos, key=lambda info: info.created_at, reverse=True))

    def __iter__(self) -> Iterator[Job]:
        return iter(self())

    def __len__(self) -> int:
        return len(self())

    def approve(self, job: Job, comment: str = "") -> JobInfo:
        """See `Job.approve`."""
        return job.approve(comment)

    def deny(self, job: Job, comment: str = "") -> JobInfo:
        """See `Job.deny`."""
        return job.deny(comment)

    def revoke(self, job: Job) -> JobInfo:
        """See `Job.revoke`."""
        return job.revoke()

    def __repr__(self) -> str:
        return f"Requests(url={self._api.url!r})"

    def _repr_html_(self) -> str:
        return html_or_error(self, lambda: self().html())


def find_jobs(api: Api, *, dataset: str | None = None, state: str | None = None, mine: bool = False) -> list[JobInfo]:
    """One's own jobs and those on datasets that one holds, newest first; ``mine``: only one's own."""
    query = {"limit": str(_PAGE), "mine": str(mine).lower()}
    if state is not None:
        query["state"] = state
    if dataset is not None:
        query["dataset"] = str(Datasets(api)[dataset].id)
    found: list[JobInfo] = []
    while True:
        page = api.get(_PATH, JobList, query=query).jobs
        found += page
        if len(page) < _PAGE:
            return found
        query = {**query, "before": page[-1].id}


def get_job(api: Api, job_id: str) -> Job:
    """A job by its id, or by the first characters of it, 6 or more.

    Raises:
        NotFound: there is no such job, or the caller may not see it (``job_not_found``).
        InvalidInput: several ids begin with these characters; the message lists them (``ambiguous_id``).
    """
    if _MIN_PREFIX <= len(job_id) < _ID_CHARS:
        return Job(api, _only_job(job_id, find_jobs(api)))
    return Job(api, api.get(f"{_PATH}/{job_id}", JobInfo))


def _only_job(prefix: str, jobs: Sequence[JobInfo]) -> JobInfo:
    found = [info for info in jobs if info.id.startswith(prefix)]
    if not found:
        raise NotFound(f"you can see no job whose id begins with {prefix!r}", code=codes.JOB_NOT_FOUND)
    if len(found) > 1:
        ids = ", ".join(info.id for info in found[:_MAX_LISTED])
        more = f" and {len(found) - _MAX_LISTED} more" if len(found) > _MAX_LISTED else ""
        raise InvalidInput(f"{prefix!r} is the beginning of {len(found)} ids: {ids}{more}", code=codes.AMBIGUOUS_ID)
    return found[0]


def submit_job(
    api: Api,
    dataset: Dataset | str,
    kind: JobKind,
    reason: str,
    privacy: PrivacyRequest | None,
    *,
    plan: PlanSource | None = None,
    model: ModelSource | None = None,
    binding: Mapping[str, str] | None = None,
    version: int | None = None,
    **values: Any,
) -> Job:
    """Send a request; see `DomainClient.submit` and `DomainClient.statistics`."""
    target = Datasets(api)[dataset] if isinstance(dataset, str) else dataset
    parts: list[FormPart] = []
    if plan is not None:
        loaded = load_plan(plan)
        info = target.info(version)
        # The version whose columns were looked at, so that a new one in between is not taken unseen.
        version = version or info.version
        values["binding"] = complete_binding(loaded.manifest.data, info.schema, binding or {})
        parts = [FormPart("plan", PLAN, BytesBody(loaded.data)), FormPart("model", TENSORS, model_body(model))]
    given = {"dataset": target.id, "kind": kind, "reason": reason, "version": version, "privacy": privacy, **values}
    return send_request(api, given, parts)


def send_request(api: Api, given: Mapping[str, Any], parts: Sequence[FormPart]) -> Job:
    """Ask for the job with these fields of `JobRequest`, and these parts of the form after it."""
    try:
        request = msgspec.convert(msgspec.to_builtins(given), JobRequest)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"this is not a request for a job: {error}", code=codes.INVALID_JOB) from error
    form = FormBody([FormPart("config", "application/json", BytesBody(msgspec.json.encode(request))), *parts])
    info_of = api.send_body(_PATH, JobInfo, form, headers={"Content-Type": form.media_type}, once=True)
    return Job(api, info_of)


def privacy_terms(
    epsilon: float | None, delta: float | None, clip: float, unit: Unit, sampling_rate: float | None
) -> PrivacyRequest | None:
    """The terms of a request; None if it is to be exact.

    Raises:
        InvalidInput: one of epsilon and delta without the other (``invalid_privacy``).
    """
    if epsilon is None and delta is None:
        return None
    if epsilon is None or delta is None:
        missing = "epsilon" if epsilon is None else "delta"
        raise InvalidInput(
            f"{missing} is missing: a private job needs both, e.g. epsilon=3.0, delta=1e-6 (delta well below one over "
            "the number of records); an exact one has neither, and always waits for a person",
            code=codes.INVALID_PRIVACY,
        )
    return PrivacyRequest(epsilon, delta, clip, unit, sampling_rate)


def statistic_requests(asked: Sequence[StatisticRequest] | StatisticRequest) -> tuple[StatisticRequest, ...]:
    """One question or several. Raises InvalidInput: something else is among them."""
    several = (asked,) if isinstance(asked, StatisticRequest) else tuple(asked)
    for one in several:
        if not isinstance(one, StatisticRequest):
            raise InvalidInput(
                f"{one!r} is not a question; ask with pygrid.client.count(), mean(column, lower=..., upper=...), ...",
                code=codes.INVALID_JOB,
            )
    return several


def _write(data: bytearray, path: Path) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    draft = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        draft.chmod(0o644)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _why_not(info: JobInfo) -> str:
    reasons = {
        "checking": "it is being tried on the mock",
        "waiting": "it waits until somebody who holds the data decides",
        "approved": "it is approved, and runs as soon as a Worker is free",
        "running": "it is running",
        "held": "it has run, and its result is held until somebody who holds the data lets it out",
        "rejected": "it was rejected before it ran",
        "denied": "it was denied",
        "revoked": "its approval was taken back",
        "cancelled": "it was cancelled",
        "failed": "it failed",
    }
    detail = f": {info.detail}" if info.detail else ""
    if info.request is not None and info.request.federation is not None:
        there = f"{info.request.federation.process} at {info.request.federation.coordinator}"
        return f"job {info.id} takes part in the training of {there}, where its model is; it is {info.state}{detail}"
    return f"job {info.id} has no result to give: {reasons.get(info.state, info.state)}{detail}"
