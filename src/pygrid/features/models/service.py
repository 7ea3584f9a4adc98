"""The use cases of served models: serve, list, predict, download, delete."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Protocol

import msgspec
import sqlalchemy as sa

from pygrid import codes
from pygrid.clock import Clock
from pygrid.core.access import Permission, Principal, require
from pygrid.core.serving import (
    HEADER_BYTES,
    ServableModel,
    ServingRefusal,
    can_download,
    can_predict,
    can_withdraw,
    is_owner,
)
from pygrid.errors import Conflict, Forbidden, InvalidInput, PayloadTooLarge, ShapeMismatch, Unavailable
from pygrid.messages.models import PortInfo, ServedModelInfo, ServeRequest
from pygrid.offload import offload
from pygrid.plans.manifest import Port
from pygrid.plans.serving import ServingReport, check_model_async, port_bytes
from pygrid.storage import models as rows
from pygrid.storage.blobs.protocol import BlobWriter
from pygrid.storage.idempotency import once
from pygrid.storage.models import StoredModel
from pygrid.storage.store import Store
from pygrid.tensors import Params, decode, encode_pieces

logger = logging.getLogger(__name__)

_NUM_CHECKS = 1
_NUM_UPLOADS = 4


class Predictor(Protocol):
    """Runs served models."""

    async def predict(self, model: ServableModel, arrays: Params, num_examples: int) -> Params:
        """Return the outputs for inputs that fit the model's ports.

        Raises:
            Unavailable: the model cannot run now. InvalidInput: it cannot process these values.
        """
        ...

    async def forget(self, name: str) -> None:
        """Unload the model of a file that is about to be removed."""
        ...


class ModelsService:
    """The use cases of served models.

    Args:
        max_request_bytes: total size of the requests that are being read or answered; one request is always accepted.
    """

    def __init__(self, store: Store, predictor: Predictor, clock: Clock, *, max_request_bytes: int) -> None:
        self._store = store
        self._predictor = predictor
        self._clock = clock
        self._checks = asyncio.Semaphore(_NUM_CHECKS)
        self._uploads = asyncio.Semaphore(_NUM_UPLOADS)
        # A file is written before its row and removed after it. The lock keeps these pairs of steps apart.
        self._files = asyncio.Lock()
        self._max_request_bytes = max_request_bytes
        self._request_bytes = 0

    async def recover(self) -> None:
        """Remove the files that a crash left; called before the first request."""
        referenced = await self._store.database.read(rows.list_model_files)
        await asyncio.to_thread(self._store.served.sweep, referenced)

    @contextlib.asynccontextmanager
    async def receive(self, principal: Principal) -> AsyncIterator[BlobWriter]:
        """Check that the caller may serve models, wait for a turn, and yield the writer for the bytes of a model.

        What is written is removed at the end of the block, unless it is served.
        """
        require(principal, Permission.HOST_MODELS)
        async with self._uploads:
            with self._store.served.writer() as model:
                yield model

    async def serve(self, principal: Principal, model: BlobWriter, request: ServeRequest) -> ServedModelInfo:
        """Serve a model: all of it is checked before anything is stored.

        Args:
            model: the writer that `receive` has yielded.
        Raises:
            InvalidConfig, InvalidPlan, PayloadTooLarge: what is wrong with it. Conflict: ``model_exists``.
        """
        require(principal, Permission.HOST_MODELS)
        if await self._store.database.read(lambda connection: rows.find_model(connection, request.model_id)):
            raise rows.model_exists(request.model_id)
        async with self._checks:
            report = await check_model_async(model.path, request.max_batch_size)
        async with self._files:
            stored = await self._put(principal, request, report, model)
        if stored.visibility == "public":
            await self._store.public.changed()
        logger.info("model served", extra={"model_id": stored.model_id, "size_bytes": stored.size_bytes})
        return _describe(principal, stored)

    async def _put(
        self, principal: Principal, request: ServeRequest, report: ServingReport, writer: BlobWriter
    ) -> StoredModel:
        with self._store.served.batch() as served:
            file = await asyncio.to_thread(served.commit, writer)

            def transaction(connection: sa.Connection) -> StoredModel:
                model = StoredModel(
                    **msgspec.structs.asdict(request),
                    report=report,
                    file=file,
                    size_bytes=writer.size,
                    created_by=principal.user_id,
                    created_at=self._clock.now(),
                )
                rows.put_model(connection, model)
                return model

            return await self._store.database.write(once(transaction, lambda model: _describe(principal, model)))

    async def list_ids(self, principal: Principal | None) -> list[str]:
        """Return the ids of all served models, sorted; to callers without an account, those of public ones."""
        return await self._store.database.read(
            lambda connection: rows.list_model_ids(connection, only_public=principal is None)
        )

    async def list_models(self, principal: Principal | None) -> list[ServedModelInfo]:
        """Return all served models, sorted by id; to callers without an account, the public ones."""
        found = await self._store.database.read(
            lambda connection: rows.list_models(connection, only_public=principal is None)
        )
        return [_describe(principal, model) for model in found]

    async def get(self, principal: Principal, model_id: str) -> ServedModelInfo:
        """Return one model. Raises NotFound: ``model_not_found``."""
        require(principal)
        return _describe(principal, await self._get(model_id))

    async def find_file(self, principal: Principal, model_id: str) -> str:
        """Return the name of a model's bytes, for callers who may download them.

        Raises:
            NotFound: ``model_not_found``. Forbidden: ``download_not_allowed``.
        """
        model = await self._get(model_id)
        if refusal := can_download(principal, model.serving):
            raise _forbidden(refusal, model_id)
        return model.file

    async def check_may_predict(self, principal: Principal, model_id: str, sha256: str | None = None) -> StoredModel:
        """Return the model, for callers who may request predictions; called before the request is read.

        Args:
            sha256: hash of the file that the caller expects; None: any file that is served with this id.
        Raises:
            NotFound: ``model_not_found``. Forbidden: ``inference_not_allowed``. Conflict: ``model_changed``.
        """
        model = await self._get(model_id)
        _check_may_predict(principal, model)
        if sha256 is not None and sha256 != model.file:
            raise Conflict(
                f"another model is served as {model_id!r} now; check it before you use it",
                code=codes.MODEL_CHANGED,
                model_id=model_id,
            )
        return model

    @contextlib.contextmanager
    def reserve_bytes(self, principal: Principal, model: StoredModel, announced_bytes: int | None) -> Iterator[int]:
        """Reserve memory for a request, and yield its largest allowed size in bytes.

        Args:
            announced_bytes: size of the request; None: the client did not announce it.
        Raises:
            PayloadTooLarge: the request is larger than the model's largest batch.
            Unavailable: ``inference_busy``: too many requests are in memory.
        """
        _check_may_predict(principal, model)
        most = port_bytes(model.report.inputs, model.max_batch_size) + HEADER_BYTES
        if announced_bytes is not None and announced_bytes > most:
            raise PayloadTooLarge(
                f"the request has {announced_bytes:,} bytes; this model takes at most {most:,}, for "
                f"{model.max_batch_size} examples",
                max_bytes=most,
            )
        taken = most if announced_bytes is None else announced_bytes
        if self._request_bytes and self._request_bytes + taken > self._max_request_bytes:
            raise Unavailable(
                "too many predictions at once; try again in 1 s", code=codes.INFERENCE_BUSY, retry_after_s=1
            )
        self._request_bytes += taken
        try:
            yield taken
        finally:
            self._request_bytes -= taken

    async def predict(
        self, principal: Principal, model: StoredModel, request: Sequence[bytes], *, max_answer_bytes: int | None = None
    ) -> list[bytes | memoryview]:
        """Return the outputs for a request, both as safetensors bytes in pieces.

        Args:
            max_answer_bytes: limit of the outputs' values; None: no limit of the caller's own.
        Raises:
            PayloadTooLarge: ``inference_answer_too_large``: the outputs for these examples are over the limit.
            InvalidTensors, InvalidInput, ShapeMismatch: the request does not fit the model, or ``inference_failed``:
                the model cannot process its values.
            Unavailable: the model cannot answer now; the code is the reason.
        """
        _check_may_predict(principal, model)
        arrays = await offload(sum(map(len, request)), _read, request)
        num_examples = check_inputs(arrays, model.report.inputs, model.max_batch_size)
        report = model.report
        if max_answer_bytes is not None and port_bytes(report.outputs, num_examples) > max_answer_bytes:
            raise PayloadTooLarge(
                f"the answer for {num_examples} examples has more than {max_answer_bytes:,} bytes, the limit of this "
                "interface; send fewer examples at once, or use HTTP",
                code=codes.INFERENCE_ANSWER_TOO_LARGE,
                max_bytes=max_answer_bytes,
            )
        with contextlib.ExitStack() as held:
            servable = ServableModel(
                path=await asyncio.to_thread(held.enter_context, self._store.served.local(model.file)),
                inputs=report.inputs,
                outputs=report.outputs,
                max_batch_size=model.max_batch_size,
                joins=report.rows_independent,
                size_bytes=model.size_bytes,
                peak_bytes=report.peak_bytes,
            )
            return encode_pieces(await self._predictor.predict(servable, arrays, num_examples))

    async def delete(self, principal: Principal, model_id: str) -> None:
        """Stop serving a model and remove its bytes.

        Raises:
            NotFound: ``model_not_found``. Forbidden: ``not_your_model``.
        """
        async with self._files:
            model = await self._get(model_id)
            if refusal := can_withdraw(principal, model.serving):
                raise _forbidden(refusal, model_id)
            if await self._store.database.write(lambda connection: rows.delete_model(connection, model_id)):
                await self._predictor.forget(model.file)
                await asyncio.to_thread(self._store.served.drop, model.file)
        if model.visibility == "public":
            await self._store.public.changed()
        logger.info("model deleted", extra={"model_id": model_id})

    async def _get(self, model_id: str) -> StoredModel:
        return await self._store.database.look_up(lambda connection: rows.get_model(connection, model_id))


def _check_may_predict(principal: Principal, model: StoredModel) -> None:
    if refusal := can_predict(principal, model.serving):
        raise _forbidden(refusal, model.model_id)


def _read(pieces: Sequence[bytes]) -> Params:
    return decode(b"".join(pieces))[0]


def check_inputs(arrays: Params, ports: tuple[Port, ...], max_batch_size: int) -> int:
    """Check arrays against the inputs of a model, and return the number of examples (1 if the model has no batch).

    Raises:
        InvalidInput: an array is missing, unknown or of another dtype, or there are too many examples.
        ShapeMismatch: an array has another shape.
    """
    wanted = {port.name for port in ports}
    there = ", ".join(sorted(wanted))
    for name in sorted(wanted ^ arrays.keys()):
        trouble = f"input {name!r} is missing" if name in wanted else f"the model has no input {name[:80]!r}"
        raise InvalidInput(f"{trouble}; its inputs are: {there}", code=codes.INFERENCE_INPUTS, array=name[:200])
    num_examples: int | None = None
    for port in ports:
        array = arrays[port.name]
        if array.dtype.name != port.dtype:
            raise InvalidInput(
                f"input {port.name!r} is {array.dtype.name}; the model takes {port.dtype}",
                code=codes.INFERENCE_INPUTS,
                array=port.name,
            )
        if port.shape and isinstance(port.shape[0], str) and array.ndim:
            num_examples = array.shape[0] if num_examples is None else num_examples
        shape = tuple(num_examples if isinstance(side, str) else side for side in port.shape)
        if array.shape != shape:
            raise ShapeMismatch(
                f"input {port.name!r} has shape {list(array.shape)}; the model takes {_shown(port.shape)}, with the "
                "same batch for all inputs",
                array=port.name,
            )
    if num_examples is not None and not 1 <= num_examples <= max_batch_size:
        raise InvalidInput(
            f"the request has {num_examples} examples; this model takes 1 to {max_batch_size} at once",
            code=codes.INFERENCE_BATCH_SIZE,
            max_batch_size=max_batch_size,
        )
    return num_examples or 1


def _shown(shape: tuple[int | str, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _forbidden(refusal: ServingRefusal, model_id: str) -> Forbidden:
    details = {
        ServingRefusal.DOWNLOAD: "the owner of this model does not allow others to download it",
        ServingRefusal.INFERENCE: "You're not allowed to run inferences on this model.",
        ServingRefusal.NOT_YOURS: "only the owner of this model, or an Owner of the Domain, may delete it",
    }
    return Forbidden(details[refusal], code=refusal.value, model_id=model_id)


def _describe(principal: Principal | None, model: StoredModel) -> ServedModelInfo:
    report = model.report
    return ServedModelInfo(
        id=model.model_id,
        description=model.description,
        model_size=f"{-(-model.size_bytes // 1024)}KB",
        size_bytes=model.size_bytes,
        sha256=model.file,
        allow_download=model.allow_download,
        allow_remote_inference=model.allow_remote_inference,
        inputs=tuple(PortInfo(port.name, port.dtype, port.shape) for port in report.inputs),
        outputs=tuple(PortInfo(port.name, port.dtype, port.shape) for port in report.outputs),
        max_batch_size=model.max_batch_size,
        num_parameters=report.num_parameters,
        flops_per_example=report.flops_per_example,
        rows_independent=report.rows_independent,
        created_at=model.created_at,
        mine=principal is not None and is_owner(principal, model.serving),
        visibility=model.visibility,
    )
