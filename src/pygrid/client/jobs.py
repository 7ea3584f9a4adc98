"""Jobs on private data: request them, wait, take the result; and for data owners: review and decide.

job = domain.submit(plan, dataset="patients", model=params, epochs=10, epsilon=3.0, delta=1e-6, reason="...")
params = job.wait().params()

for job in domain.requests:
    print(job.sheet())
    job.approve()
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import msgspec

from pygrid import codes
from pygrid.client.answers import Answers, has_dates
from pygrid.client.binding import complete_binding
from pygrid.client.datasets import Dataset, Datasets
from pygrid.client.display.job_progress import shown
from pygrid.client.display.tables import Table, TableColumn, html_facts, html_or_error, text_facts
from pygrid.client.downloads import MAX_MEMORY_BYTES
from pygrid.client.events import FollowTimings, parse_events
from pygrid.client.hosting import FormBody, FormPart, ModelSource, PlanSource, load_plan, model_body
from pygrid.client.listing import Listing
from pygrid.client.statistics import StatisticAnswer
from pygrid.durable import write_atomically
from pygrid.errors import Conflict, InvalidInput, NotFound, PygridError, Unavailable
from pygrid.messages.datasets import Schema
from pygrid.messages.jobs import (
    DecisionRequest,
    JobCost,
    JobInfo,
    JobKind,
    JobList,
    JobRequest,
    JobState,
    PrivacyRequest,
)
from pygrid.messages.media import PLAN, TENSORS
from pygrid.messages.plain_words import in_plain_words
from pygrid.summaries.jobs import cost_in_words, privacy_in_words, sheet
from pygrid.tensors import Params, decode
from pygrid.transport import Api, Request, Response
from pygrid.transport.base import BytesBody
from pygrid.transport.encoding import json_body, to_message

T = TypeVar("T")

ENDED: frozenset[JobState] = frozenset({"released", "rejected", "denied", "revoked", "cancelled", "failed"})
"""States that a job never leaves."""

WITH_ARRAYS: frozenset[JobKind] = frozenset({"train", "predict"})
"""Kinds whose result is a safetensors file."""

_PATH = "/data-centric/jobs"
_PAGE = 100
_ID_CHARS, _MIN_PREFIX, _MAX_LISTED = 32, 6, 10
_FIRST_POLL_S = 0.05


class Job:
    """A job on a Domain; `DomainClient.submit` and `job` return one.

    A decision through this object is bound to the job as this object last read it.
    """

    timings: ClassVar = FollowTimings()

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
        """The job as it is now."""
        self._seen = self._api.get(self._path, JobInfo)
        return self._seen

    @property
    def request_hash(self) -> str:
        """SHA-256 of the complete request."""
        return self._seen.request_hash

    @property
    def state(self) -> JobState:
        """The current state; see the diagram in the documentation of states."""
        return self.info().state

    @property
    def cost(self) -> JobCost | None:
        """The privacy cost; None for a non-private job."""
        return self.info().cost

    def sheet(self) -> str:
        """The review summary: the request, its privacy cost, and what leaves the Domain."""
        return text_facts(sheet(self.info()))

    def changes(self) -> Iterator[JobInfo]:
        """The job as it is, and again after each change, until it has ended; a lost connection is opened again.

        Raises:
            Unavailable: the Domain could not be reached for ten minutes.
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
                if time.monotonic() - last_seen > self.timings.patience_s:
                    raise
            time.sleep(self.timings.poll_s)

    def _stream(self) -> Iterator[JobInfo | None]:
        """The job as it is, then each change, over one connection; None for a keep-alive."""
        headers = {"Accept": "text/event-stream"}
        request = Request(
            "GET", f"{self._path}/events", headers=headers, timeout_s=self.timings.silence_s, is_stream=True
        )
        with self._api.open(request) as response:
            for event in parse_events(response.chunks()):
                yield msgspec.json.decode(event.data, type=JobInfo) if event.kind else None

    def wait(
        self, until: JobState | Sequence[JobState] = (), *, timeout_s: float | None = None, progress: bool | None = None
    ) -> Job:
        """Wait until the job has ended, or is in one of the states ``until``, and return this job.

        Args:
            progress: True: a bar on a terminal or in a notebook, else a line for each change; None: the bar only.
        Raises:
            Unavailable: ``timeout_s`` has passed (``wait_timeout``); the job continues.
        """
        wanted = ENDED | {until} if isinstance(until, str) else ENDED | frozenset(until)
        with shown(f"{self.kind} on {self.dataset}", progress) as show:
            for info in self._until(timeout_s):
                show(info)
                if info.state in wanted:
                    return self
        raise AssertionError("a job is followed until it has ended")

    def _until(self, timeout_s: float | None) -> Iterator[JobInfo]:
        """As `changes`; with a timeout by polling, because a stream can be silent for longer than that."""
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
                    f"after {timeout_s} s the job is {info.state}; it continues, and you can wait again",
                    code=codes.WAIT_TIMEOUT,
                )
            time.sleep(min(pause_s, left_s))
            pause_s = min(2 * pause_s, self.timings.poll_s)

    def result(self, path: str | Path | None = None) -> Params | dict[str, Any]:
        """The released result: arrays by name of a trained model or of predictions, else figures by name.

        Users who may approve the release can read a held result.

        Args:
            path: also write the bytes there, a safetensors file or JSON, completely or not at all.
        Raises:
            Conflict: the result is not released (``result_not_released``); the message has the reason.
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
            write_atomically(Path(path), data, mode=0o666, sync=False)
        return decode(data)[0] if info.kind in WITH_ARRAYS else msgspec.json.decode(data, type=dict[str, Any])

    def params(self, path: str | Path | None = None) -> Params:
        """The released arrays by name: of a trained model, or the outputs of a model for each record.

        Args:
            path: also write the safetensors bytes there.
        Raises:
            InvalidInput: the result of this kind of job has no arrays. Conflict: as `result`.
        """
        if self.kind not in WITH_ARRAYS:
            raise InvalidInput(f"the result of a job of kind {self.kind} has no arrays; use job.result()")
        return self.result(path)

    def load_into(self, model: T) -> T:
        """The same PyTorch model, with the released weights copied into it. Raises as `params`."""
        from pygrid.plans.authoring import load_into

        load_into(model, self.params())
        return model

    def answers(self) -> Answers:
        """The released answers of a statistics job, in the order of the request.

        A prompt and a notebook show them as a table with 95% intervals; ``frame()`` is a data frame.

        Raises:
            InvalidInput: the job is of another kind. Conflict: as `result`.
        """
        if self.kind != "statistics":
            raise InvalidInput(f"a job of kind {self.kind} has no answers; use job.result()")
        found = msgspec.convert(self.result()["answers"], list[StatisticAnswer])
        asked = () if self._seen.request is None else self._seen.request.statistics
        return Answers(found, asked, self._schema() if any(has_dates(one) for one in asked) else None)

    def _schema(self) -> Schema | None:
        """The schema of the dataset; None if it was deleted."""
        try:
            return Datasets(self._api).by_id(self._seen.dataset).info(self._seen.version).schema
        except NotFound:
            return None

    def _download(self) -> bytearray:
        def read(response: Response) -> bytearray:
            data = response.collect(MAX_MEMORY_BYTES)
            announced = response.headers.get("etag", "").strip('"')
            if announced and announced != hashlib.sha256(data).hexdigest():
                raise PygridError(
                    "the result has another SHA-256 than the Domain announced", code=codes.CONTENT_MISMATCH
                )
            return data

        return self._api.exchange(Request("GET", f"{self._path}/result"), read)

    def cancel(self) -> JobInfo:
        """Cancel the job, as its requester. A charge stays charged.

        Raises:
            Conflict: the job has ended.
        """
        return self._api.post(f"{self._path}/cancel", JobInfo, once=True)

    def approve(self, comment: str = "") -> JobInfo:
        """Approve the job; or, if its result is held, approve the release.

        Raises:
            Conflict: somebody else has decided (``job_decided``), or the job has changed since this object read it.
            Forbidden: it is your own request, or not yours to decide.
        """
        return self._decide("approve", comment)

    def deny(self, comment: str = "") -> JobInfo:
        """Deny the job, or the release of its held result; the requester can read the comment. Raises: as `approve`."""
        return self._decide("deny", comment)

    def revoke(self) -> JobInfo:
        """Revoke the approval before the job runs; that of a federated job until it has ended.

        Raises:
            Conflict: it is too late.
        """
        return self._api.post(f"{self._path}/revoke", JobInfo, once=True)

    def _decide(self, decision: Literal["approve", "deny"], comment: str) -> JobInfo:
        seen = self._seen.state
        if seen not in ("waiting", "held"):
            raise Conflict(
                f"the job is {seen}, so there is nothing to decide; if it has changed since, read it again",
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


class Requests(Listing):
    """The jobs on the caller's datasets that wait for a decision; see `DomainClient.requests`."""

    def __call__(self, dataset: str | None = None) -> JobTable:
        """The jobs that wait for an approval, and those whose result is held; newest first."""
        infos = [
            info
            for state in ("waiting", "held")
            for info in find_jobs(self._api, dataset=dataset, state=state)
            if info.waiting_beside is not None  # otherwise the job is the caller's own, on the data of others
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


def find_jobs(api: Api, *, dataset: str | None = None, state: str | None = None, mine: bool = False) -> list[JobInfo]:
    """The caller's jobs and those on the caller's datasets, newest first; ``mine``: only the caller's jobs."""
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
    if len(job_id) >= _MIN_PREFIX and len(job_id) != _ID_CHARS:
        return Job(api, _only_job(job_id, find_jobs(api)))
    try:
        return Job(api, api.get(f"{_PATH}/{job_id}", JobInfo))
    except InvalidInput as error:
        reason = f"{job_id!r} is not the id of a job: pass its first {_MIN_PREFIX} characters, or more"
        raise NotFound(reason, code=codes.JOB_NOT_FOUND) from error


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
    target: Dataset,
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
    parts: list[FormPart] = []
    if plan is not None:
        loaded = load_plan(plan)
        info = target.info(version)
        # The version whose columns were read, so that a new version in between is not used.
        version = version or info.version
        values["binding"] = complete_binding(loaded.manifest.data, info.schema, binding or {})
        parts = [FormPart("plan", PLAN, BytesBody(loaded.data)), FormPart("model", TENSORS, model_body(model))]
    given = {"dataset": target.id, "kind": kind, "reason": reason, "version": version, "privacy": privacy, **values}
    return send_request(api, given, parts)


def send_request(api: Api, given: Mapping[str, Any], parts: Sequence[FormPart]) -> Job:
    """Request a job with these fields of `JobRequest`, and these further parts of the form."""
    try:
        request = to_message(given, JobRequest)
    except msgspec.ValidationError as error:
        raise InvalidInput(
            f"the request for a job is not valid: {in_plain_words(str(error))}", code=codes.INVALID_JOB
        ) from error
    form = FormBody([FormPart("config", "application/json", json_body(request)), *parts])
    info_of = api.send_body(_PATH, JobInfo, form, headers={"Content-Type": form.media_type}, once=True)
    return Job(api, info_of)


def _why_not(info: JobInfo) -> str:
    reasons = {
        "checking": "it runs on the mock dataset",
        "waiting": "it waits for the decision of the data owner",
        "approved": "it is approved, and runs as soon as a Worker is free",
        "running": "it is running",
        "held": "it has run, and its result is held until the data owner approves the release",
        "rejected": "it was rejected before it ran",
        "denied": "it was denied",
        "revoked": "its approval was revoked",
        "cancelled": "it was cancelled",
        "failed": "it failed",
    }
    detail = f": {info.detail}" if info.detail else ""
    if info.request is not None and info.request.federation is not None:
        there = f"{info.request.federation.process} at {info.request.federation.coordinator}"
        return f"job {info.id} takes part in the training of {there}, which has the model; it is {info.state}{detail}"
    return f"job {info.id} has no result: {reasons.get(info.state, info.state)}{detail}"
