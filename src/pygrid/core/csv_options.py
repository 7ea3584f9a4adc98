"""Checks the options for CSV files that do not depend on the file."""

from __future__ import annotations

from pygrid.core.columns import invalid_description
from pygrid.messages.datasets import CsvOptions

_MAX_NAMES = 4096
_MAX_MISSING_MARKS = 100
_MAX_MARK_CHARS = 200
_MAX_SKIPPED_LINES = 1000
_THOUSANDS = (",", ".", " ", "'", "_", "\u2019", "\u00a0", "\u202f")


def check_csv_options(options: CsvOptions) -> None:
    """Raises InvalidConfig: ``invalid_dataset_config``, with the field. The names themselves are checked elsewhere."""
    if len(options.names) > _MAX_NAMES or len(set(options.names)) < len(options.names):
        raise invalid_description("names", f"{len(options.names)} names", "name each column of the file once")
    if options.names and options.index is not None:
        raise invalid_description("index", options.index, "put it first in names, which name all columns")
    delimiter = options.delimiter
    if delimiter is not None and (len(delimiter) != 1 or not delimiter.isascii() or delimiter.isalnum()):
        raise invalid_description("delimiter", delimiter, "use one character, for example ; or a tab")
    if delimiter in ("\n", "\r", '"', "\0", "+", "-", "."):
        raise invalid_description(
            "delimiter", delimiter, "this character has another use in CSV; save the file with , or ;"
        )
    if options.thousands is not None and options.thousands not in _THOUSANDS:
        raise invalid_description("thousands", options.thousands, "use a comma, point, space, apostrophe or underscore")
    if options.thousands == options.decimal:
        raise invalid_description(
            "thousands", options.thousands, f"the decimal mark is {options.decimal!r}; name both marks"
        )
    if len(options.missing) > _MAX_MISSING_MARKS or any(len(mark) > _MAX_MARK_CHARS for mark in options.missing):
        raise invalid_description(
            "missing", f"{len(options.missing)} marks", f"use at most {_MAX_MISSING_MARKS} short texts"
        )
    if len(options.skip_lines) > _MAX_SKIPPED_LINES or any(line < 1 for line in options.skip_lines):
        raise invalid_description(
            "skip_lines", str(options.skip_lines), f"use at most {_MAX_SKIPPED_LINES:,} numbers; the first line is 1"
        )
