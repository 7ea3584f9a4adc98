"""An audit log in which no entry can be changed or removed unnoticed.

Each entry is canonical JSON, and its hash covers the hash before it: ``h_n = SHA256(h_(n-1) || entry_n)``; ``h_0`` is
64 zeros. An entry is written in the transaction that it records, so there is never one without the other.

An attacker who can write to the database can also rewrite the whole chain. So each commit writes the head to a file in
the data folder (`export_head`), which the owner can copy elsewhere. `verify` detects a chain that does not contain it.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec
import sqlalchemy as sa

from pygrid import codes
from pygrid.durable import write_atomically
from pygrid.errors import InvalidInput, Unavailable
from pygrid.storage.signals import Signals, audit_topic, budgets_topic, people_topic
from pygrid.storage.sql.database import Database
from pygrid.storage.sql.lanes import Lane
from pygrid.storage.sql.metadata import metadata

logger = logging.getLogger(__name__)

T = TypeVar("T")

audit_entries = sa.Table(
    "audit_entries",
    metadata,
    # 1, 2, 3, ...: assigned by the log, without gaps.
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    # Canonical JSON, exactly the bytes that were hashed.
    sa.Column("entry", sa.Text, nullable=False),
    sa.Column("hash", sa.String(64), nullable=False),
)
audit_head = sa.Table(
    "audit_head",
    metadata,
    # At most one row: the newest entry. It is the lock under which entries are added.
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("number", sa.BigInteger, nullable=False),
    sa.Column("hash", sa.String(64), nullable=False),
    sa.CheckConstraint("id = 1", name="one_row"),
)

START = "0" * 64
HEAD_FILE = "audit-head.json"
"""Name of the file in the data folder that repeats the head."""
_PAGE = 1000
_APPENDED = "appended_actions"
"""Key in the information of a connection: the actions that were appended since `NotifiedWrites` emptied it."""
_TOPICS = {
    "budget": budgets_topic,
    "email": people_topic,
    "invitation": people_topic,
    "policy": budgets_topic,
    "role": people_topic,
    "user": people_topic,
}
"""The topic of actions, by their first word."""


@dataclass(frozen=True, slots=True)
class Head:
    """The newest entry: its number (0 if there is none) and its hash."""

    number: int
    hash: str


@dataclass(frozen=True, slots=True)
class AuditEntry:
    number: int
    at: dt.datetime
    actor: int | None
    action: str
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Fault:
    """The first entry at which the chain is broken, and the reason."""

    number: int
    reason: str


def lock(connection: sa.Connection) -> Head:
    """The head; no other transaction changes it before this one ends.

    A transaction that writes entries and takes other locks takes this one first, so that two never wait for each other.
    """
    select = sa.select(audit_head.c.number, audit_head.c.hash).with_for_update()
    row = connection.execute(select).first()
    if row is None:
        _insert_if_absent(connection)
        row = connection.execute(select).one()
    return Head(row.number, row.hash)


def append(
    connection: sa.Connection, action: str, data: dict[str, Any], *, actor: int | None, now: dt.datetime
) -> Head:
    """Add an entry, as part of the transaction; returns the new head.

    Args:
        action: a fixed name in snake_case.
        data: what a reader needs to understand the entry; JSON, no personal data, no secrets.
        actor: the user who acted; None: the Domain itself.
    """
    before = lock(connection)
    number = before.number + 1
    at = now.astimezone(dt.UTC).isoformat()
    entry = _canonical({"action": action, "actor": actor, "at": at, "data": data, "number": number})
    head = Head(number, _link(before.hash, entry))
    connection.execute(audit_entries.insert().values(number=number, entry=entry, hash=head.hash))
    connection.execute(audit_head.update().values(asdict(head)))
    connection.info.setdefault(_APPENDED, set()).add(action)
    return head


def get_head(connection: sa.Connection) -> Head:
    """Number and hash of the newest entry; number 0 if there is none."""
    row = connection.execute(sa.select(audit_head.c.number, audit_head.c.hash)).first()
    return Head(0, START) if row is None else Head(row.number, row.hash)


def list_entries(connection: sa.Connection, after: int = 0, limit: int = 100) -> list[AuditEntry]:
    """Entries with numbers above ``after``, in order."""
    query = sa.select(audit_entries).where(audit_entries.c.number > after).order_by(audit_entries.c.number).limit(limit)
    return [_entry(row.number, row.entry) for row in connection.execute(query)]


def list_newest(
    connection: sa.Connection, *, before: int | None = None, limit: int = 100, texts: Sequence[Sequence[str]] = ()
) -> list[AuditEntry]:
    """Entries with numbers below ``before``, newest first.

    Args:
        texts: only entries whose JSON contains one of each of these.
    """
    query = sa.select(audit_entries).order_by(audit_entries.c.number.desc()).limit(limit)
    if before is not None:
        query = query.where(audit_entries.c.number < before)
    for one in texts:
        query = query.where(sa.or_(*(audit_entries.c.entry.contains(text, autoescape=True) for text in one)))
    return [_entry(row.number, row.entry) for row in connection.execute(query)]


def verify(connection: sa.Connection, known: Head | None = None) -> Fault | None:
    """Check the whole chain; the first fault, or None.

    Args:
        known: a head that was exported before; the chain must contain it.
    """
    number, expected = 0, START
    for row in _rows(connection):
        number += 1
        if row.number != number:
            return Fault(number, f"entry {number} is missing: {row.number} follows {number - 1}")
        expected = _link(expected, row.entry)
        if row.hash != expected:
            return Fault(number, f"entry {number} was modified: its hash does not match")
        try:
            inside = _entry(number, row.entry).number
        except (InvalidInput, KeyError, ValueError):
            return Fault(number, f"entry {number} cannot be read")
        if inside != number:
            return Fault(number, f"entry {number} has the number {inside} in its text")
        if known is not None and known.number == number and known.hash != expected:
            return Fault(number, f"the log was rewritten: entry {number} differs from the exported head")
    head = get_head(connection)
    if head != Head(number, expected):
        return Fault(number + 1, f"the log ends at entry {number}, but its head is entry {head.number}")
    if known is not None and known.number > number:
        return Fault(
            number + 1,
            f"the log ends at entry {number}, but the exported head is entry {known.number}: "
            "an old copy of the database was put back, or entries were removed",
        )
    return None


def leads_through(connection: sa.Connection, known: Head) -> bool:
    """Whether the log has the entry that an exported head names. Reads one row, so a Domain checks it at each start.

    False means that an older copy of the database was put back, or the log was rewritten. What was spent since that
    copy is missing.
    """
    if known.number == 0:
        return True
    found = connection.execute(sa.select(audit_entries.c.hash).where(audit_entries.c.number == known.number)).scalar()
    return found == known.hash


def export_head(head: Head, path: Path) -> None:
    """Write the head to a file, durably; call it after the commit. A file with a later head stays as it is.

    Raises:
        InvalidInput: ``invalid_audit_head``: the file has other content. OSError: it cannot be written.
    """
    if path.exists() and read_head(path).number >= head.number:
        return
    write_atomically(path, msgspec.json.encode(asdict(head)) + b"\n", mode=0o666)


def read_head(path: Path) -> Head:
    """The head in a file.

    Raises:
        InvalidInput: ``invalid_audit_head``: the file has other content. OSError: it cannot be read.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Head)
    except msgspec.DecodeError as error:
        raise InvalidInput(
            f"{path} is not an exported head of an audit log: {error}", code=codes.INVALID_AUDIT_HEAD
        ) from error


