"""The tutorial for a first training, run as it stands there; and the links of README and other documents."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from local_processes import LocalProcesses
from pygrid.edge import load_data

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 120
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "benchmarks/README.md",
    "docs/tutorials/first-training.md",
    "examples/data/README.md",
)


def files_of_the_tour() -> dict[str, str]:
    """The Python blocks of the tutorial by the file name in their first line."""
    blocks = re.findall(
        r"```python\n# (\S+)\n(.*?)```", (ROOT / "docs" / "tutorials" / "first-training.md").read_text(), re.DOTALL
    )
    return dict(blocks)


@pytest.mark.slow
@pytest.mark.fresh_processes
def test_the_tour_works_as_written(tmp_path):
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONUNBUFFERED": "1"}
    with LocalProcesses(tmp_path / "logs") as processes:
        url = processes.start_domain(tmp_path / "domain")
        files = files_of_the_tour()
        assert list(files) == ["moons.py", "host.py", "device.py"]
        for name, text in files.items():
            (tmp_path / name).write_text(text.replace("http://127.0.0.1:5000", url))

        def start(*arguments: str) -> subprocess.Popen[str]:
            command = [sys.executable, *arguments]
            return subprocess.Popen(
                command, cwd=tmp_path, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )

        host = start("host.py")
        assert host.stdout is not None
        first = host.stdout.readline()  # the process is hosted once there is something to watch
        devices = [start("device.py", str(number)) for number in (1, 2, 3)]
        output, _ = host.communicate(timeout=TIMEOUT_S)
        assert host.returncode == 0, first + output
        for device in devices:
            said, _ = device.communicate(timeout=TIMEOUT_S)
            assert device.returncode == 0, said
            assert "5 reports from 1500 examples, none of which left" in said
    assert load_data(tmp_path / "moons.safetensors").keys() == {"0.weight", "0.bias", "2.weight", "2.bias"}


def test_links_point_to_files_that_are_there():
    for document in DOCUMENTS:
        text = re.sub(r"`[^`\n]*`", "", (ROOT / document).read_text())
        for target in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (ROOT / document).parent.joinpath(target).exists(), f"{document} points to {target}"
