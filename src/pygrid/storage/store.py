"""The complete store of a Domain."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pygrid.storage.blobs.files import BlobFiles
from pygrid.storage.blobs.protocol import Blobs, Diffs
from pygrid.storage.columns import ColumnFiles
from pygrid.storage.diffs import DiffFiles
from pygrid.storage.hosted_processes import HostedProcesses
from pygrid.storage.job_files import JobFiles
from pygrid.storage.public_content import PublicContent
from pygrid.storage.published_states import PublishedStates
from pygrid.storage.signals import LocalSignals, Signals
from pygrid.storage.sql.database import Database

if TYPE_CHECKING:
    from pygrid.storage.blobs.remote_store import RemoteStore


@dataclass(frozen=True)
class Store:
    """Rows, bytes, and signals of changes."""

    database: Database
    blobs: Blobs
    diffs: Diffs
    processes: HostedProcesses
    signals: Signals
    columns: ColumnFiles
    served: Blobs
    """Files of served models, which can be deleted: only rows of served models refer to them."""
    drafts: Blobs
    """Files of draft processes; only rows of drafts refer to them."""
    states: PublishedStates
    """Checkpoints in the form that clients of 2020 read."""
    public: PublicContent
    """Notified of changes to what the Domain publishes."""
    job_files: JobFiles
    remote: RemoteStore | None = None
    """The bucket that has the files; None: they are in the data folder."""

    @property
    def is_shared(self) -> bool:
        """Whether other replicas can use the same database and files."""
        return self.remote is not None

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
            states=PublishedStates(blobs, folder / "states"),
            public=public,
            job_files=JobFiles(folder / "jobs"),
        )

    @classmethod
    def open_remote(
        cls, database: Database, folder: Path, public: PublicContent, remote: RemoteStore, signals: Signals
    ) -> Store:
        """Open the store of a Domain whose files are in a bucket; ``folder`` only has what can be lost."""
        blobs = remote.blobs("blobs")
        return cls(
            database=database,
            blobs=blobs,
            diffs=remote.diffs(),
            processes=HostedProcesses(database, blobs),
            signals=signals,
            columns=remote.columns(),
            served=remote.blobs("served"),
            drafts=remote.blobs("drafts"),
            states=PublishedStates(blobs, folder / "states"),
            public=public,
            job_files=remote.job_files(),
            remote=remote,
        )

    def close(self) -> None:
        """Close the files. The caller closes the database."""
        self.diffs.close()
        if self.remote is not None:
            self.remote.copies.close()