def _canonical(value: dict[str, Any]) -> str:
    return msgspec.json.encode(value, order="deterministic").decode()


def _link(before: str, entry: str) -> str:
    return hashlib.sha256(before.encode() + entry.encode()).hexdigest()


def _entry(number: int, text: str) -> AuditEntry:
    try:
        values = msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise InvalidInput(
            f"entry {number} of the audit log is not JSON: {error}", code=codes.INVALID_AUDIT_ENTRY
        ) from error
    at = dt.datetime.fromisoformat(values["at"])
    return AuditEntry(values["number"], at, values["actor"], values["action"], values["data"])


def _rows(connection: sa.Connection) -> Iterator[sa.Row[Any]]:
    after = -1
    while True:
        query = (
            sa.select(audit_entries).where(audit_entries.c.number > after).order_by(audit_entries.c.number).limit(_PAGE)
        )
        page = connection.execute(query).all()
        yield from page
        if len(page) < _PAGE:
            return
        after = page[-1].number


def _insert_if_absent(connection: sa.Connection) -> None:
    # Only the dialect in use is loaded.
    if connection.dialect.name == "postgresql":
        from sqlalchemy.dialects.postgresql import insert
    else:
        from sqlalchemy.dialects.sqlite import insert  # type: ignore[assignment]
    connection.execute(insert(audit_head).values(id=1, number=0, hash=START).on_conflict_do_nothing())


