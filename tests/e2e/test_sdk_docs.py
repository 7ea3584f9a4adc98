"""The examples of pages of docs/how-to, run from top to bottom against a Domain.

Should happen: every block of Python and every command runs and succeeds.
Should not: files left in the project's folder, or a command of the documentation that does not exist.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pygrid
from pygrid.cli import COMMANDS
from support.processes import port_of
from support.sdk import PASSWORD

ROOT = Path(pygrid.__file__).parents[2]
DOCUMENTS = {
    "how-to/host-and-train.md": "digits-trained.safetensors",
    "how-to/jobs.md": None,
    "how-to/predict-for-records.md": None,
    "how-to/serve-a-model.md": "scores.safetensors",
    "how-to/track-experiments.md": "digits-by-command.csv",
    "how-to/use-a-trained-model.md": "digits.onnx",
}
"""In docs/, with a file that the examples leave behind."""
ADDRESS = "http://127.0.0.1:5000"
TIMEOUT_S = 180


def blocks(document: str) -> list[tuple[str, str]]:
    """Language and text of each block, in order."""
    text = (ROOT / "docs" / document).read_text()
    return re.findall(r"^```(python|console)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Like the project's folder, but what the examples write stays out of it; with a home of its own."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    for name in ("PYGRID_URL", "PYGRID_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def url(folder: Path) -> Iterator[str]:
    """The Domain of the first example, on a free port."""
    port_file = folder / "port"
    command = [sys.executable, "-m", "pygrid", "domain", "--port", "0", "--port-file", str(port_file)]
    domain = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        yield f"http://127.0.0.1:{port_of(domain, port_file, domain.communicate)}"
    finally:
        domain.terminate()
        domain.communicate(timeout=TIMEOUT_S)


def run_command(line: str) -> None:
    """One command of a console block. The password, which it would ask for, comes from standard input."""
    words = shlex.split(line)
    if words[0] == "pygrid":
        words = [sys.executable, "-m", *words]
        if "login" in words and "--logout" not in words:
            words.append("--password-stdin")
    elif words[0] == "python":
        words[0] = sys.executable
    done = subprocess.run(
        words, input=PASSWORD + "\n", capture_output=True, text=True, timeout=TIMEOUT_S, env=dict(os.environ)
    )
    assert done.returncode == 0, (line, done.stderr)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")  # MLflow's own tables
@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_examples_run(document: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "digits", raising=False)  # examples/ has one too
    namespace: dict[str, object] = {"PASSWORD": PASSWORD, "SCIENTIST_PASSWORD": PASSWORD}
    found = blocks(document)
    assert len(found) >= 5
    for language, text in found:
        text = text.replace(ADDRESS, url)
        if language == "python":
            exec(compile(text, document, "exec"), namespace)
            continue
        for line in text.splitlines():
            assert line.startswith("$ ")
            if line != "$ pygrid domain":  # the fixture's
                run_command(line.removeprefix("$ "))
    left = DOCUMENTS[document]
    assert left is None or Path(left).is_file()


def test_every_command_of_the_sdks_is_documented() -> None:
    text = "".join(path.read_text() for path in (ROOT / "docs" / "how-to").glob("*.md"))
    for name in set(COMMANDS) - {"plan"}:  # which has a page of its own
        assert re.search(rf"(\$ |`|^    )pygrid {name}\b", text, re.MULTILINE), name
