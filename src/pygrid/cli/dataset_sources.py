"""Options of `pygrid dataset add` for tables that do not come from a file: queries, and folders of images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias, cast

import typer

from pygrid.errors import InvalidInput

if TYPE_CHECKING:
    from pygrid.client import ImageFolder, SqlQuery
    from pygrid.client.image_folders import Fit

_IMAGES = "Folders of images"
ImageShape = Annotated[
    str | None,
    typer.Option(
        metavar="CxHxW",
        help="Shape of each image, for example 3x64x64; PATH is a folder of PNG and JPEG files.",
        rich_help_panel=_IMAGES,
    ),
]
FitOption = Annotated[
    str,
    typer.Option(
        metavar="WORD", help="Images of another size: exact (refuse), crop or stretch.", rich_help_panel=_IMAGES
    ),
]
Labels = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH",
        help="CSV file with the column file, and others; default: names of folders.",
        rich_help_panel=_IMAGES,
    ),
]
_SQL = "Queries"
Sql = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        envvar="PYGRID_SQL",
        show_envvar=False,
        help="Database of a query: postgresql://, sqlite:/// or duckdb:///; default: PYGRID_SQL.",
        rich_help_panel=_SQL,
    ),
]
Query = Annotated[
    str | None,
    typer.Option(
        metavar="SELECT", help="Query that returns the records, or @FILE that holds it.", rich_help_panel=_SQL
    ),
]

Table: TypeAlias = "Path | SqlQuery | ImageFolder"


def read_source(
    file: Path | None, queried: tuple[str | None, str | None], pictured: tuple[str | None, str, Path | None]
) -> Table:
    """The table of `add`: a file, a query, or a folder of images.

    Args:
        queried: ``--sql`` and ``--query``.
        pictured: ``--image``, ``--fit`` and ``--labels``.
    """
    from pygrid.client import ImageFolder, SqlQuery

    (sql, query), (shape, fit, labels) = queried, pictured
    if (file is None) == (query is None):
        raise InvalidInput("name a file, or a database and a query: --sql URL --query SELECT")
    if file is not None:
        return file if shape is None else ImageFolder(file, shape, cast("Fit", fit), labels)
    if sql is None:
        raise InvalidInput("--query needs the database: --sql URL, or the variable PYGRID_SQL")
    return SqlQuery(sql, query_text(query or ""))


def query_text(query: str) -> str:
    """The query, or the text of the file that it names."""
    if not query.startswith("@"):
        return query
    try:
        return Path(query[1:]).read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise InvalidInput(f"--query {query}: the file cannot be read: {error}") from error


def name_of(source: Table, version_of: str | None) -> str:
    from pygrid.client import SqlQuery

    if version_of is not None:
        return version_of
    if isinstance(source, SqlQuery):
        raise InvalidInput("a dataset from a query needs a name: --name NAME")
    return Path(source if isinstance(source, Path) else source.folder).resolve().stem
