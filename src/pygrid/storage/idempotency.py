"""Answers to calls with an ``Idempotency-Key``, and `once`, which stores them.

The answer is written in the transaction of the effect. So after a crash either both exist, and the next call gets the
answer, or neither, and the next call has the effect. The table has no foreign key to users: an id is never used twice.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import sqlalchemy as sa

from pygrid.clock import Clock
from pygrid.core.idempotency import (
    KEEP,
    MAX_ANSWERS,
    MAX_ANSWERS_BYTES,
    CallScope,
    KeptAnswer,
    RepeatableCall,
    current_call,
    in_progress,
)
from pygrid.storage.sql.database import Database
from pygrid.storage.sql.metadata import UtcDateTime, metadata

kept_answers = sa.Table(
    "kept_answers",
    metadata,
    # In the order of the calls.
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("user_id", sa.Integer, nullable=False),
    sa.Column("route", sa.Text, nullable=False),
    # SHA-256 of the key.
    sa.Column("key_hash", sa.String(64), nullable=False),
    sa.Column("fingerprint", sa.String(64), nullable=False),
    sa.Column("body_bytes", sa.BigInteger, nullable=False),
    sa.Column("status", sa.Integer, nullable=False),
    sa.Column("answer_bytes", sa.Integer, nullable=False),
    sa.Column("expires_at", UtcDateTime, nullable=False, index=True),
    # JSON; NULL if it contained a secret.
    sa.Column("answer", sa.LargeBinary, nullable=True),
    sa.UniqueConstraint("user_id", "route", "key_hash"),
    sa.Index("ix_kept_answers_user_id_number", "user_id", "number"),
)


T = TypeVar("T")


def once(fn: Callable[[sa.Connection], T], answer: Callable[[T], object] | None = None) -> Callable[[sa.Connection], T]:
    """A unit of work that also stores the answer of this task's call; ``fn`` itself if the call has no key.

    Args:
        answer: maps the result of ``fn`` to the result of the use case; None: they are equal.
    Raises (the unit):
        Conflict: ``idempotency_in_progress``: another task has completed the call. This one has no effect.
    """
    call = current_call.get()
    if call is None:
        return fn

    def unit(connection: sa.Connection) -> T:
        if find_answer(connection, call.scope, call.now) is not None:
            raise in_progress()
        result = fn(connection)
        put_answer(connection, call, call.encode(result if answer is None else answer(result)))
        return result

    return unit


def put_answer(connection: sa.Connection, call: RepeatableCall, answer: bytes) -> None:
    """Keep the answer of a call that is done; drop those of its user that are too old or too many. Raises as `once`."""
    kept, scope = call.keep(answer), call.scope
    connection.execute(sa.delete(kept_answers).where(_is_of(scope), kept_answers.c.expires_at <= call.now))
    values = {
        "user_id": scope.user_id,
        "route": scope.route,
        "key_hash": scope.key_hash,
        "fingerprint": kept.fingerprint,
        "body_bytes": kept.body_bytes,
        "status": kept.status,
        "answer_bytes": len(kept.answer or b""),
        "answer": kept.answer,
        "expires_at": call.now + KEEP,
    }
    try:
        connection.execute(sa.insert(kept_answers).values(values))
    except sa.exc.IntegrityError:
        raise in_progress() from None
    _drop_excess(connection, scope.user_id)


def update_answer(connection: sa.Connection, scope: CallScope, answer: bytes) -> None:
    """Replace the answer of a completed call."""
    values = {"answer": answer, "answer_bytes": len(answer)}
    connection.execute(sa.update(kept_answers).where(_is_of(scope)).values(values))


def find_answer(connection: sa.Connection, scope: CallScope, now: dt.datetime) -> KeptAnswer | None:
    """The answer of the call with this key, if it was completed and has not expired."""
    columns = ("fingerprint", "body_bytes", "status", "answer")
    query = sa.select(*(kept_answers.c[name] for name in columns)).where(_is_of(scope), kept_answers.c.expires_at > now)
    row = connection.execute(query).first()
    return None if row is None else KeptAnswer(*row)


def delete_expired_answers(connection: sa.Connection, now: dt.datetime) -> int:
    """Delete expired answers; returns their number."""
    return connection.execute(sa.delete(kept_answers).where(kept_answers.c.expires_at <= now)).rowcount


@dataclass(frozen=True)
class AnswerStore:
    database: Database
    clock: Clock

    async def find(self, scope: CallScope) -> KeptAnswer | None:
        """As `find_answer`, now."""
        return await self.database.read(lambda connection: find_answer(connection, scope, self.clock.now()))

    async def put(self, call: RepeatableCall, answer: bytes) -> None:
        """As `put_answer`, for a call that changed nothing."""
        await self.database.write(lambda connection: put_answer(connection, call, answer))

    async def replace(self, call: RepeatableCall, answer: bytes) -> None:
        """As `update_answer`."""
        await self.database.write(lambda connection: update_answer(connection, call.scope, answer))

    async def settle(self) -> None:
        """Return when every earlier write is done or has failed."""
        await self.database.write(lambda _connection: None)

    async def remove_expired(self) -> None:
        """As `delete_expired_answers`, now."""
        now = self.clock.now()
        await self.database.write(lambda connection: delete_expired_answers(connection, now))


def _is_of(scope: CallScope) -> sa.ColumnElement[bool]:
    table = kept_answers.c
    return (table.user_id == scope.user_id) & (table.route == scope.route) & (table.key_hash == scope.key_hash)


def _drop_excess(connection: sa.Connection, user_id: int) -> None:
    """Delete the oldest answers of a user until both limits hold. The newest stays, whatever its size."""
    mine = kept_answers.c.user_id == user_id
    query = (
        sa.select(kept_answers.c.number, kept_answers.c.answer_bytes).where(mine).order_by(kept_answers.c.number.desc())
    )
    num_bytes = 0
    for position, row in enumerate(connection.execute(query).all()):
        num_bytes += row.answer_bytes
        if position and (position >= MAX_ANSWERS or num_bytes > MAX_ANSWERS_BYTES):
            connection.execute(sa.delete(kept_answers).where(mine, kept_answers.c.number <= row.number))
            return
