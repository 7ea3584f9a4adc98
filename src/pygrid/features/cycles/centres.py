"""The vectors from which the distances of arriving diffs are measured, as mapped files."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

import numpy as np

from pygrid.aggregation.rules import CENTRE
from pygrid.core.processes import HostedProcess
from pygrid.storage.store import Store
from pygrid.tensors.flat import Float32

MAX_MAPPED = 64
"""Files that stay mapped: one for each of the most recently used processes."""


class Centres:
    """Finds the centre of a process. Used in the event loop."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._mapped: OrderedDict[int, tuple[str, Float32]] = OrderedDict()

    async def find(self, process: HostedProcess, checkpoint: int) -> Float32 | None:
        """Return the centre of the cycle that starts from a checkpoint; None without a centre, as in the first cycle.

        Returns:
            float32, values in the order of the model's file.
        """
        if not process.rule.is_centred:
            return None
        found = await self._store.processes.get_checkpoint(process.id, checkpoint)
        name = found.optimizer_state.get(CENTRE)
        if name is None:
            return None
        known = self._mapped.get(process.id)
        if known is None or known[0] != name:
            known = self._mapped[process.id] = name, await asyncio.to_thread(self._map, name)
        self._mapped.move_to_end(process.id)
        if len(self._mapped) > MAX_MAPPED:
            self._mapped.popitem(last=False)
        return known[1]

    def _map(self, name: str) -> Float32:
        # Mapped bytes stay readable when the file is removed.
        with self._store.blobs.local(name) as path:
            return np.asarray(np.memmap(path, dtype="<f4", mode="r"))
