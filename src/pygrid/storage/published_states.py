"""Checkpoints as clients of 2020 read them: a protobuf State, made once for each checkpoint and kept in a file.

The files are a cache. Any of them can be deleted; it is made again when a client asks for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from pygrid import codes
from pygrid.core.processes import HostedProcess
from pygrid.errors import InvalidInput
from pygrid.storage.blobs.protocol import Blobs
from pygrid.tensors.safetensors import header_length, parse_header

MAX_FILES = 16
"""Newer files replace older ones."""
_SUFFIX = ".state"


class PublishedStates:
    """Makes States of checkpoints.

    Args:
        blobs: has the checkpoints.
        folder: made when it is first needed.
    """

    def __init__(self, blobs: Blobs, folder: Path) -> None:
        self._blobs = blobs
        self._folder = folder
        self._orders: dict[str, tuple[str, ...]] = {}
        self._making: dict[str, asyncio.Task[None]] = {}

    @contextlib.contextmanager
    def local(self, name: str) -> Iterator[Path]:
        yield self._folder / name

    async def order(self, process: HostedProcess) -> tuple[str, ...]:
        """The names of the arrays in the order of a State: that of the first plan's parameters.

        Raises:
            InvalidInput: ``plan_variant_unavailable``: the model has buffers.
        """
        if not process.is_native:  # its arrays are named by their position
            return tuple(entry.name for entry in process.model.entries)
        plan = process.plans[0]
        if plan.plan_hash not in self._orders:
            data = await asyncio.to_thread(self._blobs.read, plan.plan_hash)
            self._orders[plan.plan_hash] = await asyncio.to_thread(_read_order, data)
        order = self._orders[plan.plan_hash]
        if set(order) != {entry.name for entry in process.model.entries}:
            raise InvalidInput(
                "the model has buffers, which clients of 2020 do not have", code=codes.PLAN_VARIANT_UNAVAILABLE
            )
        return order

    async def prepare(self, process: HostedProcess, model_hash: str) -> str:
        """Return the name of the State of a checkpoint, after it was made. Simultaneous calls make it once.

        Raises:
            InvalidInput: ``plan_variant_unavailable``: the model has buffers.
        """
        order = await self.order(process)
        name = model_hash + _SUFFIX
        if not (self._folder / name).exists():
            making = self._making.get(name)
            if making is None:
                making = self._making[name] = asyncio.create_task(asyncio.to_thread(self._make, model_hash, order))
                making.add_done_callback(partial(self._made, name))
            await asyncio.shield(making)
        return name

    def _made(self, name: str, _task: asyncio.Task[None]) -> None:
        del self._making[name]

    def _make(self, model_hash: str, order: Sequence[str]) -> None:
        from pygrid.syft import state_pieces  # here, because most Domains have no clients of 2020

        self._folder.mkdir(exist_ok=True)
        target = self._folder / (model_hash + _SUFFIX)
        part = target.with_suffix(f".{os.getpid()}.part")
        try:
            with self._blobs.local(model_hash) as path, path.open("rb") as file, part.open("wb") as out:
                arrays = _arrays(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
                for piece in state_pieces([arrays[name] for name in order]):
                    out.write(piece)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
        self._drop_old()

    def _drop_old(self) -> None:
        files = sorted(self._folder.glob(f"*{_SUFFIX}"), key=lambda path: path.stat().st_mtime, reverse=True)
        for old in files[MAX_FILES:]:
            with contextlib.suppress(OSError):
                old.unlink()


def _read_order(data: bytes) -> tuple[str, ...]:
    from pygrid.plans.archive import Plan
    from pygrid.plans.dialects.check import parameter_order

    return parameter_order(Plan.from_bytes(data).manifest)


def _arrays(data: mmap.mmap) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]:
    """The arrays of a safetensors file as views."""
    size = header_length(data[:8])
    layout = parse_header(data[:size])
    return {
        entry.name: np.frombuffer(
            data, entry.dtype, (entry.end - entry.begin) // entry.dtype.itemsize, size + entry.begin
        ).reshape(entry.shape)
        for entry in layout.entries
    }
