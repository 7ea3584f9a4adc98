"""The tests that PyGrid had in 2020, row by row.

Should happen: each row of `tests/vectors/published_tests` has its published answer, over HTTP and over the WebSocket,
and a refusal changes nothing. So has each operation on accounts without credentials, with bad JSON and without its
fields. A row that fails on purpose is one of at most three, and the table of differences has it.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from litestar import Litestar

from pygrid.clock import ManualClock
from pygrid.domain import build_domain
from pygrid.network import build_network
from pygrid.settings import load_network_settings, load_settings
from support.published_tests import FOLDER, PublishedTests, Table
from support.web import running

DIFFERENCES = (Path(__file__).parents[3] / "docs/reference/published.md").read_text().partition("## Differences")[2]
MAX_REFUSED = 2
"""With ``socket-ping``, which `test_published_system_tests` has, three tests of PyGrid fail on purpose."""


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        (
            "node",
            {
                **{"roles http": 41, "users http": 78, "groups http": 28, "model-centric http": 2},
                **{"roles ws": 39, "users ws": 76, "groups ws": 34},
            },
        ),
        ("network", {"roles http": 41, "users http": 66, "roles ws": 39, "users ws": 64}),
    ],
)
async def test_the_tests_of_pygrid(name: str, counts: dict[str, int], tmp_path: Path, clock: ManualClock) -> None:
    table = Table(name)
    assert table.count() == counts
    app, database_url = _app(name, tmp_path, clock)
    async with running(app) as web:
        tests = PublishedTests(table, app, web, clock, database_url)
        await tests.run([*table.states, table.more_checks()])
        tests.close()
    assert [(row.transport, row.name, problem) for row, problem in tests.failed if not row.refused] == []
    assert [row for row, _ in tests.failed] == [row for row in table.all_rows() if row.refused]


def _app(name: str, folder: Path, clock: ManualClock) -> tuple[Litestar, str]:
    """The app of a table and the URL of its database."""
    if name == "network":
        of_network = load_network_settings({}, data_dir=folder, id="test", legacy_open=True)
        return build_network(of_network, clock=clock), of_network.database_url
    settings = load_settings({}, data_dir=folder, id="test", legacy_open=True)
    return build_domain(settings, clock=clock), settings.database_url


def test_few_tests_of_pygrid_fail_on_purpose() -> None:
    tables = [Table(file.stem) for file in FOLDER.glob("*.toml")]
    refused = [row.refused for table in tables for row in table.all_rows() if row.refused]
    assert len(refused) <= MAX_REFUSED
    assert [one for one in refused if one not in DIFFERENCES] == []
