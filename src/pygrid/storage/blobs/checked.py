"""Stored bytes that have changed on the disk: how they are noticed, and the errors for them."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

from pygrid import codes
from pygrid.errors import Unavailable

_READ_BYTES = 1024 * 1024


class DamagedReportError(Exception):
    """The stored bytes of an accepted report differ from those that were received."""

    def __init__(self, report_id: int) -> None:
        super().__init__(f"report {report_id} is damaged on the disk")
        self.report_id = report_id


def crc_of(path: Path, offset: int = 0, length: int | None = None) -> int:
    """CRC-32 of ``length`` bytes of a file, or of those up to its end. It detects damage, not forgery."""
    crc = 0
    descriptor = os.open(path, os.O_RDONLY)
    try:
        end = os.fstat(descriptor).st_size if length is None else offset + length
        while offset < end and (piece := os.pread(descriptor, min(_READ_BYTES, end - offset), offset)):
            crc = zlib.crc32(piece, crc)
            offset += len(piece)
    finally:
        os.close(descriptor)
    return crc


def damaged(what: str, name: str) -> Unavailable:
    """The error for stored bytes that have changed. They are neither served nor used."""
    return Unavailable(
        f"{what} is damaged on the disk of the Domain: its bytes do not match its checksum ({name}). Its operator can "
        "restore the file from a backup",
        code=codes.BLOB_DAMAGED,
        name=name,
    )


def is_damage(error: BaseException) -> bool:
    """Whether an error is about changed stored bytes. It lasts until an operator acts, so a retry is useless."""
    return isinstance(error, Unavailable) and error.code == "blob_damaged"
