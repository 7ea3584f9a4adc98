"""Identifiers and secrets."""

from __future__ import annotations

import hashlib
import secrets
import uuid


def new_client_id() -> str:
    """A new random id of a client (``worker_id`` in the protocol): a UUID, version 4."""
    return str(uuid.uuid4())


def new_secret() -> str:
    """A new secret of 256 bits, as 64 hex digits: a request key, a session token or a private key."""
    return secrets.token_hex(32)


def hash_secret(secret: str) -> str:
    """The SHA-256 of a secret of `new_secret`, as 64 hex digits. It is stored in place of the secret."""
    return hashlib.sha256(secret.encode()).hexdigest()
