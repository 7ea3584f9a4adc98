"""What is removed from a store of objects, and when.

Should happen: what lost its last name, or never got one, is deleted in the end. Should not happen: an object is deleted
that a row names, or that is being stored again.
"""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Collection
from pathlib import Path

import pytest

from pygrid.clock import ManualClock
from pygrid.storage.blobs.copies import LocalCopies
from pygrid.storage.blobs.garbage import AFTER_DROP, UNNAMED_FOR, Garbage, root_of
from pygrid.storage.blobs.named import KINDS, blob_key, list_named
from pygrid.storage.blobs.remote import RemoteBlobs
from pygrid.storage.sql.database import Database
from pygrid.storage.sql.migrations import migrate
from support.memory_objects import MemoryObjects


class Site:
    """A store, its garbage, and the roots that rows name, which tests choose."""

    def __init__(self, database: Database, objects: MemoryObjects) -> None:
        migrate(database)
        self.database, self.objects, self.clock = database, objects, ManualClock(dt.datetime.now(dt.UTC))
        self.named: set[str] = set()
        self.garbage = Garbage(database, objects, self.clock, lambda _connection: self.named)

    @property
    def keys(self) -> list[str]:
        return [one.key for one in self.objects.list("")]

    def drop(self, key: str) -> None:
        self.database.write_now(lambda connection: self.garbage.doom_in(connection, key))

    def later(self, by: dt.timedelta) -> None:
        self.clock.advance(by.total_seconds() + 1)
        self.garbage.collect()


@pytest.fixture
def site(database: Database) -> Site:
    return Site(database, MemoryObjects())


def test_the_root_of_a_key() -> None:
    roots = {
        "blobs/ab/abcd": "blobs/ab/abcd",
        "columns/name/0.bin": "columns/name",
        "columns/name/": "columns/name",
        "jobs/inputs/id/abcd": "jobs/inputs/id",
        "jobs/inputs/id/": "jobs/inputs/id",
        "diffs/7/x-1.seg": "diffs/7",
        "diffs/7/": "diffs/7",
    }
    assert {key: root_of(key) for key in roots} == roots


def test_what_lost_its_name_goes_after_ten_minutes(site: Site) -> None:
    for key in ("diffs/7/a", "diffs/7/b", "diffs/77/c", "blobs/ab/abc"):
        site.objects.put(key, b"x")
    site.drop("diffs/7/")
    site.drop("blobs/ab/abc")
    site.garbage.collect()
    assert len(site.keys) == 4
    site.later(AFTER_DROP)
    assert site.keys == ["diffs/77/c"]


def test_what_has_a_name_again_stays(site: Site) -> None:
    site.objects.put("blobs/ab/abc", b"x")
    site.objects.put("columns/name/0.bin", b"x")
    for key in ("blobs/ab/abc", "columns/name/"):
        site.drop(key)
    site.named = {"blobs/ab/abc", "columns/name"}
    site.later(AFTER_DROP)
    assert len(site.keys) == 2
    site.named = set()
    site.later(UNNAMED_FOR)
    assert len(site.keys) == 2, "its mark is gone"


def test_what_never_got_a_name_is_found(site: Site) -> None:
    for key in ("blobs/ab/abc", "blobs/cd/cde", "diffs/7/x", "store.json", "audit/head.json"):
        site.objects.put(key, b"x")
    site.named = {"blobs/cd/cde"}
    assert site.garbage.look(KINDS) == 0, "it is young"
    site.clock.advance(UNNAMED_FOR.total_seconds() + 1)
    assert site.garbage.look(KINDS) == 2
    assert site.garbage.look(KINDS) == 0, "it is marked already"
    site.later(dt.timedelta(hours=23))
    assert len(site.keys) == 5
    site.later(dt.timedelta(hours=1))
    assert site.keys == ["audit/head.json", "blobs/cd/cde", "store.json"]


def test_what_is_stored_again_stays_for_a_day(site: Site, tmp_path: Path) -> None:
    copies = LocalCopies(site.objects, tmp_path / "cache", 1000)
    blobs = RemoteBlobs(site.objects, copies, site.garbage, lambda name: blob_key("blobs", name))
    name = blobs.put(b"again")
    site.drop(blob_key("blobs", name))
    blobs.put(b"again")
    site.later(dt.timedelta(hours=23))
    assert site.keys == [blob_key("blobs", name)]
    site.later(dt.timedelta(hours=1))
    assert site.keys == []
    copies.close()


def test_a_blob_that_is_deleted_while_it_is_stored_again_is_there(postgres_url: str, tmp_path: Path) -> None:
    deleting, go_on = threading.Event(), threading.Event()

    class Slow(MemoryObjects):
        def delete(self, keys: Collection[str]) -> None:
            deleting.set()
            assert go_on.wait(60)
            super().delete(keys)

    database = Database(postgres_url)
    site = Site(database, Slow())
    copies = LocalCopies(site.objects, tmp_path / "cache", 1000)
    blobs = RemoteBlobs(site.objects, copies, site.garbage, lambda name: blob_key("blobs", name))
    name = blobs.put(b"again")
    site.drop(blob_key("blobs", name))
    collecting = threading.Thread(target=site.later, args=(AFTER_DROP,))
    collecting.start()
    assert deleting.wait(60)
    storing = threading.Thread(target=blobs.put, args=(b"again",))
    storing.start()
    go_on.set()
    for thread in (collecting, storing):
        thread.join()
    assert site.keys == [blob_key("blobs", name)]
    copies.close()
    database.close()


def test_an_empty_database_names_nothing(database: Database) -> None:
    migrate(database)
    assert database.read_now(list_named) == set()
