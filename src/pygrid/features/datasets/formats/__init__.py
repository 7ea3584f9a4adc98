"""Readers of the formats in which datasets arrive: each goes through a file once or twice in bounded memory and hands pieces of
columns to a `Sink`. None unpickles, and none uses a name from the file as a path.
"""

from __future__ import annotations

import errno
import importlib
import zlib
from pathlib import Path
from typing import Any

from pygrid.errors import InvalidDataset
from pygrid.features.datasets.formats.sink import Sink

_READERS = {
    "csv": "pygrid.features.datasets.formats.csv_text",
    "parquet": "pygrid.features.datasets.formats.arrow_tables",
    "arrow": "pygrid.features.datasets.formats.arrow_tables",
    "npz": "pygrid.features.datasets.formats.npz",
    "safetensors": "pygrid.features.datasets.formats.tensors",
}
"""Format -> module with ``read(path, sink)``; each is loaded when it is needed."""
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


def read_file(path: Path, wanted: str | None, sink: Sink) -> None:
    """Read a file of the wanted format (None: of the one that it looks like) into the sink.

    Raises:
        InvalidDataset, InvalidTensors, PayloadTooLarge: names what cannot be taken.
    """
    with path.open("rb") as file:
        found = tell_format(file.read(16))
    chosen = wanted or found
    if wanted is not None and wanted != found:
        raise InvalidDataset(
            f"the file does not look like {wanted}, but like {found}; name the right format, or none",
            code="dataset_format_mismatch",
            format=wanted,
            found=found,
        )
    module: Any = importlib.import_module(_READERS[chosen])
    try:
        module.read(path, sink)
    except (OSError, EOFError, zlib.error, UnicodeError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno in _OUR_TROUBLE:
            raise
        raise malformed(chosen, error) from error


def malformed(form: str, why: object) -> InvalidDataset:
    """The refusal of a file that is damaged or was made to mislead."""
    return InvalidDataset(f"this is not a good {form} file: {why}", code="dataset_malformed", format=form)
