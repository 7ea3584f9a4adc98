"""Cycles of federated jobs: their table, and queries inside a transaction of the caller."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from pygrid.core.federated import PartState, RoundAttempt
from pygrid.storage.sql.metadata import UtcDateTime, metadata

federated_cycles = sa.Table(
    "federated_cycles",
    metadata,
    sa.Column("job_id", sa.ForeignKey("jobs.id"), primary_key=True),
    # 1, 2, 3, ...: the trainings of the job.
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("state", sa.String(16), nullable=False),
    # Data of the coordinator: its cycle's number, the model at the start of training, the job's client id, its key.
    sa.Column("cycle", sa.Integer, nullable=False),
    sa.Column("model_hash", sa.String(64), nullable=False),
    sa.Column("client_id", sa.Text, nullable=False),
    sa.Column("request_key", sa.Text, nullable=False),
    # File of the job with the diff, until the diff is reported.
    sa.Column("diff_hash", sa.String(64), nullable=True),
    sa.Column("facts", sa.JSON(none_as_null=True), nullable=True),
    # Only the data owner may read it.
    sa.Column("private_detail", sa.Text, nullable=False),
    sa.Column("begun_at", UtcDateTime, nullable=False),
    sa.Column("ended_at", UtcDateTime, nullable=True),
)


_PART = [federated_cycles.c[field] for field in RoundAttempt.__dataclass_fields__]


def put_part(connection: sa.Connection, part: RoundAttempt) -> None:
    """Record the start of a training."""
    connection.execute(federated_cycles.insert().values(_values(part)))


def update_part(connection: sa.Connection, part: RoundAttempt) -> None:
    """Store a changed part."""
    where = (federated_cycles.c.job_id == part.job_id, federated_cycles.c.number == part.number)
    connection.execute(federated_cycles.update().where(*where).values(_values(part)))


def list_parts(connection: sa.Connection, job_id: str) -> list[RoundAttempt]:
    """All parts of a job, oldest first."""
    statement = sa.select(*_PART).where(federated_cycles.c.job_id == job_id).order_by(federated_cycles.c.number)
    return [_part(row) for row in connection.execute(statement)]


def _part(row: sa.Row[Any]) -> RoundAttempt:
    values = {**row._mapping, "state": PartState(row.state)}
    return RoundAttempt(**values)


def _values(part: RoundAttempt) -> dict[str, Any]:
    values: dict[str, Any] = {name: getattr(part, name) for name in RoundAttempt.__dataclass_fields__}
    return values | {"state": part.state.value, "facts": None if part.facts is None else dict(part.facts)}
