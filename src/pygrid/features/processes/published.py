"""Hosts a process as model owners of 2020 did: one JSON object with the files as hexadecimal text.

``model`` is a State, or a safetensors file. ``plans`` are Plans of PySyft 0.2, or plan archives; the two do not mix. A
plan of PySyft has the key ``name``, or the keys ``name:list``, ``name:ts`` and ``name:tfjs`` for its variants.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

import msgspec

from pygrid.configuration.published import PublishedConfig, read_published_config
from pygrid.core.access import Principal
from pygrid.errors import InvalidInput, InvalidPlan
from pygrid.features.processes.forms import MAX_MODEL_BYTES, HostMessage, check_plan_name
from pygrid.features.processes.hosting import PLAN_PREFIX, HostForm
from pygrid.features.processes.service import ProcessesService
from pygrid.features.processes.traced import TracedForm
from pygrid.storage.blobs.protocol import BlobWriter
from pygrid.tensors import encode
from pygrid.tensors.flat import check_model
from pygrid.tensors.safetensors import Layout
from pygrid.tensors.stream import StreamCheck

logger = logging.getLogger(__name__)

ARCHIVE = b"PK"
"""Beginning of a plan archive; no protobuf Plan begins with it."""


class PublishedHosting:
    """The use case of model owners of 2020.

    Args:
        is_open: callers without an account may host, secrets may be short, and averaging plans need not fit the model.
    """

    def __init__(self, processes: ProcessesService, *, is_open: bool) -> None:
        self._processes = processes
        self.is_open = is_open

    async def host(self, principal: Principal | None, message: HostMessage) -> None:
        """Host a process.

        Raises:
            InvalidInput, InvalidConfig, InvalidPlan, ShapeMismatch, InvalidTensors, NonFinite: nothing was hosted.
            Conflict: ``process_exists``. Unauthenticated, Forbidden: the caller may not host.
        """
        async with self._processes.receive(principal) as writer:
            model = await asyncio.to_thread(_write_model, writer, message.model)
            await self._processes.host(principal, writer, self._form(message, model))

    def _form(self, message: HostMessage, model: Layout) -> HostForm:
        plans = {key: _from_hex(f"plan {key!r}", text) for key, text in message.plans.items()}
        averaging = _from_hex("averaging_plan", message.averaging_plan)
        for index, key in enumerate(plans):
            name = key.partition(":")[0]
            check_plan_name(name, {PLAN_PREFIX + before.partition(":")[0]: None for before in list(plans)[:index]})
        config = {"client_config": message.client_config, "server_config": message.server_config}
        if all(data.startswith(ARCHIVE) for data in plans.values()):
            return HostForm(msgspec.json.encode(config), plans, averaging or None, model)
        found = self._read_config(message)
        config["server_config"] = found.values
        traced = TracedForm(_grouped(plans), averaging, self.is_open)
        return HostForm(msgspec.json.encode(config), {}, None, model, traced=traced)

    def _read_config(self, message: HostMessage) -> PublishedConfig:
        found = read_published_config(
            message.server_config, has_averaging_plan=bool(message.averaging_plan), allows_short_secrets=self.is_open
        )
        name = str(message.client_config.get("name"))[:100]
        if found.unused:
            fields = [one[:80] for one in found.unused[:20]]
            logger.warning("fields of server_config have no effect", extra={"process_name": name, "fields": fields})
        if found.has_short_secret:
            logger.warning("secret of authentication is short", extra={"process_name": name})
        return found


def _grouped(plans: Mapping[str, bytes]) -> dict[str, dict[str, bytes]]:
    """The parts of each plan by suffix. Raises InvalidPlan: a suffix is unknown, or a part is a plan archive."""
    from pygrid.plans.dialects.traced import SUFFIXES

    found: dict[str, dict[str, bytes]] = {}
    for key, data in plans.items():
        name, _, suffix = key.partition(":")
        if suffix not in SUFFIXES:
            raise InvalidPlan(
                f"Plan is not valid: {key[:100]!r} has an unknown suffix; use NAME, NAME:list, NAME:ts or NAME:tfjs",
                plan=name,
            )
        if data.startswith(ARCHIVE):
            raise InvalidPlan(
                "Plan is not valid: plan archives and plans of PySyft cannot be hosted together", plan=name
            )
        found.setdefault(name, {})[suffix] = data
    return found


def _write_model(writer: BlobWriter, text: str) -> Layout:
    data = _from_hex("model", text)
    if not _is_safetensors(data):
        data = _from_state(data)
    check = StreamCheck(MAX_MODEL_BYTES, check_model)
    check.add(bytearray(data))
    writer.write(data)
    return check.finish().layout


def _is_safetensors(data: bytes) -> bool:
    """Whether the bytes are a safetensors file: eight bytes with the length of its header, and a JSON object."""
    return data[8:9] == b"{" and int.from_bytes(data[:8], "little") <= len(data) - 8


def _from_state(data: bytes) -> bytes:
    """The bytes of a safetensors file with the arrays of a State, named by their position."""
    from pygrid.syft import read_state  # most Domains have no clients of 2020

    arrays = read_state(data)
    if not arrays:
        raise InvalidInput("the model is a State without tensors", field="model")
    digits = len(str(len(arrays) - 1))
    return bytes(encode({f"{index:0{digits}}": array for index, array in enumerate(arrays)}))


def _from_hex(name: str, text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise InvalidInput(f"{name[:120]} is not hexadecimal text: {error}", field=name[:120]) from None
