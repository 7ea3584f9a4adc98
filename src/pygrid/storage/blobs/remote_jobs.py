"""The files of jobs in a store of objects: ``jobs/inputs/ID/NAME`` and ``jobs/results/ID/NAME``, with local copies."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from pygrid.core.jobs import JobRecord
from pygrid.durable import CheckedFiles, has_digest
from pygrid.errors import Unavailable
from pygrid.storage.blobs.copies import LocalCopies
from pygrid.storage.blobs.garbage import Garbage
from pygrid.storage.blobs.objects import ObjectMissing, Objects
from pygrid.storage.blobs.protocol import Blobs
from pygrid.storage.blobs.remote import RemoteBlobs
from pygrid.storage.job_files import OUTCOME, REPORT, JobFiles, JobFolder, job_file_missing, open_sealed, seal

_MAX_SIZES = 10_000


class RemoteJobFolder(JobFolder):
    """Files of one job, as objects with local copies."""

    def __init__(self, copies: LocalCopies, prefix: str) -> None:
        super().__init__(copies.path(prefix), CheckedFiles())
        self._copies, self._prefix = copies, prefix

    def path(self, name: str) -> Path:
        """A copy of a file, checked.

        Raises:
            NotFound: ``blob_not_found``. Unavailable: ``blob_damaged``, ``cache_full``, ``storage_failed``.
        """
        try:
            return self._copies.fetch(f"{self._prefix}{name}", lambda path: has_digest(path, name))
        except ObjectMissing:
            raise job_file_missing(name) from None

    @contextlib.contextmanager
    def local(self, name: str) -> Iterator[Path]:
        """As `path`; the copy stays until the block ends."""
        with self._copies.hold(self._prefix):
            yield self.path(name)

    def read_report(self) -> bytes:
        """The report that `JobFiles.put_report` stored. Raises as `path`."""
        try:
            path = self._copies.fetch(f"{self._prefix}{REPORT}", lambda _path: True)
        except ObjectMissing:
            raise job_file_missing(REPORT) from None
        return open_sealed(path.read_bytes(), REPORT)


class RemoteJobFiles(JobFiles):
    """The files of all jobs of a Domain, as objects with local copies.

    Args:
        folder: local folder for the cycles of federated jobs. If it is lost, a training that was not reported yet is
            counted as lost.
    """

    def __init__(self, objects: Objects, copies: LocalCopies, garbage: Garbage, folder: Path) -> None:
        super().__init__(folder)
        self._objects, self._copies, self._garbage = objects, copies, garbage
        self._sizes: OrderedDict[str, int | None] = OrderedDict()

    @contextlib.contextmanager
    def receive(self, job_id: str) -> Iterator[Blobs]:
        """The place for the inputs of a new job. What no row names is found by the nightly look."""
        yield RemoteBlobs(self._objects, self._copies, self._garbage, lambda name: f"{_inputs(job_id)}{name}")

    def inputs(self, job_id: str) -> JobFolder:
        return RemoteJobFolder(self._copies, _inputs(job_id))

    def result(self, job_id: str) -> JobFolder:
        return RemoteJobFolder(self._copies, _results(job_id))

    def hold(self, job_id: str) -> AbstractContextManager[None]:
        """Keep the copies of the inputs of a job."""
        return self._copies.hold(_inputs(job_id))

    def put_report(self, job_id: str, report: bytes) -> None:
        """Store the gate's report on the model of a job, for `JobFolder.read_report`."""
        self._objects.put(f"{_inputs(job_id)}{REPORT}", seal(report))

    def put_result(self, job_id: str, payload: bytes, outcome: bytes) -> str:
        """Store the result of a job; returns the SHA-256 of its bytes."""
        self._objects.put(f"{_results(job_id)}{OUTCOME}", seal(outcome))
        place = RemoteBlobs(self._objects, self._copies, self._garbage, lambda name: f"{_results(job_id)}{name}")
        return place.put(payload)

    def find_result(self, job_id: str) -> tuple[str, bytes, bytes] | None:
        """SHA-256, bytes and outcome of a stored result; None if it is absent or incomplete.

        Raises:
            Unavailable: ``blob_damaged``, ``storage_failed``.
        """
        found = {one.key.rpartition("/")[2] for one in self._objects.list(_results(job_id))}
        names = [name for name in found if len(name) == 64]
        if OUTCOME not in found or len(names) != 1:
            return None
        outcome = open_sealed(self._objects.read(f"{_results(job_id)}{OUTCOME}"), OUTCOME)
        return names[0], self.result(job_id).path(names[0]).read_bytes(), outcome

    def model_bytes(self, job: JobRecord) -> int | None:
        """Size of the model with which a job was submitted; None: it has none, it was removed, or
        the store does not answer.
        """
        if not job.model_hash:
            return None
        key = f"{_inputs(job.id)}{job.model_hash}"
        if key not in self._sizes:
            # Called while rows are read, so it must not fail with the store.
            with contextlib.suppress(Unavailable):
                found = self._objects.find(key)
                self._sizes[key] = None if found is None else found.size
                if len(self._sizes) > _MAX_SIZES:
                    self._sizes.popitem(last=False)
        return self._sizes.get(key)

    def drop_inputs(self, job_id: str) -> None:
        """Remove the inputs of a job, in a while."""
        super().drop_inputs(job_id)
        self._drop(_inputs(job_id))

    def drop_result(self, job_id: str) -> None:
        """Remove the result of a job, in a while."""
        self._drop(_results(job_id))

    def sweep(self, unfinished: Collection[str], with_result: Collection[str]) -> None:
        """Remove local folders of jobs that have ended; the nightly look of `Garbage` finds objects."""
        super().sweep(unfinished, with_result)

    def _drop(self, prefix: str) -> None:
        self._copies.forget(prefix)
        self._garbage.drop(prefix)


def _inputs(job_id: str) -> str:
    return f"jobs/inputs/{job_id}/"


def _results(job_id: str) -> str:
    return f"jobs/results/{job_id}/"
