"""Everything that a Domain keeps, opened together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pygrid.storage.blobs.files import BlobFiles
from pygrid.storage.blobs.protocol import Blobs
from pygrid.storage.columns import ColumnFiles
from pygrid.storage.diffs import DiffFiles
from pygrid.storage.hosted_processes import HostedProcesses
from pygrid.storage.public_content import PublicContent
from pygrid.storage.signals import LocalSignals, Signals
from pygrid.storage.sql.database import Database


@dataclass(frozen=True)
class Store:
    """Rows, bytes, and the means to hear of changes."""

    database: Database
    blobs: Blobs
    diffs: DiffFiles
    processes: HostedProcesses
    signals: Signals
    columns: ColumnFiles
    served: Blobs
    """Of served models, which can be deleted; nothing else refers to them."""
    drafts: Blobs
    """Of processes that are to be hosted later; nothing else refers to them."""
    public: PublicContent
    """Told of changes to what strangers may know."""

    @classmethod
    def open(cls, database: Database, folder: Path, public: PublicContent, copies: int = 1) -> Store:
        """The store of a Domain whose bytes lie in ``folder``.

        Args:
            copies: how many copies of models and plans are stored.
        """
        blobs = BlobFiles(folder / "blobs", copies)
        return cls(
            database=database,
            blobs=blobs,
            diffs=DiffFiles(folder / "diffs"),
            processes=HostedProcesses(database, blobs),
            signals=LocalSignals(),
            columns=ColumnFiles(folder / "datasets"),
            served=BlobFiles(folder / "served-models", copies),
            drafts=BlobFiles(folder / "drafts", copies),
            public=public,
        )

    def close(self) -> None:
        """Let go of the files; the database is closed by who opened it."""
        self.diffs.close()
