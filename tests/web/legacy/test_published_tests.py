"""The tests that PyGrid had in 2020, row by row.

Should happen: each row of `tests/vectors/published_tests` has its published answer, over HTTP and over the WebSocket,
and a refusal changes nothing. A row that fails on purpose is one of at most three, and the table of differences has it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from pygrid.clock import ManualClock
from pygrid.domain import build_domain
from pygrid.settings import load_settings
from support.published_tests import FOLDER, PublishedTests, Table
from support.web import running

DIFFERENCES = (Path(__file__).parents[3] / "docs/reference/published.md").read_text().partition("## Differences")[2]


MAX_REFUSED = 3


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
    ],
)
async def test_the_tests_of_pygrid(name: str, counts: dict[str, int], tmp_path: Path, clock: ManualClock) -> None:
    table, settings = Table(name), load_settings({}, data_dir=tmp_path, id="test", legacy_open=True)
    assert table.count() == counts
    app = build_domain(settings, clock=clock)
    async with running(app) as web:
        tests = PublishedTests(table, app, web, clock, settings.database_url)
        await tests.run()
        tests.close()
    assert [(row.transport, row.name, problem) for row, problem in tests.failed if not row.refused] == []
    assert [row for row, _ in tests.failed] == [row for row in table.all_rows() if row.refused]


def test_few_tests_of_pygrid_fail_on_purpose() -> None:
    tables = [Table(file.stem) for file in FOLDER.glob("*.toml")]
    refused = [row.refused for table in tables for row in table.all_rows() if row.refused]
    assert len(refused) <= MAX_REFUSED
    assert [one for one in refused if one not in DIFFERENCES] == []
