"""The exported head of the audit log in a store that is away when a replica begins to lead.

Should happen: private jobs wait until the head was read, and run from then on.
Should not: a private job on a log that was not compared; a replica that refuses private jobs until its next start.
"""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from pygrid import codes
from pygrid.errors import Unavailable
from pygrid.storage import audit
from pygrid.storage.audit import AuditedWrites, Head
from pygrid.storage.sql.database import Database
from pygrid.storage.sql.migrations import migrate


class Store:
    """A store of the head that can be away."""

    def __init__(self) -> None:
        self.is_away = True
        self.head: Head | None = None

    def find(self) -> Head | None:
        if self.is_away:
            raise Unavailable("the store does not answer", code=codes.STORAGE_FAILED)
        return self.head

    def raise_to(self, head: Head) -> None:
        self.head = head


@pytest.mark.parametrize("is_old", [False, True])
async def test_the_head_is_read_when_the_store_answers_again(database: Database, tmp_path: Path, is_old: bool) -> None:
    migrate(database)
    store = Store()
    writes = AuditedWrites(database, tmp_path / "head", store)
    await writes.recover()
    assert writes.is_unread
    with pytest.raises(Unavailable, match="older than the exported head"):
        writes.check()
    store.is_away, store.head = False, Head(9, "0" * 64) if is_old else None
    await writes.recover()
    assert (writes.is_unread, writes.is_rolled_back) == (False, is_old)
    if not is_old:
        writes.check()


async def test_a_start_does_not_wait_for_a_store_that_is_slow(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate(database)
    monkeypatch.setattr(audit, "READ_HEAD_S", 0.05)
    answers = threading.Event()

    class Slow(Store):
        def find(self) -> Head | None:
            answers.wait(60)
            return None

    writes = AuditedWrites(database, tmp_path / "head", Slow())
    await writes.recover()
    assert writes.is_unread, "no private job runs until it was read"
    answers.set()
    await writes.recover()
    assert (writes.is_unread, writes.is_rolled_back) == (False, False)


async def test_a_head_that_is_no_head_is_not_read_again_and_again(database: Database, tmp_path: Path) -> None:
    migrate(database)
    (tmp_path / "head").write_text("no head")
    writes = AuditedWrites(database, tmp_path / "head")
    await writes.recover()
    assert (writes.is_unread, writes.is_rolled_back) == (False, True)
