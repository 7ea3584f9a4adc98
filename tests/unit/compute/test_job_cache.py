from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from pygrid import durable
from pygrid.compute.job_cache import JobCache
from pygrid.errors import Conflict, PygridError


def put(files: JobCache, content: bytes) -> str:
    name = hashlib.sha256(content).hexdigest()
    assert files.receive_chunks(name, len(content), [content[:2], content[2:]]).read_bytes() == content
    return name


def test_a_file_is_kept_under_its_hash_and_found_again(tmp_path: Path) -> None:
    files = JobCache(tmp_path / "kept")
    name = put(files, b"records")
    assert files.find(name) == tmp_path / "kept" / name
    assert files.find("0" * 64) is None
    assert os.stat(tmp_path / "kept").st_mode & 0o777 == 0o700
    assert os.stat(tmp_path / "kept" / name).st_mode & 0o777 == 0o600


@pytest.mark.parametrize("damaged", [b"recorda", b"record", b"records2", b""])
@pytest.mark.parametrize("is_restarted", [False, True])
def test_a_damaged_file_is_not_found_and_received_again(tmp_path: Path, damaged: bytes, is_restarted: bool) -> None:
    files = JobCache(tmp_path)
    name = put(files, b"records")
    (tmp_path / name).write_bytes(damaged)
    if is_restarted:
        files.close()
        files = JobCache(tmp_path)
    assert files.find(name) is None
    assert not (tmp_path / name).exists()
    put(files, b"records")
    assert files.find(name) == tmp_path / name


def test_a_file_that_is_used_again_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(files := JobCache(tmp_path), b"records")
    files.close()
    name, files = hashlib.sha256(b"records").hexdigest(), JobCache(tmp_path)
    read: list[Path] = []
    monkeypatch.setattr(durable, "has_digest", lambda path, _name: not read.append(path))
    for _ in range(3):
        assert files.find(name)
    assert read == [tmp_path / name]


@pytest.mark.parametrize("content", [b"other12", b"longer than announced", b""])
def test_what_is_not_what_was_announced_leaves_nothing(tmp_path: Path, content: bytes) -> None:
    files = JobCache(tmp_path)
    with pytest.raises(PygridError, match="not the content") as caught:
        files.receive_chunks(hashlib.sha256(b"records").hexdigest(), 7, [content])
    assert caught.value.code == "content_mismatch"
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_what_was_used_longest_ago_goes_but_nothing_in_use(tmp_path: Path) -> None:
    files = JobCache(tmp_path, max_bytes=8)
    with files.using([hashlib.sha256(text).hexdigest() for text in (b"aaaa", b"bbbb", b"cccc")]):
        a, b, c = (put(files, text) for text in (b"aaaa", b"bbbb", b"cccc"))
        for age, name in enumerate((c, a, b)):
            os.utime(tmp_path / name, (1000 - age, 1000 - age))
        files.make_space()
        assert all(files.find(name) for name in (a, b, c)), "a job uses them"
        os.utime(tmp_path / b, (1, 1))
    assert files.find(b) is None
    assert files.find(a) is not None
    assert files.find(c) is not None


def test_nothing_stays_if_nothing_may(tmp_path: Path) -> None:
    files = JobCache(tmp_path, max_bytes=0)
    with files.using([hashlib.sha256(b"records").hexdigest()]):
        put(files, b"records")
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_folder_is_one_workers(tmp_path: Path) -> None:
    first = JobCache(tmp_path)
    (tmp_path / ".0.part").touch()
    with pytest.raises(Conflict, match="--cache-dir"):
        JobCache(tmp_path)
    first.close()
    JobCache(tmp_path).close()
    assert not (tmp_path / ".0.part").exists()
