"""The settings an app started with, in its audit log: those that decide who may do what. No secret is among them."""

from __future__ import annotations

import datetime as dt
from typing import Any

import sqlalchemy as sa

import pygrid
from pygrid.settings import AppSettings
from pygrid.storage import audit

RECORDED = (
    *("host", "port", "address", "hosts", "network", "open_signup", "legacy_open", "publish", "open_relay"),
    *("allow_private_addresses", "allow_weak_sandbox", "prefer_remote_workers"),
)
"""Settings that an entry has, where the app has them."""


def record_start(connection: sa.Connection, settings: AppSettings, now: dt.datetime) -> None:
    """Write an entry ``app_started``."""
    data: dict[str, Any] = {"app": settings.app, "version": pygrid.__version__}
    data |= {name: getattr(settings, name) for name in RECORDED if hasattr(settings, name)}
    audit.append(connection, "app_started", data, actor=None, now=now)
