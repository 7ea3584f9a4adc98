"""Tables of datasets.

    datasets 1--n dataset_versions
    datasets 1--n dataset_tags

Records are not here: ``folder`` and ``mock_folder`` name folders of columns. A dataset that was deleted keeps its row without a
``name_key``: its id stays what was spent on it refers to.
"""

from __future__ import annotations

import sqlalchemy as sa

from pygrid.storage.schema import UtcDateTime, metadata

datasets = sa.Table(
    "datasets",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    # The name in lower case: what makes it the same; NULL once the dataset is deleted.
    sa.Column("name_key", sa.Text, nullable=True, index=True),
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("visibility", sa.String(16), nullable=False),
    sa.Column("search_text", sa.Text, nullable=False),
    sa.Column("created_by", sa.Integer, nullable=True, index=True),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("updated_at", UtcDateTime, nullable=False),
    sa.Column("deleted_at", UtcDateTime, nullable=True),
    # Of one person only: a name that is taken must not tell of somebody else's private dataset.
    sa.UniqueConstraint("created_by", "name_key"),
    sqlite_autoincrement=True,
)

dataset_versions = sa.Table(
    "dataset_versions",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("dataset_id", sa.ForeignKey("datasets.id"), nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("folder", sa.String(64), nullable=False),
    sa.Column("mock_folder", sa.String(64), nullable=True),
    sa.Column("mock", sa.String(16), nullable=False),
    sa.Column("schema", sa.JSON, nullable=False),
    sa.Column("num_records", sa.BigInteger, nullable=False),
    sa.Column("num_columns", sa.Integer, nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("note", sa.Text, nullable=False),
    # Of the columns' values (`pygrid.storage.columns.hash_content`), to recognize them in another dataset. NULL: records of 0.1
    # that were deleted before they were hashed.
    sa.Column("content_hash", sa.String(64), nullable=True, index=True),
    sa.Column("created_by", sa.Integer, nullable=True),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.UniqueConstraint("dataset_id", "number"),
    sqlite_autoincrement=True,
)

dataset_tags = sa.Table(
    "dataset_tags",
    metadata,
    sa.Column("dataset_id", sa.ForeignKey("datasets.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("tag", sa.Text, nullable=False),
    # The tag in lower case, for searching.
    sa.Column("tag_key", sa.Text, nullable=False, index=True),
)
