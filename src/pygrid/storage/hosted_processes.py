"""A cache of the constant data of hosted processes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container, Sequence
from pathlib import Path

import sqlalchemy as sa

from pygrid.configuration import read_server_config
from pygrid.core.processes import HostedPlan, HostedProcess, HostedVariant
from pygrid.storage import processes as store
from pygrid.storage.blobs.protocol import Blobs
from pygrid.storage.sql.database import Database
from pygrid.tensors.safetensors import Layout, header_length, parse_header

MAX_CHECKPOINTS = 1000


def read_model_layout(blobs: Blobs, model_hash: str) -> Layout:
    """The layout of a stored model, from its header."""
    with blobs.local(model_hash) as path:
        return read_layout_of(path)


def read_layout_of(path: Path) -> Layout:
    """The layout of a safetensors file, from its header."""
    with path.open("rb") as file:
        prefix = file.read(8)
        return parse_header(prefix + file.read(header_length(prefix) - len(prefix)))


class HostedProcesses:
    """A cache of processes and checkpoints in front of the store."""

    def __init__(self, database: Database, blobs: Blobs) -> None:
        self._database = database
        self._blobs = blobs
        self._known: dict[int, HostedProcess] = {}
        self._names: dict[tuple[str, str], int] = {}
        self._checkpoints: OrderedDict[tuple[int, int], store.Checkpoint] = OrderedDict()

    async def get(self, process_id: int) -> HostedProcess:
        """The process of an id. Raises NotFound: ``process_not_found``."""
        known = self._known.get(process_id)
        if known is not None:
            return known
        return await self._database.read(lambda connection: self.load(connection, process_id))

    async def get_by_name(self, name: str, version: str | None) -> HostedProcess:
        """The process of a name and version; without a version the newest of that name.

        Raises:
            NotFound: ``process_not_found``.
        """

        known = self._known.get(self._names.get((name, version), 0)) if version is not None else None
        if known is not None:
            return known

        def find(connection: sa.Connection) -> HostedProcess:
            return self.load(connection, store.get_process_by_name(connection, name, version).id)

        return await self._database.read(find)

    def keep_only(self, process_ids: Container[int]) -> None:
        """Forget all other processes: another replica can have deleted them."""
        for process_id in [one for one in list(self._known) if one not in process_ids]:
            self.forget(process_id)

    def forget(self, process_id: int) -> None:
        known = self._known.pop(process_id, None)
        if known is not None:
            self._names.pop((known.name, known.version), None)
        for key in [key for key in self._checkpoints if key[0] == process_id]:
            del self._checkpoints[key]

    async def get_checkpoint(self, process_id: int, number: int) -> store.Checkpoint:
        """A checkpoint of a process by number; recent ones are kept in memory.

        Raises:
            NotFound: ``checkpoint_not_found``.
        """
        found = self._checkpoints.get((process_id, number))
        if found is None:
            found = await self._database.read(lambda connection: store.get_checkpoint(connection, process_id, number))
            self.keep_checkpoint(found)
        return found

    def keep_checkpoint(self, checkpoint: store.Checkpoint) -> None:
        self._checkpoints[checkpoint.process_id, checkpoint.number] = checkpoint
        if len(self._checkpoints) > MAX_CHECKPOINTS:
            self._checkpoints.popitem(last=False)

    def load(self, connection: sa.Connection, process_id: int) -> HostedProcess:
        """`get` inside a transaction."""
        known = self._known.get(process_id)
        if known is not None:
            return known
        process = store.get_process(connection, process_id)
        plans = store.list_plans(connection, process_id)
        variants = store.list_variants(connection, process_id)
        hosted = HostedProcess(
            id=process.id,
            name=process.name,
            version=process.version,
            config=read_server_config(process.server_config),
            client_config=process.client_config,
            model=read_model_layout(self._blobs, store.get_checkpoint(connection, process_id).model_hash),
            plans=tuple(_plan(plan, variants) for plan in plans if plan.kind in store.TRAINING),
            averaging_plan=next((_plan(plan) for plan in plans if plan.kind in store.AVERAGING), None),
        )
        self._known[process_id] = hosted
        self._names[hosted.name, hosted.version] = process_id
        return hosted


def _plan(plan: store.PlanRow, variants: Sequence[tuple[int, str, int, str]] = ()) -> HostedPlan:
    own = tuple(HostedVariant(dialect, size, blob) for plan_id, dialect, size, blob in variants if plan_id == plan.id)
    return HostedPlan(plan.id, plan.name, plan.plan_hash, plan.size_bytes, own, plan.kind in store.TRACED)
