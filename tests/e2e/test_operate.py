"""The example of an operator: real processes, a real provider, a real PostgreSQL.

Should happen: people sign in by the provider over TLS and get the roles of their groups; a job runs on another machine;
a backup brings back what was deleted, and what was spent of the budget.
Should not happen: a warning; a process that stays.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.oidc_provider import require_provider

EXAMPLES = Path(__file__).parents[2] / "examples"
WHAT_IT_PRINTS = r"""the Domain runs at https://localhost:\d+, with PostgreSQL
ann@example\.org has the role Owner
dora@example\.org has the role Data Owner
bob@example\.org has the role User
mean age (\d+\.\d) instead of 59\.7, worked out by worker-1
a mistake: 0 datasets
restored: 1 dataset, and Bob has spent epsilon (\d\.\d\d)
"""


@pytest.mark.slow
def test_the_example_of_an_operator(tmp_path: Path) -> None:
    require_provider()
    run = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / "operate.py")],
        env={**os.environ, "TMPDIR": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "config")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, ""), run.stderr + run.stdout
    printed = re.fullmatch(WHAT_IT_PRINTS, run.stdout)
    assert printed is not None, run.stdout
    # Noise of epsilon 1 on the mean of 2,000 ages within 0 to 120: a standard error below 1.
    assert abs(float(printed[1]) - 59.7) < 5
    assert 0 < float(printed[2]) <= 1


@pytest.mark.parametrize("name", ["next_word.py", "ward_owner.py", "ward_study.py", "operate.py"])
def test_a_newcomer_reads_each_project_on_one_screen(name: str) -> None:
    assert len((EXAMPLES / name).read_text().splitlines()) <= 60
