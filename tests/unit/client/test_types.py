"""Type checkers accept what users write, and refuse mistakes; editors complete it.

Should happen: `tests/types/user.py` has no error under ``mypy --strict`` and pyright; each line of
`tests/types/wrong.py` below its imports has one; editors complete names. ``scripts/check`` checks the code of the
README and the tutorials.
"""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import pygrid.client

ROOT = Path(__file__).parents[3]
USER, WRONG = ROOT / "tests/types/user.py", ROOT / "tests/types/wrong.py"


def mistakes() -> set[int]:
    lines = WRONG.read_text().splitlines()
    first = lines.index(next(line for line in lines if line.startswith("config_1")))
    return {number for number, line in enumerate(lines, 1) if number > first and line}


def run_mypy(path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", str(path)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
def test_mypy_accepts_what_users_write() -> None:
    done = run_mypy(USER)
    assert (done.stdout, done.returncode) == ("", 0)


@pytest.mark.slow
def test_mypy_refuses_each_mistake() -> None:
    done = run_mypy(WRONG)
    found = {int(number) for number in re.findall(r"wrong\.py:(\d+): error", done.stdout)}
    assert found == mistakes()


@pytest.mark.slow
def test_pyright_agrees() -> None:
    command = [sys.executable, "-m", "basedpyright", "--outputjson", "--level", "error", "--pythonpath", sys.executable]
    paths = [str(WRONG)] + ([str(USER)] if importlib.util.find_spec("torch") else [])
    done = subprocess.run([*command, *paths], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    found: list[dict[str, Any]] = json.loads(done.stdout)["generalDiagnostics"]
    assert [one["message"] for one in found if one["file"].endswith("user.py")] == []
    assert {one["range"]["start"]["line"] + 1 for one in found if one["file"].endswith("wrong.py")} == mistakes()


AUTHOR = """
import torch
import pygrid

@pygrid.plan(data={"x": pygrid.Tensor["batch", 2]})
def loss(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    return model(x).mean()

"""


@pytest.mark.parametrize(
    ("line", "names"),
    [
        (
            "pygrid.",
            {"Float", "Integers", "Label", "Tensor", "averaging_plan", "load_into", "optim", "plan", "train_step"},
        ),
        ("pygrid.optim.", {"SGD", "Adam", "AdamW"}),
        ("pygrid.Label(3).", {"meaning", "optional"}),
        ("loss.", {"build", "name", "data"}),
        ("loss.build(torch.nn.Linear(2, 2)).", {"save", "graph", "manifest", "id"}),
    ],
)
def test_editors_complete_what_authors_write(line: str, names: set[str]) -> None:
    pytest.importorskip("torch")
    jedi = pytest.importorskip("jedi")
    source = AUTHOR + line
    found = {one.name for one in jedi.Script(source).complete(source.count("\n") + 1, len(line))}
    assert names <= found


def test_completion_shows_the_public_names_and_no_more() -> None:
    assert set(dir(pygrid.client)) == {*pygrid.client.__all__, "sum"}
