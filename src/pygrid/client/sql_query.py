"""A table that is the result of a query of a database."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pygrid.messages.sql_origins import SqlOrigin


@dataclass(frozen=True)
class SqlQuery:
    """A table that is the result of a query: PostgreSQL, SQLite or DuckDB.

    domain.datasets.upload("visits", SqlQuery("postgresql://db.example.org/clinic", "SELECT age, sex FROM visits"))

    The query runs on this machine, in one transaction that only reads, so the table is a snapshot. The Domain gets a
    file, as in any upload. User and password stay here: the Domain gets the address without them.

    Args:
        url: the database as SQLAlchemy names it: ``postgresql://USER:PASSWORD@HOST/NAME``, ``sqlite:///PATH``,
            ``duckdb:///PATH``. Without a user or password, PostgreSQL's variables and files set them (``PGUSER``,
            ``PGPASSWORD``, ``~/.pgpass``).
        query: one statement that reads.
        columns: names of the columns of its result that are sent; None: all.
    Raises:
        InvalidInput: ``invalid_sql_source``: the address is not valid, or of another database system.
    """

    url: str = field(repr=False)
    query: str
    columns: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        # Not at the top, here and below: SQLAlchemy is loaded only where a query is used.
        from pygrid.client.sql_tables import check_source

        check_source(self.url, self.query)

    @property
    def origin(self) -> SqlOrigin:
        """What the Domain stores: the database without user and password, and the query."""
        from pygrid.client.sql_tables import origin_of

        return origin_of(self.url, self.query)

    def save_arrow(self, path: Path) -> None:
        """Run the query, and write its records as an Arrow stream.

        Raises:
            InvalidInput: ``invalid_sql_source``: the database cannot be reached, or refuses the query; the result is
                empty, or a column mixes kinds of values. No message contains user or password.
        """
        from pygrid.client.sql_tables import save_query

        save_query(self.url, self.query, path, self.columns)
