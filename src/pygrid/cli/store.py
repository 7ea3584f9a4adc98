"""``pygrid store``: move the files of a Domain to a store of objects; migrate its database before an upgrade."""

from __future__ import annotations

from typing import Annotated

import typer

from pygrid.cli.help import App
from pygrid.cli.local_store import DatabaseUrl, DataDir, stored_domain
from pygrid.cli.output import say

app = App(
    "Move the files of a Domain to a bucket; migrate its database.\n\nExample: pygrid store move s3://hospital/pygrid"
)


@app.callback()
def store() -> None:
    """Move the files of a Domain to a bucket; migrate its database."""


@app.command("move")
def move(
    url: Annotated[str, typer.Argument(metavar="URL", help="s3://BUCKET/PREFIX, empty or of this Domain.")],
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Copy the files of a stopped Domain to a bucket, which it uses from then on.

    The bucket is reached with the settings PYGRID_S3_* and AWS_*. Nothing is removed from the data folder. The command
    can be run again: it goes on after an interruption, and later checks that every file is in the bucket.

    Example: pygrid store move s3://hospital/pygrid --data-dir ./pygrid-data
    """
    from pygrid.settings import load_settings
    from pygrid.storage.app_state import keep_identity
    from pygrid.storage.blobs.remote_store import open_objects
    from pygrid.storage.blobs.store_check import check_store
    from pygrid.storage.blobs.store_move import move_files
    from pygrid.storage.installation import check_folder, match_database
    from pygrid.storage.ownership import DatabaseLock, FolderLock
    from pygrid.storage.sql.database import Database
    from pygrid.storage.sql.migrations import migrate
    from pygrid.transport.identity import IDENTITY_FILE, Identity

    settings = load_settings(data_dir=data_dir, database_url=database_url, store=url)
    objects = open_objects(settings)
    folder_lock = FolderLock.acquire(settings.data_dir, settings.app)
    try:
        check_folder(settings.data_dir, settings.app)
        database = Database(settings.database_url)
        database_lock = DatabaseLock(database)
        try:
            migrate(database)
            match_database(database, settings.data_dir, settings.app, is_disposable=True)
            database_lock.acquire()
            check_store(objects, url)
            Identity.load_or_make(settings.data_dir / IDENTITY_FILE)
            keep_identity(settings, database)
            moved = move_files(settings, database, objects, url)
        finally:
            database.close()
            database_lock.release()
    finally:
        folder_lock.release()
    say(f"{moved.num_files} files are in {url}; {moved.num_sent} were sent now ({moved.num_bytes:,} bytes).")
    say(f"Start the Domain with PYGRID_STORE={url}. Nothing in {settings.data_dir} is needed any longer.")


@app.command("upgrade")
def upgrade(data_dir: DataDir = None, database_url: DatabaseUrl = None) -> None:
    """Migrate the database to the tables of this version; its replicas go on.

    A new version does so at its first start, too. A second run changes nothing.

    Example: pygrid store upgrade --database-url postgresql://pygrid@db.example/pygrid
    """
    from pygrid.storage.sql.migrations import migrate

    with stored_domain(data_dir, database_url) as (_, database):
        say(f"The database has revision {migrate(database)}.")
