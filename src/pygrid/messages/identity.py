"""The signed identity of an app, and the encoding of bytes in JSON and in addresses."""

from __future__ import annotations

import base64
import binascii
from typing import Literal

import msgspec

from pygrid import codes
from pygrid.errors import InvalidInput

NONCE_BYTES = 32
SIGNATURE_BYTES = 64


class IdentityInfo(msgspec.Struct, frozen=True):
    """The app that answers at an address."""

    name: str
    identity: str
    """``ed25519:`` and 52 characters."""
    version: str
    """Version of pygrid."""
    app: Literal["domain", "network"]
    signature: str | None = None
    """Signature by that identity for the purpose ``identity``, over the 32 bytes of the nonce and the name; base64url
    without padding. None: the request had no nonce."""


def to_base64url(data: bytes) -> str:
    """Encode bytes in base64url without padding."""
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def from_base64url(text: str, num_bytes: int, what: str) -> bytes:
    """Decode base64url without padding. Only the canonical text of the bytes is accepted.

    Raises:
        InvalidInput: ``invalid_base64url``: not such a text, or not of ``num_bytes`` bytes. ``what`` names the field.
    """
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if len(data) != num_bytes or to_base64url(data) != text:
        raise InvalidInput(
            f"{what} must be {num_bytes} bytes in base64url without padding", code=codes.INVALID_BASE64URL, field=what
        )
    return data
