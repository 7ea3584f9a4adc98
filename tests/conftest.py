"""Fixtures of all tests: a database of each kind, fresh for each test; and in which order tests run side by side."""

from __future__ import annotations

import functools
import gc
import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType
from typing import Any

import hypothesis
import pytest
from litestar.utils import signature
from xdist.scheduler import LoadScopeScheduling

from pygrid.storage.sql.database import Database
from support.postgres import PostgresServer

# Before numpy is first imported: many tests start threads and processes of their own.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

# An example takes longer than the usual 200 ms where other processes use the machine: no test depends on the time it
# takes.
hypothesis.settings.register_profile("pygrid", deadline=None)
hypothesis.settings.load_profile("pygrid")

_numbers = itertools.count()

_read_hints = signature.get_fn_type_hints


@functools.lru_cache(maxsize=4096)
def _hints_once(fn: Any, names: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
    return _read_hints(fn, dict(names))


def _get_fn_type_hints(fn: Any, namespace: dict[str, Any] | None = None) -> dict[str, Any]:
    if not isinstance(fn, FunctionType) or "<locals>" in fn.__qualname__:  # it may belong to one app
        return _read_hints(fn, namespace)
    return dict(_hints_once(fn, tuple((namespace or {}).items())))


# Reading the annotations of the handlers, which all apps share, takes half of the time in which an app is built.
signature.get_fn_type_hints = _get_fn_type_hints

WAITING = (
    "tests/unit/compute/runtime/test_attack_plans.py",
    "tests/e2e/test_federated_crash.py",
    "tests/e2e/test_demo.py",
    "tests/e2e/test_relay_processes.py",
    "tests/e2e/test_remote_worker.py",
    "tests/e2e/test_search_processes.py",
    "tests/e2e/test_start.py",
    "tests/e2e/test_up.py",
    "tests/e2e/test_sdk_docs.py",
    "tests/e2e/test_network_start.py",
    "tests/web/jobs/test_federated_enemies.py",
    "tests/web/relay/test_lying_relay.py",
)
"""Files that take long and whose tests share nothing: each test may run in another process."""


class Scheduler(LoadScopeScheduling):
    """Hands out whole files, whose tests may share fixtures, and the tests of the long ones one by one."""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        return nodeid if path in WAITING else path


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduler | None:
    return Scheduler(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long comes first, so that the processes end together; what starts apps as processes is slow."""
    for item in items:
        if item.nodeid.startswith("tests/e2e/"):
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: _rank(item.nodeid.partition("::")[0]))


def _rank(path: str) -> int:
    folders = ("tests/e2e/", "tests/web/jobs/", "tests/web/", "tests/contract/")
    if path in WAITING:
        return WAITING.index(path)
    return len(WAITING) + next((n for n, folder in enumerate(folders) if path.startswith(folder)), len(folders))


@pytest.fixture(scope="module", autouse=True)
def _thaw() -> Iterator[None]:
    """What fixtures of the module made may be collected with the next module."""
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _nothing_left_open() -> Iterator[None]:
    """What a test leaves open fails this test, and not another one in which the collector happens to find it.

    ``PYTHONTRACEMALLOC=20`` shows where it was opened.
    """
    gc.freeze()  # the collector looks at what the test made only, which takes some milliseconds
    yield
    gc.collect()


@pytest.fixture(scope="session", autouse=True)
def _no_folder_left() -> Iterator[None]:
    """The processes of xdist end without ``atexit``."""
    yield
    if (jobs := sys.modules.get("support.jobs")) is not None:
        jobs.remove_prepared()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """URL of a PostgreSQL server that lives as long as the test run, with the name of a database left out."""
    with PostgresServer() as server:
        yield server.url


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """URL of an empty PostgreSQL database."""
    import psycopg

    name = f"test_{os.getpid()}_{next(_numbers)}"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    yield postgres_server.replace("/postgres?", f"/{name}?")
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database, once of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'test.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """An empty database, once of each kind."""
    opened = Database(database_url)
    yield opened
    opened.close()
