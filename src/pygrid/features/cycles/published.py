"""Devices of 2020: models and diffs as protobuf States, reports in JSON, plans in their dialects.

They have the same use cases as native devices. This module converts at the rim: what arrives becomes the native bytes,
and goes through the same checks.
"""

from __future__ import annotations

import asyncio
import binascii
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from pygrid import codes
from pygrid.core.processes import HostedPlan, HostedProcess, HostedVariant
from pygrid.errors import InvalidInput, InvalidTensors, PayloadTooLarge, ShapeMismatch
from pygrid.storage.processes import Checkpoint
from pygrid.storage.store import Store
from pygrid.tensors import encode
from pygrid.tensors.flat import num_values

if TYPE_CHECKING:
    from pygrid.features.cycles.service import CyclesService, RedeemedKey

MARGIN_CHARS = 4096
"""Length of the body of a report without its diff."""
IN_THREAD_BYTES = 64 * 1024
"""Longer texts are decoded in a thread."""


class PublishedDevices:
    """The use cases of devices of 2020."""

    def __init__(self, store: Store, cycles: CyclesService) -> None:
        self._store = store
        self._cycles = cycles

    async def find_state(self, process: HostedProcess, checkpoint: Checkpoint) -> str:
        """Return the file name of a checkpoint as a State. Raises InvalidInput: ``plan_variant_unavailable``."""
        return await self._store.states.prepare(process, checkpoint.model_hash)

    async def take_report(self, request_key: str, client_id: str | None, diff: str) -> None:
        """Take a report whose ``diff`` is a State in base64, which may contain white space.

        Raises:
            InvalidInput, InvalidTensors, ShapeMismatch: as `convert_diff`. PygridError: as `CyclesService.take_report`.
        """

        async def read(max_bytes: int) -> AsyncIterator[bytes]:
            ticket = await self._cycles.redeem_key(request_key, client_id)
            order = await self._store.states.order(ticket.process)
            if len(diff) > IN_THREAD_BYTES:
                yield await asyncio.to_thread(convert_diff, diff, ticket.process, order, max_bytes)
            else:
                yield convert_diff(diff, ticket.process, order, max_bytes)

        await self._cycles.take_report(request_key, client_id, read)

    async def max_report_chars(self, request_key: str) -> int:
        """Return the longest body of a report with this key. Raises Unauthenticated: ``invalid_request_key``."""
        ticket = await self._cycles.redeem_key(request_key)
        return max_chars(ticket.process.max_report_bytes) + MARGIN_CHARS

    def find_variant(self, ticket: RedeemedKey, plan: HostedPlan, dialect: str) -> HostedVariant:
        """Return a plan in a dialect, for the batch size of the key's cycle.

        Raises:
            InvalidInput: ``plan_variant_unavailable``.
        """
        found = plan.find_variant(dialect, ticket.process.batch_size_in(ticket.cycle.sequence))
        if found is None:
            there = ", ".join((*(() if plan.is_traced else ("onnx",)), *plan.dialects))
            raise InvalidInput(
                f"this plan is not available as {dialect[:80]!r} for the batch size of this cycle; it is available as "
                f"{there}",
                code=codes.PLAN_VARIANT_UNAVAILABLE,
            )
        return found


def max_chars(num_bytes: int) -> int:
    """Length of bytes as base64 in lines of 76 characters, which is 37% longer."""
    return num_bytes * 11 // 8


def convert_diff(diff: str, process: HostedProcess, order: tuple[str, ...], max_bytes: int) -> bytes:
    """The native bytes of a diff, whose arrays have their names by their position.

    Raises:
        PayloadTooLarge. InvalidInput: ``invalid_protobuf``, or the text is not base64. InvalidTensors: an array is not
        float32. ShapeMismatch.
    """
    from pygrid.syft import read_state  # here, because most Domains have no clients of 2020

    if len(diff) > max_chars(max_bytes):
        raise PayloadTooLarge(f"the diff may have at most {max_bytes} bytes", max_bytes=max_bytes)
    arrays = read_state(_decode_base64(diff))
    if len(arrays) != len(order):
        raise ShapeMismatch(f"the diff has {len(arrays)} arrays; the model has {len(order)}")
    shapes = {entry.name: entry.shape for entry in process.model.entries}
    for number, (name, array) in enumerate(zip(order, arrays, strict=True)):
        if array.dtype.name != "float32":
            raise InvalidTensors(f"array {number} of the diff is {array.dtype}; a diff is float32", array=name)
        if array.shape != shapes[name]:
            raise ShapeMismatch(
                f"array {number} of the diff has shape {list(array.shape)}; {name!r} of the model has "
                f"{list(shapes[name])}",
                array=name,
            )
    assert sum(array.size for array in arrays) == num_values(process.model)
    return encode(dict(zip(order, arrays, strict=True)))


def _decode_base64(text: str) -> bytes:
    try:
        data = text.encode("ascii")
        if any(mark in data for mark in (b"\n", b"\r", b" ", b"\t")):
            data = data.translate(None, b" \r\n\t")
        return binascii.a2b_base64(data, strict_mode=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidInput(f"'diff' is not base64: {error}", field="diff") from None
