"""Served models: their table, and queries inside a transaction of the caller.

``file`` names a blob with the bytes of the model; ``report`` is the gate's report.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any

import msgspec
import sqlalchemy as sa

from pygrid import codes
from pygrid.core.serving import Serving
from pygrid.errors import Conflict, NotFound
from pygrid.messages.models import ModelVisibility
from pygrid.plans.serving import ServingReport
from pygrid.storage.sql.metadata import UtcDateTime, metadata

served_models = sa.Table(
    "served_models",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("model_id", sa.String(100), nullable=False, unique=True),
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("file", sa.String(64), nullable=False, index=True),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("allow_download", sa.Boolean, nullable=False),
    sa.Column("allow_remote_inference", sa.Boolean, nullable=False),
    sa.Column("max_batch_size", sa.Integer, nullable=False),
    sa.Column("visibility", sa.String(16), nullable=False),
    sa.Column("report", sa.JSON, nullable=False),
    # Without a foreign key: the model outlives the account.
    sa.Column("created_by", sa.Integer, nullable=True),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sqlite_autoincrement=True,
)


@dataclass(frozen=True)
class StoredModel:
    """A served model; ``file`` names its bytes."""

    model_id: str
    description: str
    file: str
    size_bytes: int
    allow_download: bool
    allow_remote_inference: bool
    max_batch_size: int
    visibility: ModelVisibility
    report: ServingReport
    created_by: int | None
    created_at: dt.datetime

    @property
    def serving(self) -> Serving:
        return Serving(self.created_by, self.allow_download, self.allow_remote_inference)


_COLUMNS = [served_models.c[field] for field in StoredModel.__dataclass_fields__]


def put_model(connection: sa.Connection, model: StoredModel) -> None:
    """Add a model. Raises Conflict: ``model_exists``."""
    try:
        connection.execute(served_models.insert().values(**vars(model) | {"report": msgspec.to_builtins(model.report)}))
    except sa.exc.IntegrityError:
        raise model_exists(model.model_id) from None


def find_model(connection: sa.Connection, model_id: str) -> StoredModel | None:
    """The model of an id, if it is served."""
    row = connection.execute(sa.select(*_COLUMNS).where(served_models.c.model_id == model_id)).one_or_none()
    return None if row is None else _model(row)


def get_model(connection: sa.Connection, model_id: str) -> StoredModel:
    """The model of an id. Raises NotFound: ``model_not_found``."""
    model = find_model(connection, model_id)
    if model is None:
        raise model_not_found(model_id)
    return model


def list_models(connection: sa.Connection, *, only_public: bool = False) -> list[StoredModel]:
    """All served models, or the public ones, sorted by id."""
    statement = sa.select(*_COLUMNS).where(_shown(only_public)).order_by(served_models.c.model_id)
    return [_model(row) for row in connection.execute(statement)]


def list_model_ids(connection: sa.Connection, *, only_public: bool = False) -> list[str]:
    """The ids of all served models, or of the public ones, sorted."""
    statement = sa.select(served_models.c.model_id).where(_shown(only_public)).order_by(served_models.c.model_id)
    return list(connection.execute(statement).scalars())


def _shown(only_public: bool) -> sa.ColumnElement[bool]:
    return served_models.c.visibility == "public" if only_public else sa.true()


def delete_model(connection: sa.Connection, model_id: str) -> bool:
    """Stop serving a model; returns whether no other model uses its file."""
    model = get_model(connection, model_id)
    connection.execute(served_models.delete().where(served_models.c.model_id == model_id))
    others = sa.select(sa.func.count()).where(served_models.c.file == model.file)
    return int(connection.execute(others).scalar_one()) == 0


def list_model_files(connection: sa.Connection) -> set[str]:
    return set(connection.execute(sa.select(served_models.c.file)).scalars())


def model_exists(model_id: str) -> Conflict:
    detail = f"Model id already exists. Choose another than {model_id!r}, or delete that model first."
    return Conflict(detail, code=codes.MODEL_EXISTS, model_id=model_id)


def model_not_found(model_id: str) -> NotFound:
    """The refusal for an unknown id."""
    return NotFound(f"there is no model {model_id[:100]!r}", code=codes.MODEL_NOT_FOUND, model_id=model_id[:100])


def _model(row: sa.Row[Any]) -> StoredModel:
    fields = dict(row._mapping)
    fields["report"] = msgspec.convert(fields["report"], ServingReport)
    return StoredModel(**fields)
