"""Lists as files: the rows of a page as CSV or JSON."""

from __future__ import annotations

import csv
import datetime as dt
import io
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from litestar import Response

from pygrid import codes
from pygrid.errors import InvalidInput
from pygrid.plans.text import printable
from pygrid.ui.downloads import download_headers
from pygrid.web.requests import AppRequest

FORMATS = {"csv": "text/csv; charset=utf-8", "json": "application/json"}
_STARTS = tuple("=+-@\uff1d\uff0b\uff0d\uff20\t\r\n")
"""A spreadsheet takes a cell that begins like this for a formula, in some languages also with signs of full width."""


def find_format(request: AppRequest) -> str:
    """Return the format in which a list is asked for; empty: a page. Raises InvalidInput: it is not known."""
    wanted = request.query_params.get("format", "")
    if wanted and wanted not in FORMATS:
        raise InvalidInput(
            f"format is {wanted[:80]!r}: use {' or '.join(FORMATS)}", code=codes.INVALID_INPUT, field="format"
        )
    return wanted


def answer_rows(format_: str, name: str, rows: Sequence[Any], columns: Sequence[str]) -> Response[bytes]:
    """Return rows as a file.

    Args:
        format_: ``csv`` or ``json``.
        name: file name, without its ending.
        rows: values with these columns among their fields.
    """
    found = [{column: getattr(row, column) for column in columns} for row in rows]
    data = msgspec.json.encode(found)
    if format_ == "csv":
        data = _csv(found, columns)
    return Response(data, media_type=FORMATS[format_], headers=download_headers(f"{name}.{format_}"))


def _csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> bytes:
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(columns)
    writer.writerows([[_cell(row[column]) for column in columns] for row in rows])
    return file.getvalue().encode()


def _cell(value: object) -> object:
    if value is None or isinstance(value, (bool, int, float)):
        return "" if value is None else value
    if isinstance(value, dt.datetime):
        return value.astimezone(dt.UTC).isoformat()
    text = printable(str(value))
    return f"'{text}" if text.lstrip(" ").startswith(_STARTS) else text
