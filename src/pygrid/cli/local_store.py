"""Access to the data folder of a Domain on this machine, for commands that work while it is stopped, too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pygrid import codes
from pygrid.errors import InvalidInput
from pygrid.settings import load_settings

if TYPE_CHECKING:
    from pygrid.storage.sql.database import Database

DataDir = Annotated[Path | None, typer.Option(metavar="PATH", help="Data folder of the Domain. [PYGRID_DATA_DIR]")]
DatabaseUrl = Annotated[
    str | None, typer.Option(metavar="URL", help="Database, if it is not in the data folder. [DATABASE_URL]")
]


@contextmanager
def stored_domain(data_dir: Path | None, database_url: str | None) -> Iterator[tuple[Path, Database]]:
    """The data folder and the database of a Domain; default: those of the settings, as for ``pygrid domain``.

    Raises:
        InvalidInput: ``no_domain_data``: there is no database, or its tables are older than this pygrid.
    """
    from sqlalchemy.exc import OperationalError, ProgrammingError

    from pygrid.storage.sql.database import Database

    settings = load_settings(data_dir=data_dir, database_url=database_url)
    name, _, path = settings.database_url.partition(":///")
    if name == "sqlite" and not Path(path).is_file():
        raise InvalidInput(
            f"{settings.data_dir} holds no data of a Domain: name its data folder with --data-dir",
            code=codes.NO_DOMAIN_DATA,
        )
    database = Database(settings.database_url)
    try:
        yield settings.data_dir, database
    except (OperationalError, ProgrammingError) as error:
        raise InvalidInput(
            f"the database of the Domain in {settings.data_dir} cannot be read ({error.orig}); "
            "if an older pygrid made it, start the Domain once",
            code=codes.NO_DOMAIN_DATA,
        ) from error
    finally:
        database.close()
