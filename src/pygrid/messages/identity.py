"""What an app says of itself, with proof; and how bytes are spelled in JSON and in addresses."""

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
    """Who answers at an address."""

    name: str
    identity: str
    """``ed25519:`` and 52 characters."""
    version: str
    """Of pygrid."""
    app: Literal["domain", "network"]
    signature: str | None = None
    """By that identity, for the purpose ``identity``, over the nonce's 32 bytes and the name; base64url without
    padding.
    None: there was no nonce."""


def to_base64url(data: bytes) -> str:
    """The bytes in base64url, without padding."""
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def from_base64url(text: str, num_bytes: int, what: str) -> bytes:
    """The bytes that a text in base64url, without padding, stands for; there is one text for each.

    Raises:
        InvalidInput: ``invalid_base64url``: not that, or not ``num_bytes`` of them; ``what`` names it.
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
