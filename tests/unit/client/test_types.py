"""Type checkers accept what users write, and refuse mistakes.

Should happen: `tests/types/user.py` has no error under ``mypy --strict`` and pyright; each line of
`tests/types/wrong.py` below its imports has one; the keys of the configurations are those that a Domain knows.
"""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_type_hints

import msgspec
import pytest

import pygrid.client
from pygrid.aggregation.optimizers import ServerOptimizer
from pygrid.aggregation.rules import Aggregation
from pygrid.client import configuration
from pygrid.core.process_config import Authentication, ProcessConfig

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
    if importlib.util.find_spec("basedpyright") is None:
        pytest.skip("basedpyright is not installed")
    command = [sys.executable, "-m", "basedpyright", "--outputjson", "--level", "error", "--pythonpath", sys.executable]
    paths = [str(WRONG)] + ([str(USER)] if importlib.util.find_spec("torch") else [])
    done = subprocess.run([*command, *paths], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    found: list[dict[str, Any]] = json.loads(done.stdout)["generalDiagnostics"]
    assert [one["message"] for one in found if one["file"].endswith("user.py")] == []
    assert {one["range"]["start"]["line"] + 1 for one in found if one["file"].endswith("wrong.py")} == mistakes()


@pytest.mark.parametrize(
    ("written", "known"),
    [
        (configuration.ServerConfig, ProcessConfig),
        (configuration.AuthenticationConfig, Authentication),
        (configuration.AggregationConfig, Aggregation),
        (configuration.ServerOptimizerConfig, ServerOptimizer),
    ],
)
def test_the_keys_of_configurations_are_those_that_a_domain_knows(written: Any, known: type[msgspec.Struct]) -> None:
    assert set(get_type_hints(written)) == set(known.__struct_fields__)


def test_completion_shows_the_public_names_and_no_more() -> None:
    assert set(dir(pygrid.client)) == {*pygrid.client.__all__, "sum"}
