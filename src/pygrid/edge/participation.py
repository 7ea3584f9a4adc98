"""The complete participation of a device in a training, in one call.

    (wait for the process) ──> request
    request ──accepted──> fetch ──> train ──> report ──┐
     ^ └─────rejected──> wait                          │
     └─────────────────────┴────── cycle over ─────────┘      until training is over, or for ``cycles`` reports

A fault costs at most the current cycle: requests are repeated after a lost connection, a report whose answer was lost
is sent again, and after a closed cycle the next one is requested.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from msgspec import UNSET

from pygrid import codes
from pygrid.edge.cache import Cache
from pygrid.edge.client import FIRST_CONTACT_S, EdgeClient
from pygrid.errors import Conflict, Gone, InvalidInput, NotFound, PygridError, Unauthenticated
from pygrid.messages.cycles import CycleAccepted, CycleRejected
from pygrid.tensors.params import Difference
from pygrid.transport import Transport
from pygrid.transport.authorities import CaFile

if TYPE_CHECKING:
    from pygrid.plans.runner import TrainResult

logger = logging.getLogger(__name__)

DEFAULT_WAIT_S = 30.0
_CANCELLABLE_WAIT_S = 5.0
_SHORT_PAUSE_S = 5.0
_MAX_LOST_KEYS = 3
_MAX_PROCESS_PAUSE_S = 30.0
MAX_PROCESS_WAIT_S = 366 * 24 * 3600.0

Batch = Mapping[str, Any]
LocalData = Batch | Iterable[Batch] | Callable[[], Batch | Iterable[Batch]]
"""Arrays by the name of the plan's data port, an iterable of batches, or a function that returns one of these."""


@dataclass(frozen=True)
class Callbacks:
    """Functions to call at events; all are optional. They run in the training thread, so they must be quick."""

    on_accepted: Callable[[CycleAccepted], object] | None = None
    on_progress: Callable[[int, int, int | None, dict[str, float]], object] | None = None
    """Epoch (from 0), updates so far, all updates (None: unknown), metrics of the batch."""
    on_report: Callable[[CycleAccepted, TrainResult], object] | None = None
    """The Domain has the report on disk."""
    on_rejected: Callable[[str, int | None], object] | None = None
    """Reason, and seconds until the next request; None: training is over."""
    on_error: Callable[[PygridError], object] | None = None
    """A cycle was lost; the next one is requested."""
    on_retry: Callable[[PygridError, float], object] | None = None
    """The Domain could not be reached, or was busy; the number is the seconds until the retry."""
    on_missing: Callable[[float, float], object] | None = None
    """The process is not hosted: seconds waited so far, and seconds until the wait ends."""
    on_finished: Callable[[], object] | None = None
    """Training is over."""


@dataclass
class Participation:
    """The result of a participation."""

    num_reports: int = 0
    num_examples: int = 0
    """Examples of all reports."""
    num_lost: int = 0
    """Granted cycles that ended, or were lost otherwise, before the report arrived."""
    finished: bool = False
    """True if the Domain reported the end of the training."""
    cancelled: bool = False


