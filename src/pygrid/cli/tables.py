"""Tables of the commands, in addition to those of the SDK."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import msgspec

from pygrid.client.display.tables import Table, TableColumn
from pygrid.messages.datasets import Column, VersionInfo
from pygrid.messages.preparation_text import write_preparation
from pygrid.units import decimal


class PlainTable(Table[Sequence[object]]):
    """Rows of values, under heads that the caller chooses; the first columns matter most."""

    def __init__(self, heads: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        super().__init__(rows)
        self._heads = heads

    def columns(self) -> Sequence[TableColumn[Sequence[object]]]:
        def value(place: int, row: Sequence[object]) -> object:
            return row[place]

        return [
            TableColumn(head, partial(value, place), weight=len(self._heads) - place)
            for place, head in enumerate(self._heads)
        ]


class BudgetRow(NamedTuple):
    """A privacy budget: the total of a dataset, or the part of one user."""

    dataset_id: int
    dataset: str
    user_id: int | None
    who: str
    epsilon_spent: float
    epsilon_left: float
    epsilon: float
    delta: float
    unit: str
    num_charges: int


class BudgetTable(Table[BudgetRow]):
    """Privacy budgets: a row for each dataset in total, followed by one for each of its users."""

    def columns(self) -> Sequence[TableColumn[BudgetRow]]:
        return (
            TableColumn("dataset", lambda row: row.dataset, weight=6),
            TableColumn("id", lambda row: row.dataset_id, weight=2, align="right"),
            TableColumn("user", lambda row: row.who, weight=5),
            TableColumn(
                "epsilon spent", lambda row: f"{decimal(row.epsilon_spent, 3)} of {decimal(row.epsilon)}", weight=6
            ),
            TableColumn("left", lambda row: decimal(row.epsilon_left, 3), weight=4, align="right"),
            TableColumn("delta", lambda row: decimal(row.delta), weight=3, align="right"),
            TableColumn("unit", lambda row: row.unit, weight=2),
            TableColumn("jobs", lambda row: row.num_charges, weight=1, align="right"),
        )


class AuditRow(NamedTuple):
    """An entry of the audit log; ``actor`` is an e-mail, if the account exists."""

    number: int
    at: dt.datetime
    actor: str
    action: str
    data: dict[str, Any]


class AuditTable(Table[AuditRow]):
    """Entries of the audit log."""

    def columns(self) -> Sequence[TableColumn[AuditRow]]:
        return (
            TableColumn("entry", lambda row: row.number, weight=6, align="right"),
            TableColumn("at", lambda row: f"{row.at:%Y-%m-%d %H:%M:%S}", min=19, weight=4),
            TableColumn("by", lambda row: row.actor, weight=4),
            TableColumn("action", lambda row: row.action, weight=6),
            TableColumn("data", _fields, min=20, weight=3),
        )


class DatasetColumns(Table[Column]):
    """The columns of a dataset with the range of their values."""

    def columns(self) -> Sequence[TableColumn[Column]]:
        return (
            TableColumn("column", lambda column: column.name, weight=6),
            TableColumn("dtype", lambda column: column.dtype, weight=5),
            TableColumn("shape", lambda column: "x".join(map(str, column.shape)), weight=2),
            TableColumn("unit", lambda column: column.unit, weight=3),
            TableColumn("values", lambda column: column.values_text, weight=4),
            TableColumn("meaning", _meaning, min=20, weight=3),
        )


def _meaning(column: Column) -> str:
    """The meaning or description of a column, or how it is prepared."""
    if column.prepared is not None:
        return write_preparation(column.prepared)
    return column.meaning or column.description


class DatasetVersions(Table[VersionInfo]):
    """The versions of a dataset."""

    def columns(self) -> Sequence[TableColumn[VersionInfo]]:
        return (
            TableColumn("version", lambda version: version.number, weight=5, align="right"),
            TableColumn("created", lambda version: f"{version.created_at:%Y-%m-%d %H:%M}", min=16, weight=4),
            TableColumn("records", lambda version: f"{version.num_records:,}", weight=4, align="right"),
            TableColumn("mock", lambda version: version.mock, weight=2),
            TableColumn("note", lambda version: version.note, min=20),
        )


def _fields(row: AuditRow) -> str:
    return ", ".join(
        f"{name}: {value if isinstance(value, str) else msgspec.json.encode(value).decode()}"
        for name, value in row.data.items()
    )
