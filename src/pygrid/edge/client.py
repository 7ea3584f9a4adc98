"""The steps of one device in the training of one model."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import UNSET

import pygrid
from pygrid import codes
from pygrid.edge.cache import DEFAULT_MAX_BYTES, Cache, DiskCache, default_cache, start_over
from pygrid.edge.reports import ReportBody
from pygrid.edge.settings import TrainingSettings
from pygrid.edge.speed import Speed, measure_speed
from pygrid.errors import Conflict, NotFound, PayloadTooLarge, PygridError
from pygrid.messages.cycles import (
    AuthenticateRequest,
    AuthenticateResponse,
    CycleAccepted,
    CycleRejected,
    CycleRequest,
    LeaveRequest,
    LeaveResponse,
    ReportAccepted,
)
from pygrid.messages.media import TENSORS
from pygrid.plans import MAX_PLAN_BYTES, Plan
from pygrid.tensors import Params, decode
from pygrid.transport import Api, Body, Request, Response, RetryPolicy, Transport, open_transport
from pygrid.transport.authorities import CaFile
from pygrid.transport.base import Closing

if TYPE_CHECKING:  # loaded when there is work, because ONNX Runtime costs 0.1 s and 15 MB
    from pygrid.plans.batches import Data
    from pygrid.plans.runner import Cancel, Progress, Runner, TrainResult

logger = logging.getLogger(__name__)

Array = npt.NDArray[np.generic]

DEVICE_RETRIES = RetryPolicy(max_elapsed_s=300.0)
FIRST_CONTACT_S = 10.0
_USUAL_PLAN = "training_plan"
_ANSWER_SLACK_S = 30.0


class EdgeClient(Closing):
    """Authenticates, requests cycles, fetches, trains and reports. `pygrid.edge.participate` does this in a loop.

    Only one thread may use a client.

    Args:
        url: address of the Domain, for example ``https://domain.example``; through a Network,
            ``grid+https://network.example/domain``.
        model: name of the process.
        version: version of the process; None: the newest.
        auth_token: token for a process that requires one.
        client_id: the id from an earlier `authenticate`, to continue as that client.
        plan_name: name of the plan to train with; None: ``training_plan``, or the only plan.
        cache_dir: folder of downloads, which many clients can share; None: the user's cache folder, or memory if
            nothing can be written there.
        max_cache_bytes: size limit of that folder, and of the model.
        cache: used instead of a folder, for example a `MemoryCache`.
        num_threads: threads of the training.
        retries: when to retry if the Domain cannot be reached, after it was reached once.
        first_contact_s: how long to retry until then.
        transport: used instead of HTTP to ``url``; the caller closes it, unless ``owns_transport``.
        ca_file: PEM file of an authority to trust in addition to the public ones; None: that of ``PYGRID_CA_FILE``.
        sleep: waits that many seconds.
    """

    def __init__(
        self,
        url: str,
        model: str,
        version: str | None = None,
        *,
        auth_token: str | None = None,
        client_id: str | None = None,
        plan_name: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        max_cache_bytes: int = DEFAULT_MAX_BYTES,
        cache: Cache | None = None,
        num_threads: int = 1,
        retries: RetryPolicy = DEVICE_RETRIES,
        first_contact_s: float = FIRST_CONTACT_S,
        transport: Transport | None = None,
        owns_transport: bool = False,
        ca_file: CaFile = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._owns_transport = transport is None or owns_transport
        carrier = transport or open_transport(url, ca_file=ca_file)
        # A client with an id has reached the Domain before.
        patience_s = first_contact_s if client_id is None else None
        self._api = Api(carrier, retries=retries, first_contact_s=patience_s, sleep=sleep)
        self.model = model
        self.version = version
        self.client_id = client_id
        self.speed: Speed | None = None
        self.requires_speed_test = False
        self.is_waiting = False
        """True during a wait for work or for the process, which can be interrupted without loss."""
        self.assignment: CycleAccepted | None = None
        """The newest admission without a report."""
        self._auth_token = auth_token
        self._plan_name = plan_name
        self._num_threads = num_threads
        self._cache: Cache = cache or (
            default_cache(max_cache_bytes) if cache_dir is None else DiskCache(cache_dir, max_bytes=max_cache_bytes)
        )
        self._max_cache_bytes = max_cache_bytes
        self._runner: Runner | None = None

    @property
    def url(self) -> str:
        return self._api.url

    def on_retry(self, callback: Callable[[PygridError, float], object] | None) -> None:
        """Call a function before each retry, with the error and the seconds until the retry."""
        self._api.on_retry = callback

    def authenticate(self) -> str:
        """Become a client of the process, and return the id under which the Domain knows this device.

        Raises:
            NotFound: there is no such process (``process_not_found``).
            Unauthenticated: the process requires a token, and this one is not valid.
            Unavailable: the Domain could not be reached for ten seconds.
        """
        request = AuthenticateRequest(self.model, self.version, self._auth_token)
        answer = self._api.post(
            "/model-centric/authenticate", AuthenticateResponse, json=_without_none(request), idempotent=True
        )
        self.client_id = answer.worker_id
        self.requires_speed_test = answer.requires_speed_test
        self.assignment = None
        return answer.worker_id

    def speed_test(self) -> Speed:
        """Measure the connection to the Domain; each later `request_cycle` sends the result."""
        self.speed = measure_speed(self._api, self.client_id or self.authenticate())
        return self.speed

    def request_cycle(self, wait_s: float = 0.0) -> CycleAccepted | CycleRejected:
        """Request work. Authenticates and measures the speed first, if that is missing.

        If the device is admitted, `assignment` holds the admission until the report; another request before that
        returns a new key for the same cycle. If it is rejected, ``timeout`` is the number of seconds until the next
        request; without ``timeout``, training is over.

        Args:
            wait_s: the Domain holds the answer for at most this many seconds until there is work; 0 to 120.
        Raises:
            NotFound: the Domain does not know the process or this client, or no longer.
            Unavailable: the Domain could not be reached within the time of ``retries``.
        """
        if self.client_id is None:
            self.authenticate()
        if self.requires_speed_test and self.speed is None:
            self.speed_test()
        assert self.client_id is not None
        speed = self.speed
        request = CycleRequest(
            worker_id=self.client_id,
            model=self.model,
            version=self.version,
            ping=speed.ping if speed else None,
            download=speed.download if speed else None,
            upload=speed.upload if speed else None,
            wait_s=wait_s,
        )
        self.assignment = None
        with self.waiting():
            raw = self._api.post(
                "/model-centric/cycle-request",
                msgspec.Raw,
                json=_without_none(request),
                timeout_s=wait_s + _ANSWER_SLACK_S,
                idempotent=True,
            )
        answer = self._read_answer(raw)
        if isinstance(answer, CycleAccepted):
            self.assignment = answer
        return answer

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Within the block, `is_waiting` is true."""
        self.is_waiting = True
        try:
            yield
        finally:
            self.is_waiting = False

    def fetch_model(self) -> Params:
        """The model at the start of the cycle, from the cache if it is there. Its arrays are read-only.

        Raises:
            Gone: the cycle is over (``cycle_closed``); request the next one.
            Unauthenticated: a newer request has ended the key (``invalid_request_key``).
            Conflict: no cycle was granted (``no_assignment``).
        """
        assignment = self._assigned()
        if assignment.model_hash is UNSET:
            raise self._not_native("model_hash")
        request = self._download("get-model", model_id=str(assignment.model_id))
        content = self._cache.get(assignment.model_hash, self._fetcher(request, self._max_cache_bytes))
        return decode(content)[0]

    def fetch_plan(self) -> Plan:
        """The plan to train with, from the cache if it is there.

        The gate checks a plan that is new to the cache in a child process, before it is used. The verdict is stored
        with the plan.

        Raises:
            InvalidPlan: the gate rejects the plan, or it is not a plan file.
            NotFound: the process has no plan of this name (``plan_not_found``).
            Gone, Unauthenticated, Conflict: as `fetch_model`.
        """
        assignment = self._assigned()
        name = self._choose_plan(assignment.plans)
        if assignment.plan_hashes is UNSET or name not in assignment.plan_hashes:
            raise self._not_native("plan_hashes")
        digest = assignment.plan_hashes[name]
        if self._runner is not None and self._runner.plan.id == digest:
            return self._runner.plan
        request = self._download("get-plan", plan_id=str(assignment.plans[name]), receive_operations_as="onnx")
        data = bytes(self._cache.get(digest, self._fetcher(request, MAX_PLAN_BYTES)))
        verdict = f"accepted by the gate of pygrid {pygrid.__version__}"
        if self._cache.find_note(digest) != verdict:
            from pygrid.plans.gate import check_in_child

            check_in_child(data)
            self._cache.note(digest, verdict)
        return Plan.from_bytes(data)

    def train(
        self,
        data: Data,
        *,
        model: Mapping[str, Array] | None = None,
        seed: int | None = None,
        progress: Progress | None = None,
        cancel: Cancel | None = None,
    ) -> TrainResult:
        """Train the cycle's model on local data, by the ``client_config`` of the process (`TrainingSettings.of`).

        Args:
            data: arrays by the name of the plan's data port, ``[examples, ...]``; or an iterable of such batches.
            model: the result of `fetch_model`, if the caller has it.
            seed: seed for the order of examples and for noise; None: derived from client and cycle.
            progress: called after each update: epoch (from 0), updates so far, all updates (or None), metrics of the
                batch.
            cancel: called between batches; if it returns True, training ends and the result has ``cancelled``.
        Raises:
            ShapeMismatch, InvalidInput, NonFinite: the data does not fit the plan; nothing ran.
            InvalidConfig: the ``client_config`` does not fit the plan.
        """
        assignment = self._assigned()
        runner = self._runner_of(self.fetch_plan())
        settings = TrainingSettings.of(assignment.client_config, runner.plan.manifest)
        return runner.train(
            model if model is not None else self.fetch_model(),
            data,
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            hyper=settings.hyper,
            max_updates=settings.max_updates,
            seed=self._seed(assignment) if seed is None else seed,
            progress=progress,
            cancel=cancel,
        )

    def report(
        self, diff: Mapping[str, Array], num_examples: int = 1, metrics: Mapping[str, float] | None = None
    ) -> None:
        """Send the diff. When this returns, the Domain has it on disk and counts it once.

        If the answer is lost, the same bytes are sent again, and the Domain recognizes them.

        Args:
            diff: ``original - trained``; float32, the model's names and shapes. `Difference` makes one without a copy.
            num_examples: number of different examples behind the diff; its weight in the average.
            metrics: finite numbers by name, for the owner's statistics.
        Raises:
            Gone: the cycle is over; nothing was counted.
            Unauthenticated: a newer request has ended the key; nothing was counted.
            Conflict: no cycle was granted, or this key has reported other bytes.
            InvalidInput, PayloadTooLarge: the Domain refuses the diff; the key stays valid.
            Unavailable: the Domain cannot be reached; it is unknown whether the diff arrived.
        """
        self._assigned()
        self.send_report(ReportBody(diff, num_examples, metrics or {}))

    def send_report(self, body: Body) -> None:
        """Send a finished report byte for byte. Raises: as `report`."""
        assignment = self._assigned()
        if assignment.max_report_bytes is not UNSET and body.num_bytes > assignment.max_report_bytes:
            raise PayloadTooLarge(
                f"the report has {body.num_bytes:,} bytes; this process takes {assignment.max_report_bytes:,}. Does "
                "the diff have the model's arrays, in float32, and nothing else?",
                max_bytes=assignment.max_report_bytes,
            )
        headers = {"Authorization": f"Bearer {assignment.request_key}", "Content-Type": TENSORS}
        self._api.send_body("/model-centric/report", ReportAccepted, body, headers=headers, idempotent=True)
        self.assignment = None

    def leave(self) -> None:
        """End the participation: a process that knows its clients by name no longer waits for this one.

        Raises:
            NotFound: the Domain does not know the process or this client, or no longer.
        """
        request = LeaveRequest(self.client_id or self.authenticate(), self.model, self.version)
        self._api.post("/model-centric/leave", LeaveResponse, json=_without_none(request), idempotent=True)
        self.assignment = None

    def close(self) -> None:
        """Close the connections, unless the caller passed the transport."""
        if self._owns_transport:
            self._api.close()

    def _assigned(self) -> CycleAccepted:
        if self.assignment is None:
            raise Conflict(
                "no cycle was granted, or its report was sent; call request_cycle() first", code=codes.NO_ASSIGNMENT
            )
        return self.assignment

    def _read_answer(self, raw: msgspec.Raw) -> CycleAccepted | CycleRejected:
        try:
            return msgspec.json.decode(raw, type=CycleAccepted)
        except msgspec.ValidationError:
            try:
                return msgspec.json.decode(raw, type=CycleRejected)
            except msgspec.ValidationError as error:
                raise self._not_native(str(error)) from error

    def _not_native(self, what: str) -> PygridError:
        return PygridError(
            f"the answer of {self.url} does not fit this version of pygrid ({what}); is the Domain older than this "
            "client?",
            code=codes.UNEXPECTED_ANSWER,
        )

    def _download(self, route: str, **query: str) -> Request:
        headers = {"Authorization": f"Bearer {self._assigned().request_key}"}
        return Request("GET", f"/model-centric/{route}", query, headers)

    def _fetcher(self, request: Request, max_bytes: int) -> Callable[[BinaryIO], None]:
        def fetch(file: BinaryIO) -> None:
            def write(response: Response) -> None:
                start_over(file)
                for chunk in response.chunks():
                    file.write(chunk)
                    if file.tell() > max_bytes:
                        raise PygridError(
                            f"the download is longer than {max_bytes:,} bytes", code=codes.ANSWER_TOO_LARGE
                        )

            self._api.exchange(request, write)

        return fetch

    def _choose_plan(self, plans: Mapping[str, int]) -> str:
        name = self._plan_name or (_USUAL_PLAN if _USUAL_PLAN in plans or len(plans) != 1 else next(iter(plans)))
        if name not in plans:
            there = ", ".join(sorted(plans)) or "none"
            raise NotFound(
                f"process {self.model!r} has no plan {name!r}; it has: {there}. Choose one with plan_name",
                code=codes.PLAN_NOT_FOUND,
            )
        return name

    def _runner_of(self, plan: Plan) -> Runner:
        if self._runner is None or self._runner.plan.id != plan.id:
            from pygrid.plans.runner import Runner

            self._runner = Runner(plan, num_threads=self._num_threads)
        return self._runner

    def _seed(self, assignment: CycleAccepted) -> int:
        text = f"{self.client_id}/{assignment.model_id}/{assignment.cycle}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6])


def _without_none(request: msgspec.Struct) -> dict[str, Any]:
    return {name: value for name, value in msgspec.structs.asdict(request).items() if value is not None}
