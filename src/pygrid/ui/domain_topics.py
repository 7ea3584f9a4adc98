"""What pages of a Domain can follow live."""

from __future__ import annotations

from litestar.datastructures import State

from pygrid.core.access import Permission, Principal
from pygrid.errors import Forbidden, NotFound
from pygrid.features.cycles.progress import ProgressService
from pygrid.features.datasets.service import DatasetsService
from pygrid.features.jobs.service import JobsService
from pygrid.features.processes.service import ProcessesService
from pygrid.storage.signals import (
    Signals,
    budgets_topic,
    cycle_topic,
    datasets_topic,
    event_topic,
    job_topic,
    processes_topic,
    progress_topic,
    queue_topic,
)
from pygrid.storage.store import Store
from pygrid.ui.common_topics import find_common_topic
from pygrid.ui.feed import SharedReads, Topic
from pygrid.ui.training import encode_live
from pygrid.web.services import service

_LISTS = {"datasets": datasets_topic(), "processes": processes_topic(), "queue": queue_topic()}
"""Signals of lists that every account may see."""
_BUDGETS = (Permission.TRIAGE_REQUESTS, Permission.UPLOAD_DATA)
"""One of them is needed to follow what others spend: other people see their own share alone."""


def signals_of(state: State) -> Signals:
    return service(state, Store).signals


async def find_topic(state: State, principal: Principal, name: str) -> Topic | None:
    """Return a topic; None: it is unknown, or not for this principal."""
    kind, _, key = name.partition(":")
    try:
        if kind == "process" and key.isdecimal():
            return await _training(state, principal, int(key))
        if kind == "job":
            return Topic((job_topic((await service(state, JobsService).get(principal, key)).id),))
        if kind == "budget" and key.isdecimal() and len(key) < 10:
            await service(state, DatasetsService).get(principal, int(key))
            return Topic((queue_topic(),))
    except (NotFound, Forbidden):
        return None
    if name not in _LISTS:
        return find_common_topic(state, principal, name)
    follows_budgets = name == "datasets" and any(map(principal.may, _BUDGETS))
    return Topic((_LISTS[name], budgets_topic(), queue_topic()) if follows_budgets else (_LISTS[name],))


async def _training(state: State, principal: Principal, process_id: int) -> Topic:
    """Return the topic of a training. Pages of callers who see the same share the reads."""
    progress, reads = service(state, ProgressService), service(state, SharedReads)
    process = await service(state, ProcessesService).get(principal, process_id)
    is_managed = (await progress.get(principal, process_id)).is_managed

    async def read() -> bytes:
        found = await progress.get(principal, process_id)
        return encode_live(found, process.server_config, f"process:{process_id}")

    async def load() -> bytes:
        data: bytes = await reads.read(("training", process_id, is_managed), read)
        return data

    signals = cycle_topic(process_id), event_topic(process_id)
    return Topic(signals, (progress_topic(process_id),), load)
