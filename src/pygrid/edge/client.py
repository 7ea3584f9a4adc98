"""One device's part in the training of one model, step by step."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Self

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import UNSET

import pygrid
from pygrid import codes
from pygrid.edge.cache import DEFAULT_MAX_BYTES, Cache, DiskCache, default_cache_dir, start_over
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

if TYPE_CHECKING:  # at run time only once there is work: ONNX Runtime takes a tenth of a second and 15 MB
    from pygrid.plans.batches import Data
    from pygrid.plans.runner import Cancel, Progress, Runner, TrainResult

logger = logging.getLogger(__name__)

Array = npt.NDArray[np.generic]

DEVICE_RETRIES = RetryPolicy(max_elapsed_s=300.0)
_FIRST_CONTACT_S = 10.0
_USUAL_PLAN = "training_plan"
_ANSWER_SLACK_S = 30.0


class EdgeClient:
    """Authenticate, ask for a cycle, fetch, train, report. `pygrid.edge.participate` does all of it in a loop.

    Args:
        url: address of the Domain, e.g. ``https://domain.example``; through a Network,
            ``grid+https://network.example/domain``.
        model: name of the process.
        version: of the process; None: the newest.
        auth_token: where the process asks for one.
        client_id: an identity from an earlier `authenticate`, to go on with.
        plan_name: of the plan to train with; None: ``training_plan``, or the only one.
        cache_dir: where downloads are kept; None: the user's cache folder. Many clients may share it.
        max_cache_bytes: bound of that folder, and of the model.
        cache: in place of a folder, e.g. `MemoryCache`.
        num_threads: of the training.
        retries: how long to put up with a Domain that can't be reached, once it was reached.
        transport: in place of HTTP to ``url``; it stays the caller's to close, unless ``owns_transport``.
        sleep: waits that many seconds.

    Not for use by several threads at once.
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
        transport: Transport | None = None,
        owns_transport: bool = False,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._owns_transport = transport is None or owns_transport
        carrier = transport or open_transport(url)
        # Who has an identity there has reached the Domain before.
        first_contact_s = _FIRST_CONTACT_S if client_id is None else None
        self._api = Api(carrier, retries=retries, first_contact_s=first_contact_s, sleep=sleep)
        self.model = model
        self.version = version
        self.client_id = client_id
        self.speed: Speed | None = None
        self.requires_speed_test = False
        self.is_waiting = False
        """True while the Domain is asked for work and nothing would be lost by breaking off."""
        self.assignment: CycleAccepted | None = None
        """The newest admission that was not reported yet."""
        self._auth_token = auth_token
        self._plan_name = plan_name
        self._num_threads = num_threads
        self._cache: Cache = cache or DiskCache(cache_dir or default_cache_dir(), max_bytes=max_cache_bytes)
        self._max_cache_bytes = max_cache_bytes
        self._runner: Runner | None = None

    @property
    def url(self) -> str:
        return self._api.url

    def tell_retries(self, callback: Callable[[PygridError, float], object] | None) -> None:
        """Have a function called before a request is tried again, with the error and the seconds until then."""
        self._api.on_retry = callback

    def authenticate(self) -> str:
        """Become a client of the process; gives the client's id, under which the Domain knows this device.

        Raises:
            NotFound: no such process (``process_not_found``).
            Unauthenticated: the process asks for a token, and this one is not good.
            Unavailable: the Domain can't be reached; tried for ten seconds.
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
        """Measure the way to the Domain; the result is sent with every later `request_cycle`."""
        self.speed = measure_speed(self._api, self.client_id or self.authenticate())
        return self.speed

    def request_cycle(self, wait_s: float = 0.0) -> CycleAccepted | CycleRejected:
        """Ask for work; authenticates and measures the speed before, where that is still missing.

        If admitted, `assignment` holds the admission until it is reported; asking again before that gives a new key for
        the same cycle. If rejected, ``timeout`` says after how many seconds to ask again; absent, training is over.

        Args:
            wait_s: let the Domain hold the answer up to so many seconds until there is work; 0 to 120.
        Raises:
            NotFound: the process, or this client, is not (or no longer) known to the Domain.
            Unavailable: the Domain can't be reached, although it was tried for as long as ``retries`` says.
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
        self.is_waiting = True
        try:
            raw = self._api.post(
                "/model-centric/cycle-request",
                msgspec.Raw,
                json=_without_none(request),
                timeout_s=wait_s + _ANSWER_SLACK_S,
                idempotent=True,
            )
        finally:
            self.is_waiting = False
        answer = self._read_answer(raw)
        if isinstance(answer, CycleAccepted):
            self.assignment = answer
        return answer

    def fetch_model(self) -> Params:
        """The model that the cycle starts from, from the cache if its hash is there. Its arrays are read-only.

        Raises:
            Gone: the cycle is over (``cycle_closed``); ask for the next one.
            Unauthenticated: the key was ended by a newer request (``invalid_request_key``).
            Conflict: no cycle was granted (``no_assignment``).
        """
        assignment = self._assigned()
        if assignment.model_hash is UNSET:
            raise self._not_native("model_hash")
        request = self._download("get-model", model_id=str(assignment.model_id))
        content = self._cache.get(assignment.model_hash, self._fetcher(request, self._max_cache_bytes))
        return decode(content)[0]

    def fetch_plan(self) -> Plan:
        """The plan to train with, from the cache if its hash is there.

        A plan that is new to the cache passes the gate, in a child process, before it is used; the verdict is kept
        beside it.

        Raises:
            InvalidPlan: the plan does not pass, or is not the kind of file it should be.
            NotFound: the process has no plan of the name asked for (``plan_not_found``).
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
        """Train the cycle's model on local data, as the process's ``client_config`` says (`TrainingSettings.of`).

        Args:
            data: arrays by the name of the plan's data port, ``[examples, ...]``; or an iterable of batches of them.
            model: what `fetch_model` gave, to save looking it up again.
            seed: of the order of examples and of noise; None: derived from client and cycle.
            progress: called after each update: epoch (from 0), updates so far, updates in all (or None), the batch's
                metrics.
            cancel: asked between batches; the result then says ``cancelled``.
        Raises:
            ShapeMismatch, InvalidInput, NonFinite: the data does not fit the plan; nothing ran.
            InvalidConfig: the ``client_config`` does not.
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
        """Send what training changed. When this returns, the Domain has it safe and will count it once.

        A report whose answer was lost is sent again with the same bytes, which the Domain recognises.

        Args:
            diff: ``original - trained``; float32, the model's names and shapes. `Difference` makes one without a copy.
            num_examples: different examples behind it, the weight in the average.
            metrics: finite numbers by name, for the owner's statistics.
        Raises:
            Gone: the cycle is over; nothing was counted.
            Unauthenticated: the key was ended by a newer request; nothing was counted.
            Conflict: no cycle was granted, or this key has reported other bytes.
            InvalidInput, PayloadTooLarge: the Domain refuses the diff; the key is still good.
            Unavailable: the Domain can't be reached; the diff may or may not have arrived.
        """
        self._assigned()
        self.send_report(ReportBody(diff, num_examples, metrics or {}))

    def send_report(self, body: Body) -> None:
        """As `report`, of a report that was made before, byte for byte."""
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
        """Take no further part: the Domain does not wait for this client any more, if its process knows its clients by
        name.

        Raises:
            NotFound: the process, or this client, is not (or no longer) known to the Domain.
        """
        request = LeaveRequest(self.client_id or self.authenticate(), self.model, self.version)
        self._api.post("/model-centric/leave", LeaveResponse, json=_without_none(request), idempotent=True)
        self.assignment = None

    def close(self) -> None:
        """Close the connections, unless they are those of a ``transport`` that was given."""
        if self._owns_transport:
            self._api.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _assigned(self) -> CycleAccepted:
        if self.assignment is None:
            raise Conflict(
                "no cycle was granted, or it was reported already; call request_cycle() first", code=codes.NO_ASSIGNMENT
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
            f"{self.url} did not answer as this version of pygrid expects ({what}); is the Domain older than this "
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
                f"process {self.model!r} has no plan {name!r}; it has: {there}. Say which to train with by plan_name",
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
