"""What every `Cache` does, and what only the one on disk has to.

Should happen: content is fetched once, kept, verified each time it is read; old content makes room for new.
Should not: wrong or half-written content kept or given; another process disturbed.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from pathlib import Path
from typing import BinaryIO

import pytest

from pygrid.edge import Cache, DiskCache, MemoryCache
from pygrid.edge.cache import default_cache, start_over
from pygrid.errors import PayloadTooLarge, PygridError, Unavailable


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Source:
    """Gives content, and counts how often."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.num_fetches = 0

    def __call__(self, file: BinaryIO) -> None:
        self.num_fetches += 1
        file.write(b"what a broken connection left")
        start_over(file)
        file.write(self.content)


@pytest.fixture(params=["memory", "disk"])
def cache(request: pytest.FixtureRequest, tmp_path: Path) -> Cache:
    return MemoryCache() if request.param == "memory" else DiskCache(tmp_path / "cache")


def test_content_is_fetched_once(cache: Cache) -> None:
    source = Source(b"content" * 1000)
    for _ in range(3):
        assert bytes(cache.get(digest(source.content), source)) == source.content
    assert source.num_fetches == 1


@pytest.mark.parametrize("wrong", [b"other", b""])
def test_wrong_content_is_refused_and_not_kept(cache: Cache, wrong: bytes) -> None:
    right = Source(b"right")
    with pytest.raises(PygridError, match="not the content") as caught:
        cache.get(digest(b"right"), Source(wrong))
    assert caught.value.code == "content_mismatch"
    assert bytes(cache.get(digest(b"right"), right)) == b"right"
    assert right.num_fetches == 1


def test_a_fetch_that_fails_leaves_nothing(cache: Cache) -> None:
    def fail(file: BinaryIO) -> None:
        file.write(b"ri")
        raise Unavailable("lost")

    with pytest.raises(Unavailable):
        cache.get(digest(b"right"), fail)
    source = Source(b"right")
    assert bytes(cache.get(digest(b"right"), source)) == b"right"
    assert source.num_fetches == 1


def test_notes_stay_beside_the_content(cache: Cache) -> None:
    key = digest(b"x")
    assert cache.find_note(key) is None
    cache.get(key, Source(b"x"))
    cache.note(key, "first")
    cache.note(key, "second")
    assert cache.find_note(key) == "second"


def test_a_memory_cache_keeps_the_newest() -> None:
    cache = MemoryCache(max_entries=2)
    a, b, c = (Source(text) for text in (b"a", b"b", b"c"))
    for source in (a, b, a, c, a, b):
        cache.get(digest(source.content), source)
    assert [source.num_fetches for source in (a, b, c)] == [1, 2, 1]


def test_processes_share_a_folder(tmp_path: Path) -> None:
    source = Source(b"shared")
    for _ in range(2):
        DiskCache(tmp_path).get(digest(source.content), source)
    assert source.num_fetches == 1


def test_many_at_once_all_get_the_content(tmp_path: Path) -> None:
    content = os.urandom(3_000_000)
    results: list[bytes] = []

    def get() -> None:
        results.append(bytes(DiskCache(tmp_path).get(digest(content), Source(content))))

    threads = [threading.Thread(target=get) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [content] * 8
    assert [path.name for path in tmp_path.iterdir()] == [digest(content)]


@pytest.mark.parametrize("damaged", [b"shaped", b"", b"s", b"shared and more"])
def test_a_damaged_file_is_fetched_again(tmp_path: Path, damaged: bytes) -> None:
    cache, source = DiskCache(tmp_path), Source(b"shared")
    cache.get(digest(source.content), source)
    (tmp_path / digest(source.content)).write_bytes(damaged)
    assert bytes(cache.get(digest(source.content), source)) == b"shared"
    assert source.num_fetches == 2


def test_only_this_user_can_read_the_folder(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "cache")
    cache.get(digest(b"x"), Source(b"x"))
    assert (tmp_path / "cache").stat().st_mode & 0o077 == 0
    assert (tmp_path / "cache" / digest(b"x")).stat().st_mode & 0o077 == 0


def test_what_was_used_longest_ago_makes_room(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, max_bytes=2500)
    contents = [bytes([i]) * 1000 for i in range(3)]
    for age, content in zip((300, 200), contents[:2], strict=True):
        cache.get(digest(content), Source(content))
        cache.note(digest(content), "seen")
        then = time.time() - age
        os.utime(tmp_path / digest(content), (then, then))
    kept = cache.get(digest(contents[0]), Source(contents[0]))  # used again: now the second is the oldest
    cache.get(digest(contents[2]), Source(contents[2]))
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {digest(contents[0]), f"{digest(contents[0])}.note", digest(contents[2])}
    assert bytes(kept) == contents[0]


def test_content_larger_than_the_cache_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PayloadTooLarge, match="max_cache_bytes"):
        DiskCache(tmp_path, max_bytes=10).get(digest(b"x" * 11), Source(b"x" * 11))
    assert list(tmp_path.iterdir()) == []


def test_what_a_crash_left_is_tidied_up_after_a_day(tmp_path: Path) -> None:
    old, young = tmp_path / ".old.part", tmp_path / ".young.part"
    for path in (old, young):
        path.write_bytes(b"half")
    then = time.time() - 100_000
    os.utime(old, (then, then))
    DiskCache(tmp_path).get(digest(b"x"), Source(b"x"))
    assert (old.exists(), young.exists()) == (False, True)


@pytest.mark.parametrize("name", ["../evil", "", "x" * 64, "A" * 64, "a" * 63])
def test_a_name_that_is_no_hash_never_becomes_a_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(PygridError, match="not a SHA-256"):
        DiskCache(tmp_path / "cache").get(name, Source(b"x"))
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("broken", ["below a file", "no home"])
def test_where_nothing_can_be_written_downloads_stay_in_memory(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    if broken == "no home":
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.setenv("HOME", str(tmp_path / "file"))
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert isinstance(default_cache(1000), MemoryCache)
    assert "XDG_CACHE_HOME" in caplog.text


def test_the_default_cache_is_a_folder_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = default_cache(1000)
    assert isinstance(found, DiskCache)
    assert (found.folder, found.max_bytes) == (tmp_path / "pygrid", 1000)


def test_a_relative_folder_stays_where_it_was_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cache = DiskCache("downloads")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    content = b"model"
    cache.get(digest(content), Source(content))
    assert (tmp_path / "downloads").is_dir()
    assert not (tmp_path / "elsewhere" / "downloads").exists()
