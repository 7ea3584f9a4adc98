"""Configurations from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pygrid.cli.common import read_settings
from pygrid.errors import InvalidInput


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ([], {}),
        (["lr=0.3", "epochs=5", "fast=true", "limit=null"], {"lr": 0.3, "epochs": 5, "fast": True, "limit": None}),
        (["note=a=b", "name=x y", "empty="], {"note": "a=b", "name": "x y", "empty": ""}),
        (['authentication={"secret": "s=t"}'], {"authentication": {"secret": "s=t"}}),
        (["lr=1", "lr=2"], {"lr": 2}),
    ],
)
def test_pairs(items: list[str], expected: dict[str, Any]) -> None:
    assert read_settings(items) == expected


def test_files_and_pairs_mix_and_the_later_wins(tmp_path: Path) -> None:
    file = tmp_path / "a=b.json"
    file.write_text('{"lr": 1, "epochs": 2}')
    assert read_settings(["lr=0", str(file), "epochs=3"]) == {"lr": 1, "epochs": 3}


@pytest.mark.parametrize(("content", "words"), [("[1]", "no JSON object"), ("{", "is not JSON")])
def test_a_file_that_is_no_configuration_is_named(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "c.json").write_text(content)
    with pytest.raises(InvalidInput, match=words):
        read_settings([str(tmp_path / "c.json")])


def test_what_is_neither_is_named() -> None:
    with pytest.raises(InvalidInput, match="'num_cycles' is neither"):
        read_settings(["num_cycles"])
