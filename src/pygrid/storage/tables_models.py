"""The table of served models: ``file`` names their bytes (`pygrid.storage.files.BlobFiles`), ``report`` is the gate's."""

from __future__ import annotations

import sqlalchemy as sa

from pygrid.storage.schema import UtcDateTime, metadata

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
    # Not referred to: the model outlives the account.
    sa.Column("created_by", sa.Integer, nullable=True),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sqlite_autoincrement=True,
)