def participate(
    url: str,
    model: str,
    data: LocalData,
    *,
    version: str | None = None,
    auth_token: str | None = None,
    cycles: int | None = None,
    until_finished: bool = True,
    callbacks: Callbacks | None = None,
    cancel: threading.Event | None = None,
    wait_s: float = DEFAULT_WAIT_S,
    process_wait_s: float = 0.0,
    cache_dir: str | os.PathLike[str] | None = None,
    cache: Cache | None = None,
    num_threads: int = 1,
    transport: Transport | None = None,
    ca_file: CaFile = None,
) -> Participation:
    """Take part in the training of a model with local data, until training is over.

    Args:
        url: address of the Domain.
        model: name of the process; ``version`` None: the newest.
        data: local data, which stays on the device. A one-shot iterator serves one cycle only.
        auth_token: token for a process that requires one.
        cycles: end after this many reports.
        until_finished: False: also end when there is no work at present.
        callbacks: functions to call at events.
        cancel: set it to end soon: between two batches, or within five seconds of waiting.
        wait_s: longest time for which the Domain holds each request for work, 0 to 120.
        process_wait_s: longest time to wait for a process that is not hosted, and for a Domain that cannot be reached
            at first; 0: do not wait for a process, and ten seconds for a Domain.
        cache_dir, cache, num_threads, transport, ca_file: as for `EdgeClient`.
    Raises:
        As the methods of `EdgeClient`, if a retry cannot help. Errors of callbacks pass through.
    """
    with EdgeClient(
        url,
        model,
        version,
        auth_token=auth_token,
        cache_dir=cache_dir,
        cache=cache,
        num_threads=num_threads,
        first_contact_s=max(FIRST_CONTACT_S, process_wait_s),
        transport=transport,
        ca_file=ca_file,
    ) as client:
        return take_part(
            client,
            data,
            cycles=cycles,
            until_finished=until_finished,
            callbacks=callbacks,
            cancel=cancel,
            wait_s=wait_s,
            process_wait_s=process_wait_s,
        )


def take_part(
    client: EdgeClient,
    data: LocalData,
    *,
    cycles: int | None = None,
    until_finished: bool = True,
    callbacks: Callbacks | None = None,
    cancel: threading.Event | None = None,
    wait_s: float = DEFAULT_WAIT_S,
    process_wait_s: float = 0.0,
) -> Participation:
    """Take part as `participate` does, with an existing client."""
    if not 0 <= process_wait_s <= MAX_PROCESS_WAIT_S:
        raise InvalidInput(f"process_wait_s is {process_wait_s}; use 0 to {MAX_PROCESS_WAIT_S:.0f} seconds")
    if cycles is not None and cycles < 1:
        raise InvalidInput(f"cycles is {cycles}; it must be at least 1, or None for no limit")
    if cycles != 1 and isinstance(data, Iterable) and iter(data) is data:
        raise InvalidInput(
            "data is an iterator, which is empty after the first cycle; pass arrays, a list of batches, or a function "
            "that returns a new iterator for each cycle"
        )
    if cancel is not None:
        wait_s = min(wait_s, _CANCELLABLE_WAIT_S)
    client.on_retry(callbacks.on_retry if callbacks is not None else None)
    loop = _Loop(client, data, callbacks or Callbacks(), cancel or threading.Event(), wait_s)
    if process_wait_s > 0 and client.client_id is None:
        loop.await_process(process_wait_s)
    return loop.run(cycles, until_finished)


