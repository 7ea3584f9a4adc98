"""Two projects and the notebooks of the examples, run as their users run them, in three Domains.

Should happen: 30 phones that drop out train a next-word model with a schedule until early stopping, also if the Domain
is killed in between; the best model is exported and served. Two hospitals answer Table 1 as pandas does, within the
noise; a model is trained at both for each patient, and its evaluation is exact, after both signed it off.
Each notebook runs from its first cell to its last.
Should not: a report counted twice, a result without approval, a budget that is overdrawn.
"""

from __future__ import annotations

import ast
import datetime as dt
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

import pytest

pytest.importorskip("torch", reason="the plans are built with PyTorch")

import onnxruntime
import pandas
import torch

import next_word
import next_word_data
import ward_data
import ward_owner
import ward_study
from local_processes import LocalProcesses
from plans.readmission import Net
from pygrid.client import DomainClient, Job, connect
from pygrid.client.display.messages import DRAWN
from support.eventually import eventually_blocking

NOTEBOOKS = Path(next_word.__file__).parent / "notebooks"
HOSPITALS = ("north", "south")
TIMEOUT_S = 120.0
T = TypeVar("T")


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalProcesses]:
    with LocalProcesses(tmp_path_factory.mktemp("logs")) as processes:
        yield processes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("domains")


@pytest.fixture(scope="module")
def university(processes: LocalProcesses, folder: Path) -> str:
    return processes.start_domain(folder / "university", "university")


