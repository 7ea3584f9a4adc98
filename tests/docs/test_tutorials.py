"""The tutorials, run from top to bottom in real processes, as their readers run them.

Should happen: each file of a tutorial runs in the order of the page, and prints what the page promises.
Should not happen: a Python block without a file name; a tutorial that depends on another one.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from local_processes import LocalProcesses
from pygrid.client import connect_network

ROOT = Path(__file__).parents[2]
TUTORIALS = ROOT / "docs" / "tutorials"
TIMEOUT_S = 120
PASSWORD = "correct horse battery staple"

pytestmark = pytest.mark.slow


class Reader:
    """Writes the files of a tutorial into a folder and runs them there, with other addresses."""

    def __init__(self, name: str, folder: Path, addresses: dict[str, str]) -> None:
        self.text = (TUTORIALS / f"{name}.md").read_text()
        self._folder = folder
        (folder / "examples").symlink_to(ROOT / "examples")
        self._env = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), "XDG_CONFIG_HOME": str(folder / "config")}
        self.files = dict(re.findall(r"```python\n# (\S+)\n(.*?)```", self.text, re.DOTALL))
        assert len(self.files) == self.text.count("```python")
        self._addresses = addresses
        for file, source in self.files.items():
            (folder / file).write_text(self._replaced(source))

    def _replaced(self, text: str) -> str:
        for written, real in self._addresses.items():
            text = text.replace(written, real)
        return text

    def run(self, *words: str) -> str:
        """What ``python WORDS`` or ``pygrid WORDS`` prints."""
        command = [sys.executable, *words] if words[0].endswith(".py") else [sys.executable, "-m", *words]
        done = subprocess.run(
            command,
            cwd=self._folder,
            env=self._env,
            input=PASSWORD + "\n",
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout

    def run_block(self, after: str) -> str:
        """What the commands of the indented block after a sentence print."""
        block = self.text.partition(after)[2].lstrip("\n").partition("\n\n")[0]
        lines = [line.strip() for line in block.splitlines() if line.startswith("    ")]
        assert lines, after
        return "".join(
            self.run(*shlex.split(self._replaced(line)), *(["--password-stdin"] if " login " in line else []))
            for line in lines
        )


def test_private_statistics(tmp_path: Path) -> None:
    with LocalProcesses(tmp_path / "logs") as processes:
        url = processes.start_domain(tmp_path / "domain")
        reader = Reader("private-statistics", tmp_path, {"http://127.0.0.1:5000": url})
        assert list(reader.files) == ["owner.py", "scientist.py"]
        assert "3" in reader.run("owner.py")
        said = reader.run("scientist.py")
        assert "budget_exhausted" in said
        assert said.count("noise_std") == 3
        shown = reader.run_block("and the audit log has each decision.")
        assert "visits" in shown


def _invitation(network: str) -> str:
    with connect_network(network) as client:
        client.sign_up("host@example.org", PASSWORD)
        return client.invite(max_uses=3).token


def test_across_hospitals(tmp_path: Path) -> None:
    with LocalProcesses(tmp_path / "logs") as processes:
        network = processes.start_network(tmp_path / "network")
        token = _invitation(network)
        names = ("hospital-a", "hospital-b", "university")
        env = {"PYGRID_INVITATION": token}
        urls = [processes.start_domain(tmp_path / name, name, network=network, env=env) for name in names]
        ports = [url.rpartition(":")[2] for url in urls]
        reader = Reader("across-hospitals", tmp_path, {"http://127.0.0.1:7000": network})
        assert list(reader.files) == ["hospital.py", "scientist.py"]
        for part, port in enumerate(ports[:2]):
            reader.run("hospital.py", port, str(part))
        said = reader.run("scientist.py")
        accuracy = float(re.findall(r"'accuracy': ([\d.]+)", said)[-1])
        assert accuracy > 0.7  # 0.63 of the records are benign


def test_own_plan(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    with LocalProcesses(tmp_path / "logs") as processes:
        url = processes.start_domain(tmp_path / "domain")
        reader = Reader("own-plan", tmp_path, {"http://127.0.0.1:5000": url})
        assert list(reader.files) == ["tasks.py", "build.py", "try_it.py", "signs.py", "middle.py", "host.py"]
        built = reader.run("build.py")
        assert built.startswith("smoothed: ")
        assert "Classify with smoothed labels." in reader.run("pygrid", "plan", "inspect", "smoothed.plan")
        for file in list(reader.files)[2:5]:
            reader.run(file)
        assert reader.run("host.py").strip()
