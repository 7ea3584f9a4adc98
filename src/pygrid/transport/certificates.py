"""TLS between parties that know each other's identity: a self-signed certificate whose key is the identity key.

No authority signs it, and it does not expire. The caller compares its key with the expected identity; the handshake has
proven that the server that answers holds the private key (`pygrid.transport.pinned_tls`).
"""

from __future__ import annotations

import datetime as dt
import ssl
import tempfile
from pathlib import Path

from pygrid import codes
from pygrid.errors import InvalidInput
from pygrid.transport.identity import Identity, IdentityKey

_BEGIN = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
_NEVER = dt.datetime(9999, 12, 31, 23, 59, 59, tzinfo=dt.UTC)
"""RFC 5280 4.1.2.5: a certificate without a well-defined end."""


def make_certificate(identity: Identity) -> bytes:
    """The certificate of an identity as PEM; its name is the identity."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.x509.oid import NameOID

    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, str(identity.key))])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(identity.private_key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_BEGIN)
        .not_valid_after(_NEVER)
    )
    return builder.sign(identity.private_key, None).public_bytes(Encoding.PEM)


def read_certificate(der: bytes) -> IdentityKey:
    """The identity whose key is in a certificate (DER).

    Raises:
        InvalidInput: not a certificate, or the key is not Ed25519 (``invalid_certificate``).
    """
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        key = x509.load_der_x509_certificate(der).public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidInput(
            f"the server sent a certificate that cannot be read: {error}", code=codes.INVALID_CERTIFICATE
        ) from None
    if not isinstance(key, Ed25519PublicKey):
        raise InvalidInput("the key of the certificate is not Ed25519", code=codes.INVALID_CERTIFICATE)
    return IdentityKey(key.public_bytes_raw())


def server_context(identity: Identity, key_file: Path) -> ssl.SSLContext:
    """TLS 1.3 for the side with the identity; ``key_file`` holds its private key (`Identity.load_or_make`)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0  # no sessions are resumed: connections stay open instead
    with tempfile.NamedTemporaryFile(suffix=".pem") as file:  # ssl reads certificates from files only
        file.write(make_certificate(identity))
        file.flush()
        context.load_cert_chain(file.name, key_file)
    return context


def client_context() -> ssl.SSLContext:
    """TLS 1.3 for the side that compares identities.

    It accepts any certificate; `pygrid.transport.pinned_tls` checks the identity.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
