"""The form of a staged upload: columns, person column, mock dataset, and the name of the dataset."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pygrid import codes
from pygrid.errors import InvalidInput
from pygrid.features.datasets.profiles import ColumnProfile
from pygrid.messages.datasets import ColumnDeclaration, Dtype, UploadRequest, VersionRequest, Visibility
from pygrid.ui.render import show_typed

MAX_COLUMNS = 100
"""Columns that a form can describe; further ones are stored as they were found."""
DTYPES: tuple[str, ...] = get_args(Dtype)
ENCODINGS = ("utf-8", "latin-1", "windows-1252", "utf-16")
MAX_UPLOAD_FORM_BYTES = 1024 * 1024
MAX_UPLOAD_FIELDS = 13 * MAX_COLUMNS
OWN_MOCK = "file"
"""Choice of a mock dataset: the one that the data owner has sent."""


def read_version(fields: Mapping[str, str]) -> VersionRequest:
    """Return the request that a form describes, without what only a new dataset has.

    Raises:
        InvalidInput: ``invalid_form``, with ``field``: a number or a choice is not valid.
    """
    return VersionRequest(**_version_options(fields))


def read_upload(fields: Mapping[str, str]) -> UploadRequest:
    """Return the request for a new dataset. Raises as `read_version`."""
    visibility = fields.get("visibility", "private")
    if visibility not in get_args(Visibility):
        raise _invalid("visibility", "choose who sees the dataset")
    name = fields.get("name", "").strip()
    if not name:
        raise _invalid("name", "write a name for the dataset")
    tags = tuple(tag for part in fields.get("tags", "").split(",") if (tag := part.strip()))
    return UploadRequest(
        name=name,
        description=fields.get("description", "").strip(),
        tags=tags,
        visibility=visibility,  # type: ignore[arg-type]
        **_version_options(fields),
    )


def _version_options(fields: Mapping[str, str]) -> dict[str, Any]:
    columns, skip = read_columns(fields)
    subject = fields.get("subject", "") or None
    options: dict[str, Any] = {
        "columns": columns,
        "skip": skip,
        "subject": subject,
        "max_records_per_subject": _whole(fields, "max_records_per_subject", 1) if subject else None,
        "note": fields.get("note", "").strip(),
        "draw_mock": fields.get("draw_mock", "1") == "1",
        "num_mock_records": _whole(fields, "num_mock_records", 1) or 100,
        "mock_seed": _whole(fields, "mock_seed", 0) or 0,
    }
    return {**options, **_csv_options(fields)}


_OPTIONS = (
    (
        r"^columns: '(.+)': min is '(.+?)(?:\.0)?': it must not be above max, (.+?)(?:\.0)?$",
        r"the minimum of \1 is \2, above its maximum, \3",
    ),
    (r"pass missing=\[(.+?)\] if", r'write \1 under "Marks of missing values" if'),
    (r"pass decimal=',' if", "choose the comma as decimal mark if"),
    (r"pass thousands=(\S+) if", r'write \1 under "Mark between thousands" if'),
    (r"pass encoding=", "choose the encoding "),
    (r"pass delimiter=('.+?'), or delimiter=','", r"choose \1 between fields, or the comma"),
    (r"pass header=True .* names=", 'choose under "First line" whether it holds the names of the columns'),
)


def in_words_of_the_form(text: str) -> str:
    """Return what is said about a CSV file with the fields of the form in place of the options of the SDK."""
    for option, words in _OPTIONS:
        text = re.sub(option, words, text)
    return text


def _csv_options(fields: Mapping[str, str]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    header = fields.get("header", "")
    if header:
        options["header"] = header == "yes"
    delimiter = fields.get("delimiter", "")
    if delimiter:
        options["delimiter"] = "\t" if delimiter == "tab" else delimiter
    if fields.get("decimal") == ",":
        options["decimal"] = ","
    if fields.get("thousands"):
        options["thousands"] = fields["thousands"]
    if marks := tuple(mark for part in fields.get("missing", "").split(",") if (mark := part.strip())):
        options["missing"] = marks
    encoding = fields.get("encoding", "utf-8")
    if encoding not in ENCODINGS:
        raise _invalid("encoding", "choose an encoding")
    return {**options, "encoding": encoding} if encoding != "utf-8" else options


def read_columns(fields: Mapping[str, str]) -> tuple[tuple[ColumnDeclaration, ...], tuple[str, ...]]:
    """Return the declared columns, and the names of those to leave out. Raises as `read_version`."""
    declared, skip = [], []
    for index in range(MAX_COLUMNS):
        name = fields.get(f"col_{index}")
        if name is None:
            continue
        if fields.get(f"use_{index}") != "1":
            skip.append(name)
            continue
        declaration = _declaration(fields, index, name)
        if declaration != ColumnDeclaration(name):
            declared.append(declaration)
    for key in fields:
        if key.startswith("join_") and fields[key] == "1":
            prefix = key.removeprefix("join_")
            declared.append(ColumnDeclaration(prefix.rstrip("_-. ") or prefix, source=(f"{prefix}*",)))
    return tuple(declared), tuple(skip)


def edit_selected(fields: Mapping[str, str]) -> dict[str, str]:
    """Return the fields after the change of the selected columns that the form describes. Raises as `fill_bounds`."""
    given = {part: text for part in ("use", "dtype", "min", "max") if (text := fields.get(f"bulk_{part}", "").strip())}
    return {**fields, **{f"{part}_{row}": text for row in _selected(fields) for part, text in given.items()}}


def fill_bounds(fields: Mapping[str, str], profiles: Sequence[ColumnProfile]) -> dict[str, str]:
    """Return the fields with the smallest and the largest value of the selected columns as their bounds.

    Raises:
        InvalidInput: ``invalid_form``: no column is selected, or none of them has numbers or times.
    """
    facts = {one.name: dict(one.facts) for one in profiles}
    found = {
        f"{part}_{row}": value if isinstance(value, str) else show_typed(value)
        for row in _selected(fields)
        for part, fact in (("min", "minimum"), ("max", "maximum"))
        if (value := facts.get(fields[f"col_{row}"], {}).get(fact)) is not None
    }
    if not found:
        raise _invalid("pick_all", "no selected column has numbers or times")
    return {**fields, **found}


def _selected(fields: Mapping[str, str]) -> list[int]:
    rows = [row for row in range(MAX_COLUMNS) if f"col_{row}" in fields]
    chosen = rows if fields.get("pick_all") == "1" else [row for row in rows if fields.get(f"pick_{row}") == "1"]
    if not chosen:
        raise _invalid("pick_all", "select columns first, at the start of their rows")
    return chosen


def _declaration(fields: Mapping[str, str], index: int, name: str) -> ColumnDeclaration:
    dtype = fields.get(f"dtype_{index}", "")
    if dtype and dtype not in DTYPES:
        raise _invalid(f"dtype_{index}", f"column {name!r}: choose a type")
    categories = tuple(text for part in fields.get(f"categories_{index}", "").split(",") if (text := part.strip()))
    changed = dtype if dtype != fields.get(f"found_{index}", "") or categories else ""
    source = fields.get(f"source_{index}", "")
    return ColumnDeclaration(
        name,
        dtype=changed or None,  # type: ignore[arg-type]
        unit=fields.get(f"unit_{index}", "").strip(),
        meaning=fields.get(f"meaning_{index}", "").strip(),
        description=fields.get(f"description_{index}", "").strip(),
        min=_bound(fields, f"min_{index}", name),
        max=_bound(fields, f"max_{index}", name),
        categories=categories or None,
        source=(source,) if source else (),
    )


def _bound(fields: Mapping[str, str], key: str, name: str) -> float | str | None:
    """A number, or the text of a date, which the Domain reads."""
    text = fields.get(key, "").strip()
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        if text[:4].isdigit():
            return text
        raise _invalid(key, f"column {name!r}: {text[:40]!r} is not a number or a date such as 2020-12-31") from None
    if not math.isfinite(value):
        raise _invalid(key, f"column {name!r}: a bound is a finite number")
    return value


def _whole(fields: Mapping[str, str], key: str, least: int) -> int | None:
    text = fields.get(key, "").strip()
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 9) or int(text) < least:
        raise _invalid(key, f"{key.replace('_', ' ')}: {text[:40]!r} is not a whole number of at least {least}")
    return int(text)


def _invalid(field: str, detail: str) -> InvalidInput:
    return InvalidInput(detail, code=codes.INVALID_FORM, field=field)
