"""Statements of the hot path: written in SQLAlchemy like all others, compiled once, executed by the driver.

Execution by SQLAlchemy costs about 80 microseconds a statement, by the driver about 10. A report takes five statements.
In exchange, errors are those of the driver, and results are plain tuples.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

Row = tuple[Any, ...]
_VALUE = "v_"
_Convert = Callable[[Any], Any] | None


class _Compiled:
    """A statement for one kind of database: its text, and the conversions of its values."""

    def __init__(self, statement: sa.sql.ClauseElement, dialect: sa.Dialect) -> None:
        compiled = statement.compile(dialect=dialect)
        assert isinstance(compiled, sa.sql.compiler.SQLCompiler)
        self.text = str(compiled)
        names = compiled.positiontup if compiled.positional else list(compiled.binds)
        assert names is not None
        self.positional = compiled.positional
        self.constants = {name: bind.value for name, bind in compiled.binds.items() if not bind.required}
        self.binds: list[tuple[str, _Convert]] = [
            (name, compiled.binds[name].type.dialect_impl(dialect).bind_processor(dialect)) for name in names
        ]
        columns = getattr(statement, "exported_columns", ())
        self.results: list[tuple[int, Callable[[Any], Any]]] = []
        for index, column in enumerate(columns):
            convert = column.type.dialect_impl(dialect).result_processor(dialect, None)
            if convert is not None:
                self.results.append((index, convert))

    def bind(self, values: dict[str, Any]) -> Any:
        """The values in the form that the driver takes."""
        given = {**self.constants, **values}
        if self.positional:
            return [given[name] if convert is None else convert(given[name]) for name, convert in self.binds]
        return {name: given[name] if convert is None else convert(given[name]) for name, convert in self.binds}

    def read(self, row: Row) -> Row:
        """A row of the driver with its values converted."""
        if not self.results:
            return row
        values = list(row)
        for index, convert in self.results:
            values[index] = convert(values[index])
        return tuple(values)


class Prepared:
    """A select, insert or update with ``bindparam``s for its values; ``returning`` is the result of the last two."""

    def __init__(self, statement: sa.sql.ClauseElement) -> None:
        self._statement = statement
        self._compiled: dict[str, _Compiled] = {}
        self._prefix = ""

    @classmethod
    def insert(cls, table: sa.Table, *columns: str, returning: str | None = None) -> Prepared:
        """An insert of one row; the values of `run` are by the names of the columns."""
        # Each value has a name with a prefix, because SQLAlchemy reserves the names of the columns.
        statement = table.insert().values({name: sa.bindparam(_VALUE + name) for name in columns})
        prepared = cls(statement if returning is None else statement.returning(table.c[returning]))
        prepared._prefix = _VALUE
        return prepared

    def run(self, connection: sa.Connection, values: dict[str, Any]) -> Row | None:
        """Execute it in the connection's transaction; returns the first row, or None."""
        dialect = connection.dialect
        compiled = self._compiled.get(dialect.name)
        if compiled is None:
            compiled = self._compiled[dialect.name] = _Compiled(self._statement, dialect)
        driver: Any = connection.connection.driver_connection
        if self._prefix:
            values = {self._prefix + name: value for name, value in values.items()}
        cursor = driver.execute(compiled.text, compiled.bind(values))
        if cursor.description is None:
            return None
        row = cursor.fetchone()
        return None if row is None else compiled.read(row)
