"""A Network and its Domains as processes: the examples of docs/how-to/search.md, and `pygrid search`.

Should happen: every example runs; a Domain that is killed is named, and what the others have is found.
Should not happen: a search that waits for a Domain that is gone; a failure without a word of help.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pygrid
from pygrid.client import connect, connect_network
from support.eventually import eventually_blocking
from support.plans.models import linear
from support.processes import port_of

ROOT = Path(pygrid.__file__).parents[2]
DOCUMENT = ROOT / "docs/how-to/search.md"
ADDRESS = "http://127.0.0.1:7000"
EMAIL, PASSWORD = "ann@example.org", "correct horse battery"
INVITATION = "an invitation for tests, 32 chars and more"
TIMEOUT_S = 180
CSV = b"age,income\n30,100\n41,200\n52,300\n"

pytestmark = pytest.mark.slow


class Process:
    """``pygrid network`` or ``pygrid domain`` on a free port."""

    def __init__(self, folder: Path, *command: str) -> None:
        folder.mkdir()
        port_file = folder / "port"
        program = [sys.executable, "-m", "pygrid", *command]
        with (folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [*program, "--port", "0", "--port-file", str(port_file), "--data-dir", str(folder)],
                env={**os.environ, "PYGRID_INVITATION": INVITATION},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.url = f"http://127.0.0.1:{port_of(self._process, port_file, (folder / 'log').read_text)}"

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(TIMEOUT_S)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(TIMEOUT_S)


class Place:
    """A Network with two Domains, each with a dataset."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self.network = Process(folder / "network", "network")
        stack.callback(self.network.stop)
        self.domains: dict[str, Process] = {}
        for name in ("hospital-a", "hospital-b"):
            domain = self.domains[name] = Process(folder / name, "domain", "--id", name, "--network", self.network.url)
            stack.callback(domain.stop)
            with connect(domain.url) as client:
                client.sign_up(EMAIL, PASSWORD)
                file = folder / f"{name}.csv"
                file.write_bytes(CSV)
                client.datasets.upload(f"people of {name}", file, tags=["census"], visibility="public")
            self.until(name, "online")

    def until(self, name: str, state: str) -> None:
        with connect_network(self.network.url) as network:
            eventually_blocking(
                lambda: (name, state) in [(info.name, info.state) for info in network.domains()], within_s=60
            )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Shared by all tests here; the last one kills a Domain."""
    folder = tmp_path_factory.mktemp("place")
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        patch.chdir(folder)
        patch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
        patch.setenv("PYTHONPATH", str(ROOT / "src"))
        for name in (
            "PYGRID_URL",
            "PYGRID_TOKEN",
            "PYGRID_NETWORK_URL",
            "PYGRID_NETWORK_TOKEN",
            "NETWORK",
            "NODE_ID",
            "ADDRESS",
        ):
            patch.delenv(name, raising=False)
        yield Place(folder, stack)


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "pygrid", *words], capture_output=True, text=True, timeout=TIMEOUT_S)


def test_trouble_is_told_in_words(place: Place) -> None:
    nothing = run("search", "nowhere", "--network", place.network.url)
    assert (nothing.returncode, nothing.stdout.strip()) == (0, "no hits on 2 of 2 Domains")
    for words, told in (
        (("search",), "which Network? Pass its address, set PYGRID_NETWORK_URL, or log in"),
        (
            ("search", "--kind", "user", "--network", place.network.url),
            "--kind user: use one of dataset, model, process",
        ),
        (("search", "--column", "age:object", "--network", place.network.url), "dtype"),
        (("search", "--network", "http://127.0.0.1:1/[31m"), "no connection"),
    ):
        done = run(*words)
        assert done.returncode == 1, done
        assert told in done.stderr, done.stderr
        assert "Traceback" not in done.stderr


def test_the_examples_run(place: Place) -> None:
    Path("scores.onnx").write_bytes(linear())
    namespace: dict[str, object] = {"PASSWORD": PASSWORD}
    blocks = re.findall(r"^```(python|console)\n(.*?)^```", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 4
    for language, text in blocks:
        text = text.replace(ADDRESS, place.network.url)
        if language == "python":
            exec(compile(text, "search.md", "exec"), namespace)
            continue
        for line in text.splitlines():
            done = run(*shlex.split(line.removeprefix("$ pygrid ")))
            assert done.returncode == 0, (line, done.stderr)
    with connect_network(place.network.url) as network:
        assert network.model("scores").domains == ["hospital-a"]


def test_one_that_is_killed_is_named(place: Place) -> None:
    both = run("search", "people", "--network", place.network.url)
    assert both.returncode == 0, both.stderr
    assert "people of hospital-a" in both.stdout
    assert "people of hospital-b" in both.stdout
    place.domains["hospital-b"].kill()
    place.until("hospital-b", "offline")
    one = run("search", "people", "--network", place.network.url)
    assert "people of hospital-a" in one.stdout
    assert "people of hospital-b" not in one.stdout
    assert "hospital-b is offline" in one.stdout
    answer = json.loads(run("search", "--column", "age:int64", "--json", "--network", place.network.url).stdout)
    assert [(hit["name"], hit["domain"]["name"]) for hit in answer["datasets"]] == [
        ("people of hospital-a", "hospital-a")
    ]
    assert answer["missing"] == [{"domain": "hospital-b", "reason": "offline"}]
