"""Who a Domain or a Network is, whatever its address: an Ed25519 key pair that each makes for itself at its first
start.

`Identity` is the private half, kept in a file of the data folder and used to sign. `IdentityKey` is the public half:
what people write down, what others know the app by, and what the certificate of a Domain is compared with.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pygrid import codes
from pygrid.durable import make_once
from pygrid.errors import InvalidConfig, InvalidInput
from pygrid.settings import make_data_dir

if TYPE_CHECKING:  # 30 ms and a few MB, for those who only talk to a Domain directly
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

IDENTITY_FILE = "identity.pem"
_PREFIX = "ed25519:"
_TEXT = re.compile(r"ed25519:[a-z2-7]{52}")
_FIELD_PRIME = 2**255 - 19
_ORDER_EIGHT = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
_SMALL_ORDER = frozenset({0, 1, _FIELD_PRIME - 1, _ORDER_EIGHT, _FIELD_PRIME - _ORDER_EIGHT})
"""The y of the eight points that are no keys: for each of them, a signature that holds can be made by anybody."""


@dataclass(frozen=True, slots=True)
class IdentityKey:
    """The public half of an identity.

    ``str()`` is the form to write down: ``ed25519:`` and 52 lower-case base32 characters.
    """

    raw: bytes
    """The 32 bytes of RFC 8032."""

    def __post_init__(self) -> None:
        if len(self.raw) != 32:
            raise InvalidInput(f"an identity has 32 bytes, and this one {len(self.raw)}", code=codes.INVALID_IDENTITY)
        y = int.from_bytes(self.raw, "little") & (2**255 - 1)
        if y >= _FIELD_PRIME or y in _SMALL_ORDER:
            raise InvalidInput("this identity proves nothing: anybody can sign for it", code=codes.INVALID_IDENTITY)

    @classmethod
    def parse(cls, text: str) -> Self:
        """The key that a text names; there is one text for each key.

        Raises:
            InvalidInput: ``invalid_identity``: not that form, or a key for which anybody can sign.
        """
        if _TEXT.fullmatch(text):
            raw = base64.b32decode(text.removeprefix(_PREFIX).upper() + "====")
            if _spell(raw) == text:  # else its last character has bits that belong to no byte
                return cls(raw)
        raise InvalidInput(
            f"{text[:100]!r} is no identity; one is written {_PREFIX} and 52 characters of a-z and 2-7. GET /identity "
            "of a Domain or Network tells its own",
            code=codes.INVALID_IDENTITY,
        )

    def verify(self, signature: bytes, purpose: str, *parts: bytes) -> bool:
        """Whether this identity has signed these parts for this purpose (`Identity.sign`)."""
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
    """The private half of an identity: signs in the name of its `key`."""

    def __init__(self, private_key: Ed25519PrivateKey) -> None:
        self.private_key = private_key
        self.key = IdentityKey(private_key.public_key().public_bytes_raw())

    @classmethod
    def make(cls) -> Self:
        """A new identity."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load_or_make(cls, path: Path) -> Self:
        """The identity kept in a PEM file (PKCS 8); a new one is made and kept, mode 0600, if there is no file.

        Two processes that begin at once get the same one.

        Raises:
            InvalidConfig: ``identity_damaged``: the file holds no Ed25519 key. ``invalid_data_dir``: its folder can't
                be made.
        """
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        if not path.exists():
            make_data_dir(path.parent)
            make_once(path, cls.make().to_pem())
        try:
            private_key = load_pem_private_key(path.read_bytes(), password=None)
        except (ValueError, TypeError) as error:
            raise _damaged(path) from error
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        if not isinstance(private_key, Ed25519PrivateKey):
            raise _damaged(path)
        return cls(private_key)

    def sign(self, purpose: str, *parts: bytes) -> bytes:
        """The 64 bytes of the signature over ``pygrid/PURPOSE``, a zero byte, and each part after its length in 8
        bytes.

        ``purpose`` keeps a signature that was made for one thing from being good for another.
        """
        return self.private_key.sign(_signed(purpose, parts))

    def to_pem(self) -> bytes:
        """The private key as a PEM file without a password: a secret."""
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
        f"{path} holds no Ed25519 key, so this app can't prove who it is. Restore the file from a backup; if it is "
        "deleted, a new identity is made, which others do not know yet",
        code=codes.IDENTITY_DAMAGED,
    )
