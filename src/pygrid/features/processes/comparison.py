"""Compares checkpoints of a process array by array."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

import sqlalchemy as sa

from pygrid.core.access import Principal, require
from pygrid.errors import InvalidInput
from pygrid.storage import processes
from pygrid.storage.hosted_processes import read_layout_of
from pygrid.storage.processes import Checkpoint
from pygrid.storage.store import Store
from pygrid.tensors.comparison import ArrayChange, compare_files

MAX_BYTES = 2 * 1024**3
"""Size of the largest checkpoint that is compared."""
_KEPT = 100


class CheckpointComparison:
    """Compares checkpoints, one pair at a time, and keeps the last results."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._turn = asyncio.Lock()
        self._kept: OrderedDict[tuple[str, str], list[ArrayChange]] = OrderedDict()

    async def compare(
        self, principal: Principal, process_id: int, first: int, second: int
    ) -> tuple[Checkpoint, Checkpoint, list[ArrayChange]]:
        """Return two checkpoints and how each array changes from the first to the second.

        Raises:
            NotFound: ``process_not_found``, ``checkpoint_not_found``. InvalidInput: a checkpoint has over 2 GiB.
        """
        require(principal)

        def load(connection: sa.Connection) -> tuple[Checkpoint, Checkpoint]:
            processes.get_process(connection, process_id)
            a, b = (processes.get_checkpoint(connection, process_id, number) for number in (first, second))
            return a, b

        a, b = await self._store.database.read(load)
        if max(a.size_bytes, b.size_bytes) > MAX_BYTES:
            raise InvalidInput(
                f"a checkpoint has {a.size_bytes:,} bytes; at most {MAX_BYTES:,} are compared here: download both"
            )
        key = a.model_hash, b.model_hash
        async with self._turn:
            if key not in self._kept:
                self._kept[key] = await asyncio.to_thread(self._read, *key)
            self._kept.move_to_end(key)
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return a, b, self._kept[key]

    def _read(self, first: str, second: str) -> list[ArrayChange]:
        with self._store.blobs.local(first) as one, self._store.blobs.local(second) as two:
            return compare_files(one, two, (read_layout_of(one), read_layout_of(two)))
