"""The audit log of an app, for the people who supervise it."""

from __future__ import annotations

from pathlib import Path

from pygrid.core.access import Permission
from pygrid.features.audit.service import AuditService
from pygrid.lifecycle import Feature
from pygrid.storage.audit import HEAD_FILE
from pygrid.storage.sql.database import Database


def build(database: Database, data_dir: Path, permission: Permission) -> Feature:
    """Build the feature.

    Args:
        permission: needed to see the log.
    """
    return Feature(services=(AuditService(database, data_dir / HEAD_FILE, permission),))
