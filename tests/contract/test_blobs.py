"""Blobs and diffs, over files, memory, moto and SeaweedFS.

Should happen: what was stored is read back, whole and in ranges, also by another process and after a failure that a
retry mends. Should not happen: an object is written twice with other bytes, damaged bytes are used, a failure that
lasts looks like success.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
import socket
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pygrid.errors import InvalidInput, NotFound, Unavailable
from pygrid.storage.audit import Head
from pygrid.storage.blobs.audit_object import HeadObject
from pygrid.storage.blobs.checked import DamagedReportError
from pygrid.storage.blobs.copies import STAYS_S, LocalCopies
from pygrid.storage.blobs.files import BlobFiles
from pygrid.storage.blobs.garbage import Garbage
from pygrid.storage.blobs.named import blob_key
from pygrid.storage.blobs.objects import ObjectMissing, Objects
from pygrid.storage.blobs.protocol import Blobs, Diffs, Place
from pygrid.storage.blobs.remote import RemoteBlobs
from pygrid.storage.blobs.remote_jobs import RemoteJobFiles
from pygrid.storage.blobs.s3 import open_bucket
from pygrid.storage.blobs.segments import MAX_SEGMENT_REPORTS, SegmentDiffs
from pygrid.storage.blobs.store_check import probe_store
from pygrid.storage.diffs import DiffFiles
from pygrid.storage.reports import Report
from support import stores
from support.eventually import eventually, turns
from support.memory_objects import MemoryObjects

MIB = 1024 * 1024
KINDS = ("memory", "moto", "seaweedfs")


@pytest.fixture(scope="session")
def endpoints() -> Iterator[dict[str, str]]:
    """The servers that this run has used."""
    with contextlib.ExitStack() as running:
        yield _Endpoints(running)


class _Endpoints(dict[str, str]):
    def __init__(self, running: contextlib.ExitStack) -> None:
        super().__init__()
        self._running = running

    def __missing__(self, kind: str) -> str:
        self[kind] = self._running.enter_context(stores.moto() if kind == "moto" else stores.seaweedfs())
        return self[kind]


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in stores.CREDENTIALS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(params=KINDS)
def objects(request: pytest.FixtureRequest, endpoints: dict[str, str]) -> Objects:
    if request.param == "memory":
        return MemoryObjects()
    return open_bucket(stores.new_address(endpoints[request.param]))


class NoGarbage(Garbage):
    """Nothing is doomed. The garbage has tests of its own, with a database."""

    def __init__(self) -> None:
        self.spared: list[str] = []

    def spare(self, key: str) -> None:
        self.spared.append(key)

    def drop(self, key: str) -> None:
        self.spared.append(f"dropped {key}")


@dataclass
class Opened:
    blobs: Blobs
    diffs: Diffs
    folder: Path
    objects: Objects | None = None
    copies: LocalCopies | None = None
    garbage: NoGarbage = field(default_factory=NoGarbage)

    def forget(self) -> None:
        """What another process would not have."""
        if self.copies is not None:
            for kind in ("blobs/", "diffs/"):
                self.copies.forget(kind)

    def damage(self, name: str) -> None:
        """Change a stored byte of a blob."""
        if self.objects is None:
            path = self.folder / "blobs" / name
            path.write_bytes(b"!" + path.read_bytes()[1:])
        else:
            key = blob_key("blobs", name)
            self.objects.put(key, b"!" + self.objects.read(key)[1:])
            self.forget()


def open_place(objects: Objects, folder: Path, max_bytes: int = 1024 * MIB) -> Opened:
    copies, garbage = LocalCopies(objects, folder / "cache", max_bytes), NoGarbage()
    blobs = RemoteBlobs(objects, copies, garbage, lambda name: blob_key("blobs", name))
    return Opened(blobs, SegmentDiffs(objects, copies, garbage), folder, objects, copies, garbage)


@pytest.fixture(params=("files", *KINDS))
def place(request: pytest.FixtureRequest, tmp_path: Path, endpoints: dict[str, str]) -> Iterator[Opened]:
    if request.param == "files":
        place = Opened(BlobFiles(tmp_path / "blobs"), DiffFiles(tmp_path / "diffs"), tmp_path)
    elif request.param == "memory":
        place = open_place(MemoryObjects(), tmp_path)
    else:
        place = open_place(open_bucket(stores.new_address(endpoints[request.param])), tmp_path)
    yield place
    place.diffs.close()
    if place.copies is not None:
        place.copies.close()


def _bytes(size: int) -> bytes:
    return random.Random(size).randbytes(size)


# -- Objects -----------------------------------------------------------------------------------------------------------


def test_a_store_is_fit(objects: Objects, tmp_path: Path) -> None:
    large = tmp_path / "large" if isinstance(objects, MemoryObjects) else None
    assert {reason for _, reason in probe_store(objects, large)} == {""}
    assert list(objects.list("probe/")) == []


def test_objects_by_key(objects: Objects, tmp_path: Path) -> None:
    for key in ("a/1", "a/2", "ab/3"):
        objects.put(key, key.encode())
    assert sorted(one.key for one in objects.list("a/")) == ["a/1", "a/2"]
    assert len(list(objects.list(""))) == 3
    found = objects.find("a/1")
    assert found is not None
    assert (found.key, found.size) == ("a/1", 3)
    objects.delete(["a/1", "absent"])
    assert objects.find("a/1") is None
    for missing in (objects.read, objects.get_version, lambda key: objects.download(key, tmp_path / "x")):
        with pytest.raises(ObjectMissing):
            missing("a/1")
    assert objects.read("a/2", 1, 1) == b"/"
    assert objects.read("a/2", 2, 100) == b"2"
    assert objects.read("a/2", 99) == b""


def test_only_one_of_many_creates_and_replaces(objects: Objects) -> None:
    won: list[str] = []

    def race(step: str, act) -> None:
        threads = [
            threading.Thread(target=lambda number=number: act(number) and won.append(f"{step} {number}"))
            for number in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    race("create", lambda number: objects.create("head", b"%d" % number))
    version = objects.get_version("head")[1]
    race("replace", lambda number: objects.replace("head", b"later %d" % number, version))
    assert [one.split()[0] for one in won] == ["create", "replace"]
    assert objects.read("head") == b"later " + won[1].split()[1].encode()


# -- Blobs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 65_537, 5 * MIB])
def test_a_blob_is_read_back(place: Opened, size: int) -> None:
    data = _bytes(size)
    name = place.blobs.put(data)
    assert name == hashlib.sha256(data).hexdigest()
    place.forget()
    assert place.blobs.size(name) == size
    assert place.blobs.read(name) == data
    with place.blobs.local(name) as path:
        assert path.read_bytes() == data
    for start, length in ((0, 1), (1, 10), (size // 2, None), (max(0, size - 3), 100), (size, None), (size, 5)):
        assert place.blobs.read(name, start, length) == data[start : None if length is None else start + length]


def test_a_large_blob_goes_in_parts(place: Opened, request: pytest.FixtureRequest) -> None:
    num_pieces = 70 if "seaweedfs" in request.node.name else 17
    piece = _bytes(MIB)
    with place.blobs.writer() as writer:
        for _ in range(num_pieces):
            writer.write(piece)
        assert writer.path.stat().st_size == writer.size == num_pieces * MIB
        name = writer.commit()
    place.forget()
    assert place.blobs.size(name) == num_pieces * MIB
    assert place.blobs.read(name, (num_pieces - 1) * MIB - 1, 2) == piece[-1:] + piece[:1]
    assert place.blobs.put(piece * num_pieces) == name


def test_the_same_bytes_are_stored_once(place: Opened) -> None:
    assert place.blobs.put(b"twice") == place.blobs.put(b"twice")
    if place.objects is not None:
        name = hashlib.sha256(b"twice").hexdigest()
        assert len(list(place.objects.list("blobs/"))) == 1
        assert place.garbage.spared == [blob_key("blobs", name)], "it could be garbage that is about to be deleted"


def test_a_blob_that_is_not_committed_leaves_nothing(place: Opened) -> None:
    with contextlib.suppress(ZeroDivisionError), place.blobs.batch(), place.blobs.writer() as writer:
        writer.write(b"not committed")
        raise ZeroDivisionError
    left = [path for path in place.folder.rglob("*") if path.is_file() and path.name != ".lock"]
    assert left == []
    assert place.objects is None or list(place.objects.list("")) == []


def test_an_absent_blob(place: Opened) -> None:
    for act in (place.blobs.read, place.blobs.size, lambda name: place.blobs.local(name).__enter__()):
        with pytest.raises(NotFound) as refused:
            act("0" * 64)
        assert refused.value.code == "blob_not_found"


def test_damaged_bytes_are_not_used(place: Opened) -> None:
    name = place.blobs.put(b"precious")
    place.damage(name)
    for _ in range(2):
        with pytest.raises(Unavailable) as refused:
            place.blobs.read(name)
        assert refused.value.code == "blob_damaged"


def test_a_damaged_copy_is_fetched_again(tmp_path: Path) -> None:
    place = open_place(MemoryObjects(), tmp_path)
    assert place.copies is not None
    name = place.blobs.put(b"precious")
    path = place.copies.path(blob_key("blobs", name))
    path.write_bytes(b"!recious")
    assert place.blobs.read(name) == b"precious"
    assert path.read_bytes() == b"precious"
    place.copies.close()


# -- Jobs and the audit head ----------------------------------------------------------------------------------------


def test_files_of_a_job(objects: Objects, tmp_path: Path) -> None:
    copies = LocalCopies(objects, tmp_path / "cache", 1024 * MIB)
    files = RemoteJobFiles(objects, copies, NoGarbage(), tmp_path / "jobs")
    with files.receive("job") as inputs:
        name = inputs.put(b"a model")
    files.put_report("job", b"a report")
    assert files.find_result("job") is None
    result = files.put_result("job", b"a result", b"an outcome")
    copies.forget("jobs/")
    assert files.inputs("job").path(name).read_bytes() == b"a model"
    assert files.inputs("job").read_report() == b"a report"
    assert files.find_result("job") == (result, b"a result", b"an outcome")
    objects.put("jobs/inputs/job/report.json", b"0" * 64 + b"\na report")
    copies.forget("jobs/")
    with pytest.raises(Unavailable) as refused:
        files.inputs("job").read_report()
    assert refused.value.code == "blob_damaged"
    with pytest.raises(NotFound):
        files.inputs("another").path(name)
    copies.close()


def test_the_audit_head_goes_up_only(objects: Objects) -> None:
    ours, theirs = HeadObject(objects), HeadObject(objects)
    assert ours.find() is None
    for place, number, wanted in ((ours, 1, 1), (theirs, 3, 3), (ours, 2, 3), (ours, 4, 4), (theirs, 4, 4)):
        place.raise_to(Head(number, f"{number:064x}"))
        assert ours.find() == Head(wanted, f"{wanted:064x}")
    objects.put("audit/head.json", b"{")
    with pytest.raises(InvalidInput) as refused:
        ours.find()
    assert refused.value.code == "invalid_audit_head"


# -- Copies ------------------------------------------------------------------------------------------------------------


class Elapsed:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_copies_make_room(tmp_path: Path) -> None:
    objects, elapsed = MemoryObjects(), Elapsed()
    copies = LocalCopies(objects, tmp_path, 25, elapsed)
    for number in range(4):
        objects.put(f"diffs/{number}", b"%d" % number * 10)
    whole = lambda path: path.stat().st_size == 10  # noqa: E731

    def there() -> set[str]:
        return {path.name for path in (tmp_path / "diffs").iterdir()}

    copies.fetch("diffs/0", whole)
    copies.fetch("diffs/1", whole)
    with pytest.raises(Unavailable) as refused:
        copies.fetch("diffs/2", whole)
    assert refused.value.code == "cache_full"
    elapsed.now += STAYS_S
    with copies.hold("diffs/0"):
        copies.fetch("diffs/2", whole)
        assert there() == {"0", "2"}, "the least recently used one that nobody holds"
        elapsed.now += STAYS_S
        copies.fetch("diffs/3", whole)
        assert there() == {"0", "3"}
    copies.close()
    again = LocalCopies(objects, tmp_path, 25, elapsed)
    again.fetch("diffs/2", whole)
    assert len(there()) == 2, "copies of an earlier process count"
    again.close()


def test_other_files_in_the_folder_stay(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    for name in ("letter.txt", "notes/1"):
        (tmp_path / name).write_bytes(b"x" * 100)
    objects = MemoryObjects()
    objects.put("diffs/1", b"x" * 5)
    copies = LocalCopies(objects, tmp_path, 10)
    copies.fetch("diffs/1", lambda path: True)
    assert (tmp_path / "letter.txt").exists()
    assert (tmp_path / "notes/1").exists()
    copies.close()


def test_simultaneous_asks_share_a_download(tmp_path: Path) -> None:
    started, go_on = threading.Event(), threading.Event()
    num_downloads = 0

    class Slow(MemoryObjects):
        def download(self, key: str, path: Path) -> None:
            nonlocal num_downloads
            num_downloads += 1
            started.set()
            assert go_on.wait(60)
            super().download(key, path)

    objects = Slow()
    objects.put("diffs/1", b"data")
    copies = LocalCopies(objects, tmp_path, MIB)
    threads = [threading.Thread(target=copies.fetch, args=("diffs/1", lambda path: True)) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert started.wait(60)
    go_on.set()
    for thread in threads:
        thread.join()
    assert num_downloads == 1
    copies.close()


# -- Diffs -------------------------------------------------------------------------------------------------------------


def _report(number: int, where: Place, data: bytes) -> Report:
    print_ = f"{len(data):x}-{zlib.crc32(data):08x}"
    return Report(number, 7, where.file, where.offset, len(data), 1, 1, 1.0, None, {}, print_)


async def _store(diffs: Diffs, data: bytes) -> Place:
    log = diffs.log(3)
    if log is None:
        return await diffs.append(7, data)
    offset = log.append(data)
    log.sync()
    return Place(log.name, offset)


async def test_reports_are_read_back(place: Opened) -> None:
    sizes = [0, 1, 200_000, 1_000_000, *([5_000] * 40)]
    datas = [os.urandom(size) for size in sizes]
    places = await asyncio.gather(*(_store(place.diffs, data) for data in datas))
    place.forget()
    for number, (where, data) in enumerate(zip(places, datas, strict=True)):
        with place.diffs.local(_report(number, where, data)) as path:
            assert path.read_bytes()[where.offset : where.offset + len(data)] == data


async def test_a_large_report_is_read_back(place: Opened) -> None:
    data = _bytes(3 * MIB)
    spool = place.diffs.spool(7)
    for begin in range(0, len(data), 100_000):
        spool.write(data[begin : begin + 100_000])
    spool.commit()
    place.forget()
    with place.diffs.local(_report(1, Place(spool.name, 0), data)) as path:
        assert path.read_bytes() == data
    discarded = place.diffs.spool(7)
    discarded.write(b"x")
    discarded.discard()
    discarded.write(b"late")
    discarded.commit()
    with pytest.raises(DamagedReportError), place.diffs.local(_report(2, Place(discarded.name, 0), b"x")):
        pass


async def test_reports_are_fetched_ahead(tmp_path: Path) -> None:
    """Each object once, in the order of the reports; what is missing is left to whoever reads it."""
    fetched: list[str] = []

    class Counted(MemoryObjects):
        def download(self, key: str, path: Path) -> None:
            fetched.append(key)
            super().download(key, path)

    place = open_place(Counted(), tmp_path)
    datas = [b"first", b"second"]
    places = [await place.diffs.append(7, data) for data in datas]
    found = [_report(number, *pair) for number, pair in enumerate(zip(places, datas, strict=True))]
    missing = _report(9, Place("7/none.seg", 0), b"x")
    place.diffs.prefetch([found[0], missing, found[1], found[0]])
    await eventually(lambda: all(place.folder.joinpath(f"cache/diffs/{one.file}").exists() for one in found))
    for one in found:
        with place.diffs.local(one):
            pass
    with pytest.raises(DamagedReportError), place.diffs.local(missing):
        pass
    assert sorted(key for key in fetched if "none" not in key) == sorted(f"diffs/{one.file}" for one in found)
    place.diffs.close()
    assert place.copies is not None
    place.copies.close()


async def test_a_damaged_report_is_noticed(place: Opened) -> None:
    where = await _store(place.diffs, b"some report")
    for wrong in (_report(1, where, b"some_report"), _report(1, Place(where.file, 4), b"some report")):
        with pytest.raises(DamagedReportError), place.diffs.local(wrong):
            pass
    with place.diffs.local(_report(1, where, b"some report")):
        pass


async def test_reports_share_segments(tmp_path: Path) -> None:
    """One goes out at once; those that come meanwhile go together, and no segment has too many."""
    sent: list[int] = []
    gate = threading.Semaphore(0)

    class Gated(MemoryObjects):
        def put(self, key: str, data) -> None:  # type: ignore[no-untyped-def]
            assert gate.acquire(timeout=180)
            sent.append(len(data))
            super().put(key, data)

    place = open_place(Gated(), tmp_path)
    first = asyncio.create_task(place.diffs.append(7, b"x"))
    await turns()
    others = [asyncio.create_task(place.diffs.append(7, b"x")) for _ in range(300)]
    await turns(5)
    gate.release(20)
    places = [await first, *(await asyncio.gather(*others))]
    assert sum(sent) == 301
    assert max(sent) <= MAX_SEGMENT_REPORTS
    assert len(sent) <= 8, "four may go early, when the oldest write takes long"
    assert len(set(places)) == 301, "no two reports share a place"
    place.diffs.close()
    assert place.copies is not None
    place.copies.close()


async def test_a_segment_that_is_not_stored_is_refused(tmp_path: Path) -> None:
    class Full(MemoryObjects):
        def put(self, key: str, data) -> None:  # type: ignore[no-untyped-def]
            raise Unavailable("no", code="storage_failed", retry_after_s=2)

    place = open_place(Full(), tmp_path)
    answers = await asyncio.gather(*(place.diffs.append(7, b"x") for _ in range(5)), return_exceptions=True)
    assert {getattr(answer, "code", "") for answer in answers} == {"storage_failed"}
    place.diffs.close()
    assert place.copies is not None
    place.copies.close()


async def test_a_store_that_does_not_answer_does_not_delay_a_stop(tmp_path: Path) -> None:
    began, go_on = threading.Event(), threading.Event()

    class Away(MemoryObjects):
        def put(self, key: str, data) -> None:  # type: ignore[no-untyped-def]
            began.set()
            assert go_on.wait(180)

    place = open_place(Away(), tmp_path)
    waiting = asyncio.create_task(place.diffs.append(7, b"x"))
    await asyncio.to_thread(began.wait, 180)
    place.diffs.close()
    assert not waiting.done(), "the write goes on, and the stop too"
    go_on.set()
    await waiting
    assert place.copies is not None
    place.copies.close()


# -- Faults ------------------------------------------------------------------------------------------------------------


def test_short_faults_are_mended_by_retries(endpoints: dict[str, str]) -> None:
    with stores.FaultyProxy(endpoints["moto"]) as proxy:
        objects = open_bucket(stores.new_address(proxy.endpoint))
        proxy.fail(503, 500)
        objects.put("a", b"1")
        proxy.fail(0)
        objects.put("b", b"2")
        proxy.fail(429, 0)
        assert objects.read("a") == b"1"
        proxy.fail(0)
        assert objects.create("c", b"3") in (True, False), "the first attempt has created it"
        assert (objects.read("b"), objects.read("c")) == (b"2", b"3")


def test_a_fault_that_lasts_is_an_error(endpoints: dict[str, str], tmp_path: Path) -> None:
    with stores.FaultyProxy(endpoints["moto"]) as proxy:
        place = open_place(open_bucket(stores.new_address(proxy.endpoint)), tmp_path)
        proxy.fail(*[503] * 4)
        with pytest.raises(Unavailable) as refused:
            place.blobs.put(b"1")
        assert refused.value.code == "storage_failed"
        assert refused.value.fields["retry_after_s"] == 2
        assert place.blobs.read(place.blobs.put(b"1")) == b"1"
        assert place.copies is not None
        place.diffs.close()
        place.copies.close()


@pytest.mark.slow
def test_a_store_that_accepts_connections_and_never_answers_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(180)
        objects = open_bucket(stores.new_address(f"http://127.0.0.1:{silent.getsockname()[1]}"))
        with ThreadPoolExecutor(1) as threads, contextlib.ExitStack() as open_connections:
            putting = threads.submit(objects.put, "a", b"1")
            for _ in range(3):  # further attempts show that each gave up long before a minute
                open_connections.enter_context(silent.accept()[0])
            with pytest.raises(Unavailable) as refused:
                putting.result(180)
    assert refused.value.code == "storage_failed"


@pytest.mark.slow
def test_a_write_with_a_condition_waits_longer_because_it_is_not_repeated() -> None:
    """The first write to a new bucket of SeaweedFS can take five seconds on a busy machine."""
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(2) as threads:
        server.settimeout(180)
        objects = open_bucket(stores.new_address(f"http://127.0.0.1:{server.getsockname()[1]}"))
        creating = threads.submit(objects.create, "a", b"1")
        with server.accept()[0] as first:
            finding = threads.submit(objects.find, "b")
            # The second attempt shows that a small request has given up.
            with server.accept()[0], server.accept()[0] as again:
                assert first.recv(65536).startswith(b"PUT ")
                first.sendall(b'HTTP/1.1 200 OK\r\nETag: "1"\r\nContent-Length: 0\r\n\r\n')
                assert creating.result(180)
                assert again.recv(65536).startswith(b"HEAD ")
                again.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
                assert finding.result(180) is None


def test_wrong_credentials_name_themselves(endpoints: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    (name, reason), *others = probe_store(open_bucket(stores.new_address(endpoints["seaweedfs"])))
    assert others == []
    assert "create" in name
    assert reason.startswith("SignatureDoesNotMatch: ")
