"""One owner of a data folder and of its database: a second app on either refuses to start.

    <folder>/lock                locked with ``flock`` while the app runs; names its process
    <folder>/installation.json   the id that the folder shares with its database (`pygrid.storage.installation`)

The kernel releases the lock when the process ends, also after ``kill -9``. The descriptor is closed in every program
that the app starts. On PostgreSQL a second lock guards the database, because two folders may name the same one. That
lock ends with its connection. So each owner also has a number in the database, which every writing transaction checks:
an app that lost its lock to another app cannot write, even before it notices.

The connection of a process that is paused or unreachable can stay open for hours. So the owner uses it each second, and
a replica that sees no use of it for `SILENT_S` ends it, with all other connections of that process.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import errno
import fcntl
import logging
import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from pygrid import codes
from pygrid.errors import InvalidConfig, Unavailable
from pygrid.settings import make_data_dir
from pygrid.storage.installation import installation
from pygrid.storage.sql.database import Database

logger = logging.getLogger(__name__)

LOCK_FILE = "lock"
CHECK_S = 1.0
"""Seconds between two checks of the connection that holds the lock of a PostgreSQL database."""
RETRY_S = 0.1
"""Seconds between two attempts to take the lock again."""
GIVE_UP_S = 6.0
"""Seconds without a successful check after which an owner no longer acts as one; less than `SILENT_S`."""
SILENT_S = 8.0
"""Seconds without a check of the owner after which another replica ends its connections. By the replica's own clock."""
_ADVISORY_LOCK = 0x7079676F
_HOLDER = """
    SELECT a.pid, a.application_name, a.backend_start, a.state_change
    FROM pg_locks l JOIN pg_stat_activity a USING (pid)
    WHERE l.locktype = 'advisory' AND l.granted AND l.classid = 0 AND l.objid = :key AND a.datname = current_database()
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
_END_HOLDER = f"""
    SELECT pg_terminate_backend(b.pid) FROM ({_HOLDER}) h JOIN pg_stat_activity b ON b.pid = h.pid
    OR (b.application_name = h.application_name AND b.datname = current_database() AND h.application_name <> :own)
    AND h.application_name ~ '^pygrid [0-9a-f]{{32}}$'
    WHERE h.pid = :pid AND h.backend_start = :backend_start AND h.state_change = :state_change
"""
"""Ends the connections of the holder, unless it has used its lock since the given time."""


class Holder(msgspec.Struct, frozen=True):
    """The process that holds a data folder, as written in the lock file."""

    pid: int
    host: str
    since: dt.datetime
    app: str
    address: str = ""


class FolderLock:
    """The lock on a data folder, held until `release` or the end of the process."""

    def __init__(self, descriptor: int, holder: Holder) -> None:
        self._descriptor = descriptor
        self._holder = holder

    @classmethod
    def acquire(cls, folder: Path, app: str) -> FolderLock:
        """Lock the folder for an app (``domain`` or ``network``), without waiting.

        Raises:
            InvalidConfig: ``already_running``: another app uses it; ``invalid_data_dir``: it cannot be used or locked.
        """
        make_data_dir(folder)
        path = folder / LOCK_FILE
        # Python closes descriptors in programs that it starts (PEP 446), so no Worker keeps the folder of a dead
        # Domain.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = _read_holder(path)
            os.close(descriptor)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise _already_running(folder, holder) from None
            raise InvalidConfig(
                f"the data folder {folder} cannot be locked ({error.strerror}), so two apps could damage it: "
                "use a folder on a local disk",
                code=codes.INVALID_DATA_DIR,
            ) from error
        lock = cls(descriptor, Holder(os.getpid(), socket.gethostname(), dt.datetime.now(dt.UTC), app))
        lock._write()
        return lock

    def announce(self, address: str) -> None:
        """Write the address of the app to the lock file, for the error of a second app."""
        self._holder = msgspec.structs.replace(self._holder, address=address)
        self._write()

    def release(self) -> None:
        """Unlock the folder. A second call does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        self.release()

    def _write(self) -> None:
        # In place: after a rename, the lock would be on a file without a name.
        content = msgspec.json.encode(self._holder) + b"\n"
        os.pwrite(self._descriptor, content, 0)
        os.ftruncate(self._descriptor, len(content))


