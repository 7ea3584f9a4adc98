"""The columns that the data ports of a plan read, found where only one column fits."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pygrid import codes
from pygrid.errors import InvalidInput
from pygrid.messages.datasets import Column, Schema
from pygrid.plans import DataPort

_LABEL = re.compile(r"label 0\.\.(\d+)(?: or (-?\d+))?")
_WHOLE = frozenset({"uint8", "bool", "int32", "int64"})
_READABLE = {
    "float32": _WHOLE | {"float32", "float64", "date"},
    "int64": _WHOLE | {"category"},
    "int32": _WHOLE | {"category"},
    "bool": frozenset({"bool"}),
}
"""Dtype of a port -> dtypes of the columns that it can read."""


def complete_binding(
    ports: Mapping[str, DataPort], schema: Schema, given: Mapping[str, str], *, whose: str = "plan"
) -> dict[str, str]:
    """A column for each port: the given one, else the only one of its dtype, shape, and its name or its meaning.

    For a port of arrays of a plan, the only column of its dtype and shape is enough. A model names no meanings.

    Labels of k classes have the same meaning as a column with ``label 0..k-1`` or with k declared categories. Texts,
    found categories and subjects fit no port.

    Raises:
        InvalidInput: a given port or column does not exist, or not exactly one column fits a port
            (``binding_unclear``).
    """
    for name, column in given.items():
        if name not in ports:
            raise InvalidInput(
                f"the {whose} has no data port {name!r}; it has: {', '.join(ports)}", code=codes.BINDING_UNCLEAR
            )
        if schema.find(column) is None:
            there = ", ".join(one.name for one in schema.columns)
            raise InvalidInput(f"the dataset has no column {column!r}; it has: {there}", code=codes.BINDING_UNCLEAR)
    binding = dict(given)
    for name, port in ports.items():
        if name not in binding:
            used = {*binding.values(), schema.subject}
            free = [column for column in schema.columns if column.name not in used and _reads(port, column)]
            binding[name] = _only(whose, name, port, free)
    return {name: binding[name] for name in ports}


def _only(whose: str, name: str, port: DataPort, free: list[Column]) -> str:
    found = [column for column in free if column.name == name] or [
        column for column in free if _means_same(port, column)
    ]
    if not found and port.shape and whose == "plan":
        found = free
    if len(found) == 1:
        return found[0].name
    candidates = ", ".join(column.name for column in found or free) or "none"
    shape = "x".join(map(str, port.shape)) or "number"
    what = f"{port.dtype} {shape}" + (f", {port.meaning}" if port.meaning else "")
    raise InvalidInput(
        f"which column is the {whose}'s {name!r} ({what})? Say it: binding={{{name!r}: COLUMN}}, or --bind "
        f"{name}=COLUMN. By "
        f"dtype and shape these fit: {candidates}",
        code=codes.BINDING_UNCLEAR,
    )


def _reads(port: DataPort, column: Column) -> bool:
    if column.dtype == "category" and not column.declared:
        return False
    if (port.tokenizer or "") != column.tokenizer:
        return False
    return column.shape == port.shape and column.dtype in _READABLE[port.dtype]


def _means_same(port: DataPort, column: Column) -> bool:
    if port.tokenizer:
        return True
    if port.num_classes is not None and not column.shape:
        label = _LABEL.fullmatch(column.meaning)
        if column.dtype == "category":
            return column.num_categories == port.num_classes
        if label is None or int(label[1]) + 1 != port.num_classes:
            return False
        return label[2] is None or int(label[2]) == port.ignore
    return bool(port.meaning) and port.meaning == column.meaning
