"""The pictures of the console: twelve, each shown on a page, and each taken by a test."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_each_picture_is_shown_and_taken() -> None:
    there = {path.stem for path in (ROOT / "docs/img").glob("console-*.png")}
    pages = "\n".join(path.read_text() for path in (ROOT / "docs").rglob("*.md"))
    assert set(re.findall(r"\]\(\S*img/(console-\w+)\.png\)", pages)) == there
    assert len(there) == 12
    tests = "\n".join(path.read_text() for path in (ROOT / "tests/e2e").glob("test_console_*.py"))
    assert [name for name in there if f'"{name.removeprefix("console-")}"' not in tests] == []
