"""Who may do what, by ``tests/snapshots/permissions.toml``: the status that each caller gets from each route.

Should happen: every answer has the status in the table.
Should not happen: a route without a row, a row without a route.

If a change for users is meant, ``RECORD_SNAPSHOTS=1`` writes the table; it needs a line in ``CHANGELOG.md``.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support import permissions


@pytest.mark.slow
@pytest.mark.parametrize("app", permissions.ACTORS)
async def test_each_caller_gets_the_recorded_status(app: str, tmp_path: Path) -> None:
    current = await permissions.take(app, tmp_path)
    if os.environ.get("RECORD_SNAPSHOTS"):
        permissions.write(app, current)
    recorded = permissions.read()[app]
    changed = [
        f"{actor} {route}: was {was}, is {now}"
        for route in recorded.keys() & current.keys()
        for actor, was, now in zip(permissions.ACTORS[app], recorded[route], current[route], strict=True)
        if was != now
    ]
    assert not sorted(changed)
    assert current.keys() == recorded.keys()


@pytest.mark.parametrize("app", permissions.ACTORS)
def test_the_table_is_of_the_routes_that_there_are(app: str, tmp_path: Path) -> None:
    there_are = set(permissions.routes(permissions.build(app, tmp_path)))
    rows = permissions.read()[app].keys()
    assert not there_are - rows, "these routes have no row"
    assert not rows - there_are, "these rows have no route"
    assert not permissions.CALLS[app].keys() - there_are, "these calls have no route"
    assert not permissions.NOTES.keys() - permissions.read()["domain"].keys()


def test_the_table_is_written_as_it_is_read() -> None:
    assert permissions.to_text(permissions.read()) == permissions.FILE.read_text()
