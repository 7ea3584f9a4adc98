"""Statements of the hot path: written in SQLAlchemy like all others, compiled once, executed by the driver.

Execution by SQLAlchemy costs about 80 microseconds a statement, by the driver about 10. A report takes five statements.
In exchange, errors are those of the driver, and results are plain tuples.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles

Row = tuple[Any, ...]
_VALUE = "v_"
_Convert = Callable[[Any], Any] | None


class _ListParameter(sa.types.UserDefinedType[list[Any]]):
    """A list of any length as one value: an array on PostgreSQL, JSON on SQLite."""

    cache_ok = True

    def bind_processor(self, dialect: sa.Dialect) -> _Convert:
        return json.dumps if dialect.name == "sqlite" else None


class AnyOf(sa.ColumnElement[bool]):
    """Whether a column has one of the values of the parameter ``name``, a list. One text for lists of any length."""

    inherit_cache = False
    type = sa.Boolean()

    def __init__(self, column: sa.ColumnElement[Any], name: str) -> None:
        self.column = column
        self.values = sa.bindparam(name, type_=_ListParameter())

    def self_group(self, against: Any = None) -> AnyOf:
        """Itself: SQLAlchemy would compare it with 1, and SQLite would then read the whole table."""
        return self


@compiles(AnyOf)
def _compile_any_of(element: AnyOf, compiler: sa.sql.compiler.SQLCompiler, **options: Any) -> str:
    column, values = (compiler.process(one, **options) for one in (element.column, element.values))
    if compiler.dialect.name == "sqlite":
        return f"{column} IN (SELECT value FROM json_each({values}))"
    return f"{column} = ANY({values})"


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
        compiled, driver = self._prepare(connection)
        cursor = driver.execute(compiled.text, compiled.bind(self._prefixed(values)))
        if cursor.description is None:
            return None
        row = cursor.fetchone()
        return None if row is None else compiled.read(row)

    def all(self, connection: sa.Connection, values: dict[str, Any]) -> list[Row]:
        """Execute a select in the connection's transaction; returns all rows."""
        compiled, driver = self._prepare(connection)
        return [compiled.read(row) for row in driver.execute(compiled.text, compiled.bind(values)).fetchall()]

    def run_many(self, connection: sa.Connection, rows: Sequence[dict[str, Any]]) -> None:
        """Execute an insert or update once for each row of values."""
        if len(rows) < 2:  # a cursor costs more than the statement
            for row in rows:
                self.run(connection, row)
            return
        compiled, driver = self._prepare(connection)
        driver.cursor().executemany(compiled.text, [compiled.bind(self._prefixed(row)) for row in rows])

    def _prepare(self, connection: sa.Connection) -> tuple[_Compiled, Any]:
        dialect = connection.dialect
        compiled = self._compiled.get(dialect.name)
        if compiled is None:
            compiled = self._compiled[dialect.name] = _Compiled(self._statement, dialect)
        return compiled, connection.connection.driver_connection

    def _prefixed(self, values: dict[str, Any]) -> dict[str, Any]:
        return {self._prefix + name: value for name, value in values.items()} if self._prefix else values
