"""Failures of a database as errors of pygrid. Only this module knows the error codes of the drivers.

    disk full                                         StorageFull    ``storage_full``
    I/O error in a file that a row names              as `pygrid.errors.explain_os_error` says
    stopped, restarting, unreachable, locked, I/O     Unavailable    ``database_unavailable``, with ``retry_after_s``
    conflicts with other transactions, each attempt   Unavailable    ``storage_busy``, with ``retry_after_s``
    connection broke during a commit                  Unavailable    ``outcome_unknown``
    a text that it cannot store                       InvalidInput   ``invalid_text``

Sources: https://sqlite.org/rescode.html; PostgreSQL's documentation, appendix A, "PostgreSQL Error Codes".
"""

from __future__ import annotations

import sqlite3

import sqlalchemy as sa

from pygrid import codes
from pygrid.errors import InvalidInput, PygridError, Unavailable, explain_os_error, storage_full

RETRY_AFTER_S = 5
_OUTCOME_UNKNOWN = "outcome_unknown"
_SQLITE_AWAY = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
    }
)
_PRIMARY = 0xFF
"""Bits of the primary code in a SQLite result code."""
_DISK_FULL = "53100"
_POSTGRES_AWAY = ("08", "53", "57P", "58", "25006", "25P03", "55P03")
"""Prefixes of SQLSTATE: connection, resources, operators, system; read-only, an idle transaction, a lock."""
_AWAY_KINDS = frozenset(("OperationalError", "InterfaceError"))
"""Classes of the driver's errors without a SQLSTATE: the connection broke, or there is none."""
_CONFLICT = ("40001", "40P01")
"""SQLSTATE of a failed serialization and of a deadlock: the transaction was undone, and can be run again."""
BUSY_RETRY_AFTER_S = 1


def explain(error: BaseException) -> PygridError | None:
    """The error of pygrid for a failure; None if ``error`` is something else."""
    if isinstance(error, OSError):
        return explain_os_error(error)
    if isinstance(error, UnicodeEncodeError) and error.reason == "surrogates not allowed":
        return _invalid_text("half of a surrogate pair")
    if isinstance(error, sa.exc.TimeoutError):
        return unavailable()
    if is_conflict(error):
        detail = "too many requests change the same data now, so nothing was changed; send the request again"
        return Unavailable(detail, code=codes.STORAGE_BUSY, retry_after_s=BUSY_RETRY_AFTER_S)
    # Prepared statements raise the errors of the driver.
    original = error.orig if isinstance(error, sa.exc.DBAPIError) else error
    if isinstance(original, sqlite3.Error):
        return _explain_sqlite(original)
    if not type(original).__module__.startswith("psycopg"):
        return None
    state = getattr(original, "sqlstate", None)
    if state is None and type(original).__name__ == "DataError" and "NUL" in str(original):
        return _invalid_text("a NUL character")
    if state == _DISK_FULL:
        return storage_full()
    is_away = is_lost(error) or (
        state.startswith(_POSTGRES_AWAY)
        if isinstance(state, str)
        else not _AWAY_KINDS.isdisjoint(kind.__name__ for kind in type(original).__mro__)
    )
    return unavailable() if is_away else None


def is_conflict(error: BaseException) -> bool:
    """Whether PostgreSQL undid a transaction that conflicts with another one, so that it can be run again."""
    # Prepared statements raise the errors of the driver.
    original = error.orig if isinstance(error, sa.exc.DBAPIError) else error
    return getattr(original, "sqlstate", None) in _CONFLICT


def is_lost(error: BaseException) -> bool:
    """Whether the connection broke, so that the outcome of a commit is unknown."""
    return isinstance(error, sa.exc.DBAPIError) and error.connection_invalidated


def may_be_done(error: BaseException) -> bool:
    """Whether the failed write may be committed, so that the files that it names must stay."""
    return isinstance(error, PygridError) and error.code == _OUTCOME_UNKNOWN


def unavailable() -> Unavailable:
    """The refusal while the database is unavailable."""
    return Unavailable(
        "the database of this server cannot be used now; try again in a moment",
        code=codes.DATABASE_UNAVAILABLE,
        retry_after_s=RETRY_AFTER_S,
    )


def outcome_unknown() -> Unavailable:
    """The refusal after the connection broke during a commit. It does not mean that nothing was changed."""
    return Unavailable(
        "the connection to the database broke during the commit, so the change may be stored or not: check before you "
        "repeat it; a call with an Idempotency-Key can be repeated unchanged",
        code=_OUTCOME_UNKNOWN,
    )


def _explain_sqlite(error: sqlite3.Error) -> PygridError | None:
    code = getattr(error, "sqlite_errorcode", 0) & _PRIMARY
    if code == sqlite3.SQLITE_FULL:
        return storage_full()
    return unavailable() if code in _SQLITE_AWAY else None


def _invalid_text(what: str) -> InvalidInput:
    return InvalidInput(f"a text contains {what}, which cannot be stored; remove it", code=codes.INVALID_TEXT)
