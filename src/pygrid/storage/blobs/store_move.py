"""Moves the files of a stopped Domain from its data folder to a store of objects.

    1. the store gets the id of the database         so no other Domain can take it
    2. every file that a row names is copied         one that is there, with the same length, is not sent again
    3. one transaction names the files of reports by their keys, and records that the files are in the store

Before 3. the Domain still starts with its data folder. The files in the folder stay as they are.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
import sqlalchemy as sa

from pygrid import codes
from pygrid.core.cycles import CycleState
from pygrid.durable import has_digest
from pygrid.errors import InvalidConfig, NotFound
from pygrid.settings import DomainSettings
from pygrid.storage import datasets, drafts, jobs, models, processes
from pygrid.storage.app_state import STORE_ID, find_state, put_state
from pygrid.storage.audit import HEAD_FILE, read_head
from pygrid.storage.blobs.audit_object import HeadObject
from pygrid.storage.blobs.checked import crc_of, damaged
from pygrid.storage.blobs.files import BlobFiles
from pygrid.storage.blobs.named import blob_key
from pygrid.storage.blobs.objects import Objects
from pygrid.storage.blobs.store_check import STORE_FILE, StoreMark, find_mark
from pygrid.storage.columns import ColumnFiles
from pygrid.storage.cycles import cycles
from pygrid.storage.installation import find_installation
from pygrid.storage.reports import reports
from pygrid.storage.sql.database import Database

_BLOB_FOLDERS = {"blobs": "blobs", "served": "served-models", "drafts": "drafts"}


@dataclass
class Moved:
    num_files: int = 0
    """Files in the store that rows name."""
    num_sent: int = 0
    """Those of them that were not there before."""
    num_bytes: int = 0
    """Bytes that were sent."""


@dataclass(frozen=True)
class _Item:
    """A file and its key; ``path`` finds and checks the file."""

    key: str
    path: Callable[[], Path]


def move_files(settings: DomainSettings, database: Database, objects: Objects, url: str) -> Moved:
    """Copy the files of a Domain to a store, and record that they are there. The caller holds both locks.

    It can be run again: after an interruption it goes on, after its end it checks that every file is there.

    Raises:
        InvalidConfig: ``wrong_store``: the store belongs to another database. NotFound: ``blob_not_found``: a file is
        missing in the data folder and in the store. Unavailable: ``blob_damaged``, ``storage_failed``.
        The Domain still uses its data folder then.
    """
    own = database.read_now(find_installation)
    if own is None:
        raise InvalidConfig("this database was never used: start the Domain once", code=codes.WRONG_STORE)
    objects.create(STORE_FILE, msgspec.json.encode(StoreMark(own)))
    mark = find_mark(objects)
    if mark is None or mark.id != own:
        raise InvalidConfig(
            f"the store {url} belongs to another database: use an empty bucket or another prefix",
            code=codes.WRONG_STORE,
        )
    moved, names = Moved(), _report_names(database)
    with tempfile.TemporaryDirectory(dir=settings.data_dir, prefix=".move-") as folder:
        for item in _items(settings.data_dir, database, names):
            _copy(objects, item, moved, Path(folder) / "read-back")
    head_file = settings.data_dir / HEAD_FILE
    if head_file.exists():
        HeadObject(objects).raise_to(read_head(head_file))
    database.write_now(lambda connection: _record(connection, own, names))
    return moved


def _copy(objects: Objects, item: _Item, moved: Moved, scratch: Path) -> None:
    """Send a file unless it is in the store, and compare what the store then returns."""
    moved.num_files += 1
    found = objects.find(item.key)
    try:
        path = item.path()
    except NotFound:
        if found is None:
            raise
        return
    size = path.stat().st_size
    if found is not None and found.size == size:
        return
    objects.upload(item.key, path)
    objects.download(item.key, scratch)
    if scratch.stat().st_size != size or crc_of(scratch) != crc_of(path):
        raise damaged("a file that was sent to the store", item.key)
    moved.num_sent += 1
    moved.num_bytes += size


def _items(data_dir: Path, database: Database, names: dict[tuple[int, str], str]) -> Iterator[_Item]:
    yield from _blobs(data_dir, database)
    columns = ColumnFiles(data_dir / "datasets")
    for name in database.read_now(datasets.list_folders):
        if columns.locate(name).is_dir():
            for path in sorted(columns.checked_path(name).iterdir()):
                yield _Item(f"columns/{name}/{path.name}", lambda path=path: path)  # type: ignore[misc]
        else:
            for file in ("schema.json", "checksums.json"):
                yield _Item(f"columns/{name}/{file}", partial(_missing, file))
    unfinished = database.read_now(jobs.list_unfinished_ids)
    for kind, ids in (("inputs", unfinished), ("results", unfinished | database.read_now(jobs.list_result_ids))):
        for job_id in sorted(ids):
            with contextlib.suppress(FileNotFoundError):
                for path in sorted((data_dir / "jobs" / kind / job_id).iterdir()):
                    if path.is_file() and not path.name.startswith("."):
                        yield _Item(f"jobs/{kind}/{job_id}/{path.name}", partial(_checked, path))
    for (_, file), name in names.items():
        yield _Item(f"diffs/{name}", partial(_existing, data_dir / "diffs" / file))


def _blobs(data_dir: Path, database: Database) -> Iterator[_Item]:
    lists = {"blobs": processes.list_blobs, "served": models.list_model_files, "drafts": drafts.list_files}
    for kind, list_names in lists.items():
        names = sorted(database.read_now(list_names))
        if not names:
            continue
        files = BlobFiles(data_dir / _BLOB_FOLDERS[kind])

        def find(name: str, files: BlobFiles = files) -> Path:
            with files.local(name) as path:
                return path

        for name in names:
            yield _Item(blob_key(kind, name), partial(find, name))


def _report_names(database: Database) -> dict[tuple[int, str], str]:
    """(cycle, file in the data folder) of the reports that count in an open cycle -> name in the store."""
    statement = (
        sa.select(reports.c.cycle_id, reports.c.file)
        .select_from(reports.join(cycles, cycles.c.id == reports.c.cycle_id))
        .where(cycles.c.state != CycleState.COMPLETED.value)
        .distinct()
    )
    rows = database.read_now(lambda connection: connection.execute(statement).all())
    return {(row.cycle_id, row.file): f"{row.cycle_id}/moved-{row.file}" for row in rows if "/" not in row.file}


def _record(connection: sa.Connection, own: str, names: dict[tuple[int, str], str]) -> None:
    for (cycle_id, file), name in names.items():
        same = (reports.c.cycle_id == cycle_id, reports.c.file == file)
        connection.execute(reports.update().where(*same).values(file=name))
    if find_state(connection, STORE_ID) is None:
        put_state(connection, STORE_ID, own.encode())


def _checked(path: Path) -> Path:
    if len(path.name) == 64 and not has_digest(path, path.name):
        raise damaged("a stored file of a job", path.name)
    return path


def _existing(path: Path) -> Path:
    return path if path.is_file() else _missing(path.name)


def _missing(name: str) -> Path:
    raise NotFound("a stored file is missing", code=codes.BLOB_NOT_FOUND, name=name)
