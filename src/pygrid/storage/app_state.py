"""Facts of the whole app that belong to no other table: the id of its store of files, its sealed identity."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from pygrid import codes
from pygrid.durable import write_atomically
from pygrid.errors import InvalidConfig
from pygrid.storage.sql.database import Database
from pygrid.storage.sql.metadata import metadata

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

app_state = sa.Table(
    "app_state",
    metadata,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("value", sa.LargeBinary, nullable=False),
)

IDENTITY = "identity"
"""The sealed private key of the app."""
STORE_ID = "store_id"
"""The id of the store that holds the files; absent: they are in the data folder."""
_NONCE_BYTES = 12


def find_state(connection: sa.Connection, key: str) -> bytes | None:
    """The value of a key, or None."""
    found: bytes | None = connection.execute(sa.select(app_state.c.value).where(app_state.c.key == key)).scalar()
    return None if found is None else bytes(found)


def put_state(connection: sa.Connection, key: str, value: bytes) -> None:
    """Set the value of a key."""
    connection.execute(app_state.delete().where(app_state.c.key == key))
    connection.execute(app_state.insert().values(key=key, value=value))


def check_no_store(connection: sa.Connection) -> None:
    """Refuse to keep files in the data folder if they are in a store. Raises InvalidConfig: ``wrong_store``."""
    if find_state(connection, STORE_ID) is not None:
        raise InvalidConfig(
            "this database keeps its files in a store of objects: set PYGRID_STORE as at the last start",
            code=codes.WRONG_STORE,
        )


def seal_secret(secret_key: str, purpose: str, data: bytes) -> bytes:
    """``data`` encrypted by AES-256-GCM, with a key derived from the secret key of the app by HKDF-SHA256."""
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return nonce + _cipher(secret_key, purpose).encrypt(nonce, data, purpose.encode())


def open_secret(secret_key: str, purpose: str, sealed: bytes) -> bytes:
    """The data of `seal_secret`.

    Raises:
        InvalidConfig: ``identity_damaged``: it was sealed with another secret key, or changed.
    """
    from cryptography.exceptions import InvalidTag

    try:
        return _cipher(secret_key, purpose).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], purpose.encode())
    except InvalidTag:
        raise InvalidConfig(
            f"the {purpose} in the database cannot be opened with this SECRET_KEY: set the one of the last start",
            code=codes.IDENTITY_DAMAGED,
        ) from None


def restore_file(database: Database, secret_key: str, purpose: str, path: Path) -> None:
    """Write a file that `keep_file` has stored, if it is not there. Raises InvalidConfig: as `open_secret`."""
    sealed = database.read_now(lambda connection: find_state(connection, purpose))
    if sealed is not None:
        data = open_secret(secret_key, purpose, sealed)
        if not path.exists() or path.read_bytes() != data:
            write_atomically(path, data)


def keep_file(database: Database, secret_key: str, purpose: str, path: Path) -> None:
    """Store a secret file in the database, sealed, unless one is there."""
    sealed = seal_secret(secret_key, purpose, path.read_bytes())

    def put(connection: sa.Connection) -> None:
        if find_state(connection, purpose) is None:
            put_state(connection, purpose, sealed)

    database.write_now(put)


def share_file(database: Database, secret_key: str, purpose: str, path: Path) -> None:
    """Make a secret file the same for all replicas: the first one stores its file, which replaces those of the others.

    Raises:
        InvalidConfig: as `open_secret`.
    """
    keep_file(database, secret_key, purpose, path)
    restore_file(database, secret_key, purpose, path)


def _cipher(secret_key: str, purpose: str) -> AESGCM:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    key = HKDF(SHA256(), 32, None, f"pygrid/{purpose}".encode()).derive(secret_key.encode())
    return AESGCM(key)
