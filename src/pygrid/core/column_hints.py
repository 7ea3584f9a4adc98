"""What a data owner should look at before a table is stored."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from pygrid.core.datasets import CODED, Column, Schema

_NAMES_OF_PERSONS = re.compile(
    r"(^|_)(id|mrn|ssn|nhs|uuid|guid|passport|insurance|patient|person|subject|user|customer|client|member|name|"
    r"surname|email|e_mail|phone|address)(_?(id|no|nr|num|number|key|code))?$",
    re.IGNORECASE,
)
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?![0-9])")
_MIN_RECORDS = 20
"""In a shorter table, values differ by chance."""


def find_hints(schema: Schema, shown: Mapping[str, Sequence[object]]) -> dict[str, tuple[str, ...]]:
    """Return the hints of each column that has any.

    Args:
        shown: the first values of each column.
    """
    found = {
        column.name: tuple(_hints(column, schema.num_records, shown.get(column.name, ()))) for column in schema.columns
    }
    return {name: hints for name, hints in found.items() if hints}


def _hints(column: Column, num_records: int, shown: Sequence[object]) -> Iterator[str]:
    num_texts = column.num_categories if column.dtype in CODED else None
    if num_texts is not None and num_records >= _MIN_RECORDS:
        if num_texts == num_records:
            yield "Each text occurs once, so it tells records apart: leave it out, or make it the person column."
        elif num_texts > num_records // 2:
            yield "Most texts differ, so it looks like free text, which no job can use: leave it out."
        elif num_texts == 1:
            yield "All records have the same text."
    if column.dtype == "text" and shown and all(_DATE.match(str(one)) for one in shown):
        yield "The first records look like dates: choose date or datetime as the type, so that jobs can use them."
    if _NAMES_OF_PERSONS.search(column.name):
        yield "The name suggests that it tells persons apart: leave it out, or make it the person column."
    if num_texts is None and len(shown) >= _MIN_RECORDS and all(one == shown[0] for one in shown):
        yield "The first records all have the same value."


def find_series(names: Sequence[str], smallest: int = 10) -> list[tuple[str, int]]:
    """Return prefixes of columns that are counted, such as ``pixel`` of ``pixel0`` to ``pixel783``, with their number.

    Args:
        smallest: least number of columns with the prefix.
    """
    counts: dict[str, int] = {}
    for name in names:
        if (prefix := name.rstrip("0123456789")) and prefix != name:
            counts[prefix] = counts.get(prefix, 0) + 1
    return [
        (prefix, count)
        for prefix, count in counts.items()
        if count >= smallest and sum(name.startswith(prefix) for name in names) == count
    ]
