"""Facts of the whole app that belong to no other table: the id of its store of files, its sealed identity."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from pygrid import codes
from pygrid.durable import write_atomically
from pygrid.errors import InvalidConfig
from pygrid.settings import AppSettings
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
    connection.execute(app_state.delete().where(app_state.c.key == key))
    connection.execute(app_state.insert().values(key=key, value=value))


def check_no_store(connection: sa.Connection) -> None:
    """Refuse to keep files in the data folder if they are in a store. Raises InvalidConfig: ``wrong_store``."""
    if find_state(connection, STORE_ID) is not None:
        raise InvalidConfig(
            "this database keeps its files in a store of objects: set PYGRID_STORE as at the last start",
            code=codes.WRONG_STORE,
        )


def restore_identity(settings: AppSettings, database: Database) -> None:
    """Write the identity that `keep_identity` has stored to the data folder, unless it is there.

    Raises:
        InvalidConfig: ``identity_damaged``: it was sealed with another secret key, or changed.
    """
    sealed = database.read_now(lambda connection: find_state(connection, IDENTITY))
    if sealed is not None:
        data, path = _open_secret(settings.secret_key, sealed), _identity_file(settings)
        if not path.exists() or path.read_bytes() != data:
            write_atomically(path, data)


def keep_identity(settings: AppSettings, database: Database) -> None:
    """Store the identity of the data folder in the database, sealed, unless one is there."""
    nonce = secrets.token_bytes(_NONCE_BYTES)
    data = _identity_file(settings).read_bytes()
    sealed = nonce + _cipher(settings.secret_key).encrypt(nonce, data, IDENTITY.encode())

    def put(connection: sa.Connection) -> None:
        if find_state(connection, IDENTITY) is None:
            put_state(connection, IDENTITY, sealed)

    database.write_now(put)


def share_identity(settings: AppSettings, database: Database) -> None:
    """Make the identity the same for all replicas: the first one stores its file, which replaces those of the others.

    Raises:
        InvalidConfig: as `restore_identity`.
    """
    keep_identity(settings, database)
    restore_identity(settings, database)


def _identity_file(settings: AppSettings) -> Path:
    return settings.data_dir / f"{IDENTITY}.pem"


def _open_secret(secret_key: str, sealed: bytes) -> bytes:
    from cryptography.exceptions import InvalidTag

    try:
        return _cipher(secret_key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], IDENTITY.encode())
    except InvalidTag:
        raise InvalidConfig(
            f"the {IDENTITY} in the database cannot be opened with this SECRET_KEY: set the one of the last start",
            code=codes.IDENTITY_DAMAGED,
        ) from None


def _cipher(secret_key: str) -> AESGCM:
    """AES-256-GCM with a key derived from the secret key of the app by HKDF-SHA256."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return AESGCM(HKDF(SHA256(), 32, None, f"pygrid/{IDENTITY}".encode()).derive(secret_key.encode()))
