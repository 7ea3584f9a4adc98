"""Processes, their plans and checkpoints: tables, and queries inside a transaction of the caller."""

from __future__ import annotations

import datetime as dt
from dataclasses import asdict, dataclass
from typing import Any, Literal

import sqlalchemy as sa

from pygrid import codes
from pygrid.errors import NotFound
from pygrid.storage.sql.metadata import UtcDateTime, insert, metadata

processes = sa.Table(
    "processes",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("version", sa.String(200), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("client_config", sa.JSON, nullable=False),
    sa.Column("server_config", sa.JSON, nullable=False),
    sa.Column("num_parameters", sa.BigInteger, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("created_by", sa.Integer, nullable=True),
    # Number of its newest event. Events of databases older than this column have their ids as numbers.
    sa.Column("num_events", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    sa.UniqueConstraint("name", "version"),
)


plans = sa.Table(
    "plans",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("process_id", sa.ForeignKey("processes.id"), nullable=False, index=True),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("plan_hash", sa.String(64), nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("process_id", "kind", "name"),
)


# A training plan in a dialect of clients of 2020, for one batch size.
plan_variants = sa.Table(
    "plan_variants",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("plan_id", sa.ForeignKey("plans.id"), nullable=False),
    sa.Column("dialect", sa.String(16), nullable=False),
    sa.Column("batch_size", sa.Integer, nullable=False),
    sa.Column("blob_hash", sa.String(64), nullable=False),
    sa.UniqueConstraint("plan_id", "dialect", "batch_size"),
)


checkpoints = sa.Table(
    "checkpoints",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("process_id", sa.ForeignKey("processes.id"), nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("model_hash", sa.String(64), nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("optimizer_state", sa.JSON, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.UniqueConstraint("process_id", "number"),
)


@dataclass(frozen=True)
class ProcessRow:
    """A hosted model with its configuration; the model itself is its newest checkpoint."""

    id: int
    name: str
    version: str
    state: Literal["active", "paused", "finished"]
    client_config: dict[str, Any]
    server_config: dict[str, Any]
    num_parameters: int
    created_at: dt.datetime
    created_by: int | None
    """The user who hosted it; None: a caller without an account."""


@dataclass(frozen=True)
class NewProcess:
    name: str
    version: str
    client_config: dict[str, Any]
    server_config: dict[str, Any]
    num_parameters: int
    created_by: int | None = None


@dataclass(frozen=True)
class PlanRow:
    """A plan of a process; its bytes are the blob ``plan_hash``."""

    id: int
    process_id: int
    name: str
    kind: Literal["training", "averaging", "training_2020", "averaging_2020"]
    plan_hash: str
    size_bytes: int


TRAINING = ("training", "training_2020")
AVERAGING = ("averaging", "averaging_2020")
TRACED = ("training_2020", "averaging_2020")
"""Kinds of plans of 2020, which PySyft traced."""


@dataclass(frozen=True)
class Checkpoint:
    """A numbered state of the model; ``optimizer_state`` names the blobs of the server optimizer's vectors, by slot."""

    process_id: int
    number: int
    model_hash: str
    size_bytes: int
    optimizer_state: dict[str, str]
    created_at: dt.datetime


_PROCESS = [processes.c[field] for field in ProcessRow.__dataclass_fields__]
_PLAN = [plans.c[field] for field in PlanRow.__dataclass_fields__]
_CHECKPOINT = [checkpoints.c[field] for field in Checkpoint.__dataclass_fields__]


def put_process(connection: sa.Connection, process: NewProcess, now: dt.datetime) -> int:
    """Add a process; returns its id. Raises ``sqlalchemy.exc.IntegrityError`` if name and version are taken."""
    return insert(connection, processes.insert().values(**vars(process), state="active", created_at=now))


def put_plan(connection: sa.Connection, process_id: int, name: str, kind: str, plan_hash: str, size_bytes: int) -> int:
    """Add a plan to a process; returns its id."""
    statement = plans.insert().values(
        process_id=process_id, name=name, kind=kind, plan_hash=plan_hash, size_bytes=size_bytes
    )
    return insert(connection, statement)


def put_variant(connection: sa.Connection, plan_id: int, dialect: str, batch_size: int, blob_hash: str) -> None:
    values = {"plan_id": plan_id, "dialect": dialect, "batch_size": batch_size, "blob_hash": blob_hash}
    connection.execute(plan_variants.insert().values(values))


def list_variants(connection: sa.Connection, process_id: int) -> list[tuple[int, str, int, str]]:
    """Plan id, dialect, batch size and hash of the variants of a process, in the order of hosting."""
    own = sa.select(plans.c.id).where(plans.c.process_id == process_id)
    variants = plan_variants.c
    statement = sa.select(variants.plan_id, variants.dialect, variants.batch_size, variants.blob_hash)
    rows = connection.execute(statement.where(variants.plan_id.in_(own)).order_by(variants.id))
    return [(row.plan_id, row.dialect, row.batch_size, row.blob_hash) for row in rows]


def put_checkpoint(connection: sa.Connection, checkpoint: Checkpoint) -> None:
    """Add a checkpoint; its number must be new to the process."""
    connection.execute(checkpoints.insert().values(asdict(checkpoint)))


def set_process_state(connection: sa.Connection, process_id: int, state: str) -> None:
    connection.execute(processes.update().where(processes.c.id == process_id).values(state=state))


# A deleted process keeps its row, so that SQLite does not use its id again.
_DELETED = "deleted"
_exists = processes.c.state != _DELETED
_GET_PROCESS = sa.select(*_PROCESS).where(processes.c.id == sa.bindparam("process_id"), _exists)


def get_process(connection: sa.Connection, process_id: int) -> ProcessRow:
    """The process of an id. Raises NotFound: ``process_not_found``."""
    row = connection.execute(_GET_PROCESS, {"process_id": process_id}).first()
    if row is None:
        raise NotFound(f"there is no process {process_id}", code=codes.PROCESS_NOT_FOUND, process_id=process_id)
    return ProcessRow(*row)


def get_process_by_name(connection: sa.Connection, name: str, version: str | None) -> ProcessRow:
    """The process of a name and version; without a version the newest of that name.

    Raises:
        NotFound: ``process_not_found``.
    """
    found = list_processes(connection, name=name, version=version, limit=1)
    if not found:
        wanted = name if version is None else f"{name}, version {version}"
        raise NotFound(f"there is no process {wanted}", code=codes.PROCESS_NOT_FOUND, name=name, version=version)
    return found[0]


def list_processes(
    connection: sa.Connection, *, name: str | None = None, version: str | None = None, limit: int = 1000
) -> list[ProcessRow]:
    """Processes, newest first; only those of a name or version if given."""
    statement = sa.select(*_PROCESS).where(_exists).order_by(processes.c.id.desc()).limit(limit)
    if name is not None:
        statement = statement.where(processes.c.name == name)
    if version is not None:
        statement = statement.where(processes.c.version == version)
    return [ProcessRow(*row) for row in connection.execute(statement)]


def list_configs(connection: sa.Connection, after: int) -> list[tuple[int, dict[str, Any]]]:
    """Id and ``server_config`` of the processes with an id above ``after``."""
    statement = sa.select(processes.c.id, processes.c.server_config).where(processes.c.id > after, _exists)
    return [(row.id, row.server_config) for row in connection.execute(statement.order_by(processes.c.id))]


def delete_process(connection: sa.Connection, process_id: int) -> None:
    """Delete a process with its plans and checkpoints, and free its name. Nothing else may refer to them."""
    own = sa.select(plans.c.id).where(plans.c.process_id == process_id)
    connection.execute(plan_variants.delete().where(plan_variants.c.plan_id.in_(own)))
    for table in (plans, checkpoints):
        connection.execute(table.delete().where(table.c.process_id == process_id))
    # No process has an empty name.
    emptied = {"name": "", "version": str(process_id), "state": _DELETED, "client_config": {}, "server_config": {}}
    connection.execute(processes.update().where(processes.c.id == process_id).values(emptied))


def list_blobs(connection: sa.Connection) -> set[str]:
    """The hashes of the stored models, plans, variants and vectors of server optimizers of all processes."""
    found = set(connection.execute(sa.select(plans.c.plan_hash)).scalars())
    found |= set(connection.execute(sa.select(plan_variants.c.blob_hash)).scalars())
    for row in connection.execute(sa.select(checkpoints.c.model_hash, checkpoints.c.optimizer_state)):
        found |= {row.model_hash, *row.optimizer_state.values()}
    return found


def list_plans(connection: sa.Connection, process_id: int) -> list[PlanRow]:
    """The plans of a process, in the order of hosting."""
    statement = sa.select(*_PLAN).where(plans.c.process_id == process_id).order_by(plans.c.id)
    return [PlanRow(*row) for row in connection.execute(statement)]


def find_plan(connection: sa.Connection, process_id: int, plan_id: int) -> PlanRow | None:
    """A plan of a process, or None."""
    statement = sa.select(*_PLAN).where(plans.c.id == plan_id, plans.c.process_id == process_id)
    row = connection.execute(statement).first()
    return None if row is None else PlanRow(*row)


def get_checkpoint(connection: sa.Connection, process_id: int, number: int | None = None) -> Checkpoint:
    """A checkpoint of a process by number, or the newest. Raises NotFound: ``checkpoint_not_found``."""
    statement = sa.select(*_CHECKPOINT).where(checkpoints.c.process_id == process_id)
    if number is None:
        statement = statement.order_by(checkpoints.c.number.desc()).limit(1)
    else:
        statement = statement.where(checkpoints.c.number == number)
    row = connection.execute(statement).first()
    if row is None:
        raise NotFound(f"the process has no checkpoint {number}", code=codes.CHECKPOINT_NOT_FOUND, checkpoint=number)
    return Checkpoint(*row)


def list_checkpoints(connection: sa.Connection, process_id: int) -> list[Checkpoint]:
    """The checkpoints of a process, oldest first."""
    statement = sa.select(*_CHECKPOINT).where(checkpoints.c.process_id == process_id).order_by(checkpoints.c.number)
    return [Checkpoint(*row) for row in connection.execute(statement)]