class DatabaseLock:
    """The lock on a database.

    SQLite needs none: its file belongs to one data folder (`pygrid.storage.installation`), which has a lock. On
    PostgreSQL it is an advisory lock on a connection of its own, and a number of the owner.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection: sa.Connection | None = None
        self._epoch = 0
        self._is_lost = False
        self._checked_s = -GIVE_UP_S
        self._seen: sa.Row[Any] | None = None
        self._seen_s = 0.0
        # The threads that compute can all be busy for longer than `GIVE_UP_S`.
        self._checker = ThreadPoolExecutor(1, thread_name_prefix="database-lock")

    def acquire(self) -> None:
        """Become the owner. Each later write checks that the owner is the same. Blocks; call it in a thread.

        Raises:
            InvalidConfig: ``already_running``: an app on another data folder or machine uses this database.
        """
        if self._database.dialect == "postgresql" and not self.try_acquire():
            raise InvalidConfig(
                f"another app uses the database {self._database.url.render_as_string(hide_password=True)}: stop that "
                "app, or set another database for this one (DATABASE_URL)",
                code=codes.ALREADY_RUNNING,
            )

    @property
    def is_sure(self) -> bool:
        """Whether the last check is so recent that no other replica can have become the owner."""
        return time.monotonic() - self._checked_s < GIVE_UP_S

    def try_acquire(self) -> bool:
        """As `acquire`, on PostgreSQL; returns False if another app is the owner.

        If it is called again and again, it ends the connections of an owner that is silent for `SILENT_S`.
        """
        if not self._try_lock():
            return False
        try:
            self._epoch = self._database.write_now(_next_epoch)
        except BaseException:
            self.release()
            raise
        self._database.guard_writes(self._check)
        return True

    async def keep(self) -> None:
        """Check the lock until cancelled, and take it again if its connection was lost. Returns at once on SQLite.

        Raises:
            Unavailable: ``database_taken``: another app has become the owner. This one cannot write before a restart.
        """
        while self._database.dialect == "postgresql":
            await asyncio.get_running_loop().run_in_executor(self._checker, self._keep_once)
            # After a restart of the database, the owner is quicker than its followers.
            await asyncio.sleep(CHECK_S if self._connection is not None else RETRY_S)

    def release(self) -> None:
        """Release the lock. A second call does nothing."""
        self._checked_s = -GIVE_UP_S
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.invalidate()
            connection.close()

    def _try_lock(self) -> bool:
        sent_s = time.monotonic()
        connection = self._database.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        got = connection.execute(sa.text("SELECT pg_try_advisory_lock(:key)"), {"key": _ADVISORY_LOCK}).scalar_one()
        if not got:
            self._end_if_silent(connection)
            connection.close()
            return False
        # For apps without replicas: a machine that is gone is noticed within some 15 seconds, not after hours.
        for name, value in (("idle", 5), ("interval", 2), ("count", 5)):
            connection.execute(sa.text(f"SET tcp_keepalives_{name} = {value}"))
        self._connection, self._checked_s, self._seen = connection, sent_s, None
        return True

    def _end_if_silent(self, connection: sa.Connection) -> None:
        """End the connections of the owner if it has not used its lock for `SILENT_S`; a replica tries again after.

        An owner that lost its connection ends the old one at once.
        """
        holder, now_s = connection.execute(sa.text(_HOLDER), {"key": _ADVISORY_LOCK}).first(), time.monotonic()
        if holder is None or holder != self._seen:
            self._seen, self._seen_s = holder, now_s
        own = f"pygrid {self._database.instance}"
        if holder is None or holder.state_change is None:  # PostgreSQL does not record it (track_activities)
            return
        if now_s - self._seen_s >= SILENT_S or holder.application_name == own:
            logger.warning("owner of the database is silent; its connections are ended", extra={"pid": holder.pid})
            values = {"key": _ADVISORY_LOCK, "own": own, **holder._mapping}
            connection.execute(sa.text(_END_HOLDER), values)

    def _keep_once(self) -> None:
        if self._is_lost:
            raise _taken()
        sent_s = time.monotonic()
        try:
            if self._connection is not None:
                self._connection.execute(sa.text("SELECT 1"))
                self._checked_s = sent_s
                return
        except SQLAlchemyError:
            logger.warning("lock of the database lost; taking it again")
            self.release()
        try:
            has_lock = self._try_lock()
            self._database.read_now(self._check)
            if has_lock:
                logger.info("lock of the database taken again")
            else:
                # The server may not have noticed that the old connection is gone. `_check` found no other owner.
                logger.warning("lock of the database is still held; it is taken again later")
        except (SQLAlchemyError, Unavailable):
            self.release()
            if self._is_lost:
                raise
            logger.warning("database does not answer; its lock is taken again later")

    def _check(self, connection: sa.Connection) -> None:
        """Refuse if another app has become the owner.

        Runs in the writing transaction; its row lock makes other apps wait.
        """
        epoch = connection.execute(sa.select(installation.c.epoch).with_for_update(read=True)).scalar_one()
        if epoch != self._epoch:
            self._is_lost = True
            raise _taken()


def _next_epoch(connection: sa.Connection) -> int:
    connection.execute(installation.update().values(epoch=installation.c.epoch + 1))
    return int(connection.execute(sa.select(installation.c.epoch)).scalar_one())


def announced_address(folder: Path) -> str:
    """The address of the app that uses a data folder, or used it last; empty: unknown."""
    holder = _read_holder(folder / LOCK_FILE)
    return "" if holder is None else holder.address


def _read_holder(path: Path) -> Holder | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Holder)
    except (OSError, msgspec.DecodeError):  # the holder is writing it
        return None


def _already_running(folder: Path, holder: Holder | None) -> InvalidConfig:
    who, fields = "another process", dict[str, Any]()
    if holder is not None:
        where = f" at {holder.address}" if holder.address else ""
        since = f"{holder.since:%Y-%m-%d %H:%M:%S} UTC"
        who = f"a {holder.app.capitalize()}{where} (process {holder.pid} on {holder.host}, since {since})"
        fields = {"pid": holder.pid, "host": holder.host, "address": holder.address}
    return InvalidConfig(
        f"the data folder {folder} is in use by {who}: stop that app, or choose another folder (--data-dir)",
        code=codes.ALREADY_RUNNING,
        **fields,
    )


def _taken() -> Unavailable:
    return Unavailable(
        "another app has become the owner of this database, so this one writes nothing: stop one of the two, and start "
        "the other again",
        code=codes.DATABASE_TAKEN,
    )
