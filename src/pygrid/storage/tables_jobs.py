"""Tables of jobs on private data.

    datasets 1--1 policies
    datasets 1--n jobs 1--1 charges (`pygrid.storage.tables_budgets`)
                  jobs 1--n federated_cycles

Bytes are not here: ``plan_id``, ``model_hash`` and ``result_hash`` name files of the job. Users are not referred to: what they
asked for, and who decided, outlives their accounts.
"""

from __future__ import annotations

import sqlalchemy as sa

from pygrid.storage.schema import UtcDateTime, metadata

policies = sa.Table(
    "policies",
    metadata,
    sa.Column("dataset_id", sa.ForeignKey("datasets.id"), primary_key=True, autoincrement=False),
    sa.Column("auto_approve", sa.Boolean, nullable=False),
    sa.Column("max_epsilon_per_job", sa.Double, nullable=True),
    # What the budget was opened for; its order follows from it and stays.
    sa.Column("use", sa.String(16), nullable=False),
    sa.Column("updated_at", UtcDateTime, nullable=False),
    # Whether the records may be sent to Workers on other machines.
    sa.Column("allow_remote_workers", sa.Boolean, nullable=False, server_default=sa.false()),
)

jobs = sa.Table(
    "jobs",
    metadata,
    # In the order of submission.
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("id", sa.String(32), nullable=False, unique=True),
    sa.Column("dataset_id", sa.ForeignKey("datasets.id"), nullable=False, index=True),
    sa.Column("version_id", sa.ForeignKey("dataset_versions.id"), nullable=False),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("request", sa.JSON, nullable=False),
    sa.Column("request_hash", sa.String(64), nullable=False),
    sa.Column("requested_by", sa.Integer, nullable=False, index=True),
    sa.Column("plan_id", sa.String(64), nullable=False),
    sa.Column("plan_name", sa.Text, nullable=False),
    sa.Column("plan_summary", sa.Text, nullable=False),
    sa.Column("model_hash", sa.String(64), nullable=False),
    sa.Column("terms", sa.JSON(none_as_null=True), nullable=True),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("updated_at", UtcDateTime, nullable=False),
    # Each change of the job counts it up by one; a change is written only if nobody else's came between.
    sa.Column("sequence", sa.Integer, nullable=False),
    # [[state, time], ...]: all of them, so that whoever follows the job misses none.
    sa.Column("history", sa.JSON, nullable=False),
    sa.Column("num_attempts", sa.Integer, nullable=False),
    sa.Column("decided_by", sa.Integer, nullable=True),
    sa.Column("comment", sa.Text, nullable=False),
    sa.Column("code", sa.String(64), nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
    sa.Column("private_detail", sa.Text, nullable=False),
    sa.Column("mock_metrics", sa.JSON, nullable=False),
    sa.Column("result_hash", sa.String(64), nullable=True),
    sa.Column("result_bytes", sa.BigInteger, nullable=True),
    sa.Column("result_media_type", sa.String(100), nullable=True),
    sa.Column("result_metrics", sa.JSON(none_as_null=True), nullable=True),
    sa.Column("facts", sa.JSON(none_as_null=True), nullable=True),
    # Held while running; renewed by the Domain that runs it, so that another sees when it is gone.
    sa.Column("lease_until", UtcDateTime, nullable=True),
    # Of a federated job: it takes a Worker for each cycle, and none while it waits for the next.
    sa.Column("is_federated", sa.Boolean, nullable=False, server_default=sa.false()),
    sqlite_autoincrement=True,
)

federated_cycles = sa.Table(
    "federated_cycles",
    metadata,
    sa.Column("job_id", sa.ForeignKey("jobs.id"), primary_key=True),
    # From 1 on: how often the job has begun to train.
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("state", sa.String(16), nullable=False),
    # Of the coordinator: the number of its cycle, the model that training began with, who the job is there and its key.
    sa.Column("cycle", sa.Integer, nullable=False),
    sa.Column("model_hash", sa.String(64), nullable=False),
    sa.Column("client_id", sa.Text, nullable=False),
    sa.Column("request_key", sa.Text, nullable=False),
    # Names a file of the job, until its diff was reported.
    sa.Column("diff_hash", sa.String(64), nullable=True),
    sa.Column("facts", sa.JSON(none_as_null=True), nullable=True),
    # For the owner of the data only.
    sa.Column("private_detail", sa.Text, nullable=False),
    sa.Column("begun_at", UtcDateTime, nullable=False),
    sa.Column("ended_at", UtcDateTime, nullable=True),
)
