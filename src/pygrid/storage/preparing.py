"""Bringing an app's database to the present, ahead of its start."""

from __future__ import annotations

from pygrid.settings import AppSettings, make_data_dir
from pygrid.storage.accounts import has_first_owner
from pygrid.storage.database import Database
from pygrid.storage.migrations import migrate


def prepare_store(settings: AppSettings) -> bool:
    """Bring the database to the present tables, ahead of a start, so that what is wrong with it is told in words.

    Gives whether anybody has an account yet. Does nothing that the start of the app would not do.

    Raises:
        InvalidConfig: its URL is none, or a later pygrid has used it. Unavailable: it does not answer.
    """
    make_data_dir(settings.data_dir)
    database = Database(settings.database_url)
    try:
        migrate(database)
        return database.read_now(has_first_owner)
    finally:
        database.close()
