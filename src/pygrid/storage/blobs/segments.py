"""The diffs of open cycles in a store of objects: small reports share an object, a segment.

    diffs/CYCLE/INSTANCE-N.seg    up to 128 reports of one cycle, one after the other
    diffs/CYCLE/ID.report         one large report

A report joins the segment of its cycle that is being filled. A segment is sent when nothing is under way, when 2 MiB
are filled, or when the oldest write is 25 ms old. So a lone report waits for nothing, and many share a write.
No other process writes these keys, so a repeated write is harmless.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import logging
import secrets
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import sqlalchemy as sa

from pygrid.durable import Bytes
from pygrid.errors import Unavailable
from pygrid.storage.blobs.checked import DamagedReportError
from pygrid.storage.blobs.copies import LocalCopies
from pygrid.storage.blobs.garbage import Garbage
from pygrid.storage.blobs.objects import ObjectMissing, Objects
from pygrid.storage.blobs.protocol import Place
from pygrid.storage.diffs import check_report
from pygrid.storage.reports import Report

logger = logging.getLogger(__name__)

SEND_BYTES = 2 * 1024 * 1024
SEND_S = 0.025
MAX_SEGMENT_BYTES = 8 * 1024 * 1024
MAX_SEGMENT_REPORTS = 128
MAX_UNDER_WAY = 4
MAX_PREFETCHED_BYTES = 256 * 1024 * 1024
MAX_WAITING_BYTES = 64 * 1024 * 1024
"""Reports that wait for a write; further ones are not taken from their sockets."""


class Segment:
    """Reports of one cycle that go out together."""

    def __init__(self, cycle_id: int) -> None:
        self.cycle_id = cycle_id
        self.size = 0
        self.parts: list[tuple[bytes, asyncio.Future[Place]]] = []

    def takes(self, size: int) -> bool:
        """Whether a report of this size fits."""
        return not self.parts or (self.size + size <= MAX_SEGMENT_BYTES and len(self.parts) < MAX_SEGMENT_REPORTS)

    def add(self, data: bytes) -> asyncio.Future[Place]:
        """Add a report; the future is its place, once it is durable."""
        future: asyncio.Future[Place] = asyncio.get_running_loop().create_future()
        self.parts.append((data, future))
        self.size += len(data)
        return future

    def settle(self, file: str) -> None:
        """Tell each report its place."""
        offset = 0
        for data, future in self.parts:
            if not future.done():
                future.set_result(Place(file, offset))
            offset += len(data)

    def fail(self, error: Exception) -> None:
        """Tell each report that it is not stored."""
        for _, future in self.parts:
            if not future.done():
                future.set_exception(error)


class RemoteReport:
    """A large report: a local file until `commit`, which sends it. Threads may write and discard at the same time."""

    def __init__(self, objects: Objects, copies: LocalCopies, name: str) -> None:
        self.name = name
        self._objects, self._copies, self._key = objects, copies, _key(name)
        self._path = copies.part()
        self._file = self._path.open("xb", buffering=0)
        self._lock = threading.Lock()

    def write(self, data: Bytes) -> None:
        """Append."""
        with self._lock:
            if not self._file.closed:
                view = memoryview(data).cast("B")
                while view:
                    view = view[self._file.write(view) :]

    def commit(self) -> None:
        """Send it, and keep it as a local copy. Raises Unavailable: ``storage_failed``."""
        with self._lock:
            if self._file.closed:
                return
            self._file.close()
            self._objects.upload(self._key, self._path)
            self._copies.adopt(self._path, self._key)

    def discard(self) -> None:
        """Remove it locally; what was sent goes with its cycle."""
        with self._lock:
            self._file.close()
            self._path.unlink(missing_ok=True)
            self._copies.forget(self._key)


class SegmentDiffs:
    """The diffs of open cycles, below ``diffs/`` in a store of objects."""

    def __init__(self, objects: Objects, copies: LocalCopies, garbage: Garbage) -> None:
        self._objects, self._copies, self._garbage = objects, copies, garbage
        self._instance = secrets.token_hex(16)
        self._num_segments = 0
        self._filling: list[Segment] = []
        """At most one of each cycle takes further reports: the last one."""
        self._under_way: dict[int, float] = {}
        """Number of a segment that is being sent -> when that began."""
        self._waiting_bytes = 0
        self._has_room = asyncio.Condition()
        self._sending: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._threads = ThreadPoolExecutor(MAX_UNDER_WAY, thread_name_prefix="segment")
        self._prefetching = ThreadPoolExecutor(2, thread_name_prefix="prefetch")

    def log(self, process_id: int) -> None:
        """None: small reports go to `append`."""

    async def append(self, cycle_id: int, data: bytes) -> Place:
        """Store a small report; it is durable when this returns.

        Raises:
            Unavailable: ``storage_failed``: it is not stored.
        """
        async with self._has_room:
            await self._has_room.wait_for(lambda: self._waiting_bytes <= MAX_WAITING_BYTES)
            self._waiting_bytes += len(data)
        found = next((one for one in reversed(self._filling) if one.cycle_id == cycle_id), None)
        if found is None or not found.takes(len(data)):
            found = Segment(cycle_id)
            self._filling.append(found)
        future = found.add(data)
        self._send_some()
        return await asyncio.shield(future)

    def _send_some(self) -> None:
        """Send the segments that are due, the oldest first."""
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._filling and len(self._under_way) < MAX_UNDER_WAY:
            due = next((one for one in self._filling if one.size >= SEND_BYTES), None)
            if due is None and self._under_way:
                wait_s = min(self._under_way.values()) + SEND_S - loop.time()
                if wait_s > 0:
                    self._timer = loop.call_later(wait_s, self._send_some)
                    return
            segment = due or self._filling[0]
            self._filling.remove(segment)
            self._num_segments += 1
            self._under_way[self._num_segments] = loop.time()
            task = asyncio.create_task(self._send(segment, self._num_segments))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    async def _send(self, segment: Segment, number: int) -> None:
        file = f"{segment.cycle_id}/{self._instance}-{number}.seg"
        data = segment.parts[0][0] if len(segment.parts) == 1 else b"".join(part for part, _ in segment.parts)
        try:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._threads, self._objects.put, _key(file), data)
        except Exception as error:
            segment.fail(error)
        else:
            segment.settle(file)
        finally:
            del self._under_way[number]
            async with self._has_room:
                self._waiting_bytes -= segment.size
                self._has_room.notify_all()
            self._send_some()

    def spool(self, cycle_id: int) -> RemoteReport:
        """A new file for one large report."""
        return RemoteReport(self._objects, self._copies, f"{cycle_id}/{secrets.token_hex(16)}.report")

    @contextlib.contextmanager
    def local(self, report: Report) -> Iterator[Path]:
        """A local copy of the object in which a report lies, after a comparison of its bytes with its fingerprint.

        Raises:
            DamagedReportError: they differ, or are incomplete. Unavailable: ``storage_failed``, ``cache_full``.
        """
        key = _key(report.file)
        with self._copies.hold(key):
            try:
                path = self._copies.fetch(key, lambda _path: True)
                try:
                    check_report(path, report)
                except DamagedReportError:
                    self._copies.forget(key)  # the copy can be what is damaged
                    path = self._copies.fetch(key, lambda _path: True)
                    check_report(path, report)
            except ObjectMissing:
                raise DamagedReportError(report.id) from None
            yield path

    def prefetch(self, reports: Sequence[Report]) -> None:
        """Begin to fetch the objects of these reports, the first `MAX_PREFETCHED_BYTES` of them."""
        num_bytes = 0
        for key, length in {_key(report.file): report.length for report in reports}.items():
            if (num_bytes := num_bytes + length) > MAX_PREFETCHED_BYTES:
                break
            self._prefetching.submit(self._prefetch, key)

    def _prefetch(self, key: str) -> None:
        with contextlib.suppress(ObjectMissing, Unavailable):
            self._copies.fetch(key, lambda _path: True)

    def doom(self, connection: sa.Connection, cycle_id: int, now: dt.datetime) -> None:
        """Record, in the transaction that completes a cycle, that its diffs can be removed."""
        self._garbage.doom_in(connection, f"diffs/{cycle_id}/")

    def drop(self, process_id: int, cycle_id: int) -> None:
        """Remove the local copies."""
        self._copies.forget(f"diffs/{cycle_id}/")

    def sweep(self, referenced: set[str]) -> None:
        """Nothing: the nightly look of `Garbage` does it."""

    def close(self) -> None:
        """End the threads. Nobody waits for the reports in them, and a bucket that is away does not delay a stop."""
        for threads in (self._threads, self._prefetching):
            threads.shutdown(wait=False, cancel_futures=True)


def _key(file: str) -> str:
    return f"diffs/{file}"
