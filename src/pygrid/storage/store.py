"""The complete store of a Domain."""

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
    """Rows, bytes, and signals of changes."""

    database: Database
    blobs: Blobs
    diffs: DiffFiles
    processes: HostedProcesses
    signals: Signals
    columns: ColumnFiles
    served: Blobs
    """Files of served models, which can be deleted: only rows of served models refer to them."""
    drafts: Blobs
    """Files of draft processes; only rows of drafts refer to them."""
    public: PublicContent
    """Notified of changes to what the Domain publishes."""

    @classmethod
    def open(cls, database: Database, folder: Path, public: PublicContent, copies: int = 1) -> Store:
        """Open the store of a Domain, with its files in ``folder``.

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
        """Close the files. The caller closes the database."""
        self.diffs.close()
