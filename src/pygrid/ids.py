"""Identifiers and secrets."""

from __future__ import annotations

import hashlib
import secrets
import uuid


def new_client_id() -> str:
    """A fresh random id of an edge client (the published API says ``worker_id``): a UUID, version 4."""
    return str(uuid.uuid4())


def new_secret() -> str:
    """A fresh secret of 256 bits as 64 hex digits: a request key, a session token, a private key."""
    return secrets.token_hex(32)


def hash_secret(secret: str) -> str:
    """What is stored in place of a secret of `new_secret`: its SHA-256, as 64 hex digits."""
    return hashlib.sha256(secret.encode()).hexdigest()
