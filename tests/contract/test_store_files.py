"""Bytes on the disk: blobs, segments, spools, and the sweep at the start.

Should happen: what was committed is there under its name, in every place; a cycle's files go with the cycle.
Should not happen: a file of an upload that was given up stays; a name of a user becomes a path.
"""

from __future__ import annotations

import hashlib
import threading
import time
from pathlib import Path

import pytest

from pygrid.errors import NotFound
from pygrid.storage.blobs.files import BlobFiles
from pygrid.storage.diffs import DiffFiles


def _names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_blob_is_named_by_its_bytes(tmp_path: Path) -> None:
    blobs = BlobFiles(tmp_path)
    name = blobs.put(b"some bytes")
    assert name == hashlib.sha256(b"some bytes").hexdigest()
    assert blobs.read(name) == b"some bytes"
    assert blobs.put(b"some bytes") == name
    assert _names(tmp_path) == {name}
    with pytest.raises(NotFound) as refused:
        blobs.read("0" * 64)
    assert refused.value.code == "blob_not_found"


def test_a_blob_that_is_not_committed_leaves_nothing(tmp_path: Path) -> None:
    blobs = BlobFiles(tmp_path)
    with blobs.writer() as writer:
        writer.write(b"some")
        assert len(_names(tmp_path)) == 1
    assert _names(tmp_path) == set()


def test_what_a_crash_left_is_removed_at_the_start(tmp_path: Path) -> None:
    kept = BlobFiles(tmp_path, copies=2).put(b"kept")
    (tmp_path / ".1.part").write_bytes(b"x")
    (tmp_path / "copy-2" / ".2.part").write_bytes(b"x")
    BlobFiles(tmp_path, copies=2)
    assert _names(tmp_path) == {kept, f"copy-2/{kept}"}


def test_a_lost_blob_is_read_from_its_copy(tmp_path: Path) -> None:
    blobs = BlobFiles(tmp_path, copies=3)
    name = blobs.put(b"precious")
    assert _names(tmp_path) == {name, f"copy-2/{name}", f"copy-3/{name}"}
    (tmp_path / name).unlink()
    assert blobs.read(name) == b"precious"
    (tmp_path / "copy-2" / name).unlink()
    with blobs.local(name) as path:
        assert path == tmp_path / "copy-3" / name


def test_reports_lie_one_after_the_other(tmp_path: Path) -> None:
    diffs = DiffFiles(tmp_path)
    log = diffs.log(7)
    assert [log.append(data) for data in (b"one", b"", b"three")] == [0, 3, 3]
    log.sync()
    assert (tmp_path / "7.segment").read_bytes() == b"onethree"
    diffs.close()
    again = DiffFiles(tmp_path)
    assert again.log(7).append(b"more") == 8
    again.close()


def test_a_completed_cycle_takes_its_diffs_along(tmp_path: Path) -> None:
    diffs = DiffFiles(tmp_path)
    log, spool, other = diffs.log(1), diffs.spool(7), diffs.spool(77)
    log.append(b"small")
    spool.write(b"large")
    for file in (spool, other):
        file.commit()
    diffs.drop(1, 7)
    assert _names(tmp_path) == {"1.segment", other.name}
    assert (tmp_path / "1.segment").stat().st_size == 0
    # An upload that outlived its cycle ends without a trace.
    spool.discard()
    assert log.append(b"of the next cycle") == 0
    diffs.drop(2, 8)
    assert _names(tmp_path) == {"1.segment", other.name}
    diffs.close()


def test_a_spool_holds_what_was_written_until_it_is_discarded(tmp_path: Path) -> None:
    diffs = DiffFiles(tmp_path)
    spool = diffs.spool(7)
    data = bytes(range(256)) * 40_000
    for begin in range(0, len(data), 100_000):
        spool.write(data[begin : begin + 100_000])
    spool.commit()
    assert (tmp_path / spool.name).read_bytes() == data
    spool.commit()
    spool.discard()
    spool.discard()
    assert _names(tmp_path) == set()


def test_a_spool_may_be_discarded_while_it_is_written(tmp_path: Path) -> None:
    diffs = DiffFiles(tmp_path)
    for _ in range(20):
        spool = diffs.spool(7)
        writing = threading.Thread(target=lambda spool=spool: [spool.write(b"x" * 10_000) for _ in range(50)])
        writing.start()
        spool.discard()
        writing.join()
        spool.write(b"late")
        spool.commit()
    assert _names(tmp_path) == set()


def test_the_sweep_keeps_what_rows_refer_to(tmp_path: Path) -> None:
    diffs = DiffFiles(tmp_path)
    kept, lost = diffs.spool(7), diffs.spool(7)
    for spool in (kept, lost):
        spool.commit()
    for process in (1, 2):
        diffs.log(process).append(b"x")
    diffs.close()
    (tmp_path / "stray").write_bytes(b"")
    again = DiffFiles(tmp_path)
    again.sweep({kept.name, "1.segment", "of another machine"})
    assert _names(tmp_path) == {kept.name, "1.segment"}
    again.close()


def test_a_sweep_while_running_keeps_young_files(tmp_path: Path) -> None:
    blobs = BlobFiles(tmp_path, copies=2)
    kept, other = blobs.put(b"kept"), blobs.put(b"other")
    with blobs.writer() as writer:
        writer.write(b"being written")
        blobs.sweep({kept}, before=time.time() - 60)
        assert blobs.read(other) == b"other"
        blobs.sweep({kept}, before=time.time() + 60)
        assert writer.path.exists()
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == [kept, kept]


async def test_a_small_report_in_a_file_of_its_own_goes_with_its_cycle(tmp_path: Path) -> None:
    diffs = DiffFiles(tmp_path)
    place = await diffs.append(7, b"a small diff")
    assert (tmp_path / place.file).read_bytes()[place.offset :] == b"a small diff"
    diffs.drop(1, 7)
    assert _names(tmp_path) == set()