class HeadStore(Protocol):
    """Where the head is, in addition to the data folder."""

    def find(self) -> Head | None:
        """The head; None: there is none. Raises InvalidInput: ``invalid_audit_head``. Unavailable."""
        ...

    def raise_to(self, head: Head) -> None:
        """Replace the head by a later one; an earlier one changes nothing. Raises as `find`."""
        ...


READ_HEAD_S = 3.0
"""Longest wait for the exported head when an app starts or begins to lead; after that it is read again later."""


class NotifiedWrites:
    """Transactions that write entries of the audit log, and wake who follows what the entries are about.

    Args:
        signals: notified after the commit.
    """

    def __init__(self, database: Database, signals: Signals | None) -> None:
        self._database = database
        self._signals = signals

    async def write(self, fn: Callable[[sa.Connection], T]) -> T:
        """Run ``fn``, durably. Raises as `Database.write`."""

        def transaction(connection: sa.Connection) -> tuple[T, set[str]]:
            lock(connection)
            connection.info.pop(_APPENDED, None)
            return fn(connection), connection.info.pop(_APPENDED, set())

        answer, actions = await self._database.write(transaction, Lane.AUDITED)
        if self._signals is not None and actions:
            words = {action.partition("_")[0] for action in actions}
            for topic in {audit_topic(), *(topic() for word, topic in _TOPICS.items() if word in words)}:
                self._signals.notify(topic)
        return answer


class AuditedWrites(NotifiedWrites):
    """Transactions that write entries of the audit log, and export its head.

    Args:
        head_file: file for the head of the log, which reveals that an old copy of the database was put back.
        head_store: where the head is, too, because the file can be lost with its disk.
        signals: notified of what the entries are about, after the commit.
    """

    def __init__(
        self, database: Database, head_file: Path, head_store: HeadStore | None = None, signals: Signals | None = None
    ) -> None:
        super().__init__(database, signals)
        self._head_store = head_store
        self._also = "" if head_store is None else " and audit/head.json from the store"
        self._head_file = head_file
        self._exporting = asyncio.Lock()
        self.is_rolled_back = False
        """Whether the log in the database does not contain the exported head. Then an old copy was put back, and what
        was spent since is missing from the budgets. No head is exported, and no private job may run."""
        self.is_unread = True
        """Whether the exported head was not read. If `recover` cannot, the log counts as rolled back until it can."""

    async def recover(self) -> None:
        """Compare the log with the head that was exported last. Call it before the first request and if `is_unread`."""

        def read() -> Head | None:
            stored = None if self._head_store is None else self._head_store.find()
            if stored is not None:
                export_head(stored, self._head_file)
            return read_head(self._head_file) if self._head_file.exists() else None

        self.is_rolled_back, self.is_unread = True, False
        try:
            async with asyncio.timeout(READ_HEAD_S):
                known = await asyncio.to_thread(read)
        except (InvalidInput, Unavailable, OSError) as error:  # a timeout is an OSError
            logger.exception("exported audit head cannot be read")
            self.is_unread = not isinstance(error, InvalidInput)
            return
        self.is_rolled_back = known is not None and not await self._database.read(
            lambda connection: leads_through(connection, known)
        )
        if self.is_rolled_back:
            logger.error("audit log is not the one that was exported", extra={"head_file": str(self._head_file)})

    def check(self) -> None:
        """Refuse private jobs if `is_rolled_back`. Raises Unavailable: ``ledger_rolled_back``."""
        if self.is_rolled_back:
            raise Unavailable(
                "the database of this Domain is older than the exported head of its audit log, so what was spent "
                "since is missing from the privacy budgets, and no private job is run. Put the newer database back. To "
                f"accept the loss, remove {self._head_file.name} from the data folder{self._also} and restart it",
                code=codes.LEDGER_ROLLED_BACK,
            )

    async def write(self, fn: Callable[[sa.Connection], T]) -> T:
        """Run ``fn`` under the lock of the audit log, durably, then export the head. Raises as `Database.write`.

        If the head cannot be exported, this is logged, because ``fn`` is committed. The next head replaces it.
        """
        answer = await super().write(fn)
        if self.is_rolled_back:
            return answer
        async with self._exporting:
            head = await self._database.read(get_head)
            try:
                await asyncio.to_thread(self._export, head)
            except (InvalidInput, Unavailable, OSError):
                logger.exception("audit head not exported", extra={"number": head.number})
        return answer

    def _export(self, head: Head) -> None:
        export_head(head, self._head_file)
        if self._head_store is not None:
            self._head_store.raise_to(head)
