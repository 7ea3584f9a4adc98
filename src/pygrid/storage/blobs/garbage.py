"""Removes objects that no row names, so late that nobody can be about to name them.

    an object loses its last name -- `doom`, in that transaction --> doomed, for 10 minutes -+
    no row names it for 24 hours --- `look`, every night ----------> doomed, for 24 hours ---+-> `collect` deletes it
    it is stored again ------------- `spare`, before that ends -----> doomed, for 24 hours --+

`collect` looks once more whether a row names it; its row in `doomed` is locked while it deletes.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable, Collection

import sqlalchemy as sa

from pygrid.clock import Clock
from pygrid.storage.blobs.objects import Objects
from pygrid.storage.sql.database import Database
from pygrid.storage.sql.metadata import UtcDateTime, metadata

logger = logging.getLogger(__name__)

doomed = sa.Table(
    "doomed",
    metadata,
    # Key of an object; or its beginning, with a slash at the end.
    sa.Column("key", sa.String(200), primary_key=True),
    # It is not deleted before this time.
    sa.Column("not_before", UtcDateTime, nullable=False, index=True),
)

AFTER_DROP = dt.timedelta(minutes=10)
UNNAMED_FOR = dt.timedelta(hours=24)
_AT_ONCE = 100


def root_of(key: str) -> str:
    """The part of a key that rows name: ``diffs/7/x`` -> ``diffs/7``; the whole key of a blob.

    The roots of jobs are ``jobs/inputs/ID`` and ``jobs/results/ID``.
    """
    kind, _, rest = key.rstrip("/").partition("/")
    if kind in ("columns", "diffs"):
        return f"{kind}/{rest.split('/')[0]}"
    return "/".join(key.split("/")[:3]) if kind == "jobs" else key


def doom(connection: sa.Connection, key: str, not_before: dt.datetime) -> None:
    """Mark an object, or all whose key begins with a prefix that ends with a slash; an earlier mark is replaced."""
    connection.execute(doomed.delete().where(doomed.c.key == key))
    connection.execute(doomed.insert().values(key=key, not_before=not_before))


class Garbage:
    """The marks in `doomed`, and what deletes by them.

    Args:
        list_named: the roots of all keys that rows name (`root_of`), of the kinds that it knows.
    """

    def __init__(
        self, database: Database, objects: Objects, clock: Clock, list_named: Callable[[sa.Connection], Collection[str]]
    ) -> None:
        self._database, self._objects, self._clock, self._list_named = database, objects, clock, list_named

    def drop(self, key: str) -> None:
        """`doom` in a transaction of its own. If it fails, the nightly look finds the object."""
        not_before = self._clock.now() + AFTER_DROP
        self._database.write_later(lambda connection: doom(connection, key, not_before))

    def doom_in(self, connection: sa.Connection, key: str) -> None:
        """`doom` as a part of the transaction in which the object loses its last name."""
        doom(connection, key, self._clock.now() + AFTER_DROP)

    def spare(self, key: str) -> None:
        """Move the end of an object that is about to get a name. Waits while it is being deleted."""
        later = self._clock.now() + UNNAMED_FOR
        marks = [key, f"{root_of(key)}/"]
        self._database.transact_now(
            lambda connection: connection.execute(
                doomed.update().where(doomed.c.key.in_(marks), doomed.c.not_before < later).values(not_before=later)
            )
        )

    def collect(self) -> int:
        """Delete what is due; returns the number of marks that are done. Blocks."""
        num_done = 0
        while found := self._database.transact_now(self._collect_some):
            num_done += found
        if num_done:
            logger.info("garbage collected", extra={"num_keys": num_done})
        return num_done

    def _collect_some(self, connection: sa.Connection) -> int:
        due = sa.select(doomed.c.key).where(doomed.c.not_before <= self._clock.now()).order_by(doomed.c.key)
        keys = list(connection.execute(due.limit(_AT_ONCE).with_for_update(skip_locked=True)).scalars())
        if not keys:
            return 0
        named = set(self._list_named(connection))
        for key in keys:
            if root_of(key) not in named:
                whole = [one.key for one in self._objects.list(key)] if key.endswith("/") else [key]
                self._objects.delete(whole)
        connection.execute(doomed.delete().where(doomed.c.key.in_(keys)))
        return len(keys)

    def look(self, kinds: Collection[str]) -> int:
        """Mark the objects below ``kinds`` that no row names and that are a day old; returns their number. Blocks."""
        now = self._clock.now()
        old = [
            found.key for kind in kinds for found in self._objects.list(kind) if found.modified_at < now - UNNAMED_FOR
        ]

        def mark(connection: sa.Connection) -> int:
            named = set(self._list_named(connection))
            marked = set(connection.execute(sa.select(doomed.c.key)).scalars())
            lost = [key for key in old if root_of(key) not in named and key not in marked]
            if lost:
                rows = [{"key": key, "not_before": now + UNNAMED_FOR} for key in lost]
                connection.execute(doomed.insert(), rows)
            return len(lost)

        return self._database.write_now(mark)
