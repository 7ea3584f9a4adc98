"""Files that are complete or absent, and a folder of files by their SHA-256.

Should happen: a write is durable before it has its name; one of several makers wins; what is in use stays.
Should not: a partial file under the name; a draft that is left behind; a file used whose bytes have changed.
"""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path
from typing import BinaryIO

import pytest

from pygrid.durable import ContentCache, make_once, map_file, write_atomically
from pygrid.errors import Conflict, PygridError


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The calls that make a file durable, in order."""
    calls: list[str] = []

    def record(name: str) -> None:
        real = getattr(os, name)

        def call(*args: object) -> None:
            calls.append(name)
            real(*args)

        monkeypatch.setattr(os, name, call)

    for name in ("fsync", "replace", "link"):
        record(name)
    return calls


def test_a_file_is_durable_before_it_is_renamed_and_its_folder_after(tmp_path: Path, calls: list[str]) -> None:
    write_atomically(tmp_path / "a", b"old")
    assert calls == ["fsync", "replace", "fsync"]
    assert make_once(tmp_path / "b", b"new")
    assert calls[3:] == ["fsync", "link", "fsync"]
    write_atomically(tmp_path / "c", b"hint", sync=False)
    assert calls[6:] == ["replace"]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"old", "b": b"new", "c": b"hint"}


def test_a_file_is_replaced_whole_and_is_for_its_user_only(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_atomically(path, b"a longer text")
    write_atomically(path, b"short")
    assert path.read_bytes() == b"short"
    assert path.stat().st_mode & 0o777 == 0o600
    write_atomically(path, b"", mode=0o640)
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"", 0o640)


def test_a_write_that_fails_leaves_the_old_file_and_no_draft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    write_atomically(path, b"old")

    def fail(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, b"new")
    with pytest.raises(OSError, match="disk full"):
        make_once(tmp_path / "b", b"new")
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("a", b"old")]


def test_one_of_several_makers_wins(tmp_path: Path) -> None:
    path, start = tmp_path / "key", threading.Barrier(8)
    made: list[bytes] = []

    def make(content: bytes) -> None:
        start.wait()
        if make_once(path, content):
            made.append(content)

    threads = [threading.Thread(target=make, args=(bytes([number]) * 1000,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [path.read_bytes()]
    assert [each.name for each in tmp_path.iterdir()] == ["key"]
    assert path.stat().st_mode & 0o777 == 0o600


# -- ContentCache ------------------------------------------------------------------------------------------------------


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def put(cache: ContentCache, content: bytes) -> Path:
    def fetch(file: BinaryIO) -> None:
        file.write(b"what a broken connection left")
        file.seek(0)
        file.truncate()
        file.write(content)

    return cache.receive(digest(content), fetch)


@pytest.fixture(params=[True, False], ids=["shared", "locked"])
def is_shared(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def test_content_is_kept_under_its_hash(tmp_path: Path, is_shared: bool) -> None:
    cache = ContentCache(tmp_path / "kept", max_bytes=0, is_shared=is_shared)
    assert cache.find(digest(b"x")) is None
    path = put(cache, b"x")
    assert path == cache.path(digest(b"x")) == cache.find(digest(b"x"))
    assert path.read_bytes() == b"x"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    cache.close()


def test_other_content_is_not_kept(tmp_path: Path, is_shared: bool) -> None:
    cache = ContentCache(tmp_path, max_bytes=100, is_shared=is_shared)
    with pytest.raises(PygridError) as refused:
        cache.receive(digest(b"right"), lambda file: file.write(b"wrong") and None)
    assert refused.value.code == "content_mismatch"
    assert [path.name for path in tmp_path.iterdir() if path.name != ".lock"] == []
    cache.close()


def test_a_damaged_file_is_removed(tmp_path: Path, is_shared: bool) -> None:
    cache = ContentCache(tmp_path, max_bytes=100, is_shared=is_shared)
    put(cache, b"content").write_bytes(b"CONTENT")
    assert cache.find(digest(b"content")) is None
    assert not cache.path(digest(b"content")).exists()
    cache.close()


def test_the_least_recently_used_go_but_nothing_in_use_and_no_other_file(tmp_path: Path, is_shared: bool) -> None:
    cache = ContentCache(tmp_path, max_bytes=4, is_shared=is_shared)
    (tmp_path / "notes.txt").write_bytes(b"a file of somebody else")
    paths = [put(cache, bytes([number]) * 4) for number in range(3)]
    for age, path in zip((30, 20, 10), paths, strict=True):
        os.utime(path, (1000 - age, 1000 - age))
    with cache.using([paths[0].name]):
        assert cache.make_space() == [paths[1].name], "the first is in use and does not count"
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != ".lock") == sorted(
        [paths[2].name, "notes.txt"]
    )
    cache.close()


def test_a_locked_folder_is_for_one_process(tmp_path: Path) -> None:
    first = ContentCache(tmp_path, max_bytes=0, is_shared=False)
    with pytest.raises(Conflict) as refused:
        ContentCache(tmp_path, max_bytes=0, is_shared=False)
    assert refused.value.code == "folder_in_use"
    first.close()
    ContentCache(tmp_path, max_bytes=0, is_shared=False).close()


def test_an_empty_file_is_mapped_too(tmp_path: Path) -> None:
    for content in (b"", b"content"):
        (tmp_path / "a").write_bytes(content)
        assert bytes(map_file(tmp_path / "a")) == content
