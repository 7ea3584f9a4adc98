"""Fixtures of all tests: a database of each kind, fresh for each test; and in which order tests run side by side."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from xdist.scheduler import LoadScopeScheduling

from pygrid.storage.sql.database import Database
from pygrid.storage.sql.migrations import migrate
from support import shared_work, warm_starts
from support.cpu_times import CpuTimes
from support.forked_workers import ForkedWorkers
from support.leaks import _nothing_left_open, _thaw  # noqa: F401 - fixtures of every test
from support.postgres import PostgresServer, new_database
from support.thorough import USUAL_EXAMPLES

# Before numpy is first imported: many tests start threads and processes of their own.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

# An example takes longer than the usual 200 ms where other processes use the machine: no test depends on the time it
# takes.
hypothesis.settings.register_profile("pygrid", deadline=None, max_examples=USUAL_EXAMPLES)
hypothesis.settings.load_profile("pygrid")

shared_work.share()
warm_starts.install()

WAITING = (
    "tests/unit/compute/runtime/test_attack_plans.py",
    "tests/e2e/test_demo.py",
    "tests/e2e/test_relay_processes.py",
    "tests/e2e/test_remote_worker.py",
    "tests/e2e/test_start.py",
    "tests/e2e/test_up.py",
    "tests/e2e/test_sdk_docs.py",
    "tests/e2e/test_network_start.py",
    "tests/e2e/test_replicas.py",
    "tests/web/jobs/test_federated_enemies.py",
    "tests/web/relay/test_lying_relay.py",
    "tests/schedules/test_schedules.py",
)
"""Files that take long and whose tests share nothing: each test may run in another process."""

ORDER = (
    "tests/e2e/test_strangers_processes.py",
    "tests/e2e/test_replicas.py",
    "tests/e2e/test_federated_crash.py",
    "tests/e2e/test_published_browsers.py",
    "tests/e2e/test_console_",
    "tests/e2e/test_example_projects.py",
    "tests/docs/test_tutorials.py",
    "tests/web/test_openapi.py",
    "tests/web/test_permissions.py",
    "tests/web/network/test_openapi_network.py",
    "tests/unit/tabular/test_csv_reader.py",
    *WAITING,
    "tests/e2e/",
    "tests/unit/plans/authoring/",
    "tests/unit/test_warm_starts.py",
    "tests/unit/aggregation/test_robustness.py",
    "tests/contract/test_dataset_store.py",
    "tests/unit/client/test_types.py",
    "tests/unit/sandbox/test_locked_children.py",
    "tests/unit/web/test_turns.py",
    "tests/unit/compute/",
    "tests/unit/transport/test_untrusted.py",
    "tests/web/jobs/",
    "tests/web/",
    "tests/contract/",
)
"""Files and folders from the longest on. All tests of a file that is not in `WAITING` run in one process."""


class Scheduler(LoadScopeScheduling):
    """Hands out whole files, whose tests may share fixtures, and the tests of the long ones one by one."""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        return nodeid if path in WAITING else path


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--cpu", action="store_true", help="print the processor time of each folder and file of tests")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(ForkedWorkers())
    if config.getoption("cpu"):
        config.pluginmanager.register(CpuTimes())


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduler | None:
    return Scheduler(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Nothing that is collected is garbage; a sixth of the time goes into the search for some."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long comes first, so that the processes end together; what starts apps as processes is slow.

    Tests that wait for apps take turns with tests that compute, so that the processor is always in use.
    """
    waiting: dict[str, list[pytest.Item]] = {}
    computing: dict[str, list[pytest.Item]] = {}
    for item in sorted(items, key=lambda item: _rank(item.nodeid.partition("::")[0])):
        path = item.nodeid.partition("::")[0]
        is_e2e = path.startswith("tests/e2e/")
        if is_e2e:
            item.add_marker(pytest.mark.slow)
        kind = waiting if is_e2e or path in WAITING else computing
        kind.setdefault(item.nodeid if path in WAITING else path, []).append(item)
    turns = itertools.zip_longest(waiting.values(), computing.values(), fillvalue=[])
    items[:] = [item for turn in turns for together in turn for item in together]


def _rank(path: str) -> int:
    return next((number for number, start in enumerate(ORDER) if path.startswith(start)), len(ORDER))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    warm_starts.is_enabled = item.get_closest_marker("fresh_processes") is None


@pytest.fixture(scope="session", autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """The processes of xdist end without ``atexit``."""
    yield
    warm_starts.end()
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
    with new_database(postgres_server) as url:
        yield url


@pytest.fixture(scope="session")
def migrated_template(postgres_server: str) -> Iterator[str]:
    """Name of a PostgreSQL database with the present tables: a copy takes a third of the time of a migration."""
    with new_database(postgres_server) as url:
        with contextlib.closing(Database(url)) as database:
            migrate(database)
        yield str(database.url.database)


@pytest.fixture
def migrated_postgres_url(postgres_server: str, migrated_template: str) -> Iterator[str]:
    """URL of a PostgreSQL database with the present tables, which are empty."""
    with new_database(postgres_server, migrated_template) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of a database without rows, once of each kind.

    A database of SQLite is empty, until an app migrates it. One of PostgreSQL has the present tables, except where a
    test is marked ``empty_database``.
    """
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'test.db'}"
    is_empty = request.node.get_closest_marker("empty_database") is not None
    url: str = request.getfixturevalue("postgres_url" if is_empty else "migrated_postgres_url")
    return url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """An empty database, once of each kind."""
    opened = Database(database_url)
    yield opened
    opened.close()
