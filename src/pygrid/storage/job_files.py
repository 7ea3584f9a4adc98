"""The files of jobs on the local disk: the inputs until a job has ended, and its result until the end of its retention.

    <folder>/inputs/<job id>/<SHA-256>        plan and model
    <folder>/inputs/<job id>/cycles/          of a federated job: the model of its cycle, and its report
    <folder>/inputs/<job id>/report.json      SHA-256 and, in further lines, the gate report of an ONNX model
    <folder>/results/<job id>/<SHA-256>       the result; complete and durable, or absent
    <folder>/results/<job id>/outcome.json    SHA-256 and, in further lines, the other answers of the Worker; written
                                              before the result

Each job has a folder of its own, which is removed as a whole. The Domain makes the ids.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import uuid
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from pygrid import codes
from pygrid.core.jobs import JobRecord
from pygrid.durable import CheckedFiles, has_digest, write_atomically
from pygrid.errors import NotFound
from pygrid.storage.blobs.checked import damaged
from pygrid.storage.blobs.files import BlobFiles
from pygrid.storage.blobs.protocol import Blobs
from pygrid.storage.sql.failures import may_be_done

REPORT = "report.json"
OUTCOME = "outcome.json"


class JobFolder:
    """Files of one job, by their SHA-256."""

    def __init__(self, folder: Path, checked: CheckedFiles) -> None:
        self._folder = folder
        self._checked = checked

    def path(self, name: str) -> Path:
        """Path of a file, checked. Reads it, so call it in a thread.

        Raises:
            NotFound: ``blob_not_found``. Unavailable: ``blob_damaged``.
        """
        path = self._folder / name
        if not path.is_file():
            raise job_file_missing(name)
        if not self._checked.is_whole(path, lambda path: has_digest(path, name)):
            raise damaged("a stored file of this job", name)
        return path

    @contextlib.contextmanager
    def local(self, name: str) -> Iterator[Path]:
        """As `path`; the file stays until the block ends."""
        yield self.path(name)

    def read_report(self) -> bytes:
        """The report that `JobFiles.put_report` stored.

        Raises:
            NotFound: ``blob_not_found``. Unavailable: ``blob_damaged``.
        """
        return _read_sealed(self._folder / REPORT)


class JobFiles:
    def __init__(self, folder: Path) -> None:
        self._inputs, self._results = folder / "inputs", folder / "results"
        self._checked = CheckedFiles()
        for place in (self._inputs, self._results):
            place.mkdir(mode=0o700, parents=True, exist_ok=True)

    @contextlib.contextmanager
    def receive(self, job_id: str) -> Iterator[Blobs]:
        """The folder for the inputs of a new job; removed if the block fails.

        It stays if the caller is cancelled or the outcome is unknown, because a row may name the files. If none does,
        the next start removes them.
        """
        folder = self._inputs / job_id
        try:
            yield BlobFiles(folder)
        except Exception as error:
            if not may_be_done(error):
                shutil.rmtree(folder, ignore_errors=True)
            raise

    def inputs(self, job_id: str) -> JobFolder:
        return JobFolder(self._inputs / job_id, self._checked)

    def hold(self, job_id: str) -> AbstractContextManager[None]:
        """Keep the inputs of a job, until the block ends."""
        return contextlib.nullcontext()

    def cycle_folder(self, job_id: str) -> Path:
        """Folder for the cycles of a federated job; removed with its inputs."""
        return self._inputs / job_id / "cycles"

    def result(self, job_id: str) -> JobFolder:
        return JobFolder(self._results / job_id, self._checked)

    def put_report(self, job_id: str, report: bytes) -> None:
        """Store the gate's report on the model of a job, durably, for `JobFolder.read_report`."""
        write_atomically(self._inputs / job_id / REPORT, seal(report))

    def put_result(self, job_id: str, payload: bytes, outcome: bytes) -> str:
        """Store the result of a job durably; returns the SHA-256 of its bytes.

        Args:
            outcome: the data needed after a crash before the row is written.
        """
        folder = self._results / job_id
        files = BlobFiles(folder)
        write_atomically(folder / OUTCOME, seal(outcome))
        return files.put(payload)

    def find_result(self, job_id: str) -> tuple[str, bytes, bytes] | None:
        """SHA-256, bytes and outcome of a stored result; None if it is absent or incomplete.

        Raises:
            Unavailable: ``blob_damaged``.
        """
        folder = self._results / job_id
        if not (folder / OUTCOME).is_file():
            return None
        names = [path.name for path in folder.iterdir() if len(path.name) == 64]
        if len(names) != 1:
            return None
        return names[0], self.result(job_id).path(names[0]).read_bytes(), _read_sealed(folder / OUTCOME)

    def model_bytes(self, job: JobRecord) -> int | None:
        """Size of the model with which a job was submitted; None: it has none, or it was removed."""
        try:
            return (self._inputs / job.id / job.model_hash).stat().st_size if job.model_hash else None
        except FileNotFoundError:
            return None

    def drop_inputs(self, job_id: str) -> None:
        shutil.rmtree(self._inputs / job_id, ignore_errors=True)

    def drop_result(self, job_id: str) -> None:
        shutil.rmtree(self._results / job_id, ignore_errors=True)

    def sweep(self, unfinished: Collection[str], with_result: Collection[str]) -> None:
        """Remove what a crash left behind.

        Args:
            unfinished: ids of jobs that have not ended.
            with_result: ids of jobs whose result is kept.
        """
        for folder in self._inputs.iterdir():
            if folder.name not in unfinished:
                shutil.rmtree(folder)
        for folder in self._results.iterdir():
            if folder.name not in unfinished and folder.name not in with_result:
                shutil.rmtree(folder)


def new_job_id() -> str:
    """A fresh id, as 32 hexadecimal digits."""
    return uuid.uuid4().hex


def job_file_missing(name: str) -> NotFound:
    """The error for a file of a job that is not there."""
    return NotFound("a stored file of this job is missing", code=codes.BLOB_NOT_FOUND, name=name)


def seal(data: bytes) -> bytes:
    """``data`` behind its SHA-256, so that `open_sealed` notices damage."""
    return _digest(data) + b"\n" + data


def open_sealed(stored: bytes, name: str) -> bytes:
    """The data of `seal`. Raises Unavailable: ``blob_damaged``."""
    if stored.startswith(b"{"):
        return stored  # written by version 0.1, without a SHA-256
    digest, _, data = stored.partition(b"\n")
    if _digest(data) != digest:
        raise damaged("a stored file of this job", name)
    return data


def _read_sealed(path: Path) -> bytes:
    """Raises NotFound: ``blob_not_found``. Unavailable: ``blob_damaged``."""
    try:
        return open_sealed(path.read_bytes(), path.name)
    except FileNotFoundError:
        raise job_file_missing(path.name) from None


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest().encode()
