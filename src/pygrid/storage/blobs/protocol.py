"""What features need of the stores of bytes: blobs, each named by its content, and the diffs of open cycles.

`pygrid.storage.blobs.files` and `pygrid.storage.diffs` keep them in files on the local disk.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple, Protocol

import sqlalchemy as sa

from pygrid.durable import Bytes
from pygrid.storage.reports import Report
from pygrid.storage.sql.lanes import ByteLog


class BlobWriter(Protocol):
    """A blob that is being written to a local file. It is not visible before `commit`."""

    size: int
    """Number of bytes so far."""

    @property
    def path(self) -> Path:
        """Path of its bytes until `commit`, for checks."""
        ...

    def write(self, data: Bytes) -> None:
        """Append."""
        ...

    def commit(self) -> str:
        """Make it durable under its name: the SHA-256 of its bytes in hex.

        Raises OSError: nothing of it is left after the block of `Blobs.writer`.
        """
        ...


class BlobBatch(Protocol):
    """Blobs that one row refers to."""

    def commit(self, writer: BlobWriter) -> str:
        """As `BlobWriter.commit`."""
        ...

    def put(self, data: Bytes) -> str:
        """As `Blobs.put`."""
        ...


class Blobs(Protocol):
    """Blobs, each under the SHA-256 of its bytes. Every method can wait for a disk, so call them in a thread."""

    def put(self, data: Bytes) -> str:
        """Store bytes durably; returns their name. Storing the same bytes again changes nothing."""
        ...

    def writer(self) -> AbstractContextManager[BlobWriter]:
        """A new blob; what is not committed in the block is discarded."""
        ...

    def batch(self) -> AbstractContextManager[BlobBatch]:
        """Blobs that go with the row that the block writes. If the block fails, those that are new are removed.

        They stay if the caller is cancelled or the outcome is unknown, because a row may name them. If none does, the
        next sweep removes them.
        """
        ...

    def local(self, name: str) -> AbstractContextManager[Path]:
        """A file with a blob's bytes, checked, that stays until the block ends. It can read the whole file.

        Raises:
            NotFound: ``blob_not_found``. Unavailable: ``blob_damaged``.
        """
        ...

    def read(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        """Bytes of a blob from an offset; None: up to the end. Raises as `local`."""
        ...

    def size(self, name: str) -> int:
        """Number of bytes of a blob. Raises as `local`."""
        ...

    def drop(self, name: str) -> None:
        """Remove a blob for good. A reader that has it open can go on."""
        ...

    def sweep(self, referenced: Collection[str], before: float | None = None) -> None:
        """Remove every blob that is not in ``referenced``: what a crash or a deletion left behind.

        Args:
            before: keep blobs that were stored at this time (of ``time.time``) or later. None: there are none.
        """
        ...


class Place(NamedTuple):
    """Where the bytes of a report begin."""

    file: str
    offset: int


class ReportLog(ByteLog, Protocol):
    """A file for the small reports of a process."""

    name: str


class LargeReport(Protocol):
    """A large report that is being received.

    Threads may write and discard at the same time, when an upload is cancelled. A write after `discard` does nothing.
    """

    name: str

    def write(self, data: Bytes) -> None:
        """Append."""
        ...

    def commit(self) -> None:
        """Make it durable."""
        ...

    def discard(self) -> None:
        """Remove it, committed or not."""
        ...


class Diffs(Protocol):
    """The diffs of open cycles. Methods that are not asynchronous can wait for a disk or a network."""

    def log(self, process_id: int) -> ReportLog | None:
        """The log to which `Database.write_all_with_bytes` appends small reports; None: use `append`."""
        ...

    async def append(self, cycle_id: int, data: bytes) -> Place:
        """Store a small report; it is durable when this returns.

        Raises:
            Unavailable: ``storage_failed``: it is not stored.
        """
        ...

    def spool(self, cycle_id: int) -> LargeReport:
        """A new file for one large report."""
        ...

    def local(self, report: Report) -> AbstractContextManager[Path]:
        """A file with the checked bytes of a report at its offset; it stays until the block ends.

        Raises:
            DamagedReportError: they do not match its fingerprint, or are incomplete.
        """
        ...

    def prefetch(self, reports: Sequence[Report]) -> None:
        """Begin to fetch what `local` will be asked for, in this order. A failure is left to `local`."""
        ...

    def doom(self, connection: sa.Connection, cycle_id: int, now: dt.datetime) -> None:
        """Record, in the transaction that completes a cycle, that its diffs can be removed."""
        ...

    def drop(self, process_id: int, cycle_id: int) -> None:
        """Remove the diffs of a completed cycle, unless `doom` has left that to a later time.

        Call it in the writer thread, before the process accepts reports for the next cycle.
        """
        ...

    def sweep(self, referenced: set[str]) -> None:
        """Remove what a crash left behind: every file that is not in ``referenced``.

        Call it before the first report is accepted.
        """
        ...

    def close(self) -> None:
        """Close every file."""
        ...
