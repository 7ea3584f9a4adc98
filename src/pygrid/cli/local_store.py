"""Access to the data folder of a Domain on this machine, for commands that work while it is stopped, too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pygrid import codes
from pygrid.errors import InvalidInput
from pygrid.settings import AppSettings, load_settings

if TYPE_CHECKING:
    from pygrid.storage.sql.database import Database

DataDir = Annotated[Path | None, typer.Option(metavar="PATH", help="Data folder of the Domain. [PYGRID_DATA_DIR]")]
DatabaseUrl = Annotated[
    str | None, typer.Option(metavar="URL", help="Database, if it is not in the data folder. [DATABASE_URL]")
]


def stored_domain(data_dir: Path | None, database_url: str | None) -> AbstractContextManager[tuple[Path, Database]]:
    """The data folder and the database of a Domain; default: those of the settings, as for ``pygrid domain``.

    Raises:
        InvalidInput: ``no_domain_data``: there is no database, or its tables are older than this pygrid.
    """
    return stored_app(load_settings(data_dir=data_dir, database_url=database_url))


@contextmanager
def stored_app(settings: AppSettings) -> Iterator[tuple[Path, Database]]:
    """The data folder and the database of an app with these settings. Raises InvalidInput: as `stored_domain`."""
    from sqlalchemy.exc import OperationalError, ProgrammingError

    from pygrid.storage.sql.database import Database

    kind = settings.app.capitalize()
    name, _, path = settings.database_url.partition(":///")
    if name == "sqlite" and not Path(path).is_file():
        raise InvalidInput(
            f"{settings.data_dir} holds no data of a {kind}: name its data folder with --data-dir",
            code=codes.NO_DOMAIN_DATA,
        )
    database = Database(settings.database_url)
    try:
        yield settings.data_dir, database
    except (OperationalError, ProgrammingError) as error:
        raise InvalidInput(
            f"the database of the {kind} in {settings.data_dir} cannot be read ({error.orig}); "
            f"if an older pygrid made it, start the {kind} once",
            code=codes.NO_DOMAIN_DATA,
        ) from error
    finally:
        database.close()
