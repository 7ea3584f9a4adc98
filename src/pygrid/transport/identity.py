"""The identity of a Domain or a Network, independent of its address: an Ed25519 key pair, made at its first start.

`Identity` is the private half; it is kept in a file of the data folder and signs. `IdentityKey` is the public half:
people write it down, other apps know the app by it, and the certificate of a Domain is compared with it.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pygrid import codes
from pygrid.durable import make_once
from pygrid.errors import InvalidConfig, InvalidInput
from pygrid.settings import make_data_dir

if TYPE_CHECKING:  # 30 ms and a few MB, which direct connections do not need
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

IDENTITY_FILE = "identity.pem"
_PREFIX = "ed25519:"
_TEXT = re.compile(r"ed25519:[a-z2-7]{52}")
_FIELD_PRIME = 2**255 - 19
_ORDER_EIGHT = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
_SMALL_ORDER = frozenset({0, 1, _FIELD_PRIME - 1, _ORDER_EIGHT, _FIELD_PRIME - _ORDER_EIGHT})
"""The y of the eight points that are not valid keys: anybody can make a valid signature for them."""


@dataclass(frozen=True, slots=True)
class IdentityKey:
    """The public half of an identity.

    ``str()`` is its text: ``ed25519:`` and 52 lower-case base32 characters.
    """

    raw: bytes
    """The 32 bytes of RFC 8032."""

    def __post_init__(self) -> None:
        if len(self.raw) != 32:
            raise InvalidInput(f"this identity has {len(self.raw)} bytes; it must have 32", code=codes.INVALID_IDENTITY)
        y = int.from_bytes(self.raw, "little") & (2**255 - 1)
        if y >= _FIELD_PRIME or y in _SMALL_ORDER:
            raise InvalidInput("this identity is not valid: anybody can sign for it", code=codes.INVALID_IDENTITY)

    @classmethod
    def parse(cls, text: str) -> Self:
        """The key of a text; each key has exactly one text.

        Raises:
            InvalidInput: the text has another form, or anybody can sign for the key (``invalid_identity``).
        """
        if _TEXT.fullmatch(text):
            raw = base64.b32decode(text.removeprefix(_PREFIX).upper() + "====")
            if _spell(raw) == text:  # otherwise the last character has bits beyond the last byte
                return cls(raw)
        raise InvalidInput(
            f"{text[:100]!r} is not an identity: write {_PREFIX} and 52 characters of a-z and 2-7. GET /identity of a "
            "Domain or Network returns its identity",
            code=codes.INVALID_IDENTITY,
        )

    def verify(self, signature: bytes, purpose: str, *parts: bytes) -> bool:
        """Whether this identity signed these parts for this purpose (`Identity.sign`)."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, _signed(purpose, parts))
        except InvalidSignature:
            return False
        return True

    def __str__(self) -> str:
        return _spell(self.raw)


class Identity:
    """The private half of an identity; it signs, and its `key` verifies."""

    def __init__(self, private_key: Ed25519PrivateKey) -> None:
        self.private_key = private_key
        self.key = IdentityKey(private_key.public_key().public_bytes_raw())

    @classmethod
    def make(cls) -> Self:
        """A new identity."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load_or_make(cls, path: Path, share: Callable[[], None] | None = None) -> Self:
        """The identity in a PEM file (PKCS 8). If there is no file, a new identity is made and stored with mode 0600.

        Two processes that start at once get the same identity.

        Args:
            share: of an app with replicas: it replaces the file by that of the first replica.
        Raises:
            InvalidConfig: the file holds no Ed25519 key (``identity_damaged``), or its folder cannot be made
                (``invalid_data_dir``).
        """
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        if not path.exists():
            make_data_dir(path.parent)
            make_once(path, cls.make().to_pem())
        if share is not None:
            share()
        try:
            private_key = load_pem_private_key(path.read_bytes(), password=None)
        except (ValueError, TypeError) as error:
            raise _damaged(path) from error
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        if not isinstance(private_key, Ed25519PrivateKey):
            raise _damaged(path)
        return cls(private_key)

    def sign(self, purpose: str, *parts: bytes) -> bytes:
        """The signature (64 bytes) of ``pygrid/PURPOSE``, a zero byte, and each part after its length in 8 bytes.

        Because of ``purpose``, a signature made for one use is not valid for another.
        """
        return self.private_key.sign(_signed(purpose, parts))

    def to_pem(self) -> bytes:
        """The private key as PEM without a password; it is a secret."""
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

        return self.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _signed(purpose: str, parts: tuple[bytes, ...]) -> bytes:
    text = purpose.encode()
    assert b"\0" not in text
    return b"".join([b"pygrid/", text, b"\0", *(len(part).to_bytes(8, "big") + part for part in parts)])


def _spell(raw: bytes) -> str:
    return _PREFIX + base64.b32encode(raw).decode().rstrip("=").lower()


def _damaged(path: Path) -> InvalidConfig:
    return InvalidConfig(
        f"{path} holds no Ed25519 key, so this app cannot prove its identity. Restore the file from a backup; if you "
        "delete it, the app makes a new identity that other apps do not know",
        code=codes.IDENTITY_DAMAGED,
    )
