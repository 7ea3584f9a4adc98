"""Conversations with a Domain and a Network are as in ``tests/snapshots/conversations``.

Should happen: each request gets the recorded status, headers and body, other than what is random and texts for people.
Should not happen: an exchange more, or less; a recording without a scenario.

If a change for users is meant, ``RECORD_SNAPSHOTS=1`` writes the files; it needs a line in ``CHANGELOG.md``.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from support import conversations
from support.snapshots import differences


@pytest.mark.parametrize("name", conversations.SCENARIOS)
async def test_a_conversation_is_as_recorded(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    current = await conversations.take(name, tmp_path)
    file = conversations.file_of(name)
    if os.environ.get("RECORD_SNAPSHOTS"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(conversations.to_text(current))
    recorded = json.loads(file.read_text())
    found = [
        line
        for number, (was, now) in enumerate(zip(recorded, current, strict=False), 1)
        for line in differences(was, now, at=f"{number}. {was['by']}, {was['request']}")
    ]
    assert not found, "\n".join(found)
    assert len(current) == len(recorded)


def test_each_recording_has_a_scenario() -> None:
    assert {file.stem for file in conversations.FOLDER.iterdir()} == conversations.SCENARIOS.keys()