class _Loop:
    """One participation while it runs."""

    def __init__(
        self, client: EdgeClient, data: LocalData, callbacks: Callbacks, cancel: threading.Event, wait_s: float
    ) -> None:
        self._client = client
        self._data = data
        self._callbacks = callbacks
        self._cancel = cancel
        self._wait_s = wait_s
        self._lost_keys = 0
        self._done = Participation()

    def await_process(self, max_s: float) -> None:
        """Authenticate as soon as the process is hosted, or return when the participation is cancelled.

        Raises:
            NotFound: after ``max_s`` seconds there is no such process (``process_not_found``).
        """
        begin, pause_s = time.monotonic(), 1.0
        while not self._cancel.is_set():
            try:
                self._client.authenticate()
                return
            except NotFound as error:
                waited_s = time.monotonic() - begin
                if error.code != codes.PROCESS_NOT_FOUND or waited_s >= max_s:
                    raise
            if self._callbacks.on_missing is not None:
                self._callbacks.on_missing(waited_s, max_s - waited_s)
            with self._client.waiting():
                self._cancel.wait(min(pause_s * random.uniform(0.5, 1.0), max_s - waited_s))
            pause_s = min(2 * pause_s, _MAX_PROCESS_PAUSE_S)

    def run(self, cycles: int | None, until_finished: bool) -> Participation:
        while not self._cancel.is_set():
            begin = time.monotonic()
            answer = self._ask()
            if isinstance(answer, CycleAccepted):
                self._take_cycle(answer)
                if self._done.num_reports == cycles:
                    return self._done
            elif self._is_over(answer) or not until_finished:
                return self._done
            else:
                self._rest(answer, time.monotonic() - begin)
        self._done.cancelled = True
        return self._done

    def _ask(self) -> CycleAccepted | CycleRejected:
        try:
            return self._client.request_cycle(self._wait_s)
        except NotFound as error:
            if error.code != "worker_not_found":
                raise
            # The Domain does not know this device, for example because it was set up again.
            self._client.authenticate()
            return self._client.request_cycle(self._wait_s)

    def _is_over(self, answer: CycleRejected) -> bool:
        timeout = None if answer.timeout is UNSET else answer.timeout
        if self._callbacks.on_rejected is not None:
            self._callbacks.on_rejected("" if answer.reason is UNSET else answer.reason, timeout)
        if timeout is None:
            self._done.finished = True
            if self._callbacks.on_finished is not None:
                self._callbacks.on_finished()
        return self._done.finished

    def _rest(self, answer: CycleRejected, waited_s: float) -> None:
        """Wait before the next request.

        A Domain that holds requests answers as soon as there is work. If it has held this one, the next request follows
        at once; if it has not, because it restarts, after a short pause. Otherwise the pause is the timeout of the
        Domain.
        """
        timeout_s = 0.0 if answer.timeout is UNSET else float(answer.timeout)
        if self._wait_s > 0 and answer.reason != "too_slow":
            timeout_s = (
                0.0 if waited_s > 0.8 * self._wait_s else min(timeout_s, _SHORT_PAUSE_S) * random.uniform(0.5, 1.0)
            )
        self._cancel.wait(timeout_s)

    def _take_cycle(self, accepted: CycleAccepted) -> None:
        if self._callbacks.on_accepted is not None:
            self._callbacks.on_accepted(accepted)
        try:
            result = self._train_and_report(accepted)
        except (Gone, Unauthenticated, Conflict) as error:
            self._lost(error)
            return
        if result is None:
            return
        self._lost_keys = 0
        self._done.num_reports += 1
        self._done.num_examples += result.num_examples
        if self._callbacks.on_report is not None:
            self._callbacks.on_report(accepted, result)

    def _train_and_report(self, accepted: CycleAccepted) -> TrainResult | None:
        """The result of the training; None: it was cancelled. Raises Gone: the cycle is over."""
        deadline = float("inf")
        if isinstance(accepted.deadline_s, float):
            grace_s = accepted.grace_s if isinstance(accepted.grace_s, float) else 0.0
            deadline = time.monotonic() + accepted.deadline_s + grace_s
        model = self._client.fetch_model()
        result = self._client.train(
            self._data() if callable(self._data) else self._data,
            model=model,
            progress=self._progress,
            cancel=lambda: self._cancel.is_set() or time.monotonic() > deadline,
        )
        if result.cancelled and not self._cancel.is_set():
            raise Gone("the cycle ended while this device was still training", code=codes.CYCLE_CLOSED)
        if result.cancelled:
            return None
        if result.num_updates == 0:
            raise InvalidInput("the data has no batch to train on; is it an iterator that was already read to its end?")
        self._client.report(Difference(model, result.params), result.num_examples, result.metrics)
        return result

    def _progress(self, epoch: int, num_updates: int, total: int | None, metrics: dict[str, float]) -> None:
        if self._callbacks.on_progress is not None:
            self._callbacks.on_progress(epoch, num_updates, total, metrics)

    def _lost(self, error: PygridError) -> None:
        """Continue with the next cycle, unless keys are refused repeatedly: then another device uses this id."""
        self._done.num_lost += 1
        self._lost_keys = 0 if isinstance(error, Gone) else self._lost_keys + 1
        if self._lost_keys >= _MAX_LOST_KEYS:
            raise error
        logger.info("cycle lost: code=%s", error.code)
        if self._callbacks.on_error is not None:
            self._callbacks.on_error(error)
