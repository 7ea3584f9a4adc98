"""Tables of model-centric learning.

    processes 1--n plans            processes 1--n checkpoints
    processes 1--n cycles 1--n assignments n--1 clients
                   cycles 1--n reports 1--1 assignments
    processes 1--n events
    drafts 0--1 processes

Bytes are not here: ``*_hash`` names a blob, ``reports.file, offset, length`` a place in the diffs of the cycle.
"""

from __future__ import annotations

import sqlalchemy as sa

from pygrid.storage.schema import UtcDateTime, metadata

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
    sa.UniqueConstraint("name", "version"),
)

# Processes that are to be hosted later, each for the eyes of who made it; ``files`` names what is hosted then.
drafts = sa.Table(
    "drafts",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    # Not referred to, as those of processes.
    sa.Column("created_by", sa.Integer, nullable=False, index=True),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("version", sa.String(200), nullable=False),
    sa.Column("client_config", sa.JSON, nullable=False),
    sa.Column("server_config", sa.JSON, nullable=False),
    sa.Column("notes", sa.JSON, nullable=False),
    # [[part of the form, hash, bytes], ...]; none any more once it is hosted.
    sa.Column("files", sa.JSON, nullable=False),
    sa.Column("process_id", sa.ForeignKey("processes.id"), nullable=True),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.UniqueConstraint("name", "version"),
    sqlite_autoincrement=True,
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

cycles = sa.Table(
    "cycles",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("process_id", sa.ForeignKey("processes.id"), nullable=False),
    sa.Column("sequence", sa.Integer, nullable=False),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("checkpoint", sa.Integer, nullable=False),
    sa.Column("num_assigned", sa.Integer, nullable=False),
    sa.Column("num_reports", sa.Integer, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("opened_at", UtcDateTime, nullable=True),
    sa.Column("deadline_at", UtcDateTime, nullable=True),
    sa.Column("completed_at", UtcDateTime, nullable=True),
    sa.Column("lease_until", UtcDateTime, nullable=True),
    sa.Column("totals", sa.JSON, nullable=True),
    # Clients of a process with named clients that have left it: the cycle does not wait for them.
    sa.Column("num_left", sa.Integer, nullable=False, server_default=sa.text("0")),
    # The largest distance, or norm, of a diff that counted in full; NULL without a limit.
    sa.Column("radius", sa.Double, nullable=True),
    sa.UniqueConstraint("process_id", "sequence"),
)

clients = sa.Table(
    "clients",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("process_id", sa.ForeignKey("processes.id"), nullable=False, index=True),
    sa.Column("created_at", UtcDateTime, nullable=False),
    # Whom its token named, if its process asks for tokens.
    sa.Column("subject", sa.Text, nullable=True),
    sa.Column("left_at", UtcDateTime, nullable=True),
    # To within an hour; a client that is not used for long expires.
    sa.Column("used_at", UtcDateTime, nullable=True),
    # Marks (keyed hashes) of the address that made it, and of the subject of its token where clients have no names.
    sa.Column("address_mark", sa.String(32), nullable=True),
    sa.Column("subject_mark", sa.String(32), nullable=True),
    sa.Index("ix_clients_process_id_address_mark", "process_id", "address_mark"),
    sa.Index("ix_clients_process_id_subject_mark", "process_id", "subject_mark"),
)

assignments = sa.Table(
    "assignments",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("cycle_id", sa.ForeignKey("cycles.id"), nullable=False),
    sa.Column("client_id", sa.ForeignKey("clients.id"), nullable=False, index=True),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("key_hash", sa.String(64), nullable=False, unique=True),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.UniqueConstraint("cycle_id", "client_id"),
)

reports = sa.Table(
    "reports",
    metadata,
    # The assignment's id: one report for each at the most, and no index but this and the cycle's to write for each report.
    sa.Column("id", sa.ForeignKey("assignments.id"), primary_key=True, autoincrement=False),
    sa.Column("cycle_id", sa.ForeignKey("cycles.id"), nullable=False, index=True),
    sa.Column("fingerprint", sa.String(64), nullable=False),
    sa.Column("file", sa.String(64), nullable=False),
    sa.Column("offset", sa.BigInteger, nullable=False),
    sa.Column("length", sa.BigInteger, nullable=False),
    sa.Column("num_examples", sa.BigInteger, nullable=False),
    sa.Column("weight", sa.BigInteger, nullable=False),
    sa.Column("norm", sa.Double, nullable=False),
    sa.Column("scale", sa.Double, nullable=True),
    sa.Column("metrics", sa.JSON, nullable=False),
    sa.Column("received_at", UtcDateTime, nullable=False),
    # From the mean diff of the cycle before; NULL where it is not measured.
    sa.Column("distance", sa.Double, nullable=True),
)

events = sa.Table(
    "events",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("process_id", sa.ForeignKey("processes.id"), nullable=False, index=True),
    sa.Column("cycle", sa.Integer, nullable=False),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("data", sa.JSON, nullable=False),
    sa.Column("at", UtcDateTime, nullable=False),
)
