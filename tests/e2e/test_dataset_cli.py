"""The commands for datasets as a user runs them, the examples of two pages of the documents, and a Domain that is
killed during an upload.

Should happen: from a file to a listed dataset and its mock twin without a line of Python.
Should not: a traceback for a mistake, exit code 0 for a failure, anything left of an upload that a kill cut off.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

import pygrid
from pygrid.cli.dataset import read_column
from pygrid.client import DomainClient, connect
from pygrid.client.table_files import neutralise, save_csv
from pygrid.errors import InvalidInput
from support.eventually import eventually_blocking
from support.processes import port_of
from support.sdk import PASSWORD

pytestmark = pytest.mark.slow

DOCS = Path(pygrid.__file__).parents[2] / "docs"
ADDRESS, EMAIL = "http://127.0.0.1:5000", "ann@example.org"
TIMEOUT_S = 180

Run = Callable[..., subprocess.CompletedProcess[str]]


@contextlib.contextmanager
def domain(folder: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A Domain as a process, with its address."""
    port_file = folder / "port"
    port_file.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pygrid", "domain", "--port", "0", "--port-file", str(port_file), "--data-dir"]
    process = subprocess.Popen(
        [*command, str(folder / "data")], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        yield f"http://127.0.0.1:{port_of(process, port_file, process.communicate)}", process
    finally:
        process.terminate()
        process.communicate(timeout=TIMEOUT_S)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the commands run, with a home of its own and a file to upload."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("PYGRID_URL", "PYGRID_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "ages.csv").write_text("name,age\nann,30\nbob,41\n=1+1,52\n")
    (tmp_path / "visits.csv").write_text(
        "patient,age,sex,born,seen,smokes\n"
        "007,30,f,1990-05-01,2020-05-01T12:30:00,no\n"
        "008,,m,,2020-06-01T09:00:00+02:00,yes\n"
    )
    for label, color in (("cat", "red"), ("dog", "blue")):
        (tmp_path / "pets" / label).mkdir(parents=True)
        Image.new("RGB", (40, 32), color).save(tmp_path / "pets" / label / "1.png")
    with contextlib.closing(sqlite3.connect("clinic.db", isolation_level=None)) as connection:
        connection.execute("CREATE TABLE patients (age, sex, born, consent)")
        connection.execute("INSERT INTO patients VALUES (30, 'f', '1990-05-01', 1), (NULL, 'm', NULL, 1)")
    return tmp_path


@pytest.fixture
def url(folder: Path) -> Iterator[str]:
    """A Domain with its Owner logged in."""
    with domain(folder) as (address, _):
        done = run("login", address, "--sign-up", "--email", EMAIL, "--password-stdin", stdin=PASSWORD + "\n")
        assert done.returncode == 0, done.stderr
        yield address


