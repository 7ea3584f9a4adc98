"""Warm Workers for hosted models: a sandboxed process for each model in use, started by its first request.

                ask()                        the batch is done
    (no process) ----> starting ----> idle <----------------- busy
         ^                             |  \\_____ask()________/   \\
         |______ idle for long, _______|                          | too slow, died, or answered nonsense
         |       another model's turn                             | (the requests of this batch fail)
         |________________________________________________________|

A model has one process, which computes one batch at a time. Requests that arrive meanwhile wait, and the next batch
takes as many of them as fit. Many small requests cost little more than one, and a single request never waits for
others. Only models whose rows are proven independent (`pygrid.plans.independence.judge_rows`) share batches. A batch
that fails is computed again one request at a time, so that the bad input of one caller fails no other request. The
answer of the process is checked before it is returned to a caller.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from pygrid import codes
from pygrid.compute.runtime import model_server
from pygrid.core.job_spec import MAX_MESSAGE_BYTES, OUTCOME, READY, RESULT, SPEC, Failure, InferenceSettings
from pygrid.core.serving import HEADER_BYTES, ServableModel
from pygrid.errors import InvalidInput, InvalidTensors, Unavailable
from pygrid.offload import SLICE_BYTES, offload, slices
from pygrid.plans.manifest import Port
from pygrid.plans.serving import port_bytes
from pygrid.sandbox.frames import FRAME_HEADER_BYTES, frame_header, parse_frame_header
from pygrid.sandbox.process import Child, spawn
from pygrid.tensors import decode, encode_pieces

logger = logging.getLogger(__name__)

Arrays = dict[str, npt.NDArray[Any]]

_START_S = 60.0
_GRACE_S = 5.0
_CPU_S = 36_000
_BASE_BYTES = 512 * 1024**2


@dataclass(frozen=True)
class InferenceLimits:
    """Limits of all warm Workers of a Domain together."""

    max_models: int = 4
    """Number of processes at once."""
    max_waiting: int = 1024
    """Number of requests that wait for one model."""
    wall_s: float = 30.0
    """Longest time of a batch."""
    idle_s: float = 600.0
    """Seconds without a request after which a process ends."""


@dataclass
class _Request:
    arrays: Arrays
    num_examples: int
    answer: asyncio.Future[Arrays]


class InferenceWorkers:
    """Runs hosted models. For one event loop."""

    def __init__(self, limits: InferenceLimits | None = None, *, allow_weak_sandbox: bool = False) -> None:
        self._limits = limits or InferenceLimits()
        self._allow_weak_sandbox = allow_weak_sandbox
        self._warm: OrderedDict[ServableModel, _WarmModel] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()
        """The tasks of all models, also while their processes end."""
        self._closed = False

    async def predict(self, model: ServableModel, arrays: Arrays, num_examples: int) -> Arrays:
        """The outputs of the model for these inputs, which must have the names, dtypes and shapes of its ports.

        Raises:
            InvalidInput: ``inference_failed``: the model cannot compute with these values.
            Unavailable: ``inference_busy``: there are too many requests; ``inference_too_slow``, ``inference_lost``:
                the process was ended, or ended; ``sandbox_unavailable``: this machine cannot sandbox it;
                ``out_of_memory``.
        """
        warm = self._find(model)
        if len(warm.waiting) >= self._limits.max_waiting:
            raise _busy("too many requests wait for this model")
        question = _Request(arrays, num_examples, asyncio.get_running_loop().create_future())
        warm.waiting.append(question)
        warm.wake.set()
        return await question.answer

    async def forget(self, name: str) -> None:
        """End the processes of the model in the file of this name."""
        await self._end([model for model in self._warm if model.path.name == name])

    async def close(self) -> None:
        """End every process; waiting requests fail."""
        self._closed = True
        await self._end(list(self._warm))
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _find(self, model: ServableModel) -> _WarmModel:
        if self._closed:
            raise Unavailable("the Domain is stopping", code=codes.SHUTTING_DOWN)
        warm = self._warm.get(model)
        if warm is not None and warm.has_ended:
            del self._warm[model]
            warm = None
        if warm is None:
            if len(self._warm) >= self._limits.max_models:
                self._retire_one()
            warm = _WarmModel(model, self._limits, self._settings(model))
            self._warm[model] = warm
            self._tasks.add(warm.task)
            warm.task.add_done_callback(self._tasks.discard)
        self._warm.move_to_end(model)
        return warm

    def _retire_one(self) -> None:
        """End the process that has been unused for the longest time."""
        for model, warm in self._warm.items():
            if warm.has_ended or not (warm.is_busy or warm.waiting):
                warm.stop()
                del self._warm[model]
                return
        raise _busy(f"{len(self._warm)} other models are in use")

    async def _end(self, models: Sequence[ServableModel]) -> None:
        tasks = []
        for model in models:
            warm = self._warm.pop(model)
            warm.stop()
            tasks.append(warm.task)
        if tasks:
            await asyncio.wait(tasks)

    def _settings(self, model: ServableModel) -> InferenceSettings:
        ports = port_bytes(model.inputs, model.max_batch_size) + port_bytes(model.outputs, model.max_batch_size)
        return InferenceSettings(
            model_path=str(model.path),
            outputs=tuple(port.name for port in model.outputs),
            # The runtime holds the weights up to three times while it loads; its arena grows in powers of two.
            memory_bytes=_BASE_BYTES + 3 * model.size_bytes + 2 * model.peak_bytes + 4 * ports,
            cpu_s=_CPU_S,
            max_request_bytes=model.max_request_bytes,
            allow_weak_sandbox=self._allow_weak_sandbox,
        )


@dataclass
class _WarmModel:
    """The requests of a model, and the task that answers them."""

    model: ServableModel
    limits: InferenceLimits
    settings: InferenceSettings
    waiting: deque[_Request] = field(default_factory=deque)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    is_busy: bool = True
    has_ended: bool = False
    """Whether the task has ended, or ends the process, so that no request is answered."""
    task: asyncio.Task[None] = field(init=False)

    def __post_init__(self) -> None:
        self.task = asyncio.create_task(self._serve())
        self.task.add_done_callback(lambda _: self._end())  # also if it was cancelled before its first step

    def stop(self) -> None:
        """End the task, which ends the process first."""
        if not self.has_ended:
            self.task.cancel()

    def _end(self, batch: Sequence[_Request] = ()) -> None:
        self.has_ended = True
        _fail(
            [*batch, *self.waiting],
            Unavailable("the process of the model was ended; send the request again", code=codes.INFERENCE_LOST),
        )

    async def _serve(self) -> None:
        """Answer requests until none comes for `InferenceLimits.idle_s`."""
        process: _ModelProcess | None = None
        batch: list[_Request] = []
        try:
            while await self._next():
                batch = self._take()
                if not batch:
                    continue
                # Replaced long before its limit of CPU time, which exists to end a process that was taken over.
                if process is not None and process.busy_s > _CPU_S / 2:
                    await process.close()
                    process = None
                failed: Unavailable | InvalidInput | None = None
                try:
                    if process is None:
                        process = await _ModelProcess.start(self.settings)
                    await self._answer(process, batch)
                except (Unavailable, InvalidInput) as error:
                    failed = error
                if process is not None and process.is_gone:
                    await process.close()
                    process = None
                if failed is not None:  # last, so that callers find a consistent state
                    _fail(batch, failed)
        except Exception as error:
            logger.exception("a Worker for inference failed")
            _fail(
                [*batch, *self.waiting],
                _lost(f"an error of this server ({type(error).__name__}); its log has the details"),
            )
        finally:
            self._end(batch)
            if process is not None:
                await asyncio.shield(process.close())

    async def _next(self) -> bool:
        """Wait for a request; False: none came for `InferenceLimits.idle_s`."""
        self.is_busy = bool(self.waiting)
        if not self.waiting:
            self.wake.clear()
            try:
                async with asyncio.timeout(self.limits.idle_s):
                    await self.wake.wait()
            except TimeoutError:
                return bool(self.waiting)
            # Requests of the same turn of the event loop join the batch.
            await asyncio.sleep(0)
        self.is_busy = True
        return True

    def _take(self) -> list[_Request]:
        """The next batch, in the order of the requests, without those that were cancelled."""
        batch: list[_Request] = []
        num_examples = 0
        while self.waiting:
            question = self.waiting[0]
            if question.answer.done():
                self.waiting.popleft()
                continue
            fits = not batch or (self.model.joins and num_examples + question.num_examples <= self.model.max_batch_size)
            if not fits:
                break
            batch.append(self.waiting.popleft())
            num_examples += question.num_examples
        return batch

    async def _answer(self, process: _ModelProcess, batch: list[_Request]) -> None:
        if len(batch) == 1:
            _settle(batch[0], await process.run(self.model, batch[0].arrays, batch[0].num_examples, self.limits.wall_s))
            return
        total = sum(question.num_examples for question in batch)
        joined = await offload(port_bytes(self.model.inputs, total), _join, self.model.inputs, batch)
        try:
            outputs = await process.run(self.model, joined, total, self.limits.wall_s)
        except InvalidInput:
            for question in batch:
                try:
                    await self._answer(process, [question])
                except InvalidInput as error:
                    _fail([question], error)
            return
        begin = 0
        for question in batch:
            end = begin + question.num_examples
            _settle(question, {name: array[begin:end] for name, array in outputs.items()})
            begin = end


def _join(ports: Sequence[Port], batch: Sequence[_Request]) -> Arrays:
    return {port.name: np.concatenate([question.arrays[port.name] for question in batch]) for port in ports}


def _settle(question: _Request, outputs: Arrays) -> None:
    if not question.answer.done():
        question.answer.set_result(outputs)


def _fail(questions: Sequence[_Request] | deque[_Request], error: Exception) -> None:
    for question in questions:
        if not question.answer.done():
            question.answer.set_exception(error)


class _ModelProcess:
    """One process with its stream; runs one batch at a time."""

    def __init__(self, child: Child, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._child, self._reader, self._writer = child, reader, writer
        self.is_gone = False
        self.busy_s = 0.0

    @classmethod
    async def start(cls, settings: InferenceSettings) -> _ModelProcess:
        """A process that has loaded its model behind the sandbox. Raises Unavailable, InvalidInput."""
        # In the thread of the event loop, not in another: the kernel ends the process with the thread that started it.
        child = spawn(model_server.main, settings, channel="stream")
        try:
            reader, writer = await asyncio.open_connection(sock=child.channel, limit=4 * 1024**2)
        except BaseException:
            child.end(grace_s=0.0)
            child.channel.close()
            raise
        process = cls(child, reader, writer)
        try:
            async with asyncio.timeout(_START_S):
                kind, _ = await process._read(MAX_MESSAGE_BYTES)
            if kind != READY:
                raise _lost("its first message is not valid")
        except (TimeoutError, ConnectionError, asyncio.IncompleteReadError):
            await process.close()
            raise Unavailable(
                "the process of the model does not start; see the log", code=codes.WORKER_NOT_STARTED
            ) from None
        except BaseException:
            await process.close()
            raise
        return process

    async def run(self, model: ServableModel, arrays: Arrays, num_examples: int, wall_s: float) -> Arrays:
        """The outputs of one batch.

        Raises:
            InvalidInput: the model failed on these inputs; the process goes on. Unavailable: the process has ended.
        """
        most = port_bytes(model.outputs, num_examples) + HEADER_BYTES
        body = encode_pieces(arrays)
        began = time.monotonic()
        try:
            async with asyncio.timeout(wall_s):
                await self._send(body)
                kind, answer = await self._read(most)
        except TimeoutError:
            self.is_gone = True
            raise Unavailable(
                f"the model took longer than {wall_s:g} s; send fewer examples at once", code=codes.INFERENCE_TOO_SLOW
            ) from None
        except (ConnectionError, asyncio.IncompleteReadError):
            self.is_gone = True
            raise _lost("it ended before it answered") from None
        except asyncio.CancelledError:
            self.is_gone = True
            raise
        finally:
            self.busy_s += time.monotonic() - began
        if kind != RESULT:
            self.is_gone = True
            raise _lost("its answer has an unknown kind")
        return self._checked(model, answer, num_examples)

    async def _send(self, body: Sequence[bytes | memoryview]) -> None:
        """Send a request in slices: a single write would copy all of it, and block the event loop meanwhile."""
        self._writer.write(frame_header(SPEC, sum(map(len, body))))
        for part in slices(body):
            self._writer.write(part)
            await self._writer.drain()

    async def _receive(self, length: int) -> bytes:
        """Read ``length`` bytes, also in slices."""
        pieces, left = [], length
        while left:
            piece = await self._reader.read(min(left, SLICE_BYTES))
            if not piece:
                raise asyncio.IncompleteReadError(b"", left)
            pieces.append(piece)
            left -= len(piece)
        return await offload(length, b"".join, pieces)

    async def _read(self, max_bytes: int) -> tuple[bytes, bytes]:
        kind, length = parse_frame_header(await self._reader.readexactly(FRAME_HEADER_BYTES))
        if length > (MAX_MESSAGE_BYTES if kind == OUTCOME else max_bytes):
            self.is_gone = True
            raise _lost("its answer is too long")
        body = await self._receive(length)
        if kind != OUTCOME:
            return kind, body
        try:
            failure = msgspec.json.decode(body, type=Failure)
        except msgspec.DecodeError:
            self.is_gone = True
            raise _lost("its answer cannot be read") from None
        if failure.kind == "plan_failed":
            raise InvalidInput(
                f"the model cannot compute with these inputs: {failure.detail}", code=codes.INFERENCE_FAILED
            )
        raise Unavailable(failure.detail, code=failure.code or failure.kind)

    def _checked(self, model: ServableModel, answer: bytes, num_examples: int) -> Arrays:
        """The arrays of an answer, which must be those that the gate determined."""
        try:
            arrays, _ = decode(answer)
        except InvalidTensors:
            arrays = {}
        wanted = {port.name: (port.dtype, port_shape(port, num_examples)) for port in model.outputs}
        if {name: (array.dtype.name, array.shape) for name, array in arrays.items()} != wanted:
            self.is_gone = True
            raise _lost("it returned other arrays than the outputs of the model")
        return dict(arrays)

    async def close(self) -> None:
        self.is_gone = True
        self._child.kill()
        # Without sending the rest of the data: no process reads it.
        self._writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()
        await asyncio.to_thread(self._child.end, _GRACE_S)


def port_shape(port: Port, num_examples: int) -> tuple[int, ...]:
    """The shape of a port's array with ``num_examples`` examples."""
    return tuple(num_examples if isinstance(side, str) else side for side in port.shape)


def _busy(why: str) -> Unavailable:
    return Unavailable(f"{why}; try again in a moment", code=codes.INFERENCE_BUSY, retry_after_s=1)


def _lost(why: str) -> Unavailable:
    return Unavailable(f"the process of the model was lost: {why}", code=codes.INFERENCE_LOST)
