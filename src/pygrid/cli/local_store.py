"""What the commands share that look into a Domain's own data, on the machine it runs on, whether it runs or not."""

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

DataDir = Annotated[Path | None, typer.Option(help="Folder for everything the Domain keeps. (PYGRID_DATA_DIR)")]
DatabaseUrl = Annotated[str | None, typer.Option(help="Its database, if not in that folder. (DATABASE_URL)")]


@contextmanager
def stored_domain(data_dir: Path | None, database_url: str | None) -> Iterator[tuple[Path, Database]]:
    """The folder and the database of a Domain, which the settings name as they do for ``pygrid domain``.

    Raises:
        InvalidInput: ``no_domain_data``: no Domain keeps anything there, or one whose tables are older than this
            pygrid.
    """
    from sqlalchemy.exc import OperationalError, ProgrammingError

    from pygrid.storage.sql.database import Database

    settings = load_settings(data_dir=data_dir, database_url=database_url)
    name, _, path = settings.database_url.partition(":///")
    if name == "sqlite" and not Path(path).is_file():
        raise InvalidInput(
            f"no Domain keeps its data in {settings.data_dir}: name its folder with --data-dir",
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