def run(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pygrid", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=TIMEOUT_S, env=dict(os.environ))


def run_examples(url: str, page: str) -> dict[str, Any]:
    """Run all examples of a page; returns the names that they define."""
    namespace: dict[str, Any] = {"PASSWORD": PASSWORD}
    text = (DOCS / page).read_text()
    for language, block in re.findall(r"^```(python|console)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        if language == "python":
            exec(compile(block.replace(ADDRESS, url), page, "exec"), namespace)
            continue
        for line in block.splitlines():
            done = run(*shlex.split(line.removeprefix("$ pygrid ")))
            assert done.returncode == 0, (line, done.stderr)
    return namespace


def test_the_examples_run(url: str, folder: Path) -> None:
    namespace = run_examples(url, "explanation/dataset.md")
    assert (folder / "mock.csv").read_text().splitlines()[0] == "name,age"
    assert namespace["domain"].datasets.list() == []
    rooms = run_examples(url, "how-to/csv-files.md")["domain"].datasets["rooms"].preview()
    assert rooms.columns == {"room": [1, 2], "height": [2.5, None], "area": [1024.5, 980.0]}
    assert run_examples(url, "how-to/tables.md")["visits"].preview().columns["born"] == ["1990-05-01", None]
    clinic = run_examples(url, "how-to/databases.md")
    assert clinic["clinic"].preview().columns == {"age": [30.0, None], "sex": ["f", "m"], "born": ["1990-05-01", None]}
    assert clinic["domain"].datasets["clinic-2"].info().version == 2
    pets = run_examples(url, "how-to/images.md")["domain"].datasets["pets-2"].preview().columns
    assert pets["label"] == ["cat", "dog"]
    letters = run_examples(url, "how-to/texts.md")
    tokens = letters["domain"].datasets["letters-2"].preview().columns["letter"]
    assert tokens[0] == letters["tokens"][0].tolist()
    patients = run_examples(url, "how-to/prepare-columns.md")["patients"]
    assert patients.info().version == 3
    assert patients.preview().columns["sex_hot"] == [[1, 0], [0, 1]]


def test_commands_tell_what_there_is(url: str) -> None:
    options = [
        "-c",
        r"age:float32,unit=years,meaning=at\, say\, noon,min=0",
        "-t",
        "a",
        "-t",
        "b",
        "--visibility",
        "public",
    ]
    done = run("dataset", "add", "ages.csv", "--name", "people", "--description", "Some ages", *options)
    said = "people, version 1: 3 records, 2 columns, 24 B\n"
    assert (done.returncode, done.stdout[: len(said)]) == (0, said), done.stderr
    assert "name\ttext\t\t\t3 categories\t\n" in done.stdout
    shown = run("dataset", "show", "people").stdout
    for text in ("Some ages", "a, b", "float32", "years", "at, say, noon", "0..", "3 categories", "\tdrawn\t"):
        assert text in shown, shown
    assert '"name": "people"' in run("dataset", "list", "--json").stdout
    assert "no dataset matches" in run("dataset", "search", "nobody").stdout
    assert "people" in run("dataset", "search", "--tag", "a", "--schema", ":float32", "--meaning", "noon").stdout
    assert "private" in run("dataset", "update", "people", "--visibility", "private", "--no-tags").stdout
    done = run("dataset", "mock", "people", "-o", "mock.npz")
    assert done.returncode == 0, done.stderr
    assert np.load("mock.npz")["age"].shape == (100,)
    assert run("dataset", "delete", "people", stdin="n\n").returncode == 1
    assert run("dataset", "delete", "people", stdin="y\n").returncode == 0
    assert "has no dataset" in run("dataset", "list").stdout


def test_records_with_a_budget_elsewhere_become_a_version_only_if_that_is_confirmed(url: str, folder: Path) -> None:
    (folder / "others.csv").write_text("name,age\nann,31\n")
    for name in ("ages", "others"):
        assert run("dataset", "add", f"{name}.csv").returncode == 0
        done = run("budget", "set", name, "--epsilon", "1", "--delta", "1e-6", "--epsilon-per-user", "1")
        assert done.returncode == 0, done.stderr
    refused = run("dataset", "add", "ages.csv", "--version-of", "others")
    assert (refused.returncode, "fresh_budget" in refused.stderr) == (1, True), refused.stderr
    done = run("dataset", "add", "ages.csv", "--version-of", "others", "--fresh-budget")
    assert (done.returncode, done.stdout.partition(",")[2][:21]) == (0, " version 2: 3 records"), done.stderr


def test_mistakes_are_told_in_words(url: str, folder: Path) -> None:
    (folder / "ragged.csv").write_text("a,b\n1\n")
    for arguments, text in (
        (("add", "nothing.csv"), "there is no file nothing.csv"),
        (("add", "ragged.csv"), "line 2 has 1 field, the first has 2"),
        (("add", "ages.csv", "--visibility", "secret"), "visibility"),
        (("add", "ages.csv", "-c", "age:float32,max=40"), "it is declared to be at most 40"),
        (("add", "ages.csv", "-c", "age,colour=red"), "colour=red"),
        (("add", "ages.csv", "--version-of", "nobody"), "has no dataset 'nobody'"),
        (("add", "ages.csv", "--fresh-budget"), "--fresh-budget needs --version-of"),
        (("show", "nobody"), "has no dataset 'nobody'"),
        (("mock", "nobody", "-o", "x.txt"), "neither in .npz nor in .csv"),
    ):
        done = run("dataset", *arguments)
        assert done.returncode == 1, arguments
        assert text in done.stderr, (arguments, done.stderr)
        assert "Traceback" not in done.stderr
    assert list((folder / "data" / "datasets").iterdir()) == []


@contextlib.contextmanager
def upload(address: str, owner: DomainClient, config: bytes, data: bytes, *, announced: int) -> Iterator[None]:
    """A connection on which an upload was sent, with ``data`` in place of the ``announced`` bytes of the file."""
    head = b'--b\r\nContent-Disposition: form-data; name="config"\r\n\r\n' + config
    head += b'\r\n--b\r\nContent-Disposition: form-data; name="data"\r\n\r\n'
    end = b"\r\n--b--\r\n"
    headers = {
        "Content-Type": "multipart/form-data; boundary=b",
        "Content-Length": str(len(head) + announced + len(end)),
        "Authorization": f"Bearer {owner.token}",
    }
    with contextlib.closing(http.client.HTTPConnection(address.removeprefix("http://"))) as connection:
        connection.request(
            "POST", "/data-centric/datasets", iter((head, data, end if len(data) == announced else b"")), headers
        )
        yield


def test_a_kill_during_an_upload_leaves_nothing_after_the_next_start(folder: Path) -> None:
    datasets = folder / "data" / "datasets"
    with domain(folder) as (address, process), connect(address) as owner:
        owner.sign_up(EMAIL, PASSWORD)
        owner.datasets.upload("kept", "ages.csv")
        before = sorted(datasets.iterdir())
        data = b"a,b\n" + b"1,2\n" * 1_000_000
        with upload(address, owner, b'{"name": "lost"}', data[: len(data) // 2], announced=len(data)):
            eventually_blocking(
                lambda: any(path.name == "data" for draft in datasets.glob(".*.part") for path in draft.iterdir())
            )
            os.kill(process.pid, signal.SIGKILL)
            process.wait(TIMEOUT_S)
            assert list(datasets.glob(".*.part")), "the kill left a draft"
    with domain(folder) as (address, _), connect(address) as owner:
        owner.login(EMAIL, PASSWORD)
        assert sorted(datasets.iterdir()) == before
        assert [found.name for found in owner.datasets.list()] == ["kept"]
        assert owner.datasets["kept"].preview(1).columns == {"name": ["ann"], "age": [30]}


def test_a_client_that_goes_ends_the_process_that_reads_its_upload(folder: Path) -> None:
    """Which would go on for minutes, and keep the next from its turn."""
    row = b'1,x "y"\n'  # what the careful reader has to read
    data = b"a,b\n" + row * (200_000_000 // len(row))
    datasets = folder / "data" / "datasets"

    def readers(server: psutil.Process) -> list[psutil.Process]:
        found = []
        for child in server.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):  # it has ended in between
                if any("datasets.conversion" in word for word in child.cmdline()):
                    found.append(child)
        return found

    with domain(folder) as (address, process), connect(address) as owner:
        owner.sign_up(EMAIL, PASSWORD)
        server = psutil.Process(process.pid)
        with upload(address, owner, b'{"name": "x", "skip": ["b"]}', data, announced=len(data)):
            eventually_blocking(lambda: bool(readers(server)))
        eventually_blocking(lambda: not readers(server) and not list(datasets.iterdir()))
        assert list(owner.datasets.list()) == []
        owner.datasets.upload("kept", "ages.csv")


def test_a_column_is_read_from_an_option() -> None:
    assert read_column("age") == {"name": "age"}
    assert read_column("x:uint8,source=p1|p*,max=255") == {
        "name": "x",
        "dtype": "uint8",
        "source": ["p1", "p*"],
        "max": 255.0,
    }
    for text in ("a,b", "a,min=x", "a,colour=red"):
        with pytest.raises(InvalidInput):
            read_column(text)


def test_a_formula_in_an_export_is_plain_text(tmp_path: Path) -> None:
    assert [neutralise(text) for text in ("=1", "+1", "-1", "@x", "\tx", "x", "")] == [
        "'=1",
        "'+1",
        "'-1",
        "'@x",
        "'\tx",
        "x",
        "",
    ]
    save_csv({"=a": np.array(["=1+1", "b"]), "n": np.array([-1, 2])}, tmp_path / "x.csv")
    assert (tmp_path / "x.csv").read_text().split() == ["'=a,n", "'=1+1,-1", "b,2"]
    with pytest.raises(InvalidInput):
        save_csv({"x": np.zeros((2, 3))}, tmp_path / "y.csv")
