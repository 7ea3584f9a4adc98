"""Runs a query of PostgreSQL, SQLite or DuckDB, through SQLAlchemy, and writes its records as an Arrow stream.

No message of this module contains a user or a password.
"""

from __future__ import annotations

import contextlib
import decimal
import re
import sqlite3
import urllib.parse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import sqlalchemy as sa

from pygrid import codes
from pygrid.errors import InvalidInput
from pygrid.messages.sql_origins import KEPT_OPTIONS, SYSTEMS, SqlOrigin

if TYPE_CHECKING:
    import pyarrow as pa

_RECORDS_AT_ONCE = 10_000
_INSTALL = "pip install 'pygrid[sql]'"


def check_source(address: str, query: str) -> None:
    """Raises InvalidInput: ``invalid_sql_source``: as `pygrid.client.SqlQuery`."""
    system = _parsed(address).get_backend_name()
    if system not in SYSTEMS:
        _refuse(f"{system[:50]!r} is not a database that pygrid reads; use {', '.join(SYSTEMS)}")
    if not query.strip():
        _refuse("the query is empty; write one SELECT")


def origin_of(address: str, query: str) -> SqlOrigin:
    """The database without user, password and other options, and the query."""
    url = _parsed(address)
    kept = {name: value for name, value in url.query.items() if name in KEPT_OPTIONS}
    database = url.database
    if url.get_backend_name() != "postgresql" and database not in (None, "", ":memory:"):
        database = str(Path(str(database)).absolute())
    plain = sa.URL.create(url.get_backend_name(), host=url.host, port=url.port, database=database, query=kept)
    return SqlOrigin(plain.render_as_string(hide_password=True), query)


def save_query(address: str, query: str, path: Path, wanted: Sequence[str] | None = None) -> None:
    """Run a query, and write its records as an Arrow stream.

    Args:
        wanted: names of the columns that are written; None: all.
    Raises:
        InvalidInput: ``invalid_sql_source``: the database cannot be reached, or refuses the query; the result is empty,
            or a column mixes kinds of values.
    """
    pa = _pyarrow()
    spool = path.with_suffix(".pieces")
    schemas: list[Any] = []
    with spool.open("wb") as file, _rows(address, query) as (names, pieces):
        _check_names(names)
        for rows in pieces:
            columns = [
                (name, _array(name, values))
                for name, values in zip(names, zip(*rows, strict=True), strict=True)
                if wanted is None or name in wanted
            ]
            batch = pa.record_batch([array for _, array in columns], names=[name for name, _ in columns])
            if batch.schema not in schemas:
                schemas.append(batch.schema)
            with pa.ipc.new_stream(file, batch.schema) as writer:
                writer.write_batch(batch)
    if not schemas:
        _refuse("the query returned no records")
    _join(spool, schemas, path)
    spool.unlink()


@contextlib.contextmanager
def _rows(address: str, query: str) -> Iterator[tuple[Sequence[str], Iterator[Sequence[Any]]]]:
    """The names of the columns, and the records in pieces, of one transaction that only reads."""
    url = _parsed(address)
    options = {"stream_results": True, "no_parameters": True, "max_row_buffer": _RECORDS_AT_ONCE}
    try:
        engine = _engine(url)
    except (ModuleNotFoundError, sa.exc.NoSuchModuleError):
        _refuse(f"the driver of {url.get_backend_name()} is not installed; run: {_INSTALL}")
    try:
        with engine.connect() as connection:
            result = connection.exec_driver_sql(query, execution_options=options)
            if not result.returns_rows:
                _refuse("the query returns no table; write one SELECT")
            yield list(result.keys()), result.partitions(_RECORDS_AT_ONCE)
    except sa.exc.SQLAlchemyError as error:
        why = _without_secrets(str(getattr(error, "orig", None) or error), url)
        _refuse(f"{origin_of(address, query).database}: {why}")
    finally:
        engine.dispose()


def _parsed(url: str) -> sa.URL:
    try:
        return sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        # The text of the error contains the address, and so a password.
        raise InvalidInput(
            "the address of the database is not valid; write postgresql://HOST/NAME, sqlite:///PATH or duckdb:///PATH",
            code=codes.INVALID_SQL_SOURCE,
        ) from None


def _engine(url: sa.URL) -> sa.Engine:
    """An engine whose connections only read."""
    system = url.get_backend_name()
    options: dict[str, Any] = {"poolclass": sa.pool.NullPool}
    if system == "postgresql":
        options["execution_options"] = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        return sa.create_engine(url.set(drivername="postgresql+psycopg"), **options)
    path = url.database
    is_file = path not in (None, "", ":memory:")
    if is_file and not Path(str(path)).is_file():
        _refuse(f"there is no database file {path}")
    if system == "sqlite":
        quoted = urllib.parse.quote(str(Path(str(path)).absolute())) if is_file else ":memory:"
        address = f"file:{quoted}?mode=ro" if is_file else ":memory:"
        return sa.create_engine("sqlite://", creator=lambda: sqlite3.connect(address, uri=is_file), **options)
    return sa.create_engine(url, connect_args={"read_only": True} if is_file else {}, **options)


def _check_names(names: Sequence[str]) -> None:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        _refuse(f"the query returns two columns {twice[0]!r}; name one of them otherwise (AS)")


def _array(name: str, values: Sequence[Any]) -> pa.Array:
    pa = _pyarrow()
    try:
        return pa.array([_plain(value) for value in values])
    except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
        _refuse(f"column {name!r} cannot be sent: {error}; convert it in the query (CAST)")


def _plain(value: Any) -> Any:
    """A value of a driver as one that Arrow knows."""
    if isinstance(value, decimal.Decimal) and value.is_nan():
        return None
    if isinstance(value, memoryview):
        return bytes(value)
    return str(value) if type(value).__module__ in ("uuid", "ipaddress") else value


def _join(spool: Path, schemas: Sequence[pa.Schema], path: Path) -> None:
    """Write pieces of different types as one stream of types that hold all of them."""
    pa = _pyarrow()
    try:
        whole = pa.unify_schemas(schemas, promote_options="permissive")
        with (
            pa.OSFile(str(spool)) as file,
            pa.OSFile(str(path), "wb") as sink,
            pa.ipc.new_stream(sink, whole) as writer,
        ):
            while file.tell() < file.size():
                with pa.ipc.open_stream(file) as reader:
                    for batch in reader:
                        writer.write_batch(batch.cast(whole))
    except pa.ArrowException as error:
        _refuse(f"a column has values of several kinds: {error}; convert it in the query (CAST)")


def _without_secrets(text: str, url: sa.URL) -> str:
    """The error of a driver, without user and password."""
    secrets = [None if url.password is None else str(url.password)]
    secrets += [str(value) for name, value in url.query.items() if name not in KEPT_OPTIONS]
    for secret in filter(None, secrets):
        for form in (secret, urllib.parse.quote(secret), urllib.parse.quote_plus(secret)):
            text = text.replace(form, "***")
    if url.username:
        text = re.sub(rf"(?<!\w){re.escape(url.username)}(?!\w)", "***", text)
    return " ".join(text.split())[:500]


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.ipc
    except ModuleNotFoundError:
        _refuse(f"pyarrow is not installed; run: {_INSTALL}")
    return pyarrow


def _refuse(why: str) -> NoReturn:
    raise InvalidInput(why, code=codes.INVALID_SQL_SOURCE) from None
