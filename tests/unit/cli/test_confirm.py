"""Questions before a change that cannot be undone, where there is no terminal."""

from __future__ import annotations

import io
import sys

import pytest

from pygrid.cli.common import confirm
from pygrid.errors import InvalidInput


@pytest.mark.parametrize("answer", ["", "n\n", "\n"])
def test_a_script_without_an_answer_is_told_the_option(answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
    with pytest.raises(InvalidInput, match="pass --yes"):
        confirm("Delete it?")


def test_a_script_can_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    confirm("Delete it?")