def in_background(main: Callable[..., T], *arguments: str) -> Future[T]:
    """The program of an example; a test that fails does not wait for it."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(main(*arguments))
        except BaseException as error:  # the test raises it
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def scientist(url: str) -> DomainClient:
    return connect(url).login("ann@example.org", ward_study.PASSWORD, sign_up=True)


def test_thirty_phones_learn_the_next_word(
    processes: LocalProcesses, folder: Path, university: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    torch.manual_seed(0)
    ann = scientist(university)
    running = in_background(next_word.main, university)

    def has_cycles() -> bool:
        assert not running.done(), running.result()
        found = ann.processes("next-word")
        return bool(found) and found[0].num_checkpoints > 2

    eventually_blocking(has_cycles, TIMEOUT_S)
    processes.kill("university")
    processes.start_domain(folder / "university", "university", port=int(university.rpartition(":")[2]))
    assert running.result(TIMEOUT_S) in ("soup", "rice", "pasta")
    process = ann.process("next-word")
    cycles = [cycle for cycle in process.cycles() if cycle.state == "completed"]
    assert len(cycles) < 20, "training stopped early"
    assert sum(cycle.num_assigned - cycle.num_reports for cycle in cycles) > 0, "phones dropped out"
    # Finishing the training completes the cycle that is open then.
    assert all(10 <= cycle.num_reports <= 20 for cycle in cycles[:-1])
    rates = [cycle.scheduled["lr"] for cycle in cycles]
    assert rates == sorted(rates, reverse=True)
    curve = {one.checkpoint: one.metrics["accuracy"] for one in process.evaluations}
    made = [cycle.checkpoint + 1 for cycle in cycles]
    assert sorted(curve) == made[: len(curve)], "each in turn, until training stopped"
    held_out = next_word_data.messages(-1)
    session = onnxruntime.InferenceSession("next-word.onnx", providers=["CPUExecutionProvider"])
    (scores,) = session.run(None, {"words": held_out["words"]})
    assert (scores.argmax(2) == held_out["following"]).mean() == pytest.approx(curve[process.best()], abs=1e-6)
    assert curve[process.best()] > 0.5


@pytest.fixture(scope="module")
def hospitals(processes: LocalProcesses, folder: Path) -> dict[str, str]:
    """The addresses of two Domains by name."""
    return {name: processes.start_domain(folder / name, name) for name in HOSPITALS}


def sign_off(owner: DomainClient, state: str) -> None:
    """Read and approve the evaluation, and then its result, as the owner of a hospital does."""
    (job,) = eventually_blocking(lambda: owner.requests(), TIMEOUT_S)
    assert job.info().state == state
    assert "evaluate a model on visits-2024" in job.sheet()
    job.approve("signed off")


def table_of(path: Path) -> pandas.DataFrame:
    return pandas.read_csv(path, index_col=0, parse_dates=["born", "seen"])


def test_two_hospitals_share_a_study(
    folder: Path, university: str, hospitals: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    for name, url in hospitals.items():
        ward_owner.main(url, name)
    owners = [connect(url).login("owner@example.org", ward_owner.PASSWORD) for url in hospitals.values()]
    running = in_background(ward_study.main, university, *hospitals.values())
    for state in ("waiting", "held"):
        for owner in owners:
            sign_off(owner, state)
    running.result(TIMEOUT_S)
    (training,) = (one for one in scientist(university).processes() if one.name.startswith("readmission-"))
    trained = scientist(university).process(training.name).load_into(Net())
    for (name, url), owner in zip(hospitals.items(), owners, strict=True):
        jobs = {job.kind: job for job in scientist(url).jobs(mine=True)}
        check_table_1(jobs["statistics"], table_of(ward_data.write(folder / "2023.csv", name, 2023)))
        budget = owner.datasets["visits-2023"].budget()
        assert budget.spent is not None
        assert 0 < budget.spent <= budget.policy.epsilon
        check_evaluation(jobs["evaluate"], table_of(ward_data.write(folder / "2024.csv", name, 2024)), trained)
    shown = capsys.readouterr().out
    assert "95% from" in shown


def check_evaluation(job: Job, visits: pandas.DataFrame, model: Net) -> None:
    """The signed off accuracy is that of PyTorch on the file."""
    days = [
        torch.tensor((visits[name] - pandas.Timestamp(0)).dt.days.to_numpy(), dtype=torch.float32)
        for name in ("born", "seen")
    ]
    crp = torch.tensor(visits["crp"].to_numpy(), dtype=torch.float32)
    sex = torch.tensor((visits["sex"] == "m").to_numpy(), dtype=torch.int64)
    ward = torch.tensor(visits["ward"].map(ward_data.WARDS.index).to_numpy(), dtype=torch.int64)
    is_right = model(*days, crp, sex, ward).argmax(1).numpy() == (visits["readmitted"] == "yes")
    metrics = job.result()["metrics"]
    assert metrics["accuracy"] == pytest.approx(is_right.mean(), abs=1e-6)
    majority = max((visits["readmitted"] == "yes").mean(), (visits["readmitted"] == "no").mean())
    assert metrics["accuracy"] > majority + 0.05


def check_table_1(job: Job, visits: pandas.DataFrame) -> None:
    """Each figure is that of pandas within two and a half times its 95% interval, about five standard errors."""
    crp = visits["crp"].clip(0, 100)
    epoch = pandas.Timestamp(0)
    exact = [
        len(visits),
        *visits["sex"].value_counts()[["f", "m"]],
        *visits["ward"].value_counts()[list(ward_data.WARDS)],
        len(visits),
        (visits["born"] - epoch).dt.days.mean(),
        (visits["readmitted"] == "yes").mean(),
        crp.mean(),
        crp.var(ddof=0),
    ]
    frame = job.answers().frame()
    assert list(frame["statistic"]) == [*["count"] * 7, *["mean"] * 3, "variance", "quantile 0.5"]
    for wanted, row in zip(exact, frame.itertuples(), strict=False):
        value, low, high = ((x - dt.date(1970, 1, 1)).days if isinstance(x, dt.date) else x for x in row[4:7])
        assert low <= value <= high
        # A variance is not below 0, so that its interval can have one side.
        width = high - low if row.statistic == "variance" else (high - low) / 2
        assert abs(value - wanted) < 2.5 * width, row
    median = frame.iloc[-1]
    assert median["low"] <= median["value"] <= median["high"]
    assert abs(frame["count"].iloc[-2] - visits["crp"].count()) < 200


def run_cell(source: str, namespace: dict[str, object]) -> object:
    """Run a cell of a notebook, and return the value of its last line if that is an expression."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), namespace)
    return None if last is None else eval(compile(ast.Expression(last.value), "cell", "eval"), namespace)


def html_of(value: object) -> str:
    """What a notebook shows of a value as HTML; empty: it shows text."""
    draw = DRAWN.get(type(value))
    return draw(value) if draw else value._repr_html_() if hasattr(value, "_repr_html_") else ""


@pytest.mark.parametrize("name", [path.stem for path in sorted(NOTEBOOKS.glob("*.ipynb"))])
def test_a_notebook_runs(name: str, hospitals: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each begins at its first cell, and what its cells show is a table, or a number or text."""
    monkeypatch.chdir(NOTEBOOKS)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    addresses = {f"http://127.0.0.1:{5000 + number}": url for number, url in enumerate(hospitals.values())}
    namespace: dict[str, object] = {}
    shown = []
    for cell in json.loads((NOTEBOOKS / f"{name}.ipynb").read_text())["cells"]:
        if cell["cell_type"] != "code":
            continue
        assert cell["outputs"] == []
        source = "".join(cell["source"])
        for written, real in addresses.items():
            source = source.replace(written, real)
        if (value := run_cell(source, namespace)) is not None:
            shown.append(html_of(value) or value)
    assert sum(isinstance(value, str) and "<table" in value for value in shown) >= 3
    assert all(isinstance(value, str | tuple | dict) for value in shown)
