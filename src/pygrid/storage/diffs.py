"""The diffs of open cycles on the local disk.

No name comes from a user: files are named by process and cycle. A committed diff is durable: its file and the folder
that names it were flushed to the disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import os
import threading
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import sqlalchemy as sa

from pygrid.durable import WRITEBACK_BYTES, Bytes, start_writeback, sync_directory, write_all
from pygrid.storage.blobs.checked import DamagedReportError, crc_of
from pygrid.storage.blobs.protocol import Place
from pygrid.storage.reports import Report


class SegmentLog:
    """The small reports of a process's open cycle, one after the other in one file.

    Only the database's writer thread uses it.
    """

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self._path = path
        self._descriptor: int | None = None
        self._end = 0

    def append(self, data: Bytes) -> int:
        """Write at the end; returns the offset of the first byte. Not durable before `sync`."""
        if self._descriptor is None:
            self._descriptor = os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600)
            self._end = os.fstat(self._descriptor).st_size
            sync_directory(self._path.parent)
        offset = self._end
        write_all(self._descriptor, data, offset)
        self._end = offset + len(memoryview(data).cast("B"))
        return offset

    def sync(self) -> None:
        """Make everything that was appended durable."""
        if self._descriptor is not None:
            os.fdatasync(self._descriptor)

    def empty(self) -> None:
        """Remove all reports. The file stays for the next cycle."""
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            self._end = 0

    def close(self) -> None:
        """Close the file. A second call does nothing."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class Spool:
    """A large report that is being received, in a file of its own.

    Threads may write and discard at the same time, when an upload is cancelled. A write after `discard` does nothing.
    """

    def __init__(self, folder: Path, cycle_id: int) -> None:
        self.name = f"{cycle_id}-{uuid.uuid4().hex}.report"
        self._path = folder / self.name
        self._descriptor = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        self._lock = threading.Lock()
        self._size = 0
        self._started = 0

    def write(self, data: Bytes) -> None:
        """Append. Writing to the disk starts at once, so that `commit` is short."""
        with self._lock:
            if self._descriptor < 0:
                return
            write_all(self._descriptor, data, self._size)
            self._size += len(memoryview(data).cast("B"))
            if self._size - self._started >= WRITEBACK_BYTES:
                start_writeback(self._descriptor, self._started, self._size - self._started)
                self._started = self._size

    def commit(self) -> None:
        """Make it durable."""
        with self._lock:
            if self._descriptor < 0:
                return
            os.fdatasync(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1
            sync_directory(self._path.parent)

    def discard(self) -> None:
        """Remove it, committed or not."""
        with self._lock:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1
            self._path.unlink(missing_ok=True)


def check_report(path: Path, report: Report) -> None:
    """Compare the bytes of a report in a file with its fingerprint.

    Raises:
        DamagedReportError: they differ, or are incomplete.
    """
    try:
        crc = crc_of(path, report.offset, report.length)
    except FileNotFoundError:
        raise DamagedReportError(report.id) from None
    if report.fingerprint and report.fingerprint != f"{report.length:x}-{crc:08x}":
        raise DamagedReportError(report.id)


class DiffFiles:
    """The diffs of open cycles, in one folder.

    PROCESS.segment     small reports
    CYCLE-ID.report     one large report
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._logs: dict[int, SegmentLog] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def log(self, process_id: int) -> SegmentLog:
        """The log of small reports of a process's open cycle."""
        log = self._logs.get(process_id)
        if log is None:
            log = self._logs[process_id] = SegmentLog(self._folder / f"{process_id}.segment")
        return log

    def spool(self, cycle_id: int) -> Spool:
        """A new file for one large report."""
        return Spool(self._folder, cycle_id)

    async def append(self, cycle_id: int, data: bytes) -> Place:
        """Store a small report in a file of its own; it is durable when this returns. The log is faster."""

        def store() -> Place:
            spool = self.spool(cycle_id)
            spool.write(data)
            spool.commit()
            return Place(spool.name, 0)

        return await asyncio.to_thread(store)

    @contextlib.contextmanager
    def local(self, report: Report) -> Iterator[Path]:
        """The file itself in which a report lies, after a comparison of its bytes with its fingerprint.

        Raises:
            DamagedReportError: they differ, or are incomplete.
        """
        path = self._folder / report.file
        check_report(path, report)
        yield path

    def prefetch(self, reports: Sequence[Report]) -> None:
        """Nothing: they are here."""

    def doom(self, connection: sa.Connection, cycle_id: int, now: dt.datetime) -> None:
        """Nothing: `drop` removes the files at once."""

    def drop(self, process_id: int, cycle_id: int) -> None:
        """Remove all diffs of a completed cycle.

        Call it in the writer thread, before the process accepts reports for the next cycle.
        """
        if process_id in self._logs:
            self._logs[process_id].empty()
        for path in self._folder.glob(f"{cycle_id}-*.report"):
            path.unlink(missing_ok=True)

    def sweep(self, referenced: set[str]) -> None:
        """Remove every file that is not in ``referenced``: what a crash left behind.

        Call it before the first report is accepted.
        """
        for path in self._folder.iterdir():
            if path.name not in referenced:
                path.unlink()

    def close(self) -> None:
        for log in self._logs.values():
            log.close()
        self._logs.clear()
