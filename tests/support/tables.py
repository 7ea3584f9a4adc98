"""Reads a table file as a Domain does, without a Domain."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import msgspec

from pygrid.core.datasets import ColumnDeclaration, DatasetLimits, Schema
from pygrid.features.datasets.conversion import Conversion, convert
from pygrid.features.datasets.records import first_records
from pygrid.messages.column_text import read_column


def store(content: bytes, columns: dict[str, Any] | None = None, **options: Any) -> tuple[Schema, dict[str, list[Any]]]:
    """The schema and the records of a file, as its owner sees them.

    Args:
        columns: declarations, as for `pygrid.client.datasets.Datasets.upload`.
        options: ``skip``, ``subject``, ``max_records_per_subject``, ``format``, ``csv``, ``limits``.
    Raises:
        PygridError: the file is refused.
    """
    declared = [
        read_column(name, said) if isinstance(said, str) else {"name": name, **said}
        for name, said in (columns or {}).items()
    ]
    with tempfile.TemporaryDirectory() as folder:
        path, stored = Path(folder) / "file", Path(folder) / "columns"
        path.write_bytes(content)
        stored.mkdir()
        given = {"format": None, "skip": (), "subject": None, "max_records_per_subject": None}
        given |= {"limits": DatasetLimits()} | options
        converted = convert(
            Conversion(
                str(path),
                str(stored),
                columns=msgspec.convert(declared, tuple[ColumnDeclaration, ...]),
                **given,
            )
        )
        schema = converted.schema
        return schema, first_records(stored, schema.num_records).columns
