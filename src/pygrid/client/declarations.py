"""The description of an upload, from what the caller passes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from pygrid import codes
from pygrid.client.image_folders import ImageFolder
from pygrid.client.sql_query import SqlQuery
from pygrid.client.table_files import DataSource
from pygrid.errors import InvalidInput
from pygrid.messages.column_text import read_column
from pygrid.messages.datasets import ColumnDeclaration
from pygrid.messages.preparations import Preparation
from pygrid.messages.sql_origins import SqlOrigin
from pygrid.plans.tokenizers import read_vocabulary

Columns = Mapping[str, str | Mapping[str, Any]] | Sequence[ColumnDeclaration]
"""Declarations of columns: name -> text (`pygrid.messages.column_text`), or name -> fields of `ColumnDeclaration`."""

Prepare = Mapping[str, str | Mapping[str, Any]] | Sequence[Preparation]
"""Prepared columns: name -> text (`pygrid.messages.preparation_text`), or name -> ``source`` and ``steps``."""

_LISTS = ("categories", "source")


def origin_of(data: DataSource) -> dict[str, SqlOrigin]:
    """The field ``origin`` of the request, if the table comes from a query."""
    return {"origin": data.origin} if isinstance(data, SqlQuery) else {}


def of_source(data: DataSource, version: dict[str, Any]) -> dict[str, Any]:
    """Fields of the request for a new dataset that its source knows; the owner's declarations of columns go first."""
    if not isinstance(data, ImageFolder):
        return origin_of(data)
    declared = read_declarations(version.pop("columns", {}))
    names = {column.name if isinstance(column, ColumnDeclaration) else column["name"] for column in declared}
    known = [{"name": name, **fields} for name, fields in data.columns.items() if name not in names]
    return {"columns": [*known, *declared]}


def read_declarations(columns: Columns) -> list[Any]:
    """Declarations of columns as fields of the request.

    Raises:
        InvalidInput: ``invalid_dataset_config``: a text is not valid, or a vocabulary cannot be read.
    """
    if not isinstance(columns, Mapping):
        return [_with_words(column) if isinstance(column, dict) else column for column in columns]
    return [
        _with_words(read_column(name, said) if isinstance(said, str) else {"name": name, **_lists(said)})
        for name, said in columns.items()
    ]


def _with_words(column: dict[str, Any]) -> dict[str, Any]:
    """A declaration with the words of its vocabulary in place of the name of their file."""
    tokens = column.get("tokens")
    if not isinstance(tokens, Mapping) or not isinstance(tokens.get("words"), (str, os.PathLike)):
        return column
    try:
        return {**column, "tokens": {**tokens, "words": read_vocabulary(tokens["words"])}}
    except ValueError as error:
        raise InvalidInput(f"column {column['name']!r}: {error}", code=codes.INVALID_DATASET_CONFIG) from error


def _lists(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a declaration; lists can be texts such as ``a|b``, as in the declaration by a text."""
    several = {name: fields[name].split("|") for name in _LISTS if isinstance(fields.get(name), str)}
    return {**fields, **several}
