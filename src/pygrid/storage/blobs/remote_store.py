"""All files of a Domain in a bucket: opens what `Store` needs, and removes garbage."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pygrid.clock import Clock
from pygrid.errors import Unavailable
from pygrid.lifecycle import BackgroundTask
from pygrid.settings import DomainSettings
from pygrid.storage.blobs.copies import LocalCopies
from pygrid.storage.blobs.garbage import Garbage
from pygrid.storage.blobs.named import KINDS, blob_key, list_named
from pygrid.storage.blobs.objects import Objects
from pygrid.storage.blobs.remote import RemoteBlobs
from pygrid.storage.blobs.remote_columns import RemoteColumns
from pygrid.storage.blobs.remote_jobs import RemoteJobFiles
from pygrid.storage.blobs.s3 import S3Address, S3Objects, open_bucket
from pygrid.storage.blobs.segments import SegmentDiffs
from pygrid.storage.blobs.store_check import STORE_FILE, check_store, join_store
from pygrid.storage.installation import prepare_replica
from pygrid.storage.sql.database import Database

logger = logging.getLogger(__name__)

COLLECT_S = 60.0
LOOK_S = 24 * 3600.0
PROBE_S = 5.0
MAX_FAILURES = 3


def open_objects(settings: DomainSettings) -> S3Objects:
    """The objects of the bucket of a Domain. Raises as `open_bucket`."""
    address = S3Address(
        settings.store, settings.s3_endpoint, settings.s3_region, settings.s3_path_style, settings.s3_sse
    )
    return open_bucket(address)


def prepare_remote(settings: DomainSettings, database: Database, objects: Objects) -> None:
    """As `prepare_replica`, for a Domain whose files are in a store: check that it is fit and of this database.

    Raises:
        InvalidConfig: ``store_unfit``, ``wrong_store``, and as `prepare_replica`.
    """
    check_store(objects, settings.store)
    prepare_replica(settings, database)
    join_store(database, objects, settings.store)


class StoreHealth:
    """Whether the store answers, asked at most every `PROBE_S` seconds."""

    def __init__(self, objects: Objects, elapsed_s: Callable[[], float] = time.monotonic) -> None:
        self._objects, self._elapsed_s = objects, elapsed_s
        self._lock = threading.Lock()
        self._next_s = 0.0
        self._failures: list[Unavailable] = []

    def check(self) -> None:
        """Raises Unavailable, ``storage_failed``, after `MAX_FAILURES` attempts without an answer."""
        with self._lock:
            if self._elapsed_s() >= self._next_s:
                try:
                    self._objects.find(STORE_FILE)
                    self._failures.clear()
                except Unavailable as error:
                    self._failures.append(error)
                self._next_s = self._elapsed_s() + PROBE_S
            if len(self._failures) >= MAX_FAILURES:
                raise self._failures[-1]


@dataclass(frozen=True)
class RemoteStore:
    """The files of a Domain in a bucket."""

    objects: Objects
    copies: LocalCopies
    garbage: Garbage
    data_dir: Path
    health: StoreHealth

    @classmethod
    def open(cls, settings: DomainSettings, database: Database, clock: Clock) -> RemoteStore:
        """Open the store of these settings. Raises as `prepare_remote`. Conflict: ``folder_in_use``."""
        objects = open_objects(settings)
        prepare_remote(settings, database, objects)
        folder = Path(settings.cache_dir) if settings.cache_dir else settings.data_dir / "cache"
        copies = LocalCopies(objects, folder, settings.cache_mb * 1024**2)
        garbage = Garbage(database, objects, clock, list_named)
        return cls(objects, copies, garbage, settings.data_dir, StoreHealth(objects))

    def blobs(self, kind: str) -> RemoteBlobs:
        """The blobs of a kind: ``blobs``, ``served`` or ``drafts``."""
        return RemoteBlobs(self.objects, self.copies, self.garbage, lambda name: blob_key(kind, name))

    def diffs(self) -> SegmentDiffs:
        """The diffs of open cycles."""
        return SegmentDiffs(self.objects, self.copies, self.garbage)

    def columns(self) -> RemoteColumns:
        return RemoteColumns(self.objects, self.copies, self.garbage)

    def job_files(self) -> RemoteJobFiles:
        return RemoteJobFiles(self.objects, self.copies, self.garbage, self.data_dir / "jobs")

    def tasks(self) -> tuple[BackgroundTask, ...]:
        """What removes garbage."""

        async def collect() -> None:
            await asyncio.to_thread(self.garbage.collect)

        async def look() -> None:
            await asyncio.to_thread(self.garbage.look, KINDS)

        return (
            BackgroundTask.every(COLLECT_S, "collect-garbage", collect),
            BackgroundTask.every(LOOK_S, "look-for-garbage", look),
        )
