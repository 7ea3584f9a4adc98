"""Which certificate authorities a connection trusts: the public ones, those of the system, and one of the operator."""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import TypeAlias

import httpcore

from pygrid import codes
from pygrid.errors import InvalidInput

CaFile: TypeAlias = str | os.PathLike[str] | None
CA_FILE_VARIABLE = "PYGRID_CA_FILE"
"""Variable with the path of a PEM file, used if the caller names no file."""
_SYSTEM_VARIABLE = "SSL_CERT_FILE"


def trusting_context(ca_file: CaFile = None) -> ssl.SSLContext:
    """A TLS context for a client.

    Args:
        ca_file: PEM file with authorities to trust in addition; None: that of ``PYGRID_CA_FILE``.
    Raises:
        InvalidInput: ``ca_file_invalid``: the file, or that of ``SSL_CERT_FILE``, cannot be read as certificates.
    """
    system = os.environ.get(_SYSTEM_VARIABLE)
    if system and not Path(system).is_file():  # OpenSSL says nothing about it
        raise _invalid(f"the file {system} of {_SYSTEM_VARIABLE} does not exist")
    context = httpcore.default_ssl_context()
    chosen = ca_file or os.environ.get(CA_FILE_VARIABLE)
    if chosen:
        try:
            context.load_verify_locations(os.fspath(chosen))
        except ssl.SSLError:
            raise _invalid(f"{os.fspath(chosen)} contains no certificate in PEM format") from None
        except OSError as error:
            raise _invalid(f"{os.fspath(chosen)} cannot be read ({error.strerror})") from error
    return context


def _invalid(why: str) -> InvalidInput:
    return InvalidInput(
        f"{why}: name a PEM file with the certificate of your authority (--ca-file, {CA_FILE_VARIABLE})",
        code=codes.CA_FILE_INVALID,
    )
