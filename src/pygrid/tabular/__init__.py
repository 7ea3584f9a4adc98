"""Readers of the formats in which datasets arrive: each goes through an open file in bounded memory and hands pieces of columns
to a `TableWriter`. None unpickles, none opens a file, and none uses a name from the file as a path.
"""

from __future__ import annotations

import errno
import importlib
import os
import zlib
from dataclasses import dataclass
from typing import Any, BinaryIO

from pygrid.errors import InvalidDataset
from pygrid.tabular.table_writer import TableWriter

_READERS = {
    "csv": "pygrid.tabular.csv_reader",
    "parquet": "pygrid.tabular.arrow_files",
    "arrow": "pygrid.tabular.arrow_files",
    "npz": "pygrid.tabular.npz",
    "safetensors": "pygrid.tabular.safetensors_files",
}
"""Format -> module with ``read(file, writer)``; each is loaded when it is needed."""
_OUR_TROUBLE = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.EFBIG, errno.EACCES))
"""What an OSError says of this machine. Others come of the file: one that lies about an offset makes a reader seek there."""


def tell_format(first: bytes) -> str:
    """The format of a file by its first bytes (16 or more, or all of it); what none of the others begins like is CSV."""
    if first.startswith(b"PAR1"):
        return "parquet"
    if first.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
        return "arrow"
    if first.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "npz"
    if first[8:9] == b"{" and first[5:8] == b"\0\0\0":
        return "safetensors"
    return "csv"


@dataclass(frozen=True)
class Reader:
    """What reads an open file. All that it needs is imported, so that it can work where no file can be opened."""

    format: str
    _file: BinaryIO
    _module: Any

    def read(self, writer: TableWriter) -> None:
        """Read the file into the writer.

        Raises:
            InvalidDataset, InvalidTensors, PayloadTooLarge: names what cannot be taken.
        """
        try:
            self._module.read(self._file, writer)
        except (OSError, EOFError, zlib.error, UnicodeError, OverflowError) as error:
            if isinstance(error, OSError) and error.errno in _OUR_TROUBLE:
                raise
            raise malformed(self.format, error) from error


def find_reader(file: BinaryIO, wanted: str | None) -> Reader:
    """The reader of a file of the wanted format (None: of the one that it looks like). Looks at its first bytes only.

    Raises:
        InvalidDataset: ``dataset_format_mismatch``. InvalidInput: ``dataset_format_unavailable``.
    """
    found = tell_format(file.read(16))
    file.seek(0)
    chosen = wanted or found
    if wanted is not None and wanted != found:
        raise InvalidDataset(
            f"the file does not look like {wanted}, but like {found}; name the right format, or none",
            code="dataset_format_mismatch",
            format=wanted,
            found=found,
        )
    module: Any = importlib.import_module(_READERS[chosen])
    if chosen == "csv":
        module.load_for(num_bytes(file))
    return Reader(chosen, file, module)


def num_bytes(file: BinaryIO) -> int:
    """The size of an open file."""
    return os.fstat(file.fileno()).st_size


def malformed(form: str, why: object) -> InvalidDataset:
    """The refusal of a file that is damaged or was made to mislead."""
    return InvalidDataset(f"this is not a good {form} file: {why}", code="dataset_malformed", format=form)
