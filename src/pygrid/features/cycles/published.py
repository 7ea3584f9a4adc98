"""Devices of 2020: models and diffs as protobuf States, reports in JSON, plans in their dialects.

They have the same use cases as native devices. This module converts at the rim: what arrives becomes the native bytes,
and goes through the same checks.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from pygrid import codes
from pygrid.core.processes import HostedPlan, HostedProcess, HostedVariant
from pygrid.durable import Bytes
from pygrid.errors import InvalidInput, PayloadTooLarge, PygridError, Unauthenticated
from pygrid.features.cycles.forms import missing_key, read_members
from pygrid.features.cycles.report_stage import Memory, ReportStage
from pygrid.features.cycles.report_text import MAX_OTHER_BYTES, DiffText, ReportText, not_base64
from pygrid.storage.processes import Checkpoint
from pygrid.storage.report_batches import INVALID_KEY
from pygrid.storage.reports import has_client, worker_not_found
from pygrid.storage.store import Store
from pygrid.tensors.safetensors import ordered_header

if TYPE_CHECKING:
    from pygrid.features.cycles.service import CyclesService, RedeemedKey

PIECE_CHARS = 32 * 1024
"""A diff is decoded in pieces of this size, in less than 0.1 ms each. A diff made of tiny fields takes 30 ms."""
SLOW_S = 0.002
"""After a piece that took longer, other clients are served first."""


class PublishedDevices:
    """The use cases of devices of 2020.

    Args:
        stage: keeps reports whose key comes last.
    """

    def __init__(self, store: Store, cycles: CyclesService, stage: ReportStage) -> None:
        self._store = store
        self._cycles = cycles
        self.stage = stage

    async def find_state(self, process: HostedProcess, checkpoint: Checkpoint) -> str:
        """Return the file name of a checkpoint as a State. Raises InvalidInput: ``plan_variant_unavailable``."""
        return await self._store.states.prepare(process, checkpoint.model_hash)

    async def redeem_key(self, request_key: str, client_id: str | None) -> RedeemedKey:
        """Return what a key that came in a query is for.

        Raises:
            NotFound: ``worker_not_found``. Unauthenticated: as `CyclesService.redeem_key`.
        """
        if not client_id:
            raise worker_not_found()
        try:
            return await self._cycles.redeem_key(request_key, client_id)
        except Unauthenticated:
            if await self._store.database.look_up(lambda connection: has_client(connection, client_id)):
                raise
            raise worker_not_found() from None

    async def take_report(self, request_key: str, client_id: str | None, diff: str) -> None:
        """Take a report whose ``diff`` is a State in base64, which may contain white space.

        Raises:
            InvalidInput, InvalidTensors, ShapeMismatch, PayloadTooLarge: as `DiffStream`. PygridError: as
            `CyclesService.take_report`.
        """

        async def read(max_bytes: int) -> AsyncIterator[Bytes]:
            stream = await self._open(request_key, client_id, max_bytes)
            yield stream.header
            if not diff.isascii() or "\\" in diff:
                raise not_base64("it has another character")
            async for values in stream.add(diff.encode()):
                yield values
            stream.finish()

        await self._cycles.take_report(request_key, client_id, read)

    async def take_report_body(
        self, body: AsyncIterator[bytes], announced: int | None, address: str, held: Memory
    ) -> None:
        """Take a report in JSON while it arrives.

        If the request key comes before the diff, nothing of the diff is kept. Else the diff is kept in memory or in a
        file until the key arrives: see `ReportStage`.

        Args:
            announced: length of the body; None: it is not known.
            held: counts the memory of the report.
        Raises:
            Unauthenticated: ``missing_request_key``: the body is not text. InvalidInput: it is not a JSON object.
            PygridError: as `take_report` and `StagedText.add`.
        """
        text = ReportText()
        begun = b""
        async for piece in body:
            try:
                begun += text.add(piece)
            except PygridError:
                if text.is_binary:
                    raise missing_key() from None
                raise
            if text.is_binary:
                raise missing_key()
            if text.has_diff:
                break
        await self.take_begun(text, diff_parts(text, begun, body), announced, address, held)

    async def take_begun(
        self, text: ReportText, parts: AsyncIterator[bytes], announced: int | None, address: str, held: Memory
    ) -> None:
        """Take a report of which `ReportText` has read the members before the diff. See `take_report_body`.

        Args:
            parts: those of the diff's text.
        """
        before = text.members_before_diff()
        key, client_id = before.get("request_key"), before.get("worker_id")
        if isinstance(key, str) and key and text.has_diff:
            client = client_id if isinstance(client_id, str) else None
            await self._take_parts(key, client, parts, text, announced)
            return
        with self.stage.text(address, held) as staged:
            async for part in parts:
                await staged.add(part)
            report = read_members(text.finish())
            if not text.has_diff:
                await self.take_report(report.request_key, report.worker_id, report.diff)
            else:
                await self._take_parts(report.request_key, report.worker_id, staged.read(), text, None)

    async def _take_parts(
        self, key: str, client_id: str | None, parts: AsyncIterator[bytes], text: ReportText, announced: int | None
    ) -> None:
        """Take a report whose diff arrives in parts; ``text`` has its other members after the last part."""

        async def read(max_bytes: int) -> AsyncIterator[Bytes]:
            if announced is not None and announced > max_chars(max_bytes) + MAX_OTHER_BYTES:
                raise _too_large(max_bytes)
            stream = await self._open(key, client_id, max_bytes)
            yield stream.header
            async for part in parts:
                async for values in stream.add(part):
                    yield values
            stream.finish()
            if read_members(text.finish()).worker_id != stream.client_id:
                raise Unauthenticated(INVALID_KEY, code=codes.INVALID_REQUEST_KEY)

        await self._cycles.take_report(key, client_id, read)

    async def _open(self, key: str, client_id: str | None, max_bytes: int) -> DiffStream:
        redeemed = await self._cycles.redeem_key(key, client_id)
        order = await self._store.states.order(redeemed.process)
        return DiffStream(redeemed, order, max_bytes)

    def find_variant(self, redeemed: RedeemedKey, plan: HostedPlan, dialect: str) -> HostedVariant:
        """Return a plan in a dialect, for the batch size of the key's cycle.

        Raises:
            InvalidInput: ``plan_variant_unavailable``.
        """
        found = plan.find_variant(dialect, redeemed.process.batch_size_in(redeemed.cycle.sequence))
        if found is None:
            there = ", ".join((*(() if plan.is_traced else ("onnx",)), *plan.dialects))
            raise InvalidInput(
                f"this plan is not available as {dialect[:80]!r} for the batch size of this cycle; it is available as "
                f"{there}",
                code=codes.PLAN_VARIANT_UNAVAILABLE,
            )
        return found


class DiffStream:
    """Converts the text of a diff of 2020 to the bytes of a native one; a position in the State becomes a name.

    Args:
        order: names of the arrays of the model, in the order of a State.
    """

    def __init__(self, redeemed: RedeemedKey, order: tuple[str, ...], max_bytes: int) -> None:
        from pygrid.syft.state_stream import StateStream  # here, because most Domains have no clients of 2020

        entries = {entry.name: entry for entry in redeemed.process.model.entries}
        self.header = ordered_header([(name, entries[name].dtype, entries[name].shape) for name in order])
        self.client_id = redeemed.assignment.client_id
        self._max_bytes = max_bytes
        self._num_chars = 0
        self._text = DiffText()
        self._state = StateStream([(name, entries[name].shape) for name in order])

    async def add(self, text: bytes) -> AsyncIterator[memoryview]:
        """Yield the values in the next part of the text.

        Raises:
            PayloadTooLarge. InvalidInput: ``invalid_protobuf``, or the text is not base64. InvalidTensors: an array is
            not float32. ShapeMismatch.
        """
        self._num_chars += len(text)
        if self._num_chars > max_chars(self._max_bytes):
            raise _too_large(self._max_bytes)
        for start in range(0, len(text), PIECE_CHARS):
            began = time.perf_counter()
            found = self._state.add(self._text.add(text[start : start + PIECE_CHARS]))
            if time.perf_counter() - began > SLOW_S:
                await asyncio.sleep(0)
            for values in found:
                yield values

    def finish(self) -> None:
        """Check that the diff is complete. Raises as `add`."""
        self._text.finish()
        self._state.finish()


async def diff_parts(text: ReportText, begun: bytes, body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield the parts of a diff's text, of which the first one was read."""
    yield begun
    async for piece in body:
        if part := text.add(piece):
            yield part


def max_chars(num_bytes: int) -> int:
    """Length of bytes as base64 in lines of 76 characters, which is 37% longer."""
    return num_bytes * 11 // 8


def _too_large(max_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the diff may have at most {max_bytes} bytes", max_bytes=max_bytes)
