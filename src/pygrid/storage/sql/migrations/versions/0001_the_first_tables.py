"""The first tables"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from pygrid.storage.sql import metadata

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def _columns(kind: sa.types.TypeEngine[Any], *names: str, nullable: bool = False) -> list[sa.Column[Any]]:
    return [sa.Column(name, kind, nullable=nullable) for name in names]


def _cap(prefix: str = "", *, nullable: bool = False) -> list[sa.Column[Any]]:
    doubles = [prefix + name for name in ("epsilon", "delta", "basic_epsilon", "basic_delta")]
    return [
        *_columns(sa.Double(), *doubles, nullable=nullable),
        *_columns(sa.Integer(), prefix + "order", nullable=nullable),
    ]


def _id(table: str) -> list[sa.schema.SchemaItem]:
    return [sa.Column("id", sa.Integer(), nullable=False), sa.PrimaryKeyConstraint("id", name=op.f(f"pk_{table}"))]


def _reference(table: str, column: str, target: str, ondelete: str | None = None) -> sa.ForeignKeyConstraint:
    name = op.f(f"fk_{table}_{column}_{target.partition('.')[0]}")
    return sa.ForeignKeyConstraint([column], [target], name=name, ondelete=ondelete)


def upgrade() -> None:
    op.create_table(
        "audit_entries",
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("entry", sa.Text(), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_audit_entries")),
    )
    op.create_table(
        "audit_head",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_audit_head_one_row")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_head")),
    )
    op.create_table(
        "curves",
        *_id("curves"),
        sa.Column("events_hash", sa.String(length=64), nullable=False),
        sa.Column("events", sa.Text(), nullable=False),
        sa.Column("divergences", sa.LargeBinary(), nullable=False),
        sa.UniqueConstraint("events_hash", name=op.f("uq_curves_events_hash")),
    )
    op.create_table(
        "datasets",
        *_id("datasets"),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("name_key", sa.Text(), nullable=True),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("visibility", sa.String(length=16), nullable=False),
        sa.Column("search_text", sa.Text(), nullable=False),
        sa.Column("created_by", sa.Integer(), nullable=True),
        *_columns(metadata.UtcDateTime(), "created_at", "updated_at"),
        sa.Column("deleted_at", metadata.UtcDateTime(), nullable=True),
        sa.UniqueConstraint("created_by", "name_key", name=op.f("uq_datasets_created_by_name_key")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_datasets_created_by"), "datasets", ["created_by"])
    op.create_index(op.f("ix_datasets_name_key"), "datasets", ["name_key"])
    op.create_table(
        "first_owner",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("created_at", metadata.UtcDateTime(), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_first_owner_one_row")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_first_owner")),
    )
    op.create_table(
        "groups",
        *_id("groups"),
        sa.Column("name", sa.Text(), nullable=False),
        sa.UniqueConstraint("name", name=op.f("uq_groups_name")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "invitations",
        *_id("invitations"),
        sa.Column("token_hash", sa.String(length=64), nullable=False),
        sa.Column("domain", sa.String(length=100), nullable=True),
        *_columns(sa.Integer(), "max_uses", "num_uses"),
        sa.Column("expires_at", metadata.UtcDateTime(), nullable=False),
        sa.Column("created_by", sa.Integer(), nullable=False),
        sa.Column("created_at", metadata.UtcDateTime(), nullable=False),
        sa.UniqueConstraint("token_hash", name=op.f("uq_invitations_token_hash")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "networks",
        *_id("networks"),
        sa.Column("url", sa.String(length=300), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=True),
        sa.Column("identity", sa.String(length=64), nullable=True),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.String(length=500), nullable=False),
        sa.Column("invitation", sa.String(length=200), nullable=True),
        *_columns(metadata.UtcDateTime(), "created_at", "updated_at"),
        sa.UniqueConstraint("url", name=op.f("uq_networks_url")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "processes",
        *_id("processes"),
        *_columns(sa.String(length=200), "name", "version"),
        sa.Column("state", sa.String(length=16), nullable=False),
        *_columns(sa.JSON(), "client_config", "server_config"),
        sa.Column("num_parameters", sa.BigInteger(), nullable=False),
        sa.Column("created_at", metadata.UtcDateTime(), nullable=False),
        sa.Column("created_by", sa.Integer(), nullable=True),
        sa.UniqueConstraint("name", "version", name=op.f("uq_processes_name_version")),
    )
    op.create_table(
        "roles",
        *_id("roles"),
        sa.Column("name", sa.Text(), nullable=False),
        *_columns(sa.Boolean(), "can_triage_requests", "can_edit_settings", "can_create_users", "can_create_groups"),
        *_columns(sa.Boolean(), "can_edit_roles", "can_manage_infrastructure", "can_upload_data", "can_manage_nodes"),
        sa.UniqueConstraint("name", name=op.f("uq_roles_name")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "served_models",
        *_id("served_models"),
        sa.Column("model_id", sa.String(length=100), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("file", sa.String(length=64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        *_columns(sa.Boolean(), "allow_download", "allow_remote_inference"),
        sa.Column("max_batch_size", sa.Integer(), nullable=False),
        sa.Column("visibility", sa.String(length=16), nullable=False),
        sa.Column("report", sa.JSON(), nullable=False),
        sa.Column("created_by", sa.Integer(), nullable=True),
        sa.Column("created_at", metadata.UtcDateTime(), nullable=False),
        sa.UniqueConstraint("model_id", name=op.f("uq_served_models_model_id")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_served_models_file"), "served_models", ["file"])
    op.create_table(
        "workers",
        *_id("workers"),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("token_hash", sa.String(length=64), nullable=False),
        sa.Column("created_by", sa.Integer(), nullable=False),
        sa.Column("created_at", metadata.UtcDateTime(), nullable=False),
        sa.Column("last_seen_at", metadata.UtcDateTime(), nullable=True),
        sa.UniqueConstraint("name", name=op.f("uq_workers_name")),
        sa.UniqueConstraint("token_hash", name=op.f("uq_workers_token_hash")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "budgets",
        sa.Column("dataset_id", sa.Integer(), autoincrement=False, nullable=False),
        *_cap(),
        *_cap("user_", nullable=True),
        sa.Column("opened_at", metadata.UtcDateTime(), nullable=False),
        _reference("budgets", "dataset_id", "datasets.id"),
        sa.PrimaryKeyConstraint("dataset_id", name=op.f("pk_budgets")),
    )
    op.create_table(
        "checkpoints",
        *_columns(sa.Integer(), "id", "process_id", "number"),
        sa.Column("model_hash", sa.String(length=64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("optimizer_state", sa.JSON(), nullable=False),
        sa.Column("created_at", metadata.UtcDateTime(), nullable=False),
        _reference("checkpoints", "process_id", "processes.id"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_checkpoints")),
        sa.UniqueConstraint("process_id", "number", name=op.f("uq_checkpoints_process_id_number")),
    )
    op.create_table(
        "clients",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("process_id", sa.Integer(), nullable=False),
        sa.Column("created_at", metadata.UtcDateTime(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=True),
        sa.Column("left_at", metadata.UtcDateTime(), nullable=True),
        _reference("clients", "process_id", "processes.id"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_clients")),
    )
    op.create_index(op.f("ix_clients_process_id"), "clients", ["process_id"])
    op.create_table(
        "cycles",
        *_columns(sa.Integer(), "id", "process_id", "sequence"),
        sa.Column("state", sa.String(length=16), nullable=False),
        *_columns(sa.Integer(), "attempt", "checkpoint", "num_assigned", "num_reports"),
        sa.Column("created_at", metadata.UtcDateTime(), nullable=False),
        *_columns(metadata.UtcDateTime(), "opened_at", "deadline_at", "completed_at", "lease_until", nullable=True),
        sa.Column("totals", sa.JSON(), nullable=True),
        sa.Column("num_left", sa.Integer(), server_default=sa.text("0"), nullable=False),
        _reference("cycles", "process_id", "processes.id"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_cycles")),
        sa.UniqueConstraint("process_id", "sequence", name=op.f("uq_cycles_process_id_sequence")),
    )
    op.create_index(op.f("ix_cycles_state"), "cycles", ["state"])
    op.create_table(
        "dataset_tags",
        *_columns(sa.Integer(), "dataset_id", "position"),
        *_columns(sa.Text(), "tag", "tag_key"),
        _reference("dataset_tags", "dataset_id", "datasets.id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("dataset_id", "position", name=op.f("pk_dataset_tags")),
    )
    op.create_index(op.f("ix_dataset_tags_tag_key"), "dataset_tags", ["tag_key"])
    op.create_table(
        "dataset_versions",
        *_columns(sa.Integer(), "id", "dataset_id", "number"),
        sa.Column("folder", sa.String(length=64), nullable=False),
        sa.Column("mock_folder", sa.String(length=64), nullable=True),
        sa.Column("mock", sa.String(length=16), nullable=False),
        sa.Column("schema", sa.JSON(), nullable=False),
        sa.Column("num_records", sa.BigInteger(), nullable=False),
        sa.Column("num_columns", sa.Integer(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("created_by", sa.Integer(), nullable=True),
        sa.Column("created_at", metadata.UtcDateTime(), nullable=False),
        _reference("dataset_versions", "dataset_id", "datasets.id"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_dataset_versions")),
        sa.UniqueConstraint("dataset_id", "number", name=op.f("uq_dataset_versions_dataset_id_number")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "domains",
        *_id("domains"),
        *_columns(sa.String(length=100), "name", "name_key"),
        sa.Column("identity", sa.String(length=64), nullable=True),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("entry", sa.JSON(), nullable=False),
        sa.Column("entry_signature", sa.String(length=100), nullable=True),
        sa.Column("address", sa.String(length=300), nullable=True),
        sa.Column("address_checked_at", metadata.UtcDateTime(), nullable=True),
        sa.Column("invitation_id", sa.Integer(), nullable=True),
        sa.Column("reason", sa.String(length=500), nullable=False),
        sa.Column("created_at", metadata.UtcDateTime(), nullable=False),
        sa.Column("decided_at", metadata.UtcDateTime(), nullable=True),
        sa.Column("decided_by", sa.Integer(), nullable=True),
        sa.Column("last_seen_at", metadata.UtcDateTime(), nullable=True),
        _reference("domains", "invitation_id", "invitations.id", ondelete="SET NULL"),
        sa.UniqueConstraint("name_key", "identity", name=op.f("uq_domains_name_key_identity")),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_domains_held_name",
        "domains",
        ["name_key"],
        unique=True,
        sqlite_where=sa.text("state IN ('accepted', 'revoked', 'left')"),
        postgresql_where=sa.text("state IN ('accepted', 'revoked', 'left')"),
    )
    op.create_index(op.f("ix_domains_identity"), "domains", ["identity"])
    op.create_index(op.f("ix_domains_state"), "domains", ["state"])
    op.create_table(
        "drafts",
        *_columns(sa.Integer(), "id", "created_by"),
        *_columns(sa.String(length=200), "name", "version"),
        *_columns(sa.JSON(), "client_config", "server_config", "notes", "files"),
        sa.Column("process_id", sa.Integer(), nullable=True),
        sa.Column("created_at", metadata.UtcDateTime(), nullable=False),
        _reference("drafts", "process_id", "processes.id"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_drafts")),
        sa.UniqueConstraint("name", "version", name=op.f("uq_drafts_name_version")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_drafts_created_by"), "drafts", ["created_by"])
    op.create_table(
        "events",
        *_columns(sa.Integer(), "id", "process_id", "cycle"),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.Column("at", metadata.UtcDateTime(), nullable=False),
        _reference("events", "process_id", "processes.id"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
    )
    op.create_index(op.f("ix_events_process_id"), "events", ["process_id"])
    op.create_table(
        "plans",
        *_columns(sa.Integer(), "id", "process_id"),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("plan_hash", sa.String(length=64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        _reference("plans", "process_id", "processes.id"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_plans")),
        sa.UniqueConstraint("process_id", "kind", "name", name=op.f("uq_plans_process_id_kind_name")),
    )
    op.create_index(op.f("ix_plans_process_id"), "plans", ["process_id"])
    op.create_table(
        "policies",
        sa.Column("dataset_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("auto_approve", sa.Boolean(), nullable=False),
        sa.Column("max_epsilon_per_job", sa.Double(), nullable=True),
        sa.Column("use", sa.String(length=16), nullable=False),
        sa.Column("updated_at", metadata.UtcDateTime(), nullable=False),
        sa.Column("allow_remote_workers", sa.Boolean(), server_default=sa.false(), nullable=False),
        _reference("policies", "dataset_id", "datasets.id"),
        sa.PrimaryKeyConstraint("dataset_id", name=op.f("pk_policies")),
    )
    op.create_table(
        "users",
        *_id("users"),
        *_columns(sa.Text(), "email", "email_key", "password_hash", "private_key_hash"),
        sa.Column("role_id", sa.Integer(), nullable=False),
        sa.Column("created_at", metadata.UtcDateTime(), nullable=False),
        _reference("users", "role_id", "roles.id"),
        sa.UniqueConstraint("email_key", name=op.f("uq_users_email_key")),
        sa.UniqueConstraint("private_key_hash", name=op.f("uq_users_private_key_hash")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_users_role_id"), "users", ["role_id"])
    op.create_table(
        "assignments",
        *_columns(sa.Integer(), "id", "cycle_id"),
        sa.Column("client_id", sa.String(length=36), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("key_hash", sa.String(length=64), nullable=False),
        sa.Column("created_at", metadata.UtcDateTime(), nullable=False),
        _reference("assignments", "client_id", "clients.id"),
        _reference("assignments", "cycle_id", "cycles.id"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_assignments")),
        sa.UniqueConstraint("cycle_id", "client_id", name=op.f("uq_assignments_cycle_id_client_id")),
        sa.UniqueConstraint("key_hash", name=op.f("uq_assignments_key_hash")),
    )
    op.create_index(op.f("ix_assignments_client_id"), "assignments", ["client_id"])
    op.create_table(
        "charges",
        *_id("charges"),
        sa.Column("job_id", sa.String(length=64), nullable=False),
        *_columns(sa.Integer(), "dataset_id", "user_id"),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("curve_id", sa.Integer(), nullable=False),
        *_columns(sa.Double(), "dataset_cost", "user_cost", "basic_epsilon", "basic_delta"),
        *_columns(metadata.UtcDateTime(), "created_at", "updated_at"),
        _reference("charges", "curve_id", "curves.id"),
        _reference("charges", "dataset_id", "budgets.dataset_id"),
        sa.UniqueConstraint("job_id", name=op.f("uq_charges_job_id")),
    )
    op.create_index("ix_charges_dataset_user", "charges", ["dataset_id", "user_id"])
    op.create_table(
        "grants",
        sa.Column("dataset_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("user_id", sa.Integer(), autoincrement=False, nullable=False),
        *_cap(),
        sa.Column("is_default", sa.Boolean(), nullable=False),
        *_columns(sa.Double(), "spent_divergence", "spent_in_dataset", "spent_basic_epsilon", "spent_basic_delta"),
        sa.Column("granted_at", metadata.UtcDateTime(), nullable=False),
        _reference("grants", "dataset_id", "budgets.dataset_id"),
        sa.PrimaryKeyConstraint("dataset_id", "user_id", name=op.f("pk_grants")),
    )
    op.create_table(
        "jobs",
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("id", sa.String(length=32), nullable=False),
        *_columns(sa.Integer(), "dataset_id", "version_id"),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("request", sa.JSON(), nullable=False),
        sa.Column("request_hash", sa.String(length=64), nullable=False),
        sa.Column("requested_by", sa.Integer(), nullable=False),
        sa.Column("plan_id", sa.String(length=64), nullable=False),
        *_columns(sa.Text(), "plan_name", "plan_summary"),
        sa.Column("model_hash", sa.String(length=64), nullable=False),
        sa.Column("terms", sa.JSON(none_as_null=True), nullable=True),
        *_columns(metadata.UtcDateTime(), "created_at", "updated_at"),
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("history", sa.JSON(), nullable=False),
        sa.Column("num_attempts", sa.Integer(), nullable=False),
        sa.Column("decided_by", sa.Integer(), nullable=True),
        sa.Column("comment", sa.Text(), nullable=False),
        sa.Column("code", sa.String(length=64), nullable=False),
        *_columns(sa.Text(), "detail", "private_detail"),
        sa.Column("mock_metrics", sa.JSON(), nullable=False),
        sa.Column("result_hash", sa.String(length=64), nullable=True),
        sa.Column("result_bytes", sa.BigInteger(), nullable=True),
        sa.Column("result_media_type", sa.String(length=100), nullable=True),
        *_columns(sa.JSON(none_as_null=True), "result_metrics", "facts", nullable=True),
        sa.Column("lease_until", metadata.UtcDateTime(), nullable=True),
        sa.Column("is_federated", sa.Boolean(), server_default=sa.false(), nullable=False),
        _reference("jobs", "dataset_id", "datasets.id"),
        _reference("jobs", "version_id", "dataset_versions.id"),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_jobs")),
        sa.UniqueConstraint("id", name=op.f("uq_jobs_id")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_jobs_dataset_id"), "jobs", ["dataset_id"])
    op.create_index(op.f("ix_jobs_requested_by"), "jobs", ["requested_by"])
    op.create_index(op.f("ix_jobs_state"), "jobs", ["state"])
    op.create_table(
        "memberships",
        *_columns(sa.Integer(), "user_id", "group_id"),
        _reference("memberships", "group_id", "groups.id", ondelete="CASCADE"),
        _reference("memberships", "user_id", "users.id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("user_id", "group_id", name=op.f("pk_memberships")),
    )
    op.create_index(op.f("ix_memberships_group_id"), "memberships", ["group_id"])
    op.create_table(
        "sessions",
        sa.Column("token_hash", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=False),
        *_columns(metadata.UtcDateTime(), "created_at", "last_seen_at", "expires_at"),
        _reference("sessions", "user_id", "users.id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("token_hash", name=op.f("pk_sessions")),
    )
    op.create_index(op.f("ix_sessions_expires_at"), "sessions", ["expires_at"])
    op.create_index(op.f("ix_sessions_user_id"), "sessions", ["user_id"])
    op.create_table(
        "federated_cycles",
        sa.Column("job_id", sa.String(length=32), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("cycle", sa.Integer(), nullable=False),
        sa.Column("model_hash", sa.String(length=64), nullable=False),
        *_columns(sa.Text(), "client_id", "request_key"),
        sa.Column("diff_hash", sa.String(length=64), nullable=True),
        sa.Column("facts", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("private_detail", sa.Text(), nullable=False),
        sa.Column("begun_at", metadata.UtcDateTime(), nullable=False),
        sa.Column("ended_at", metadata.UtcDateTime(), nullable=True),
        _reference("federated_cycles", "job_id", "jobs.id"),
        sa.PrimaryKeyConstraint("job_id", "number", name=op.f("pk_federated_cycles")),
    )
    op.create_table(
        "reports",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("cycle_id", sa.Integer(), nullable=False),
        *_columns(sa.String(length=64), "fingerprint", "file"),
        *_columns(sa.BigInteger(), "offset", "length", "num_examples", "weight"),
        sa.Column("norm", sa.Double(), nullable=False),
        sa.Column("scale", sa.Double(), nullable=True),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.Column("received_at", metadata.UtcDateTime(), nullable=False),
        _reference("reports", "cycle_id", "cycles.id"),
        _reference("reports", "id", "assignments.id"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reports")),
    )
    op.create_index(op.f("ix_reports_cycle_id"), "reports", ["cycle_id"])
