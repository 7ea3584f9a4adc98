"""Readers of table files: each reads an open file in bounded memory and hands parts of its columns to a `TableWriter`.

No reader unpickles, opens a file, or uses a name from the file as a path.
"""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO

from pygrid import codes
from pygrid.errors import InvalidConfig, InvalidDataset, InvalidInput
from pygrid.messages.datasets import CsvOptions
from pygrid.tabular.file_kinds import NUM_BYTES, check_kind, detect_format
from pygrid.tabular.table_writer import TableWriter

__all__ = ["Reader", "detect_format", "find_reader", "num_bytes"]

_ERRORS_OF_THIS_MACHINE = frozenset(
    (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.EFBIG, errno.EACCES)
)
"""Other errors come from the file: a wrong offset in it makes a reader seek there."""


@dataclass(frozen=True)
class Reader:
    """Reads an open file. Everything it needs is imported, so it works where no file can be opened."""

    format: str
    _file: BinaryIO
    _read: Callable[[BinaryIO, TableWriter], None]

    def read(self, writer: TableWriter) -> None:
        """Read the file into the writer.

        Raises:
            InvalidDataset, InvalidTensors, PayloadTooLarge: the file is not valid.
        """
        try:
            self._read(self._file, writer)
        except (OSError, EOFError, zlib.error, UnicodeError, OverflowError) as error:
            if isinstance(error, OSError) and error.errno in _ERRORS_OF_THIS_MACHINE:
                raise
            raise InvalidDataset(
                f"this is not a valid {self.format} file: {error}", code=codes.DATASET_MALFORMED, format=self.format
            ) from error


def find_reader(file: BinaryIO, wanted: str | None, csv: CsvOptions | None = None) -> Reader:
    """The reader of a file of the wanted format; None: of the format that its first bytes show. Reads only these bytes.

    Args:
        csv: how a CSV file is written.
    Raises:
        InvalidDataset: ``dataset_format_mismatch``, ``dataset_format_not_read``. InvalidConfig: options for another
            format. InvalidInput: ``tables_not_installed``.
    """
    first = file.read(NUM_BYTES)
    file.seek(0)
    found = detect_format(first)
    check_kind(first)
    if wanted is not None and wanted != found:
        raise InvalidDataset(
            f"the file looks like {found}, not {wanted}; name that format, or leave the format out",
            code=codes.DATASET_FORMAT_MISMATCH,
            format=wanted,
            found=found,
        )
    if found != "csv" and csv not in (None, CsvOptions()):
        raise InvalidConfig(
            f"the file is {found}, and options such as header and delimiter are for CSV files; leave them out",
            code=codes.INVALID_DATASET_CONFIG,
            field="format",
        )
    try:
        return Reader(found, file, _load(found, csv or CsvOptions()))
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "pyarrow":
            raise
        raise InvalidInput(
            f"this Domain cannot read {found} files: pyarrow is not installed; its operator can run: "
            "pip install 'pygrid[domain]'. NPZ and safetensors files need no pyarrow",
            code=codes.TABLES_NOT_INSTALLED,
        ) from error


def _load(form: str, csv: CsvOptions) -> Callable[[BinaryIO, TableWriter], None]:
    """Import the reader of a format."""
    if form == "csv":
        from pygrid.tabular import csv_reader

        return partial(csv_reader.read, options=csv)
    if form == "npz":
        from pygrid.tabular import npz

        return npz.read
    if form == "safetensors":
        from pygrid.tabular import safetensors_files

        return safetensors_files.read
    from pygrid.tabular import arrow_files

    return arrow_files.read


def num_bytes(file: BinaryIO) -> int:
    """The size of an open file."""
    return os.fstat(file.fileno()).st_size
